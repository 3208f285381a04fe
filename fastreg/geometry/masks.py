"""Masks: which voxels of an image count."""

from __future__ import annotations

import numpy as np

from fastreg.geometry.grid import Grid, on_grid
from fastreg.geometry.image import Image


def inside(mask: Image, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Boolean, on a grid: where at least half of what lies at a voxel is above 0 in the mask.

    Args:
        mask: On any grid; above 0 is inside, NaN is not.
        shape: Of the grid.
        affine: Of the grid, 4x4, voxel -> the mask's world.
    """
    binary = Image((mask.data > 0).astype(np.float32), mask.affine, mask.path)
    return np.asarray(on_grid(binary, Grid(shape, affine)) >= 0.5)
