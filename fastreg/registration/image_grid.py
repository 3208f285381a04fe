"""Fields of the working grid as warps between the images' own grids."""

from __future__ import annotations

import numpy as np
import torch

from fastreg.geometry.folds import unfolded
from fastreg.geometry.grid import Grid
from fastreg.geometry.image import Image, affine_field, to_flow
from fastreg.geometry.resample import affine_flow
from fastreg.geometry.transforms import Affine, Warp
from fastreg.ops.warp import warp as warp_op
from fastreg.types import Flow


def on_image_grid(flow: Flow, grid: Grid, onto: Image, other: Image, world: Affine) -> Warp:
    """A flow in voxels of the working grid, then `world`, as a warp from the voxels of `onto` to those of `other`.

    Between the working voxels the displacement, in mm, is linear; beyond them it goes on unchanged.
    """
    back = np.linalg.inv(other.affine) @ world.matrix
    start = to_flow(affine_field((back @ onto.affine - np.eye(4))[: onto.ndim], onto.shape))
    return _warp_from(start, _millimetres(flow, grid, onto.affine, onto.shape), back, onto, other)


def inverse_on_image_grid(flow: Flow, grid: Grid, onto: Image, other: Image, world: Affine) -> Warp:
    """The same of the way back: `world` undone first, then the inverse flow of the working grid."""
    first = np.linalg.inv(world.matrix) @ onto.affine  # voxels of `onto` where the alignment puts them
    back = np.linalg.inv(other.affine)
    start = to_flow(affine_field((back @ first - np.eye(4))[: onto.ndim], onto.shape))
    return _warp_from(start, _millimetres(flow, grid, first, onto.shape), back, onto, other)


def between_grids(flow: Flow, grid: Grid, other: Grid) -> Flow:
    """A flow in voxels of one working grid, in voxels of another on the same image: [1, ndim, *other.shape]."""
    ndim = len(other.shape)
    back = flow.new_tensor(np.linalg.pinv(other.affine[:3, :ndim]))
    return torch.einsum("rc,bc...->br...", back, _millimetres(flow, grid, other.affine, other.shape)).contiguous()


def _millimetres(flow: Flow, grid: Grid, affine: np.ndarray, shape: tuple[int, ...]) -> Flow:
    """The working grid's displacement [1, 3, ...] in RAS mm at the voxels of another grid.

    Three components in 2-D too: the plane may be any of the world.
    """
    displacement = torch.einsum("rc,bc...->br...", flow.new_tensor(grid.affine[:3, : len(shape)]), flow)
    if shape == grid.shape and np.allclose(affine, grid.affine, atol=1e-4):
        return displacement
    return warp_op(displacement, affine_flow(affine, shape, grid.affine), padding="border")


def _warp_from(start: Flow, displacement: Flow, back: np.ndarray, onto: Image, other: Image) -> Warp:
    ndim = onto.ndim
    total = start + torch.einsum("rc,bc...->br...", displacement.new_tensor(back[:ndim, :3]), displacement)
    return Warp(np.moveaxis(total[0].numpy(), 0, -1), onto.affine, other.affine, other.shape)


def without_folds(warp: Warp) -> Warp:
    """Between the voxels of the working grid a field that does not fold there may."""
    flow = warp.onto(warp.fixed_affine).tensor()  # in voxels of its own grid the determinant is the change of volume
    repaired = unfolded(flow)
    if repaired is flow:
        return warp
    own = Warp(np.moveaxis(repaired[0].numpy(), 0, -1), warp.fixed_affine, warp.fixed_affine)
    return own.onto(warp.moving_affine, warp.moving_shape)
