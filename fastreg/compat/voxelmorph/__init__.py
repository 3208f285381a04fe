"""VoxelMorph by its names, and its published networks as `fastreg.RegistrationNet`s.

    import fastreg.compat.voxelmorph as vxm  # was: import voxelmorph as vxm

The current package's `vxm.nn.functional`, `.modules` and `.models` and the functions of tensors without batch are here,
and of the older one `vxm.layers` and `vxm.losses`. What is not equal is VoxelMorph's own where it is installed.

Read here: the .h5 files of CVPR 2018 and MICCAI 2018, VxmDense's .h5 files, and VxmDense's .pt files. The networks come
out the same to rounding: TensorFlow's padding, the layers' order, the half-resolution velocity with its upsampling.
The current package's VxmPairwise files: `vxm.nn.models.load_pairwise`.
"""

from __future__ import annotations

from pathlib import Path

from fastreg.compat import _keras, _pytorch
from fastreg.compat._layout import Found
from fastreg.compat.voxelmorph import layers as layers
from fastreg.compat.voxelmorph import losses as losses
from fastreg.compat.voxelmorph import nn as nn
from fastreg.compat.voxelmorph.functional import __getattr__ as __getattr__
from fastreg.compat.voxelmorph.functional import compose as compose
from fastreg.compat.voxelmorph.functional import integrate_disp as integrate_disp
from fastreg.compat.voxelmorph.functional import integrate_vec as integrate_vec
from fastreg.compat.voxelmorph.functional import spatial_transform as spatial_transform
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils.files import InputError, check_exists

KERAS, PYTORCH = (".h5", ".hdf5", ".keras"), (".pt", ".pth")


def load_weights(path: str | Path, *, indexing: str | None = None) -> RegistrationNet:
    """The network of a file that VoxelMorph wrote, with its weights, in evaluation mode.

    It takes intensities in [0, 1] and images as VoxelMorph was trained on: for the published brains 1 mm, orientation
    LIA, skull-stripped, affinely aligned. Its flow is in voxels, channel c along axis c, whatever the file had.

    Args:
        path: .h5 (extra `compat`) or .pt.
        indexing: What the flow's channels 0 and 1 displace: axes 0 and 1 ("ij") or 1 and 0 ("xy", some files of 2018).
            None: what the file says; if it does not, what brings a pair of images with a known deformation together;
            if neither does, "xy" in a folder named xy, as published, "ij" elsewhere.

    Raises:
        InputError: no such file, another kind of file, layers that are missing, unknown or connected in another way.
    """
    return read_network(path, indexing=indexing).network()


def read_network(path: str | Path, *, indexing: str | None = None) -> Found:
    """What the file holds, layer by layer, and what had to be assumed; arguments and errors as `load_weights`."""
    path = check_exists(path, "weights")
    ending = path.suffix.lower()
    if ending in KERAS:
        return _keras.read(path, indexing)
    if ending in PYTORCH:
        if indexing == "xy":
            raise InputError(f"weights {path}: indexing xy is for Keras files, PyTorch ones are ij")
        return _pytorch.read(path)
    raise InputError(f"weights {path}: expected one of {', '.join((*KERAS, *PYTORCH))}, got {ending or 'no ending'}")
