"""4x4 matrices as text: of RAS mm, and FLIRT's, which need both images."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image, check_affine, fsl_frame
from fastreg.utils.files import InputError

MATRICES = ("ras", "flirt")
"""What a plain 4x4 matrix may be: fixed RAS mm -> moving RAS mm, or FSL's."""
_RAS_LINE = "# fixed RAS mm -> moving RAS mm"
_FLIRT_ROW = re.compile(r"\S+(  \S+){3}")
"""FSL puts two spaces between numbers; nobody else does."""


def read_matrix(path: Path, text: str, matrix: str | None, fixed: Image | None, moving: Image | None) -> np.ndarray:
    """[4, 4], fixed RAS mm -> moving RAS mm, of a 4x4 matrix of numbers: of RAS mm or FLIRT's.

    Raises:
        InputError: as `fastreg.io.affines.load_affine`.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = bool(lines) and lines[0] == _RAS_LINE
    try:
        rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    except ValueError as error:
        raise InputError(f"transform {path}: expected a 4x4 matrix of numbers ({error})") from error
    if [len(row) for row in rows] != [4] * 4 or rows[3] != [0, 0, 0, 1]:
        raise InputError(f"transform {path}: expected 4 rows of 4 numbers, the last 0 0 0 1")
    found = check_affine(np.array(rows), f"transform {path}")
    if matrix is None and not said:
        if path.suffix == ".mat" or all(_FLIRT_ROW.fullmatch(line) for line in lines):
            raise InputError(
                f"transform {path}: a plain 4x4 matrix as FLIRT writes it: give --matrix flirt to fastreg warp, or, if "
                f"it maps fixed RAS mm -> moving RAS mm, --matrix ras or the line '{_RAS_LINE}' above it"
            )
        text = f"transform {path}: a plain 4x4 matrix, taken for {_RAS_LINE[2:]}; if it is FLIRT's, give --matrix flirt"
        warnings.warn(text, UserWarning, stacklevel=4)
    if matrix != "flirt":
        return found
    into, out_of = _flirt_frames(fixed, moving, f"transform {path}")
    # FLIRT maps the moving image's coordinates to the fixed image's: the other way round.
    return np.linalg.inv(out_of) @ np.linalg.inv(found) @ into


def flirt_matrix(world: np.ndarray, fixed: Image | None, moving: Image | None, name: str) -> np.ndarray:
    """[4, 4] as flirt -omat writes it, of fixed RAS mm -> moving RAS mm; InputError without both images."""
    into, out_of = _flirt_frames(fixed, moving, name)
    return into @ np.linalg.inv(world) @ np.linalg.inv(out_of)


def _flirt_frames(fixed: Image | None, moving: Image | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """RAS mm -> FSL's coordinates of the fixed image, and of the moving one."""
    if fixed is None or moving is None:
        raise InputError(f"{name}: FLIRT's matrix needs both images: the fixed (-ref) and the moving (-in)")
    into, out_of = (fsl_frame(i.affine, i.shape) @ np.linalg.inv(i.affine) for i in (fixed, moving))
    return into, out_of


def text_of_matrix(matrix: np.ndarray, *, fsl: bool = False) -> bytes:
    """The rows of a matrix; of RAS mm below a line that says so, FSL's in FSL's own way."""
    between = "  " if fsl else " "
    lines = [between.join(repr(float(x)) for x in row) + ("  " if fsl else "") for row in matrix]
    return "".join(f"{line}\n" for line in ([] if fsl else [_RAS_LINE]) + lines).encode()
