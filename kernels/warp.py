"""Warp: out(p) = vol(p + flow(p)), and its adjoint. docs/math.md has the exact definition."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastreg.kernels.grid import flat, grid_3d, magnitude, programs, tile, tuned

# Displacements beyond this are outside every image; the clamp keeps them, and infinities, integers.
FAR = tl.constexpr(2.0**30)


@triton.jit
def source(index, size, PADDING: tl.constexpr):
    """The voxel that `index` reads on an axis of `size` voxels, and whether it is one of the image."""
    if PADDING == "zeros":
        inside = (index >= 0) & (index < size)
        index = tl.minimum(tl.maximum(index, 0), size - 1)
    elif PADDING == "border":
        index = tl.minimum(tl.maximum(index, 0), size - 1)
        inside = index >= 0
    else:  # reflection about the centres of the first and last voxel
        period = tl.maximum(2 * (size - 1), 1)
        index = index % period  # with the sign of `index`
        index = tl.where(index < 0, index + period, index)
        index = tl.minimum(index, period - index)
        inside = index >= 0
    return index, inside


@triton.jit
def whole(value):
    """A whole number in floating point as an integer; the range is tested before the conversion."""
    return tl.minimum(tl.maximum(value, -FAR), FAR).to(tl.int32)


@triton.jit
def linear_axis(u, position, size, stride, PADDING: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of the lower and upper neighbour on one axis, whether they are inside, and their weights.

    The floor is taken of the displacement alone: the sum with a large position would round the fraction.
    """
    u = tl.where(u == u, u, 0.0)
    floor = tl.floor(u)
    fraction = tl.where(tl.abs(u) < FAR, u - floor, 0.0)
    index = position + whole(floor)
    low, low_inside = source(index, size, PADDING)
    high, high_inside = source(index + 1, size, PADDING)
    if WIDE:
        low = low.to(tl.int64)
        high = high.to(tl.int64)
    return low * stride, high * stride, low_inside, high_inside, 1 - fraction, fraction


@triton.jit
def nearest_axis(u, position, size, stride, PADDING: tl.constexpr, WIDE: tl.constexpr):
    """Offset of the nearest voxel on one axis, ties to even, and whether it is inside."""
    u = position + tl.where(u == u, u, 0.0)
    floor = tl.floor(u)
    rest = tl.where(tl.abs(u) < FAR, u - floor, 0.0)
    odd = floor - 2 * tl.floor(floor * 0.5) == 1
    index, inside = source(whole(tl.where((rest > 0.5) | ((rest == 0.5) & odd), floor + 1, floor)), size, PADDING)
    if WIDE:
        index = index.to(tl.int64)
    return index * stride, inside


@triton.jit
def load_flow(flow, image, point, points, inside, AXIS: tl.constexpr, NDIM: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """One component of the displacement."""
    if CHANNELS_LAST:
        return tl.load(flow + image * NDIM * points + point * NDIM + AXIS, mask=inside, other=0.0)
    return tl.load(flow + (image * NDIM + AXIS) * points + point, mask=inside, other=0.0)


@triton.jit
def linear_axes(
    flow,
    image,
    place,
    size,
    point,
    points,
    valid,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """`linear_axis` of every array axis, slowest first, and where a coordinate is NaN."""
    u_x = load_flow(flow, image, point, points, valid, NDIM - 1, NDIM, CHANNELS_LAST).to(WORK)
    u_y = load_flow(flow, image, point, points, valid, NDIM - 2, NDIM, CHANNELS_LAST).to(WORK)
    lost = (u_x != u_x) | (u_y != u_y)
    x = linear_axis(u_x, place[2], size[2], 1, PADDING, WIDE)
    y = linear_axis(u_y, place[1], size[1], size[2], PADDING, WIDE)
    if NDIM == 2:
        axes = (y, x)
    else:
        u_z = load_flow(flow, image, point, points, valid, 0, NDIM, CHANNELS_LAST).to(WORK)
        lost = lost | (u_z != u_z)
        axes = (linear_axis(u_z, place[0], size[0], size[1] * size[2], PADDING, WIDE), y, x)
    return axes, lost


@triton.jit
def nearest_voxel(
    flow,
    image,
    place,
    size,
    point,
    points,
    valid,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Offset of the nearest voxel, whether it is inside, and where a coordinate is NaN."""
    u_x = load_flow(flow, image, point, points, valid, NDIM - 1, NDIM, CHANNELS_LAST).to(WORK)
    u_y = load_flow(flow, image, point, points, valid, NDIM - 2, NDIM, CHANNELS_LAST).to(WORK)
    lost = (u_x != u_x) | (u_y != u_y)
    offset_x, inside_x = nearest_axis(u_x, place[2], size[2], 1, PADDING, WIDE)
    offset_y, inside_y = nearest_axis(u_y, place[1], size[1], size[2], PADDING, WIDE)
    offset, inside = offset_x + offset_y, inside_x & inside_y & valid
    if NDIM == 3:
        u_z = load_flow(flow, image, point, points, valid, 0, NDIM, CHANNELS_LAST).to(WORK)
        lost = lost | (u_z != u_z)
        offset_z, inside_z = nearest_axis(u_z, place[0], size[0], size[1] * size[2], PADDING, WIDE)
        offset += offset_z
        inside = inside & inside_z
    return offset, inside, lost


@triton.jit
def corner(axes, which: tl.constexpr, NDIM: tl.constexpr):
    """Offset of neighbour `which` (bit k: the upper one on axis k), whether it is inside, and its weight."""
    offset = axes[0][which & 1]
    inside = axes[0][2 + (which & 1)]
    weight = axes[0][4 + (which & 1)]
    for axis in tl.static_range(1, NDIM):
        offset += axes[axis][(which >> axis) & 1]
        inside = inside & axes[axis][2 + ((which >> axis) & 1)]
        weight *= axes[axis][4 + ((which >> axis) & 1)]
    return offset, inside, weight


@triton.jit
def slope(axes, which: tl.constexpr, AXIS: tl.constexpr, NDIM: tl.constexpr):
    """Derivative of the weight of neighbour `which` to the displacement on `AXIS`: the right-hand difference."""
    first: tl.constexpr = 1 if AXIS == 0 else 0
    product = axes[first][4 + ((which >> first) & 1)]
    for axis in tl.static_range(first + 1, NDIM):
        if axis != AXIS:
            product *= axes[axis][4 + ((which >> axis) & 1)]
    return product if (which >> AXIS) & 1 else -product


@triton.jit
def add(target, offset, value, mask, unit, FIXED: tl.constexpr):
    """target[offset] += value, in units of 1 / `unit` if the target counts in integers (any order, one result)."""
    if FIXED:
        value = (value * unit).to(tl.int64)
    tl.atomic_add(target + offset, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["magnitude"])
def forward_kernel(
    vol,  # [B, channels, D, H, W]
    flow,  # [B, NDIM, GD, GH, GW], or channels last
    out,  # [B, channels, GD, GH, GW]
    channels,
    D,
    H,
    W,
    GD,
    GH,
    GW,
    voxels,
    points,
    magnitude,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, z, y, x = tile(GD, GH, GW, BLOCK_Y, BLOCK_X)
    valid = (y < GH) & (x < GW)
    point = flat(z, y, x, GH, GW, WIDE)
    vol += image * channels * voxels
    out += image * channels * points
    nan = float("nan")
    if MODE == "nearest":
        offset, inside, lost = nearest_voxel(
            flow, image, (z, y, x), (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, WORK, WIDE
        )
        for _channel in range(channels):
            value = tl.load(vol + offset, mask=inside, other=0.0).to(WORK)
            tl.store(out + point, tl.where(lost, nan, value), mask=valid)
            vol += voxels
            out += points
    else:
        axes, lost = linear_axes(
            flow, image, (z, y, x), (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, WORK, WIDE
        )
        for _channel in range(channels):
            total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
            for which in tl.static_range(1 << NDIM):
                offset, inside, weight = corner(axes, which, NDIM)
                # A NaN voxel must not reach a neighbour whose weight for it is 0: it is not even read.
                read = inside & valid & (weight != 0)
                total += weight * tl.load(vol + offset, mask=read, other=0.0).to(WORK)
            tl.store(out + point, tl.where(lost, nan, total), mask=valid)
            vol += voxels
            out += points


@triton.jit(do_not_specialize=["magnitude"])
def backward_kernel(
    grad,  # [B, channels, GD, GH, GW]
    vol,  # [B, channels, D, H, W]
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
    voxels,
    points,
    magnitude,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    NEED_VOL: tl.constexpr,
    NEED_FLOW: tl.constexpr,
    FIXED: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, z, y, x = tile(GD, GH, GW, BLOCK_Y, BLOCK_X)
    valid = (y < GH) & (x < GW)
    point = flat(z, y, x, GH, GW, WIDE)
    grad += image * channels * points
    vol += image * channels * voxels
    grad_vol += image * channels * voxels
    scale = tl.load(unit) if FIXED else 1.0
    if MODE == "nearest":
        offset, inside, lost = nearest_voxel(
            flow, image, (z, y, x), (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, WORK, WIDE
        )
        for _channel in range(channels):
            upstream = tl.load(grad + point, mask=valid, other=0.0).to(WORK)
            add(grad_vol, offset, upstream, inside & (lost == 0), scale, FIXED)
            grad += points
            grad_vol += voxels
    else:
        axes, lost = linear_axes(
            flow, image, (z, y, x), (D, H, W), point, points, valid, NDIM, PADDING, CHANNELS_LAST, WORK, WIDE
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
                    reached = inside & valid & (weight != 0) & (lost == 0)
                    add(grad_vol, offset, weight * upstream, reached, scale, FIXED)
            grad += points
            vol += voxels
            grad_vol += voxels
        if NEED_FLOW:
            store_slopes(grad_flow, image, point, points, valid, lost, slope_0, slope_1, slope_2, NDIM, CHANNELS_LAST)


@triton.jit
def store_slopes(
    grad_flow,
    image,
    point,
    points,
    inside,
    lost,
    slope_0,
    slope_1,
    slope_2,
    NDIM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Where a coordinate is NaN, so is the gradient to it."""
    nan = float("nan")
    across = 1 if CHANNELS_LAST else points
    target = grad_flow + image * NDIM * points + (point * NDIM if CHANNELS_LAST else point)
    tl.store(target, tl.where(lost, nan, slope_0), mask=inside)
    tl.store(target + across, tl.where(lost, nan, slope_1), mask=inside)
    if NDIM == 3:
        tl.store(target + across + across, tl.where(lost, nan, slope_2), mask=inside)


_KEY = ("magnitude", "channels", "NDIM", "MODE", "PADDING", "CHANNELS_LAST")
_forward = tuned(forward_kernel, _KEY)
_backward_to_flow = tuned(backward_kernel, _KEY)
_backward_to_vol = tuned(backward_kernel, (*_KEY, "NEED_FLOW", "FIXED"), zeroed=("grad_vol",))


def _arguments(vol: torch.Tensor, flow: torch.Tensor, channels_last: bool) -> tuple[tuple[int, int, int], list[int]]:
    """The flow's grid, and the kernels' integers from `channels` on."""
    size = grid_3d(vol.shape[2:])
    grid = grid_3d(flow.shape[1:-1] if channels_last else flow.shape[2:])
    voxels, points = size[0] * size[1] * size[2], grid[0] * grid[1] * grid[2]
    return grid, [vol.shape[1], *size, *grid, voxels, points, magnitude(grid)]


def _options(vol: torch.Tensor, flow: torch.Tensor, mode: str, padding: str, channels_last: bool) -> dict[str, Any]:
    ndim = vol.ndim - 2
    double = torch.float64 in (vol.dtype, flow.dtype)
    return {
        "NDIM": ndim,
        "MODE": mode,
        "PADDING": padding,
        "CHANNELS_LAST": channels_last,
        "WORK": tl.float64 if double else tl.float32,
        "WIDE": max(vol[0, 0].numel(), ndim * flow[0].numel()) >= 2**31,
        "enable_fp_fusion": True,
    }


def warp_forward(
    vol: torch.Tensor, flow: torch.Tensor, out: torch.Tensor, mode: str, padding: str, channels_last: bool
) -> None:
    """Fills `out`. Tensors are dense and not empty."""
    grid, sizes = _arguments(vol, flow, channels_last)

    def launch(config: dict[str, Any]) -> tuple[int]:
        return programs(vol.shape[0], grid, config["BLOCK_Y"], config["BLOCK_X"])

    _forward[launch](vol, flow, out, *sizes, **_options(vol, flow, mode, padding, channels_last))


def warp_backward(
    grad: torch.Tensor,
    vol: torch.Tensor,
    flow: torch.Tensor,
    grad_vol: torch.Tensor | None,
    grad_flow: torch.Tensor | None,
    unit: torch.Tensor | None,
    mode: str,
    padding: str,
    channels_last: bool,
) -> None:
    """Adds to `grad_vol`, which is zero, and fills `grad_flow`; either may be None. Tensors are dense and not empty.

    Args:
        grad: What comes from above, like the warp's result.
        vol: As in `warp_forward`.
        flow: As in `warp_forward`.
        grad_vol: In the dtype of the computation; or int64, counting 1 / `unit`, so that the order does not matter.
        grad_flow: Not with mode "nearest".
        unit: [1] float64, if `grad_vol` is int64.
        mode: As in `warp_forward`.
        padding: As in `warp_forward`.
        channels_last: As in `warp_forward`.
    """
    grid, sizes = _arguments(vol, flow, channels_last)

    def launch(config: dict[str, Any]) -> tuple[int]:
        return programs(vol.shape[0], grid, config["BLOCK_Y"], config["BLOCK_X"])

    kernel = _backward_to_flow if grad_vol is None else _backward_to_vol
    kernel[launch](
        grad,
        vol,
        flow,
        grad if grad_vol is None else grad_vol,  # an address that the kernel does not use
        grad if grad_flow is None else grad_flow,
        grad if unit is None else unit,
        *sizes,
        **_options(vol, flow, mode, padding, channels_last),
        NEED_VOL=grad_vol is not None,
        NEED_FLOW=grad_flow is not None,
        FIXED=unit is not None,
    )
