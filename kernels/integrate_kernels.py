"""Scaling and squaring on the device: one step v <- v + v o (id + v), and its adjoint."""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import corner, linear_axes, slope
from .tiles import tile


@triton.jit(do_not_specialize=["magnitude"])
def integrate_forward_square_kernel(
    v,  # [B, NDIM, D, H, W]
    out,  # [B, NDIM, D, H, W]
    D,
    H,
    W,
    voxels,  # D * H * W
    magnitude,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Each voxel of v by itself, plus v at the point that it displaces the voxel to."""
    image, place, point, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    axes, is_nan = linear_axes(v, image, place, (D, H, W), point, voxels, valid, NDIM, PADDING, False, "", WORK, WIDE)
    v += image * NDIM * voxels
    out += image * NDIM * voxels
    for _ in tl.static_range(NDIM):
        total = tl.load(v + point, mask=valid, other=0.0)
        for which in tl.static_range(1 << NDIM):
            offset, inside, weight = corner(axes, which, NDIM)
            total += weight * tl.load(v + offset, mask=inside & valid & (weight != 0), other=0.0)
        tl.store(out + point, tl.where(is_nan, float("nan"), total), mask=valid)
        v += voxels
        out += voxels


@triton.jit(do_not_specialize=["magnitude"])
def integrate_backward_square_kernel(
    grad,  # [B, NDIM, D, H, W]
    v,  # [B, NDIM, D, H, W]
    grad_v,  # [B, NDIM, D, H, W], added to
    D,
    H,
    W,
    voxels,  # D * H * W
    magnitude,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """A field is read in three ways: as itself, as the image that is warped, and as the displacement."""
    image, place, point, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    axes, is_nan = linear_axes(v, image, place, (D, H, W), point, voxels, valid, NDIM, PADDING, False, "", WORK, WIDE)
    slope_0 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    slope_1 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    slope_2 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    for component in tl.static_range(NDIM):
        start = (image * NDIM + component) * voxels
        upstream = tl.load(grad + start + point, mask=valid, other=0.0)
        for which in tl.static_range(1 << NDIM):
            offset, inside, weight = corner(axes, which, NDIM)
            value = upstream * tl.load(v + start + offset, mask=inside & valid, other=0.0)
            slope_0 += slope(axes, which, 0, NDIM) * value
            slope_1 += slope(axes, which, 1, NDIM) * value
            if NDIM == 3:
                slope_2 += slope(axes, which, 2, NDIM) * value
            reached = inside & valid & (weight != 0) & (is_nan == 0)
            tl.atomic_add(grad_v + start + offset, weight * upstream, mask=reached, sem="relaxed")
    for component in tl.static_range(NDIM):
        start = (image * NDIM + component) * voxels
        own = slope_0 if component == 0 else (slope_1 if component == 1 else slope_2)
        own = tl.where(is_nan, float("nan"), own) + tl.load(grad + start + point, mask=valid, other=0.0)
        tl.atomic_add(grad_v + start + point, own, mask=valid, sem="relaxed")
