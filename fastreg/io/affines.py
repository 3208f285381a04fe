"""Linear transforms on disk: ITK's .mat, .tfm and .h5, FreeSurfer's .lta, AFNI's .aff12.1D, 4x4 matrices as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image, check_affine
from fastreg.geometry.linear import product_of
from fastreg.geometry.transforms import Affine
from fastreg.io import afni, lta
from fastreg.io.itk_files import (
    HDF5_MAGIC,
    TEXT_MAGIC,
    Step,
    matlab_of,
    read_hdf5_steps,
    read_matlab_steps,
    read_text_steps,
    text_of,
)
from fastreg.io.itk_transforms import steps_of, transforms_of
from fastreg.io.matrices import MATRICES, flirt_matrix, read_matrix, text_of_matrix
from fastreg.utils.files import InputError, check_exists, save_bytes

AFFINE_ENDINGS = (".mat", ".tfm", ".txt", ".lta", ".1d")
"""Of linear transforms; .tfm and .txt may hold others too."""
_LARGEST = 2**20
"""Bytes; a linear transform takes less than a thousand."""


def save_affine(
    path: str | Path,
    affine: Affine,
    *,
    matrix: str | None = None,
    fixed: Image | None = None,
    moving: Image | None = None,
    ndim: int = 3,
) -> None:
    """Write a linear transform.

    Args:
        path: .mat or .tfm for ITK and ANTs, .txt a 4x4 matrix of RAS mm, .lta FreeSurfer's, .aff12.1D (any .1D) AFNI's.
        affine: The transform.
        matrix: "flirt" makes .mat and .txt a matrix as FSL's flirt -omat writes it.
        fixed: The fixed image: FLIRT's -ref and the target of .lta need it, AFNI's where it is oblique.
        moving: Likewise the moving image.
        ndim: 2 where ITK's file is for 2-D images.

    Raises:
        InputError: another ending, an image that is missing, a transform that leaves the plane of 2-D images.
    """
    path, name = Path(path), f"output {path}"
    ending = path.suffix.lower()
    if matrix not in (None, *MATRICES):
        raise InputError(f"matrix: expected one of {', '.join(MATRICES)}, got {matrix}")
    if matrix == "flirt" and ending in (".mat", ".txt"):
        content = text_of_matrix(flirt_matrix(affine.matrix, fixed, moving, name), fsl=True)
    elif ending == ".mat":
        content = matlab_of(steps_of([affine], name, ndim)[0])
    elif ending == ".tfm":
        content = text_of(steps_of([affine], name, ndim))
    elif ending == ".txt":
        content = text_of_matrix(affine.matrix)
    elif ending == ".lta":
        content = lta.text_of(affine, fixed, moving, name)
    elif ending == ".1d":
        content = afni.text_of([affine], fixed, moving)
    else:
        raise InputError(f"{name}: expected a name that ends in {', '.join(AFFINE_ENDINGS)}")
    save_bytes(path, content)


def load_affine(
    path: str | Path, *, matrix: str | None = None, fixed: Image | None = None, moving: Image | None = None
) -> Affine:
    """Read a linear transform.

    Args:
        path: ITK's .mat, .tfm, .txt or .h5: every linear kind, and in text and .h5 composites of them; FreeSurfer's
            .lta; AFNI's .aff12.1D; or a 4x4 matrix in text.
        matrix: What a plain 4x4 matrix is, one of `MATRICES`; None reads only those that say it, as fastreg's do.
        fixed: The fixed image, which FLIRT's matrices need: FSL's -ref; and AFNI's where it is oblique.
        moving: The moving image, likewise: FSL's -in.

    Raises:
        InputError: no file, another kind of transform, several in one file, a matrix that is singular, a plain matrix
            without `matrix`, one of FLIRT's without both images.
    """
    path = check_exists(path, "transform")
    if matrix is not None and matrix not in MATRICES:
        raise InputError(f"matrix: expected one of {', '.join(MATRICES)}, got {matrix}")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if content.startswith(HDF5_MAGIC) or content.startswith(TEXT_MAGIC):
        return _only_linear(path, itk_steps(path))
    if len(content) > _LARGEST:
        raise InputError(f"transform {path}: expected a linear one, got a file of {path.stat().st_size} bytes")
    text = _text(content)
    if text is None:
        if path.suffix.lower() != ".mat":
            raise InputError(f"transform {path}: expected an ITK transform file or a 4x4 matrix in text")
        return _only_linear(path, read_matlab_steps(path, content))
    reader = _READERS.get(path.suffix.lower())
    if reader is not None:
        return Affine(check_affine(reader(path, text, fixed, moving), f"transform {path}"))
    return Affine(check_affine(read_matrix(path, text, matrix, fixed, moving), f"transform {path}"))


_READERS: dict[str, Callable[[Path, str, Image | None, Image | None], np.ndarray]] = {
    ".lta": lta.read,
    ".1d": afni.read,
}


def itk_steps(path: Path) -> list[Step]:
    """What an ITK file holds, in text or HDF5."""
    with path.open("rb") as file:
        if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            return read_hdf5_steps(path)
    return read_text_steps(path, path.read_bytes().decode(errors="replace"))


def _only_linear(path: Path, steps: list[Step]) -> Affine:
    for step in steps:
        if len(step.figures) > 16:  # a grid's; what is no kind at all is refused below
            raise InputError(f"transform {path}: expected a linear transform, got {step.kind}")
    parts = transforms_of(path, steps)
    if not all(isinstance(part, Affine) for part in parts):
        raise InputError(f"transform {path}: expected a linear transform, got {steps[0].kind}")
    return product_of(parts) or Affine(np.eye(4))


def _text(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
