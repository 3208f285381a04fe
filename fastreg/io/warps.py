"""Displacement fields on disk: ITK, FreeSurfer, FSL, Learn2Reg, VoxelMorph's npz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Header

from fastreg.geometry.image import Image, check_affine, fsl_frame
from fastreg.geometry.transforms import LPS, Transform, Warp, decode, encode
from fastreg.io import freesurfer
from fastreg.io.affines import AFFINE_ENDINGS, load_affine
from fastreg.io.arrays import open_numpy
from fastreg.io.foreign import foreign_transform
from fastreg.io.images import save_nifti
from fastreg.io.volumes import affine_mm, open_nibabel, read_nibabel
from fastreg.utils.files import InputError, atomic, check_exists

FORMATS = ("itk", "freesurfer", "fsl", "learn2reg", "npz")
"""The first is the default: ITK, ANTs, SimpleITK and Slicer read it."""
_INTENTS = {"itk": 1007, "freesurfer": 1006, "fsl": 2006, "learn2reg": 0}


def _frame(format: str, affine: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    """[4, 4], voxel -> the coordinates in which a format's displacements are differences."""
    if format == "itk":
        return LPS @ affine
    if format == "freesurfer":
        return affine
    if format == "fsl":
        assert shape is not None
        return fsl_frame(affine, shape)
    return np.eye(4)


def save_warp(path: str | Path, warp: Warp, *, format: str | None = None) -> None:
    """Write a warp whole or not at all, float32.

    Args:
        path: .nii or .nii.gz; .npz (VoxelMorph's `vol` beside both affines).
        warp: FSL's and FreeSurfer's files also say the size of the moving grid.
        format: One of `FORMATS`; None is npz for .npz, otherwise itk.
    """
    format = format or ("npz" if Path(path).suffix == ".npz" else "itk")
    if format not in FORMATS:
        raise InputError(f"warp format: expected one of {', '.join(FORMATS)}, got {format}")
    if (format == "npz") != (Path(path).suffix == ".npz"):
        raise InputError(f"output {path}: format {format} {'needs' if format == 'npz' else 'cannot be'} a .npz file")
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
    frames = _frame(format, warp.fixed_affine, warp.fixed_shape), _frame(format, warp.moving_affine, warp.moving_shape)
    data = encode(warp.flow, *frames)[..., : warp.ndim].astype(np.float32)
    extension = None
    if format in ("itk", "freesurfer"):  # [X, Y, Z, 1, 3]
        data = data.reshape(*warp.fixed_shape, *[1] * (4 - warp.ndim), warp.ndim)
    if format == "freesurfer":
        extension = freesurfer.pack(warp)
    save_nifti(path, data, warp.fixed_affine, intent=_INTENTS[format], extension=extension)


def detect_format(path: str | Path) -> str | None:
    """The warp format of a file, from its header alone; None if it holds no warp.

    [X, Y, Z, 3] without an intent is Learn2Reg's and VoxelMorph's: displacements in voxels.

    Raises:
        InputError: no file, not an image, or a warp of a kind that is not read here.
    """
    path = check_exists(path, "warp")
    if path.suffix == ".npz":
        arrays = open_numpy(path, "warp")
        shape = arrays["vol"].shape if "vol" in arrays else ()
        return "npz" if "moving_affine" in arrays or (len(shape) == 4 and shape[-1] == 3) else None
    if path.suffix == ".npy":
        return None
    image = open_nibabel(path, "warp")
    shape, nifti = image.shape, isinstance(image.header, Nifti1Header)
    intent = int(image.header["intent_code"]) if nifti else 0
    if intent in (2007, 2008, 2009, 2016):
        raise InputError(f"warp {path}: FSL coefficients, expected a field: run fnirtfileutils --out first")
    if intent and bytes(image.header["intent_name"]).startswith(b"NREG"):
        raise InputError(f"warp {path}: NiftyReg's warps are not read here; expected {', '.join(FORMATS)}")
    vectors = (len(shape) == 5 and shape[3] == 1 and shape[4] in (2, 3)) or (len(shape) == 4 and shape[3] in (2, 3))
    if not vectors:
        return None
    if not nifti:
        raise InputError(f"warp {path}: expected .nii, .nii.gz or .npz; FreeSurfer's tools save warps as .nii.gz too")
    named = next((name for name, code in _INTENTS.items() if code == intent), None)
    if named == "learn2reg" and len(shape) == 5:
        raise InputError(f"warp {path}: its header does not say the format; name it, one of {', '.join(FORMATS[:-1])}")
    return named


def load_warp(path: str | Path, *, moving: Image | None = None, format: str | None = None) -> Warp:
    """Read a warp.

    Args:
        path: .nii, .nii.gz or .npz.
        moving: The moving image. FSL's displacements have no meaning without it; in Learn2Reg's and VoxelMorph's it
            says where the moving voxels lie (otherwise: where the fixed ones lie). It sets the grid of `Warp.flow`.
        format: One of `FORMATS`; None asks the header.

    Raises:
        InputError: no file, no warp, a format that does not fit or needs `moving`, displacements that are not finite.
    """
    path = check_exists(path, "warp")
    if format is not None and format not in FORMATS:
        raise InputError(f"warp format: expected one of {', '.join(FORMATS)}, got {format}")
    format = format or detect_format(path)
    if format is None:
        raise InputError(f"warp {path}: expected a displacement field [X, Y, Z, 1, 3] or [X, Y, Z, 3], got an image")
    warp = _load_npz(path, moving) if format == "npz" else _load_nifti(path, moving, format)
    bad = int((~np.isfinite(warp.flow)).any(-1).sum())
    if bad:
        raise InputError(f"warp {path}: expected finite displacements, got {bad} voxels with NaN or infinity")
    return warp


def _load_npz(path: Path, moving: Image | None) -> Warp:
    arrays = open_numpy(path, "warp")
    flow = arrays.get("vol", np.empty(0)).astype(np.float32)
    _check_vectors(path, flow.shape)
    fixed_affine = check_affine(arrays.get("fixed_affine", np.eye(4)), f"warp {path}")
    if "moving_affine" not in arrays:
        given = (fixed_affine, None) if moving is None else (moving.affine, moving.shape)
        return Warp(flow, fixed_affine, *given)
    shape = tuple(arrays["moving_shape"].tolist()) if "moving_shape" in arrays else None
    warp = Warp(flow, fixed_affine, check_affine(arrays["moving_affine"], f"warp {path}"), shape)
    return warp if moving is None else warp.onto(moving.affine, moving.shape)


def _load_nifti(path: Path, moving: Image | None, format: str) -> Warp:
    image = open_nibabel(path, "warp")
    data = np.asarray(read_nibabel(image, f"warp {path}"), np.float64)
    if data.ndim == 5 and data.shape[3] == 1:
        data = data[..., 0, :]
    if data.ndim == 4 and data.shape[2:] == (1, 2):
        data = data[:, :, 0]
    ndim = _check_vectors(path, data.shape)
    affine, moving_affine, shape = check_affine(affine_mm(image), f"warp {path}"), None, None
    fixed_shape = data.shape[:-1]
    if format == "freesurfer":
        data, moving_affine, shape = freesurfer.unpack(path, image, data, affine)
    if format == "fsl" and moving is None:
        raise InputError(f"warp {path}: an FSL warp needs the moving image")
    if moving is not None:
        if moving.ndim != ndim:
            raise InputError(f"warp {path}: {ndim}-D, but the moving image is {moving.ndim}-D")
        moving_affine, shape = moving.affine, moving.shape
    moving_affine = affine if moving_affine is None else moving_affine
    frames = _frame(format, affine, fixed_shape), _frame(format, moving_affine, shape)
    return Warp(decode(data, *frames, ndim), affine, moving_affine, shape)


def _check_vectors(path: Path, shape: tuple[int, ...]) -> int:
    if len(shape) not in (3, 4) or shape[-1] != len(shape) - 1 or 0 in shape:
        raise InputError(f"warp {path}: expected displacements [X, Y, Z, 3] or [X, Y, 2], got shape {shape}")
    return shape[-1]


def load_transform(
    path: str | Path,
    *,
    fixed: Image | None = None,
    moving: Image | None = None,
    format: str | None = None,
    matrix: str | None = None,
) -> Transform:
    """An affine for .mat, .tfm and .txt, a warp otherwise; see `load_affine` and `load_warp`."""
    path = Path(path)
    if path.name.lower().endswith(AFFINE_ENDINGS):
        return load_affine(path, matrix=matrix, fixed=fixed, moving=moving)
    known = foreign_transform(path)
    if known is not None:
        endings = f".nii, .nii.gz, .npz, {', '.join(AFFINE_ENDINGS)}"
        raise InputError(f"transform {path}: expected one of {endings}; this {known}")
    return load_warp(path, moving=moving, format=format)
