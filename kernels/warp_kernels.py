"""Warp on the device: out(p) = vol(p + flow(p)), and its adjoint. docs/math.md has the exact definition."""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import corner, half_extent, linear_axes, nearest_voxel, slope
from .tiles import tile


@triton.jit(do_not_specialize=["magnitude"])
def warp_forward_kernel(
    vol,  # [B, channels, D, H, W], or [1, ...] where it is SHARED
    flow,  # [B, NDIM, GD, GH, GW], or channels last
    out,  # [B, channels, GD, GH, GW]
    channels,
    D,
    H,
    W,
    GD,
    GH,
    GW,
    voxels,  # D * H * W
    points,  # GD * GH * GW
    magnitude,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLACES: tl.constexpr,
    SHARED: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Every channel of the volume at the displaced points."""
    image, place, point, valid = tile(GD, GH, GW, WIDE, BLOCK_Y, BLOCK_X)
    if not SHARED:
        vol += image * channels * voxels
    out += image * channels * points
    nan = float("nan")
    if MODE == "nearest":
        offset, inside, is_nan = nearest_voxel(
            flow, image, place, (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, PLACES, WORK, WIDE
        )
        for _channel in range(channels):
            value = tl.load(vol + offset, mask=inside, other=0.0).to(WORK)
            tl.store(out + point, tl.where(is_nan, nan, value), mask=valid)
            vol += voxels
            out += points
    else:
        axes, is_nan = linear_axes(
            flow, image, place, (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, PLACES, WORK, WIDE
        )
        for _channel in range(channels):
            total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
            for which in tl.static_range(1 << NDIM):
                offset, inside, weight = corner(axes, which, NDIM)
                # A NaN voxel must not reach a neighbour whose weight for it is 0: it is not even read.
                read = inside & valid & (weight != 0)
                total += weight * tl.load(vol + offset, mask=read, other=0.0).to(WORK)
            tl.store(out + point, tl.where(is_nan, nan, total), mask=valid)
            vol += voxels
            out += points


@triton.jit(do_not_specialize=["magnitude"])
def warp_backward_kernel(
    grad,  # [B, channels, GD, GH, GW]
    vol,  # [B, channels, D, H, W], or [1, ...] where it is SHARED
    flow,  # [B, NDIM, GD, GH, GW], or channels last
    grad_vol,  # like vol, WORK or int64 in units of 1 / unit; added to
    grad_flow,  # like flow
    unit,  # [1] float64
    channels,
    D,
    H,
    W,
    GD,
    GH,
    GW,
    voxels,  # D * H * W
    points,  # GD * GH * GW
    magnitude,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLACES: tl.constexpr,
    SHARED: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    NEED_VOL: tl.constexpr,
    NEED_FLOW: tl.constexpr,
    FIXED: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Scatters `grad` into `grad_vol`, and writes the slopes at the displaced points to `grad_flow`."""
    image, place, point, valid = tile(GD, GH, GW, WIDE, BLOCK_Y, BLOCK_X)
    grad += image * channels * points
    if not SHARED:
        vol += image * channels * voxels
        grad_vol += image * channels * voxels
    scale = tl.load(unit) if FIXED else 1.0
    if MODE == "nearest":
        offset, inside, is_nan = nearest_voxel(
            flow, image, place, (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, PLACES, WORK, WIDE
        )
        for _channel in range(channels):
            upstream = tl.load(grad + point, mask=valid, other=0.0).to(WORK)
            add(grad_vol, offset, upstream, inside & (is_nan == 0), scale, FIXED)
            grad += points
            grad_vol += voxels
    else:
        axes, is_nan = linear_axes(
            flow, image, place, (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, PLACES, WORK, WIDE
        )
        slope_0 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        slope_1 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        slope_2 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        for _channel in range(channels):
            upstream = tl.load(grad + point, mask=valid, other=0.0).to(WORK)
            for which in tl.static_range(1 << NDIM):
                offset, inside, weight = corner(axes, which, NDIM)
                if NEED_FLOW:
                    value = upstream * tl.load(vol + offset, mask=inside & valid, other=0.0).to(WORK)
                    slope_0 += slope(axes, which, 0, NDIM) * value
                    slope_1 += slope(axes, which, 1, NDIM) * value
                    if NDIM == 3:
                        slope_2 += slope(axes, which, 2, NDIM) * value
                if NEED_VOL:
                    reached = inside & valid & (weight != 0) & (is_nan == 0)
                    add(grad_vol, offset, weight * upstream, reached, scale, FIXED)
            grad += points
            vol += voxels
            grad_vol += voxels
        if NEED_FLOW:
            slopes = (slope_0, slope_1, slope_2)
            store_slopes(grad_flow, image, (D, H, W), point, points, valid, is_nan, slopes, NDIM, CHANNELS_LAST, PLACES)


@triton.jit
def add(target, offset, value, mask, unit, FIXED: tl.constexpr):
    """target[offset] += value, in units of 1 / `unit` if the target counts in integers (any order, one result)."""
    if FIXED:
        value = (value * unit).to(tl.int64)
    tl.atomic_add(target + offset, value, mask=mask, sem="relaxed")


@triton.jit
def store_slopes(
    grad_flow,
    image,
    size,
    point,
    points,
    valid,
    is_nan,
    slopes,
    NDIM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Where a coordinate is NaN, so is the gradient to it."""
    across = 1 if CHANNELS_LAST else points
    grad_flow += image * NDIM * points + (point * NDIM if CHANNELS_LAST else point)
    for axis in tl.static_range(NDIM):
        slope_here = slopes[axis]
        if PLACES != "":
            slope_here *= half_extent(size[3 - NDIM + axis], PLACES)
        target = grad_flow
        for _ in tl.static_range(NDIM - 1 - axis if PLACES != "" else axis):
            target += across
        tl.store(target, tl.where(is_nan, float("nan"), slope_here), mask=valid)
