"""What a warp's file holds: its format by the header, and whether its vectors are differences or places."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Header

from fastreg.geometry.image import affine_field, fsl_frame
from fastreg.geometry.transforms import LPS
from fastreg.io.arrays import open_numpy
from fastreg.io.foreign import reader_of
from fastreg.io.itk_images import holds_vectors
from fastreg.io.volumes import affine_mm, close, open_nibabel, read_nibabel
from fastreg.utils.files import InputError, check_exists

FORMATS = ("itk", "freesurfer", "fsl", "niftyreg", "learn2reg", "npz")
"""The first is the default: ITK, ANTs, SimpleITK and Slicer read it."""
INTENTS = {"itk": 1007, "freesurfer": 1006, "fsl": 2006, "niftyreg": 1007, "learn2reg": 0}
NIFTYREG = "NREG_TRANS"
"""The intent's name in NiftyReg's files; its first parameter says what the vectors are."""
PLACES, DISPLACEMENTS = 0, 1
_NIFTYREG_KINDS = {
    2: "control points of B-splines", 3: "a velocity field", 4: "a velocity field", 5: "a velocity grid",
    6: "control points",
}  # fmt: skip
MARK = "fastreg displacements"
"""How the header's description begins in warps that are written here: differences for certain."""
MARK_VOXELS = f"{MARK} in voxels"
MARK_PLANE = f"{MARK} of a 2-D plane"
"""A 2-D warp in a plane that is not axial: one slice of vectors of three components."""


def detect_format(path: str | Path) -> str | None:
    """The warp format of a file; None if it holds no warp.

    [X, Y, Z, 3] without an intent is Learn2Reg's and VoxelMorph's, displacements in voxels, if its name or the
    description says so; otherwise if its numbers can be that, with a warning. A series of images is none.

    Raises:
        InputError: no file, not an image, or a warp of a kind that is not read here.
    """
    path = check_exists(path, "warp")
    if path.suffix.lower() == ".npz":
        arrays = open_numpy(path, "warp")
        shape = arrays["vol"].shape if "vol" in arrays else ()
        return "npz" if "moving_affine" in arrays or (len(shape) == 4 and shape[-1] == 3) else None
    if path.suffix.lower() == ".npy":
        return None
    reader = reader_of(path)
    if reader is not None:
        return "itk" if reader == "itk" and holds_vectors(path) else None
    image = open_nibabel(path, "warp")
    try:
        return _format_of(image, path)
    finally:
        close(image)


def _format_of(image: Any, path: Path) -> str | None:
    shape, nifti = image.shape, isinstance(image.header, Nifti1Header)
    intent = int(image.header["intent_code"]) if nifti else 0
    if intent in (2007, 2008, 2009, 2016):
        raise InputError(f"warp {path}: FSL coefficients, expected a field: run fnirtfileutils --out first")
    if intent and header_text(image, "intent_name").startswith(NIFTYREG):
        return "niftyreg"
    if nifti and header_text(image, "descrip") == MARK_VOXELS:
        return "learn2reg"
    if not _is_field(shape):
        return None
    if not nifti:  # several volumes
        return None
    named = next((name for name, code in INTENTS.items() if code == intent), None)
    if named != "learn2reg":
        return named
    if len(shape) == 5:
        raise InputError(f"warp {path}: its header does not say the format; name it, one of {', '.join(FORMATS[:-1])}")
    if re.match(r"disp_\d+_\d+\.nii", path.name):
        return named
    return named if _can_be_voxels(image, path) else None


def niftyreg_differences(path: Path, image: Any, data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """NiftyReg's vectors as displacements in RAS mm; InputError where they are control points or velocities."""
    kind = int(image.header["intent_p1"])
    if kind == PLACES:
        return np.asarray(data - affine_field(affine[: data.shape[-1]], data.shape[:-1]))
    if kind == DISPLACEMENTS:
        return data
    said = _NIFTYREG_KINDS.get(kind, f"kind {kind}")
    raise InputError(
        f"warp {path}: expected NiftyReg's deformation or displacement field, got {said}: reg_transform -ref FIXED "
        "-def FILE OUT makes a field of it"
    )


def _is_field(shape: Sequence[int]) -> bool:
    """[X, Y, Z, 1, 2 or 3], or as many components as axes: [X, Y, Z, 3], [X, Y, 1, 2]."""
    if len(shape) == 5:
        return shape[3] == 1 and shape[4] in (2, 3)
    return len(shape) == 4 and (shape[3] == 3 or (shape[3] == 2 and shape[2] == 1))


def _can_be_voxels(image: Any, path: Path) -> bool:
    """Whether [X, Y, Z, 3] that says nothing is displacements in voxels, with a warning; a series of images is not."""
    header = image.header
    timed = int(header["xyzt_units"]) & 0x38 or float(header["pixdim"][4]) not in (0.0, 1.0)
    if timed or image.get_data_dtype().kind != "f":
        return False
    data = np.asarray(read_nibabel(open_nibabel(path, "warp"), f"warp {path}"))
    finite = data[np.isfinite(data)]
    far = finite.size and np.abs(finite).max() >= max(data.shape[:3])
    if far and places_of(data, np.asarray(affine_mm(image)), "learn2reg") is None:
        return False  # leads out of any image: intensities of three volumes
    text = "its header does not say the format; displacements in voxels are assumed (--warp-format says another)"
    warnings.warn(f"warp {path}: {text}", UserWarning, stacklevel=6)
    return True


def header_text(image: Any, key: str) -> str:
    """A text of the header, "" where it has none."""
    return bytes(image.header[key]).split(b"\0")[0].decode("ascii", "replace") if key in image.header else ""


def frame(format: str, affine: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    """[4, 4], voxel -> the coordinates in which a format's displacements are differences."""
    if format == "itk":
        return LPS @ affine
    if format in ("freesurfer", "niftyreg"):
        return affine
    if format == "fsl":
        assert shape is not None
        return fsl_frame(affine, shape)
    return np.eye(4)


_COORDINATES = {
    "fsl": "FSL's mm (its absolute convention)",
    "learn2reg": "voxels",
    "freesurfer": "RAS mm, as SPM's y_ files",
    "itk": "LPS mm",
}


def places_of(data: np.ndarray, affine: np.ndarray, format: str) -> str | None:
    """The format in whose coordinates the vectors are places; None: they are differences.

    Places vary as the grid's own do, and little once those are taken away; differences vary more then.

    Args:
        data: [X, Y, Z, 3] or [X, Y, 2 or 3], as the file has it.
        affine: [4, 4], voxel -> RAS mm.
        format: As what the file is read.
    """
    shape, spread = data.shape[:-1], _spread(data)
    left = {}
    for kind in dict.fromkeys((format, "fsl", "freesurfer", "itk", "learn2reg")):
        left[kind] = _spread(data - affine_field(frame(kind, affine, shape)[: data.shape[-1]], shape))
    best = min(left, key=lambda kind: left[kind])
    # A format's own coordinates first: others may be the same but for a shift.
    best = format if left[format] <= 1.01 * left[best] else best
    return best if left[best] < 0.5 * spread else None


def _spread(vectors: np.ndarray) -> float:
    """Root of the summed variances of the components; voxels that are not finite do not count."""
    known = vectors[np.isfinite(vectors).all(-1)]
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(known.var(axis=0, dtype=np.float64).sum())) if len(known) else 0.0


def differences(path: Path, data: np.ndarray, affine: np.ndarray, format: str) -> np.ndarray:
    """The vectors as differences: FSL's absolute convention is undone; InputError where they are places of another."""
    kind = places_of(data, affine, format)
    if kind is None:
        return data
    if kind == format == "fsl":
        return np.asarray(data - affine_field(frame("fsl", affine, data.shape[:-1])[:3], data.shape[:-1]))
    hint = "; if it is FSL's, say --warp-format fsl" if kind == "fsl" else "; subtract each voxel's own place"
    raise InputError(f"warp {path}: expected displacements, got places in {_COORDINATES[kind]}{hint}")
