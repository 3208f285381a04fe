"""Linear transforms out of others: products, and what is nearest in least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastreg.geometry.transforms import Affine, Transform, Warp


def product_of(transforms: Sequence[Transform]) -> Affine | None:
    """All affine maps among them as one, the first applied first; None where there are none."""
    found: Affine | None = None
    for transform in transforms:
        if isinstance(transform, Affine):
            found = transform if found is None else Affine(transform.matrix @ found.matrix)
    return found


def linear_part(warp: Warp) -> Affine:
    """The linear map of the world that is nearest to a warp, in least squares over its grid."""
    ndim, shape = warp.ndim, warp.fixed_shape
    matrix = np.eye(4)
    matrix[:ndim, 3] = warp.flow.reshape(-1, ndim).mean(0, dtype=np.float64)
    for axis, length in enumerate(shape):  # centred, the axes of a grid are orthogonal
        if length == 1:
            continue
        steps = np.arange(length) - (length - 1) / 2
        lines = warp.flow.mean(axis=tuple(k for k in range(ndim) if k != axis), dtype=np.float64)
        slope = steps @ lines / (steps @ steps)
        matrix[:ndim, axis] += slope
        matrix[:ndim, 3] -= slope * (length - 1) / 2
    return Affine(warp.moving_affine @ matrix @ np.linalg.inv(warp.fixed_affine))


def least_squares(fixed: np.ndarray, moving: np.ndarray) -> Affine:
    """The linear map nearest to pairs of places [N, 3] in RAS mm; where they lie in a plane, unchanged across it."""
    centres = fixed.mean(0), moving.mean(0)
    offsets = fixed - centres[0]
    _, sizes, axes = np.linalg.svd(offsets, full_matrices=False)
    across = axes[sizes <= 1e-9 * sizes.max()]
    linear = np.linalg.lstsq(offsets, moving - centres[1], rcond=1e-9)[0].T + across.T @ across
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, centres[1] - linear @ centres[0]
    return Affine(matrix)
