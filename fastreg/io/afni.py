"""AFNI's linear transforms, .aff12.1D: the twelve numbers of a 3x4 matrix on one line, base -> source in DICOM mm.

DICOM mm are LPS mm, but AFNI leaves the obliquity of an image away: it computes as if the axes lay along the world's
nearest ones about the same first voxel. For oblique images the images are therefore needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image, spacing_mm
from fastreg.geometry.transforms import LPS, Affine
from fastreg.utils.files import InputError


def read(path: Path, text: str, fixed: Image | None, moving: Image | None) -> np.ndarray:
    """[4, 4], fixed RAS mm -> moving RAS mm.

    Args:
        path: For messages.
        text: The file's.
        fixed: AFNI's base; without it the file is taken for one of images that are not oblique.
        moving: AFNI's source, likewise.

    Raises:
        InputError: not twelve numbers, or several rows.
    """
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) == 3 and all(len(line) == 4 for line in lines):
        lines = [[word for line in lines for word in line]]  # as a matrix
    if len(lines) > 1 and all(len(line) == 12 for line in lines):
        raise InputError(f"transform {path}: expected one transform, got {len(lines)}, as of the volumes of a series")
    try:
        matrix = np.vstack([np.array(lines, np.float64).reshape(3, 4), [0, 0, 0, 1]])
    except ValueError as error:
        raise InputError(f"transform {path}: expected AFNI's 12 numbers on one line ({error})") from error
    if fixed is None or moving is None:
        text = "taken for one of images that are not oblique, for AFNI's matrices mean others there; give both images"
        warnings.warn(f"transform {path}: {text}", UserWarning, stacklevel=4)
    return _obliquity(moving) @ LPS @ matrix @ LPS @ np.linalg.inv(_obliquity(fixed))


def text_of(affines: Sequence[Affine], fixed: Image | None, moving: Image | None) -> bytes:
    """A file of transforms between images, of a series one a volume; without them, of images that are not oblique."""
    into, out_of = _obliquity(fixed) @ LPS, LPS @ np.linalg.inv(_obliquity(moving))
    rows = [(out_of @ affine.matrix @ into)[:3].ravel() for affine in affines]
    lines = [" ".join(repr(float(x)) for x in row) for row in rows]
    return "\n".join(["# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):", *lines, ""]).encode()


def _obliquity(image: Image | None) -> np.ndarray:
    """[4, 4], the place where AFNI thinks something is, RAS mm -> where it is."""
    if image is None:
        return np.eye(4)
    axes = image.affine[:3, :3]
    plumb = np.eye(4)
    plumb[:3, 3] = image.affine[:3, 3]
    nearest = np.abs(axes).argmax(0)
    if sorted(nearest) != [0, 1, 2]:
        return np.eye(4)
    plumb[:3, :3] = 0
    plumb[nearest, [0, 1, 2]] = np.sign(axes[nearest, [0, 1, 2]]) * spacing_mm(image.affine)
    return image.affine @ np.linalg.inv(plumb)
