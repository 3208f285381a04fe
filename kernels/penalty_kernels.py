"""Roughness and change of volume on the device: the divergence first, then value and gradient at every voxel."""

from __future__ import annotations

import triton
import triton.language as tl

from .smoothness_kernels import differences
from .tiles import tile


@triton.jit
def central(u, index, position, size, stride, valid, WORK: tl.constexpr):
    """Half the difference of the neighbours along one axis, 0 where one is missing."""
    inside = (position > 0) & (position + 1 < size) & valid
    up = tl.load(u + index + stride, mask=inside, other=0.0).to(WORK)
    down = tl.load(u + index - stride, mask=inside, other=0.0).to(WORK)
    return (up - down) / 2


@triton.jit
def push(d, index, position, size, stride, valid, WORK: tl.constexpr):
    """The adjoint of `central`, twice: lower neighbour less upper neighbour, those that have a central difference."""
    lower = tl.load(d + index - stride, mask=(position > 1) & valid, other=0.0).to(WORK)
    upper = tl.load(d + index + stride, mask=(position + 2 < size) & valid, other=0.0).to(WORK)
    return lower - upper


@triton.jit
def penalty_divergence_kernel(
    velocity,  # [batch, NDIM, D, H, W]
    known,  # [batch, 1, D, H, W]
    divergence,  # like known: known + div velocity
    partial,  # [programs] float64
    D,
    H,
    W,
    volume,  # D * H * W
    NDIM: tl.constexpr,
    KNOWN: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Writes the divergence, and the sum of its squares over a tile."""
    image, (z, y, x), index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    along_x = velocity + (image * NDIM + NDIM - 1) * volume
    d = central(along_x, index, x, W, 1, valid, WORK) + central(along_x - volume, index, y, H, W, valid, WORK)
    if NDIM == 3:
        d += central(along_x - volume - volume, index, z, D, H * W, valid, WORK)
    if KNOWN:
        d += tl.load(known + image * volume + index, mask=valid, other=0.0).to(WORK)
    tl.store(divergence + image * volume + index, d, mask=valid)
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(valid, d * d, 0.0)).to(tl.float64))


@triton.jit
def penalty_gradient_kernel(
    velocity,  # [batch, NDIM, D, H, W]
    divergence,  # [batch, D, H, W]
    weights,  # [2] float64: of the roughness, and of a push
    grad,  # like velocity
    partial,  # [programs] float64
    D,
    H,
    W,
    volume,  # D * H * W
    total,  # batch * NDIM * D * H * W
    NDIM: tl.constexpr,
    SMOOTHNESS: tl.constexpr,
    VOLUME: tl.constexpr,
    NEED_GRAD: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Adds up the weighted roughness of a tile, and adds to the gradient what is wanted."""
    image, (z, y, x), index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    weight = tl.load(weights).to(WORK)
    strength = tl.load(weights + 1).to(WORK)
    d = divergence + image * volume
    sums = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    for component in tl.static_range(NDIM):
        offset = (image * NDIM + component) * volume + index
        slope = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        if SMOOTHNESS:
            u = velocity + (image * NDIM + component) * volume
            here = tl.load(u + index, mask=valid, other=0.0).to(WORK)
            value_x, slope_x = differences(u, here, index, x, W, 1, valid, total // W, NDIM, WORK)
            value_y, slope_y = differences(u, here, index, y, H, W, valid, total // H, NDIM, WORK)
            sums += weight * (value_x + value_y)
            slope += weight * (slope_x + slope_y)
            if NDIM == 3:
                value_z, slope_z = differences(u, here, index, z, D, H * W, valid, total // D, NDIM, WORK)
                sums += weight * value_z
                slope += weight * slope_z
        if VOLUME:
            if component == NDIM - 1:
                slope += strength * push(d, index, x, W, 1, valid, WORK)
            elif component == NDIM - 2:
                slope += strength * push(d, index, y, H, W, valid, WORK)
            else:
                slope += strength * push(d, index, z, D, H * W, valid, WORK)
        if NEED_GRAD:
            before = tl.load(grad + offset, mask=valid, other=0.0).to(WORK)
            tl.store(grad + offset, before + slope, mask=valid)
    tl.store(partial + tl.program_id(0), tl.sum(sums).to(tl.float64))
