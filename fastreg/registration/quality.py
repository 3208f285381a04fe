"""Figures of a registration that need no labels: what the field does to space, and whether the way back leads back."""

from __future__ import annotations

import numpy as np

from fastreg.geometry.transforms import Warp
from fastreg.ops.determinant import determinant

Figures = dict[str, float | int | None]


def field_figures(warp: Warp, inverse: Warp | None = None) -> Figures:
    """Folds, change of volume and inverse consistency.

    Args:
        warp: Fixed image -> moving image.
        inverse: The way back, where it was asked for.

    Returns:
        `corner_folds`, voxels where a determinant of one-sided differences is not positive; `log_jacobian_low` and
        `log_jacobian_high`, the 1st and 99th percentile of the log determinant in space, in which the linear part
        counts; `inverse_error_mm`, the 95th percentile of how far from its start a voxel of the fixed image comes back,
        among those that the way back knows. None where an image of one voxel along an axis has no derivative.
    """
    sides = np.linalg.det(warp.moving_affine[:3, :3] @ np.linalg.inv(warp.fixed_affine[:3, :3]))
    seen = warp if sides > 0 else warp.onto(warp.fixed_affine)  # a mirrored grid would count every voxel as folded
    flow, size = seen.tensor(), _voxel(seen.moving_affine, warp.ndim) / _voxel(warp.fixed_affine, warp.ndim)
    figures: Figures = {"corner_folds": None, "log_jacobian_low": None, "log_jacobian_high": None}
    if min(flow.shape[2:]) > 1:
        step = max(1, round((flow[0, 0].numel() / 1_000_000) ** (1 / (flow.ndim - 2))))
        every = (slice(None), *[slice(None, None, step)] * (flow.ndim - 2))
        volume = (size * determinant(flow)[every]).clamp_min(1e-3).log()
        low, high = np.percentile(volume.numpy(), (1, 99))
        figures["corner_folds"] = int((determinant(flow, "least") <= 0).sum())
        figures["log_jacobian_low"], figures["log_jacobian_high"] = round(float(low), 3), round(float(high), 3)
    if inverse is not None:
        figures["inverse_error_mm"] = round(_inverse_error(warp, inverse), 4)
    return figures


def _inverse_error(warp: Warp, inverse: Warp) -> float:
    """Of a sample of the fixed image's voxels that lead into the moving image."""
    ndim = warp.ndim
    shape = warp.flow.shape[:-1]
    step = max(1, round((np.prod(shape) / 50_000) ** (1 / ndim)))
    index = np.stack(np.meshgrid(*[np.arange(0, n, step) for n in shape], indexing="ij"), -1).reshape(-1, ndim)
    there = index + warp.flow[tuple(index.T)]
    met = np.all((there >= 0) & (there <= np.array(inverse.flow.shape[:-1]) - 1), axis=1)
    if not met.any():
        return float("nan")
    back = inverse(_to_ras(there[met], warp.moving_affine))
    return float(np.percentile(np.linalg.norm(back - _to_ras(index[met], warp.fixed_affine), axis=1), 95))


def _voxel(affine: np.ndarray, ndim: int) -> float:
    """Its volume, in 2-D its area."""
    axes = affine[:3, :ndim]
    return float(np.sqrt(np.linalg.det(axes.T @ axes)))


def _to_ras(places: np.ndarray, affine: np.ndarray) -> np.ndarray:
    ndim = places.shape[1]
    return np.asarray(places @ affine[:3, :ndim].T + affine[:3, 3])
