"""The layers of VoxelMorph's PyTorch package of 2019 to 2024, by their names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fastreg.compat.transmorph import SpatialTransformer as SpatialTransformer
from fastreg.compat.transmorph import VecInt as VecInt
from fastreg.utils.typed import call_of


class ResizeTransform(nn.Module):
    """A field on another grid, its values with it.

    Args:
        vel_resize: The grid shrinks by this; below 1 it grows.
        ndims: 2 or 3.
    """

    def __init__(self, vel_resize: float, ndims: int) -> None:
        super().__init__()
        self.factor, self.mode = 1.0 / vel_resize, {2: "bilinear", 3: "trilinear"}[ndims]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`: [batch, axes, D, H, W], voxels of its own grid."""
        if self.factor == 1:
            return x
        small = self.factor < 1  # values are scaled on the smaller grid
        x = x if small else self.factor * x
        x = F.interpolate(x, scale_factor=self.factor, mode=self.mode, align_corners=True)
        return self.factor * x if small else x

    __call__ = call_of(forward)
