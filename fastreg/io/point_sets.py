"""What all files of points are here: points in a space, and the file they came in, which can be written with others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fastreg.geometry.image import in_plane
from fastreg.geometry.transforms import LPS
from fastreg.utils.files import InputError

SPACES = ("ras", "lps", "voxel")
"""RAS mm (NIfTI, FreeSurfer), LPS mm (ITK, ANTs, DICOM, Slicer's default), voxel indices of the image."""

_FAR = 1e15
"""No coordinate is larger: areas of triangles are then finite in float32."""

Grid: TypeAlias = tuple[np.ndarray, Sequence[int]]
"""Affine [4, 4], voxel -> RAS mm, and shape of the image that points lie in."""


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points and the rest of their file. The kinds of files are the classes below this one."""

    points: np.ndarray
    """[N, 3], of a table [N, 2] too, float64, in `space`."""
    space: str | None = field(default=None, kw_only=True)
    """"ras" or "lps" where the file says it; None: the reader has to know."""
    labels: tuple[str, ...] | None = field(default=None, kw_only=True)
    """A name for each point, where the file has them."""

    kind: ClassVar[str]
    """What it is, for messages."""
    ending: ClassVar[str]
    """Of its format's files."""
    others: ClassVar[tuple[str, ...]] = ()
    """Endings of other formats that it can be written in; a table can be made of all."""

    def content(self) -> bytes:
        """The file that was read, with these points in the place of its own."""
        raise NotImplementedError

    def moved(self, points: np.ndarray, grid: Grid | None = None) -> PointSet:
        """The same with other points, which lie in the image of `grid`."""
        return replace(self, points=points)


def carry(
    given: PointSet,
    through: Callable[[np.ndarray], np.ndarray],
    space: str = "ras",
    *,
    start: np.ndarray | None = None,
    grid: Grid | None = None,
) -> PointSet:
    """`given` with its points where `through` sends them.

    Args:
        given: What `fastreg.io.points.load_points` read.
        through: Places [N, 3] in RAS mm -> places [N, 3] in RAS mm.
        space: One of `SPACES`, for files that do not say theirs.
        start: [4, 4], affine of the image that the points lie in; for voxels.
        grid: The image that they lie in afterwards; for voxels, and for headers that name it.

    Raises:
        InputError: a space that is none, or voxels without their images.
    """
    space = given.space or space
    places = through(to_ras(given.points, space, start))
    into = None if grid is None else grid[0]
    return given.moved(from_ras(places, space, into, given.points.shape[1]), grid)


def check_columns(points: np.ndarray, space: str, *affines: np.ndarray) -> None:
    """InputError where points of x and y alone would lose their place: mm in a plane that is not axial."""
    if points.shape[1] == 2 and space != "voxel" and not all(in_plane(affine) for affine in affines):
        raise InputError("points: expected x, y and z, for the images' plane is not axial (or --points-space voxel)")


def to_ras(points: np.ndarray, space: str, affine: np.ndarray | None = None) -> np.ndarray:
    """[N, 2 or 3] in one of `SPACES` -> [N, 3] in RAS mm; `affine` is that of the image whose voxels they are."""
    points = np.concatenate([points, np.zeros((len(points), 3 - points.shape[1]))], 1)
    matrix = _matrix(space, affine)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def from_ras(places: np.ndarray, space: str, affine: np.ndarray | None = None, ndim: int = 3) -> np.ndarray:
    """[N, 3] in RAS mm -> [N, ndim] in one of `SPACES`."""
    back = np.linalg.inv(_matrix(space, affine))
    return (places @ back[:3, :3].T + back[:3, 3])[:, :ndim]


def _matrix(space: str, affine: np.ndarray | None) -> np.ndarray:
    """[4, 4], `space` -> RAS mm."""
    if space not in SPACES:
        raise InputError(f"points space: expected one of {', '.join(SPACES)}, got {space}")
    if space != "voxel":
        return LPS if space == "lps" else np.eye(4)
    if affine is None:
        raise InputError("points in voxels need the moving image too, whose voxels they become: give --moving")
    return affine


def check_finite(points: np.ndarray, name: str) -> np.ndarray:
    """`points` as float64; InputError where there are none, or one is no finite number, or beyond `_FAR`."""
    with np.errstate(invalid="ignore"):
        points = np.asarray(points, np.float64)
    if not len(points):
        raise InputError(f"{name}: expected points, got none")
    bad = ~(np.abs(points) < _FAR).all(1)
    if bad.any():
        raise InputError(f"{name}: expected finite numbers, got {points[bad][0].tolist()} as point {bad.argmax() + 1}")
    return points


def matched(fixed: PointSet, moving: PointSet, fixed_name: Any, moving_name: Any) -> list[int]:
    """Which of the moving landmarks belongs to each of the fixed ones: by label where both files name each of theirs.

    Raises:
        InputError: not as many, or a label that only one of them has.
    """
    if len(fixed.points) != len(moving.points):
        raise InputError(
            f"points {moving_name}: expected {len(fixed.points)} as in {fixed_name}, got {len(moving.points)}"
        )
    order = list(range(len(fixed.points)))
    if not (_labelled(fixed) and _labelled(moving)) or fixed.labels == moving.labels:
        return order
    assert fixed.labels is not None and moving.labels is not None
    where = {label: k for k, label in enumerate(moving.labels)}
    for label in fixed.labels:
        if label not in where:
            raise InputError(f"points {moving_name}: expected {label!r} as in {fixed_name}, got none")
    text = f"points {moving_name}: in another order than {fixed_name}; matched by their labels"
    warnings.warn(text, UserWarning, stacklevel=4)
    return [where[label] for label in fixed.labels]


def _labelled(points: PointSet) -> bool:
    """Whether every point has a label of its own."""
    return points.labels is not None and all(points.labels) and len(set(points.labels)) == len(points.labels)
