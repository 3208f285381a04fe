"""Diffusion penalty on the device: its value and its gradient in one sweep."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import tile


@triton.jit
def differences(u, here, index, position, size, stride, valid, lines, NDIM: tl.constexpr, WORK: tl.constexpr):
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
    """Adds up the penalty of a tile, and writes the gradient if it is wanted."""
    image, (z, y, x), index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    u = flow + image * volume
    here = tl.load(u + index, mask=valid, other=0.0).to(WORK)
    value, slope = differences(u, here, index, x, W, 1, valid, total // W, NDIM, WORK)
    value_y, slope_y = differences(u, here, index, y, H, W, valid, total // H, NDIM, WORK)
    value += value_y
    slope += slope_y
    if NDIM == 3:
        value_z, slope_z = differences(u, here, index, z, D, H * W, valid, total // D, NDIM, WORK)
        value += value_z
        slope += slope_z
    tl.store(partial + tl.program_id(0), tl.sum(value).to(tl.float64))
    if NEED_GRAD:
        tl.store(grad + image * volume + index, slope, mask=valid)
