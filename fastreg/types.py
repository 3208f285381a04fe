"""Names for the arrays that pass through fastreg, and the choices that ops, losses and kernels share.

Shapes are written for 3-D; a 2-D problem drops D. Displacements are in voxels, in array order (D, H, W):
``moved(p) = moving(p + flow(p))``.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch

Volume: TypeAlias = torch.Tensor
"""[batch, channels, D, H, W], any intensity unit."""
Flow: TypeAlias = torch.Tensor
"""[batch, 3, D, H, W], displacement in voxels, channel c along array axis c."""
Mask: TypeAlias = torch.Tensor
"""[batch, 1 or channels, D, H, W], weights, usually 0 and 1."""
Scalar: TypeAlias = torch.Tensor
"""A tensor without axes."""

MODES = ("linear", "nearest")
PADDINGS = ("zeros", "border", "reflection")


class RegistrationOutput(NamedTuple):
    """What a network or an optimisation found. Tensors are [batch, ...] on the fixed image's grid."""

    moved: Volume
    """The moving image resampled by `flow`."""
    flow: Flow
    """Displacement in voxels: moved(p) = moving(p + flow(p))."""
    velocity: Flow | None = None
    """The stationary velocity field behind `flow`, on its own, coarser grid."""
    inverse_flow: Flow | None = None
    moved_back: Volume | None = None
    """The fixed image resampled by `inverse_flow`."""
    log_variance: Flow | None = None
    """Logarithm of the variance of every component of `velocity`, from networks that say how sure they are; `velocity`
    is then the mean."""
    region: Volume | None = None
    """[batch, 1, ...], log odds that a voxel of the fixed image lies in the region of interest, from networks that say
    so."""
