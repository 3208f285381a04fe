"""Figures of a registration that need no labels: what the field does to space, and whether the way back leads back."""

from __future__ import annotations

import numpy as np

from fastreg.geometry.image import to_flow
from fastreg.geometry.linear import linear_part
from fastreg.geometry.transforms import Warp
from fastreg.ops.determinant import determinant
from fastreg.ops.warp import warp as warp_op

Figures = dict[str, float | int | None]


def field_figures(warp: Warp, inverse: Warp | None = None) -> Figures:
    """Folds, change of volume and inverse consistency.

    Args:
        warp: Fixed image -> moving image.
        inverse: The way back, where it was asked for.

    Returns:
        `corner_folds`, voxels where a determinant of one-sided differences is not positive; `log_jacobian_min`, `_low`,
        `_high` and `_max`, the least, the 1st and 99th percentile and the largest log determinant in space (at least
        log 0.001), in which the linear part counts; `inverse_error_mm`, the 95th percentile of how far from its start a
        voxel of the fixed image comes back, among those that the way back knows. None where an image of one voxel along
        an axis has no derivative.
    """
    sides = np.linalg.det(warp.moving_affine[:3, :3] @ np.linalg.inv(warp.fixed_affine[:3, :3]))
    seen = warp if sides > 0 else warp.onto(warp.fixed_affine)  # a mirrored grid would count every voxel as folded
    flow, size = seen.tensor(), _voxel(seen.moving_affine, warp.ndim) / _voxel(warp.fixed_affine, warp.ndim)
    figures: Figures = dict.fromkeys(("corner_folds", *(f"log_jacobian_{end}" for end in _ENDS)))
    if min(flow.shape[2:]) > 1:
        step = max(1, round((flow[0, 0].numel() / 1_000_000) ** (1 / (flow.ndim - 2))))
        every = (slice(None), *[slice(None, None, step)] * (flow.ndim - 2))
        volume = (size * determinant(flow)).clamp_min(1e-3).log()
        low, high = np.percentile(volume[every].numpy(), (1, 99))
        figures["corner_folds"] = int((determinant(flow, "least") <= 0).sum())
        for end, value in zip(_ENDS, (volume.min(), low, high, volume.max()), strict=True):
            figures[f"log_jacobian_{end}"] = round(float(value), 3)
    if inverse is not None:
        figures["inverse_error_mm"] = round(_inverse_error(warp, inverse), 4)
    return figures


_ENDS = ("min", "low", "high", "max")


def found_inverse_error_mm(warp: Warp) -> float:
    """`inverse_error_mm` of a warp without its inverse: a fixed point looks for the way back at a sample of the voxels.

    Where the field is a map of one space onto the other it ends where it began; where two places lead to one it does
    not.
    """
    ndim = warp.ndim
    index = _every(warp.fixed_shape)
    flow = to_flow(warp.flow)

    def led(places: np.ndarray) -> np.ndarray:
        grid = (-1, *[1] * (ndim - 1))
        own = np.zeros_like(places)
        own[:, 0] = np.arange(len(places))
        offsets = (places - own).astype(np.float32).reshape(*grid, ndim)
        return places + warp_op(flow, to_flow(offsets), padding="border")[0].reshape(ndim, -1).T.double().numpy()

    across = np.linalg.inv(warp.moving_affine) @ linear_part(warp).matrix @ warp.fixed_affine
    back = np.linalg.pinv(across[:ndim, :ndim]).T  # a warp may lead all to one plane
    there = led(index)
    places = (there - across[:ndim, 3]) @ back
    for _ in range(_STEPS):
        places = places + (there - led(places)) @ back
    apart = (places - index) @ warp.fixed_affine[:3, :ndim].T
    return round(float(np.percentile(np.linalg.norm(apart, axis=1), 95)), 4)


_STEPS = 30
"""Of the fixed point: enough for a residual that halves, from 100 voxels to a millionth of one."""


def _every(shape: tuple[int, ...]) -> np.ndarray:
    """About 50,000 of a grid's voxels, [N, axes] in float64."""
    step = max(1, round((np.prod(shape) / 50_000) ** (1 / len(shape))))
    grids = np.meshgrid(*[np.arange(0, n, step) for n in shape], indexing="ij")
    return np.stack(grids, -1).reshape(-1, len(shape)).astype(np.float64)


def _inverse_error(warp: Warp, inverse: Warp) -> float:
    """Of a sample of the fixed image's voxels that lead into the moving image."""
    index = _every(warp.fixed_shape)
    there = index + warp.flow[tuple(index.astype(int).T)]
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
