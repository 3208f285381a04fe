"""What surfaces of all formats have in common: points, faces, and a new file of any format made of them."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np

from fastreg.io.point_sets import PointSet
from fastreg.utils.files import InputError

ENDINGS = (".vtk", ".ply", ".stl", ".gii")


class Surface(PointSet):
    """Points and faces."""

    kind: ClassVar[str] = "a surface"
    others: ClassVar[tuple[str, ...]] = ENDINGS

    def triangles(self) -> np.ndarray:
        """[M, 3], three indices of points a face; polygons are cut into fans.

        Raises:
            InputError: the file has no faces.
        """
        raise NotImplementedError


def said_space(head: bytes) -> str | None:
    """The space in a title or comment, as Slicer writes it: SPACE=LPS."""
    found = re.search(rb"SPACE=(LPS|RAS)\b", head)
    return None if found is None else found[1].decode().lower()


def title(space: str | None) -> str:
    """The title or comment of a new file."""
    return "fastreg" if space is None else f"fastreg. SPACE={space.upper()}"


def fans(sizes: np.ndarray, corners: np.ndarray, count: int) -> np.ndarray:
    """Polygons -> triangles [M, 3].

    Args:
        sizes: [P], corners a polygon.
        corners: Indices of points, one polygon after the other.
        count: Number of points.

    Raises:
        ValueError: an index of no point, or fewer corners than the polygons have.
    """
    sizes, corners = sizes.astype(np.int64), corners.astype(np.int64)
    if (sizes < 0).any() or sizes.sum() != len(corners) or ((corners < 0) | (corners >= count)).any():
        raise ValueError("faces of points that are not there")
    if (sizes == 3).all():
        return corners.reshape(-1, 3)
    wide = np.maximum(sizes - 2, 0)
    first = np.repeat(np.cumsum(sizes) - sizes, wide)
    second = first + 1 + np.arange(wide.sum()) - np.repeat(np.cumsum(wide) - wide, wide)
    return np.stack([corners[first], corners[second], corners[second + 1]], 1)


def unpack_cells(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, i, j, ..., n, i, j, ...] -> sizes and corners, as `fans` takes them."""
    if len(flat) and flat[0] >= 0 and len(flat) % (flat[0] + 1) == 0:
        table = flat.reshape(-1, flat[0] + 1)
        if (table[:, 0] == flat[0]).all():
            return table[:, 0], table[:, 1:].ravel()
    sizes, at = [], 0
    while at < len(flat):
        size = int(flat[at])
        if size < 0:
            raise ValueError("a face of fewer than no corners")
        sizes.append(size)
        at += 1 + size
    starts = np.cumsum([0, *(size + 1 for size in sizes)])[:-1]
    return np.array(sizes, np.int64), np.delete(flat, starts)


def check_triangles(triangles: np.ndarray, name: str) -> np.ndarray:
    """`triangles`; InputError where there are none."""
    if not len(triangles):
        raise InputError(f"points {name}: expected a surface with polygons, got none")
    return triangles
