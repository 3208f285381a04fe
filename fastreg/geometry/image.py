"""An image on its grid. Axes are those on disk (i, j, k); affines are 4x4, voxel -> RAS mm, in float64.

A 2-D image lies in its slice k = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel import orientations

from fastreg.utils.files import InputError


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar image or label map on its grid."""

    data: np.ndarray
    """[X, Y, Z] or [X, Y], axes as on disk."""
    affine: np.ndarray
    """[4, 4], voxel -> RAS mm, float64."""
    path: Path | None = None

    @classmethod
    def blank(cls, shape: Sequence[int], affine: np.ndarray) -> Image:
        """A grid without an image: zeros that take no memory, not to be written to."""
        return cls(np.broadcast_to(np.float32(0), tuple(shape)), affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.data.ndim

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along each axis."""
        return spacing_mm(self.affine)[: self.ndim]

    @property
    def is_labels(self) -> bool:
        """Whether the voxels are integers, which no interpolation may mix."""
        return self.data.dtype.kind in "iub"

    def tensor(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A copy of the data as [1, 1, X, Y, Z]."""
        return torch.from_numpy(owned(self.data)).to(dtype)[None, None]


def owned(data: np.ndarray) -> np.ndarray:
    """A copy in C order and this machine's byte order."""
    native = np.uint8 if data.dtype.kind == "b" else data.dtype.newbyteorder("=")
    return data.astype(native, order="C", copy=True)


def named(what: str, path: Path | None) -> str:
    """What it is and, if it came from a file, which: as messages name it."""
    return what if path is None else f"{what} {path}"


def check_affine(affine: Any, name: str) -> np.ndarray:
    """`affine` as float64 [4, 4]; InputError unless it is finite and can be inverted."""
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: expected a finite 4x4 affine, got {' '.join(str(matrix).split())}")
    scale = np.linalg.norm(matrix[:3, :3], axis=0)
    if not scale.all() or abs(np.linalg.det(matrix[:3, :3] / scale)) < 1e-6:
        raise InputError(f"{name}: its affine is singular: {matrix[:3, :3].tolist()}")
    return matrix


def spacing_mm(affine: np.ndarray) -> tuple[float, ...]:
    """Length of the three voxel axes."""
    return tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))


def fsl_frame(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """[4, 4], voxel -> FSL's coordinates: mm along the voxel axes, x from the other end if the determinant is > 0."""
    frame = np.diag([*spacing_mm(affine), 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        frame[0] = [-frame[0, 0], 0, 0, frame[0, 0] * (shape[0] - 1)]
    return frame


def orientation(affine: np.ndarray) -> str:
    """Where the axes point, to the nearest: "RAS", "LPI", ..."""
    return "".join(orientations.aff2axcodes(affine))


def affine_field(
    matrix: np.ndarray,
    shape: Sequence[int],
    *,
    field: np.ndarray | None = None,
    linear: np.ndarray | None = None,
    dtype: type[np.floating[Any]] = np.float64,
) -> np.ndarray:
    """``matrix @ (p, 1)`` for every voxel p of a grid, and with a field ``+ linear @ field[p]``: [*shape, rows].

    Args:
        matrix: [rows, 4].
        shape: Of the grid.
        field: [*shape, columns].
        linear: [rows, columns].
        dtype: Of the result, which is computed in float64.
    """
    # Component by component, in pieces that stay in the cache: several times faster than triples, or the whole at once.
    found = np.empty((len(matrix), *shape), dtype)
    piece = max(1, PIECE // math.prod(shape[1:]))
    for k, row in enumerate(matrix):
        across = row[3]
        for axis in reversed(range(1, len(shape))):
            across = np.add.outer(row[axis] * np.arange(shape[axis]), across)
        along = row[0] * np.arange(shape[0])
        for start in range(0, shape[0], piece):
            part = slice(start, start + piece)
            values = np.add.outer(along[part], across)
            if field is not None and linear is not None:
                for column in np.flatnonzero(linear[k]):
                    values += np.multiply(field[part, ..., column], linear[k, column], dtype=np.float64)
            found[k, part] = values
    return np.moveaxis(found, 0, -1)


PIECE = 65536
"""Voxels."""


def in_plane(affine: np.ndarray) -> bool:
    """Whether the axes i and j of a grid stay in the world's x-y plane, so that a 2-D world holds its displacements."""
    return bool(np.abs(affine[2, :2]).max() < 1e-6 * np.linalg.norm(affine[:3, :2]))


def check_same_plane(fixed: np.ndarray, moving: np.ndarray) -> None:
    """InputError where two 2-D grids lie in planes of different directions, such as a coronal and an axial one."""
    across = np.linalg.inv(moving)[2] @ fixed  # how far along the moving image's third axis the fixed ones lead
    tilt = np.abs(across[:2]) * np.linalg.norm(moving[:3, 2]) / np.linalg.norm(fixed[:3, :2], axis=0)
    if tilt.max() > 0.05:
        raise InputError(
            f"2-D images: expected planes of one direction, got {orientation(fixed)} and {orientation(moving)} "
            f"(the fixed and the moving image), {np.degrees(np.arcsin(min(1.0, tilt.max()))):.0f} degrees apart"
        )


def to_flow(field: np.ndarray) -> torch.Tensor:
    """[*shape, ndim] -> [1, ndim, *shape] float32."""
    return torch.from_numpy(np.moveaxis(field, -1, 0).astype(np.float32, order="C"))[None]
