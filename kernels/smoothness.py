"""Diffusion penalty: mean over the axes of the mean squared forward difference, and its gradient, in one sweep."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from fastreg.kernels.grid import COLUMNS, ROWS, WARPS, flat, grid_3d, programs, tile


@triton.jit
def along(u, here, index, position, size, stride, valid, lines, NDIM: tl.constexpr, WORK: tl.constexpr):
    """What the differences of a voxel on one axis add to the penalty and to the gradient."""
    after = (position + 1 < size) & valid
    before = (position > 0) & valid
    up = tl.where(after, tl.load(u + index + stride, mask=after, other=0.0).to(WORK) - here, 0.0)
    down = tl.where(before, here - tl.load(u + index - stride, mask=before, other=0.0).to(WORK), 0.0)
    unit = 1 / (tl.full((1, 1), lines, WORK) * tl.maximum(size - 1, 1) * NDIM)  # one difference less than voxels a line
    return up * up * unit, 2 * (down - up) * unit


@triton.jit
def smoothness_kernel(
    flow,  # [images, D, H, W], images = B * NDIM
    partial,  # [programs] float64
    grad,  # [images, D, H, W]
    D,
    H,
    W,
    volume,  # D * H * W
    total,  # images * D * H * W
    NDIM: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    NEED_GRAD: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, z, y, x = tile(D, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    index = flat(z, y, x, H, W, WIDE)
    u = flow + image * volume
    here = tl.load(u + index, mask=valid, other=0.0).to(WORK)
    value, slope = along(u, here, index, x, W, 1, valid, total // W, NDIM, WORK)
    value_y, slope_y = along(u, here, index, y, H, W, valid, total // H, NDIM, WORK)
    value += value_y
    slope += slope_y
    if NDIM == 3:
        value_z, slope_z = along(u, here, index, z, D, H * W, valid, total // D, NDIM, WORK)
        value += value_z
        slope += slope_z
    tl.store(partial + tl.program_id(0), tl.sum(value).to(tl.float64))
    if NEED_GRAD:
        tl.store(grad + image * volume + index, slope, mask=valid)


def smoothness(flow: torch.Tensor, grad: torch.Tensor | None) -> torch.Tensor:
    """The penalty (0-d float64, on the device); fills `grad`. `flow` is dense and not empty."""
    size = grid_3d(flow.shape[2:])
    images = flow.shape[0] * flow.shape[1]
    (count,) = grid = programs(images, size, ROWS, COLUMNS)
    partial = flow.new_empty(count, dtype=torch.float64)
    smoothness_kernel[grid](
        flow,
        partial,
        flow if grad is None else grad,
        *size,
        flow[0, 0].numel(),
        flow.numel(),
        NDIM=flow.ndim - 2,
        WORK=tl.float64 if flow.dtype == torch.float64 else tl.float32,
        WIDE=size[0] * size[1] * size[2] >= 2**31,
        NEED_GRAD=grad is not None,
        BLOCK_Y=ROWS,
        BLOCK_X=COLUMNS,
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    return partial.sum()
