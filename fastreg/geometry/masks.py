"""Masks: which voxels of an image count."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

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


def dilated(mask: np.ndarray, rim: int) -> np.ndarray:
    """A boolean mask [X, Y, Z] or [X, Y], and what lies within `rim` voxels of it along every axis."""
    pool = F.max_pool3d if mask.ndim == 3 else F.max_pool2d
    found = pool(torch.from_numpy(mask.astype(np.float32))[None, None], 2 * rim + 1, stride=1, padding=rim)
    return found[0, 0].numpy() > 0
