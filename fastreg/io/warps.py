"""Displacement fields on disk: ITK, FreeSurfer, FSL, NiftyReg, Learn2Reg, VoxelMorph's npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastreg.geometry.image import Image, check_affine, in_plane
from fastreg.geometry.transforms import LPS, Warp, decode, encode
from fastreg.io import freesurfer
from fastreg.io.arrays import open_numpy
from fastreg.io.foreign import reader_of
from fastreg.io.images import save_nifti
from fastreg.io.itk_images import ITK_ENDINGS, read_itk, save_itk_vectors
from fastreg.io.volumes import affine_mm, open_nibabel, read_nibabel, unit_mm
from fastreg.io.warp_kinds import (
    DISPLACEMENTS,
    FORMATS,
    INTENTS,
    MARK,
    MARK_PLANE,
    MARK_VOXELS,
    NIFTYREG,
    detect_format,
    differences,
    frame,
    header_text,
    niftyreg_differences,
)
from fastreg.utils.files import InputError, atomic, check_exists

WARP_ENDINGS = (".nii", ".nii.gz", ".npz", *ITK_ENDINGS)
"""Of what is written here."""


def save_warp(path: str | Path, warp: Warp, *, format: str | None = None) -> None:
    """Write a warp whole or not at all, float32.

    Args:
        path: .nii or .nii.gz; .mha or .nrrd (ITK's alone, extra `io`); .npz (VoxelMorph's `vol` beside both affines).
        warp: FSL's and FreeSurfer's files also say the size of the moving grid.
        format: One of `FORMATS`; None is npz for .npz, otherwise itk.
    """
    format = format or ("npz" if Path(path).suffix == ".npz" else "itk")
    if format not in FORMATS:
        raise InputError(f"warp format: expected one of {', '.join(FORMATS)}, got {format}")
    ending = Path(path).suffix.lower()
    if (format == "npz") != (ending == ".npz"):
        raise InputError(f"output {path}: format {format} {'needs' if format == 'npz' else 'cannot be'} a .npz file")
    if ending in ITK_ENDINGS and format != "itk":
        raise InputError(f"output {path}: format {format} needs a .nii or .nii.gz file")
    if format in ("fsl", "freesurfer") and (warp.moving_shape is None or warp.ndim == 2):
        why = "is 3-D only" if warp.ndim == 2 else "needs the moving image's grid"
        raise InputError(f"output {path}: format {format} {why}")
    if format == "npz":
        arrays: dict[str, Any] = {"fixed_affine": warp.fixed_affine, "moving_affine": warp.moving_affine}
        if warp.moving_shape is not None:
            arrays["moving_shape"] = np.array(warp.moving_shape)
        with atomic(path) as partial:
            np.savez(partial, vol=warp.flow, **arrays)
        return
    frames = frame(format, warp.fixed_affine, warp.fixed_shape), frame(format, warp.moving_affine, warp.moving_shape)
    data = encode(warp.flow, *frames, np.float32)
    if ending in ITK_ENDINGS:
        with atomic(path) as partial:
            save_itk_vectors(partial, data, warp.fixed_affine)
        return
    extension, mark = None, MARK_VOXELS if format == "learn2reg" else MARK
    if format == "itk" and warp.ndim == 2 and not (in_plane(warp.fixed_affine) and in_plane(warp.moving_affine)):
        mark = MARK_PLANE  # two components cannot say it
        data = data[:, :, None]
    else:
        data = data[..., : warp.ndim]
    if format in ("itk", "freesurfer", "niftyreg"):  # [X, Y, Z, 1, 3]
        data = data.reshape(*warp.fixed_shape, *[1] * (4 - warp.ndim), data.shape[-1])
    if format == "freesurfer":
        extension = freesurfer.pack(warp)
    intent = (INTENTS[format], NIFTYREG, DISPLACEMENTS) if format == "niftyreg" else (INTENTS[format], "", 0)
    save_nifti(path, data, warp.fixed_affine, intent=intent, extension=extension, description=mark)


def load_warp(path: str | Path, *, moving: Image | None = None, format: str | None = None) -> Warp:
    """Read a warp.

    Args:
        path: .nii, .nii.gz or .npz; .mha, .mhd or .nrrd of vectors, as ITK's tools write them (extra `io`).
        moving: The moving image. FSL's displacements have no meaning without it; in Learn2Reg's and VoxelMorph's it
            says where the moving voxels lie (otherwise: where the fixed ones lie). It sets the grid of `Warp.flow`.
        format: One of `FORMATS`; None asks the header.

    Raises:
        InputError: no file, no warp, a format that does not fit or needs `moving`, displacements that are not finite.
    """
    path = check_exists(path, "warp")
    if format is not None and format not in FORMATS:
        raise InputError(f"warp format: expected one of {', '.join(FORMATS)}, got {format}")
    known = format is not None
    format = format or detect_format(path)
    if format is None and path.name.lower().endswith((".mgz", ".mgh")):
        raise InputError(f"warp {path}: expected .nii, .nii.gz or .npz; FreeSurfer's tools save warps as .nii.gz too")
    if format is None:
        raise InputError(
            f"warp {path}: expected a displacement field [X, Y, Z, 1, 3] or [X, Y, Z, 3], got an image or a series; "
            "--warp-format names what its header does not say"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is counted below
        if format == "npz":
            warp = _load_npz(path, moving)
        elif reader_of(path) == "itk":
            warp = _load_itk(path, moving)
        else:
            warp = _load_nifti(path, moving, format, known)
    bad = int((~np.isfinite(warp.flow)).any(-1).sum())
    if bad:
        raise InputError(f"warp {path}: expected finite displacements, got {bad} voxels with NaN or infinity")
    return warp


def _load_npz(path: Path, moving: Image | None) -> Warp:
    arrays = open_numpy(path, "warp")
    if "vol" not in arrays:
        raise InputError(f"warp {path}: expected an array named vol, got {list(arrays)}")
    flow = arrays["vol"]
    if flow.dtype.kind not in "iuf" or flow.shape[-1:] != (flow.ndim - 1,):
        raise InputError(f"warp {path}: expected displacements [X, Y, Z, 3] or [X, Y, 2], got shape {flow.shape}")
    _check_vectors(path, flow.shape)
    flow = flow.astype(np.float32)
    fixed_affine = check_affine(arrays.get("fixed_affine", np.eye(4)), f"warp {path}")
    if "moving_affine" not in arrays:
        flow = differences(path, flow, fixed_affine, "learn2reg")
        given = (fixed_affine, None) if moving is None else (moving.affine, moving.shape)
        return Warp(flow, fixed_affine, *given)
    shape = tuple(arrays["moving_shape"].tolist()) if "moving_shape" in arrays else None
    warp = Warp(flow, fixed_affine, check_affine(arrays["moving_affine"], f"warp {path}"), shape)
    return warp if moving is None else warp.onto(moving.affine, moving.shape)


def _load_itk(path: Path, moving: Image | None) -> Warp:
    """Vectors in LPS mm of an image that ITK reads."""
    data, affine, _ = read_itk(path, "warp")
    ndim = _check_vectors(path, data.shape)
    if moving is not None and moving.ndim != ndim:
        raise InputError(f"warp {path}: {ndim}-D, but the moving image is {moving.ndim}-D")
    affine = check_affine(affine, f"warp {path}")
    warp = Warp.from_displacement_mm(data.astype(np.float64) @ LPS[: data.shape[-1], : data.shape[-1]], affine)
    return warp if moving is None else warp.onto(moving.affine, moving.shape)


def _load_nifti(path: Path, moving: Image | None, format: str, known: bool) -> Warp:
    """`known`: the user named the format."""
    image = open_nibabel(path, "warp")
    data = read_nibabel(image, f"warp {path}")
    if data.dtype.kind not in "iuf":
        raise InputError(f"warp {path}: expected displacements, real numbers, got {data.dtype}")
    data = data.astype(np.float64)
    affine = check_affine(affine_mm(image), f"warp {path}")
    mark = header_text(image, "descrip")
    if data.ndim == 5 and data.shape[3] == 1:
        data = data[..., 0, :]
    flat = mark == MARK_PLANE or (moving is not None and moving.ndim == 2)
    if data.ndim == 4 and (data.shape[2:] == (1, 2) or (flat and data.shape[2:] == (1, 3))):
        data = data[:, :, 0]
    ndim = _check_vectors(path, data.shape)
    if format == "itk" and data.shape[-1] == 2 and not in_plane(affine):
        raise InputError(f"warp {path}: expected three components in a plane that is not axial, got two")
    if format == "fsl":
        data = data * unit_mm(image)  # FSL knows no units: its mm are the header's
        if moving is None:
            raise InputError(f"warp {path}: an FSL warp needs the moving image")
    moving_affine, shape = None, None
    if format == "freesurfer" and image.header.extensions:
        data, moving_affine, shape = freesurfer.unpack(path, image, data, affine)
    elif format == "niftyreg":
        data = niftyreg_differences(path, image, data, affine)
    elif not mark.startswith(MARK) and (format == "fsl" or not known):
        data = differences(path, data, affine, format)
    if moving is not None:
        if moving.ndim != ndim:
            raise InputError(f"warp {path}: {ndim}-D, but the moving image is {moving.ndim}-D")
        moving_affine, shape = moving.affine, moving.shape
    moving_affine = affine if moving_affine is None else moving_affine
    frames = frame(format, affine, data.shape[:-1]), frame(format, moving_affine, shape)
    return Warp(decode(data, *frames, ndim), affine, moving_affine, shape)


def _check_vectors(path: Path, shape: tuple[int, ...]) -> int:
    """The number of axes, 2 or 3."""
    axes = len(shape) - 1
    if axes not in (2, 3) or shape[-1] not in (axes, 3) or 0 in shape:
        raise InputError(f"warp {path}: expected displacements [X, Y, Z, 3] or [X, Y, 2], got shape {shape}")
    return axes
