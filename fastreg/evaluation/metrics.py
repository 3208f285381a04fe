"""Figures of merit of a registration, as pure functions of arrays: overlap, surface distance, folding, point errors.

Label maps are [D, H, W] (or [H, W]) integers; displacements are [3, D, H, W] (or [1, 3, D, H, W]) in voxels, with
``moved(p) = moving(p + flow(p))``. NumPy arrays and tensors are both taken. docs/math.md has the exact definitions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from fastreg.evaluation.diffeomorphism import simplices
from fastreg.geometry.fields import jacobian_determinant
from fastreg.ops.warp import warp
from fastreg.utils.files import InputError

Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"


def mean(values: Iterable[float]) -> float:
    """Mean of those that are not NaN; NaN if there is none."""
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def dice(fixed: Array, moved: Array, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Dice overlap 2 |A and B| / (|A| + |B|) of every structure of two hard label maps, counted in one pass.

    Args:
        fixed: [D, H, W], integers (of any type that holds them).
        moved: The same shape.
        labels: The structures; None for every non-zero label of either map.

    Returns:
        Label -> overlap in [0, 1]: 0 if one map lacks the structure, NaN if both do.

    Raises:
        ValueError: shapes that differ, or a map with fractions.
    """
    overlap, size_fixed, size_moved = _counts(fixed, moved, labels)
    return {
        label: 2 * overlap[label] / (size_fixed[label] + size_moved[label])
        if size_fixed[label] + size_moved[label]
        else math.nan
        for label in overlap
    }


def learn2reg_dice(fixed: Array, moved: Array, moving: Array, labels: Sequence[int] | None = None) -> dict[int, float]:
    """`dice` as the Learn2Reg challenge has it: NaN where the fixed or the unmoved moving map lacks the structure.

    Without `labels` they are the non-zero ones of `fixed`. The challenge averages what is not NaN (`mean`).
    """
    labels = labels_of(fixed) if labels is None else labels
    present = set(labels_of(fixed)) & set(labels_of(moving))
    return {label: value if label in present else math.nan for label, value in dice(fixed, moved, labels).items()}


def hd95(
    fixed: Array,
    moved: Array,
    spacing_mm: Sequence[float],
    labels: Sequence[int] | None = None,
    *,
    percentile: float = 95.0,
) -> dict[int, float]:
    """Robust Hausdorff distance in mm: the larger of the two directed percentiles of the surface distances.

    The surface of a structure is its voxels with a face on another label or on the image's border; distances run
    between voxel centres. (Pooling both directions before the percentile, as some packages do, gives less; Learn2Reg's
    package also weights each surface element by its area.)

    Args:
        fixed: [D, H, W], integers.
        moved: The same shape.
        spacing_mm: Voxel size along each axis; ones give voxels, the unit of the Learn2Reg challenge.
        labels: The structures; None for every non-zero label of either map.
        percentile: 100 gives the Hausdorff distance itself.

    Returns:
        Label -> distance; NaN if either map lacks the structure.

    Raises:
        InputError: scipy is not installed.
        ValueError: shapes that differ, or a map with fractions.
    """
    try:
        from scipy.ndimage import find_objects
    except ImportError as error:
        raise InputError("HD95 needs scipy: pip install 'fastreg[eval]'") from error
    codes_fixed, codes_moved, order = _codes(fixed, moved, labels)
    if len(spacing_mm) != codes_fixed.ndim:
        raise ValueError(f"spacing_mm must have {codes_fixed.ndim} values, got {tuple(spacing_mm)}")
    boxes = [find_objects(codes, len(order)) for codes in (codes_fixed, codes_moved)]
    result = {}
    for k, label in enumerate(order):
        one, other = boxes[0][k], boxes[1][k]
        if one is None or other is None:
            result[label] = math.nan
            continue
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
        result[label] = _robust_hausdorff(codes_fixed[box] == k + 1, codes_moved[box] == k + 1, spacing_mm, percentile)
    return result


def _robust_hausdorff(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], spacing_mm: Sequence[float], percentile: float
) -> float:
    # Surfaces are few voxels of their box: a tree of them takes half the time of a distance map.
    from scipy.spatial import cKDTree

    surfaces = [np.argwhere(_surface(mask)) * np.asarray(spacing_mm, dtype=np.float64) for mask in (a, b)]
    directed = [
        cKDTree(there, balanced_tree=False, compact_nodes=False).query(here)[0]
        for here, there in (surfaces, surfaces[::-1])
    ]
    return float(max(np.percentile(distances, percentile) for distances in directed))


def _surface(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Voxels of a mask with a face on what is not of it, or on the border."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis, length in enumerate(mask.shape):
        for start in (0, 2):
            place = [slice(1, -1)] * mask.ndim
            place[axis] = slice(start, start + length)
            inner &= padded[tuple(place)]
    return mask & ~inner


def labels_of(label_map: Array) -> list[int]:
    """The non-zero labels of a map, in order."""
    return [int(label) for label in np.unique(_whole(label_map)) if label]


def _counts(fixed: Array, moved: Array, labels: Sequence[int] | None) -> tuple[dict[int, int], ...]:
    """Voxels of every label in both maps, in the first and in the second."""
    codes_fixed, codes_moved, order = _codes(fixed, moved, labels)
    n = len(order) + 1
    pairs = codes_fixed.ravel() * n
    pairs += codes_moved.ravel()
    table = np.bincount(pairs, minlength=n * n).reshape(n, n)
    both, one, other = np.diagonal(table), table.sum(1), table.sum(0)
    return tuple({label: int(count[k + 1]) for k, label in enumerate(order)} for count in (both, one, other))


def _codes(
    fixed: Array, moved: Array, labels: Sequence[int] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[int]]:
    """Both maps with the k-th of the labels as k + 1 and all others as 0, and the labels."""
    maps = _whole(fixed), _whole(moved)
    if maps[0].shape != maps[1].shape:
        raise ValueError(f"label maps must have one shape, got {maps[0].shape} and {maps[1].shape}")
    order = sorted(set(labels_of(maps[0])) | set(labels_of(maps[1]))) if labels is None else list(labels)
    known = np.array(sorted(order), dtype=np.int64)
    code = np.array([order.index(label) + 1 for label in known.tolist()], dtype=np.int64)
    coded = []
    for values in maps:
        if not order:
            coded.append(np.zeros(values.shape, dtype=np.int64))
            continue
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        coded.append(np.where(known[place] == values, code[place], 0))
    return coded[0], coded[1], order


def _whole(label_map: Array) -> np.ndarray[Any, Any]:
    values = as_array(label_map)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise ValueError("a label map must hold whole numbers, got fractions or NaN")
        values = values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values


@dataclass(frozen=True)
class Folds:
    """Voxels where the deformation is not invertible, and of how many."""

    count: int
    total: int

    @property
    def fraction(self) -> float:
        """count / total; NaN of none."""
        return self.count / self.total if self.total else math.nan


def folds(determinant: Array, mask: Array | None = None) -> Folds:
    """Voxels whose Jacobian determinant is not positive (a NaN counts).

    Args:
        determinant: [D, H, W], or [D-1, H-1, W-1] from forward differences.
        mask: [D, H, W]; only voxels where it is not zero count.
    """
    values = _masked(determinant, mask)
    return Folds(int(values.size - (values > 0).sum()), int(values.size))


def sdlogj(determinant: Array, mask: Array | None = None) -> float:
    """Standard deviation of log(det) over the voxels where det > 0 (and the mask is not zero); NaN if there is none."""
    values = _masked(determinant, mask).astype(np.float64)
    values = values[values > 0]
    return float(np.log(values).std()) if values.size else math.nan


def learn2reg_sdlogj(determinant: Array, mask: Array | None = None) -> float:
    """The Learn2Reg challenge's figure: std(log(clip(det + 3, 1e-9, 1e9))) without the outer two voxels.

    Args:
        determinant: [D, H, W] from central differences. Its borders do not matter.
        mask: [D, H, W]; only voxels where it is not zero, as in the challenge's tasks that come with masks.
    """
    values = as_array(determinant).astype(np.float64)
    crop = (slice(2, -2),) * values.ndim
    inner = _masked(values[crop], None if mask is None else as_array(mask)[crop])
    return float(np.log(np.clip(inner + 3, 1e-9, 1e9)).std()) if inner.size else math.nan


def ndv_percent(reversed_volume: Array, volume: Array, mask: Array | None = None) -> float:
    """Non-diffeomorphic volume in percent (Liu et al. 2024; the LUMIR challenge scores it); NaN of no volume.

    Args:
        reversed_volume: [D, H, W], what `diffeomorphism.simplices` finds turned inside out at each voxel.
        volume: The same shape, its volume before the deformation.
        mask: [D, H, W]; only simplices that start at voxels where it is not zero.
    """
    whole = _masked(volume, mask).sum(dtype=np.float64)
    return float(100 * _masked(reversed_volume, mask).sum(dtype=np.float64) / whole) if whole else math.nan


def regularity(flow: Array, mask: Array | None = None) -> dict[str, float | int]:
    """Everything above for one displacement: folds by every scheme with denominators, NDV, SDlogJ, Learn2Reg's too.

    Args:
        flow: [3, D, H, W], voxels.
        mask: [D, H, W]; the figures ending in `_mask` count only where it is not zero.

    Returns:
        `folds_central`, `folds_central_of`, the same with `forward`, and with `corner` (voxels where any of the
        determinants by one-sided differences is not positive); `ndv_percent`; `sdlogj` and `learn2reg_sdlogj` (central
        differences); and with a mask `folds_central_mask`, ..., `learn2reg_sdlogj_mask`.
    """
    field = as_field(flow)
    central = jacobian_determinant(field)[0].cpu().numpy()
    forward = jacobian_determinant(field, scheme="forward")[0].cpu().numpy()
    at = simplices(field)
    figures: dict[str, float | int] = {}
    for suffix, where in (("", None), ("_mask", mask)):
        if suffix and mask is None:
            continue
        for name, determinant in (("central", central), ("forward", forward), ("corner", at.least)):
            folded = folds(determinant, where)
            figures[f"folds_{name}{suffix}"] = folded.count
            figures[f"folds_{name}{suffix}_of"] = folded.total
        figures[f"ndv_percent{suffix}"] = ndv_percent(at.reversed, at.volume, where)
        figures[f"sdlogj{suffix}"] = sdlogj(central, where)
        figures[f"learn2reg_sdlogj{suffix}"] = learn2reg_sdlogj(central, where)
    return figures


def _masked(values: Array, mask: Array | None) -> np.ndarray[Any, Any]:
    values = as_array(values)
    if mask is None:
        return values.ravel()
    inside = as_array(mask) != 0
    if inside.ndim != values.ndim or any(m - v not in (0, 1) for m, v in zip(inside.shape, values.shape, strict=True)):
        raise ValueError(f"mask {inside.shape} must have the field's shape, got a determinant of {values.shape}")
    return values[inside[tuple(slice(length) for length in values.shape)]]


def tre(
    points_fixed: Array, points_moving: Array, flow: Array | None, spacing_mm: Sequence[float]
) -> np.ndarray[Any, Any]:
    """Target registration error of corresponding points, in mm.

    Args:
        points_fixed: [N, 3], voxels of the fixed image.
        points_moving: [N, 3], voxels of the moving image.
        flow: [3, D, H, W], voxels; a fixed point p goes to p + flow(p), interpolated linearly (outside the grid the
            nearest border's displacement holds). None for the error before registration.
        spacing_mm: Voxel size of the moving image, in which p + flow(p) lives.

    Returns:
        [N], mm.

    Raises:
        ValueError: point sets that do not correspond.
    """
    start, target = as_array(points_fixed).astype(np.float64), as_array(points_moving).astype(np.float64)
    if start.ndim != 2 or start.shape != target.shape or start.shape[1] != len(spacing_mm):
        raise ValueError(
            f"points must be two arrays [N, {len(spacing_mm)}] of one length, got {start.shape} and {target.shape}"
        )
    moved = start if flow is None else start + _at_points(flow, start)
    return np.linalg.norm((moved - target) * np.asarray(spacing_mm, dtype=np.float64), axis=1)


def _at_points(flow: Array, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[N, 3], the displacement at [N, 3] voxel coordinates."""
    field = as_field(flow).double()
    ndim = field.shape[1]
    if len(points) == 0:
        return np.zeros_like(points)
    offset = torch.from_numpy(points.T.copy()).to(field.device)
    offset[0] -= torch.arange(len(points), device=field.device)  # warp adds the index on a grid of N x 1 x 1 points
    grid = offset.reshape(1, ndim, len(points), *[1] * (ndim - 1))
    return warp(field, grid, padding="border").reshape(ndim, -1).T.cpu().numpy()


def endpoint_error(
    flow: Array, truth: Array, spacing_mm: Sequence[float], mask: Array | None = None
) -> np.ndarray[Any, Any]:
    """Distance in mm between where `flow` and the known displacement `truth` send each voxel.

    Args:
        flow: [3, D, H, W], voxels.
        truth: The same shape.
        spacing_mm: Voxel size of the moving image.
        mask: [D, H, W]; only voxels where it is not zero.

    Returns:
        [N], mm, one for each voxel (of the mask).
    """
    a, b = as_field(flow), as_field(truth)
    if a.shape != b.shape:
        raise ValueError(f"displacements must have one shape, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
    difference = (a.double() - b.double())[0].cpu().numpy()
    scale = np.asarray(spacing_mm, dtype=np.float64).reshape(-1, *[1] * (difference.ndim - 1))
    return _masked(np.sqrt(((difference * scale) ** 2).sum(0)), mask)


def as_field(flow: Array) -> torch.Tensor:
    """A displacement as a tensor [1, 3, D, H, W], whether or not it came with its batch axis; ValueError otherwise."""
    field = torch.as_tensor(flow)
    if field.ndim == field.shape[0] + 1:
        field = field[None]
    if field.ndim not in (4, 5) or field.shape[:2] != (1, field.ndim - 2):
        raise ValueError(f"flow must be [3, D, H, W] or [2, H, W], got {tuple(field.shape)}")
    return field.detach()


def as_array(values: Array) -> np.ndarray[Any, Any]:
    """A tensor or array as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
