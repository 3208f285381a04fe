"""Maps of the local change of volume, as tensor-based morphometry compares them."""

from __future__ import annotations

import warnings

import numpy as np

from fastreg.geometry import fields
from fastreg.geometry.linear import linear_part
from fastreg.geometry.transforms import Affine, Warp
from fastreg.utils.files import InputError

FLOOR = 0.001
"""The least determinant of which a logarithm is taken, as in ANTs."""


def jacobian_map(warp: Warp, *, log: bool = False, nonlinear: bool = False, linear: Affine | None = None) -> np.ndarray:
    """The Jacobian determinant of a warp: local change of volume (2-D: area), moving over fixed.

    Args:
        warp: On the grid of the map.
        log: Its natural logarithm. Determinants below `FLOOR`, folds among them, count as `FLOOR`, and a warning says
            how many they are.
        nonlinear: Without the linear part: divided by the determinant of a linear map.
        linear: That linear map, fixed RAS mm -> moving RAS mm; None: the one that is nearest to the warp, in least
            squares over the grid.

    Returns:
        [X, Y, Z] or [X, Y], float32.

    Raises:
        InputError: the linear map has no inverse, or the grid has one voxel along an axis.
    """
    if min(warp.fixed_shape) < 2:
        raise InputError(f"warp: expected two voxels or more along each axis for its Jacobian, got {warp.fixed_shape}")
    if nonlinear:
        determinant = fields.jacobian_determinant(warp.tensor())[0].numpy() / _linear_determinant(warp, linear)
    else:
        determinant = warp.jacobian()
    if log:
        low = int(np.count_nonzero(determinant < FLOOR))
        if low:
            said = "voxel folds" if low == 1 else "voxels fold"
            warnings.warn(f"log Jacobian: {low} {said}, or nearly: taken as {FLOOR:g}", UserWarning, stacklevel=2)
        determinant = np.log(np.maximum(determinant, FLOOR))
    return determinant.astype(np.float32)


def _linear_determinant(warp: Warp, linear: Affine | None) -> float:
    """In voxels: of the linear map, or of the one that is nearest to the warp."""
    ndim = warp.ndim
    linear = linear_part(warp) if linear is None else linear
    matrix = (np.linalg.inv(warp.moving_affine) @ linear.matrix @ warp.fixed_affine)[:ndim, :ndim]
    determinant = float(np.linalg.det(matrix))
    if not abs(determinant) > 1e-9:
        raise InputError(f"warp: its linear part has no inverse (determinant {determinant:g})")
    return determinant
