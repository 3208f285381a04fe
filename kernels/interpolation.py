"""The neighbours of a displaced voxel, their weights, and the slopes of those. Shared by warp and integrate."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import along

# Displacements beyond this are outside every image; the clamp keeps them, and infinities, integers.
FAR = tl.constexpr(2.0**30)


@triton.jit
def source(index, size, PADDING: tl.constexpr):
    """The voxel that `index` reads on an axis of `size` voxels, and whether it is one of the image."""
    if PADDING == "zeros":
        inside = (index >= 0) & (index < size)
        index = tl.minimum(tl.maximum(index, 0), size - 1)
    elif PADDING == "border" or PADDING == "itk":
        index = tl.minimum(tl.maximum(index, 0), size - 1)
        inside = index >= 0
    elif PADDING == "symmetric":  # reflection about the edges of the first and last voxel
        index = index % (2 * size)  # with the sign of `index`
        index = tl.where(index < 0, index + 2 * size, index)
        index = tl.minimum(index, 2 * size - 1 - index)
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
def linear_axis(u, place, size, AXIS: tl.constexpr, PADDING: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of the lower and upper neighbour on one axis, whether they are inside, and their weights.

    The floor is taken of the displacement alone: the sum with a large position would round the fraction.
    """
    position, length, stride = along(place, size, AXIS)
    u = tl.where(u == u, u, 0.0)
    floor = tl.floor(u)
    fraction = tl.where(tl.abs(u) < FAR, u - floor, 0.0)
    index = position + whole(floor)
    low, low_inside = source(index, length, PADDING)
    high, high_inside = source(index + 1, length, PADDING)
    if PADDING == "itk":  # at most half a voxel outside; the sum, which would round, is not taken
        near = (index >= 0) | ((index == -1) & (fraction >= 0.5))
        near = near & ((index < length - 1) | ((index == length - 1) & (fraction < 0.5)))
        low_inside = low_inside & near
        high_inside = high_inside & near
    if WIDE:
        low = low.to(tl.int64)
        high = high.to(tl.int64)
    return low * stride, high * stride, low_inside, high_inside, 1 - fraction, fraction


@triton.jit
def nearest_axis(u, place, size, AXIS: tl.constexpr, PADDING: tl.constexpr, WIDE: tl.constexpr):
    """Offset of the nearest voxel on one axis, ties to even, and whether it is inside."""
    position, length, stride = along(place, size, AXIS)
    u = position + tl.where(u == u, u, 0.0)
    near = u == u
    if PADDING == "itk":
        near = (u >= -0.5) & (u < length - 0.5)
    if PADDING == "symmetric":  # before it is rounded: a tie is the same voxel on either side of an edge
        turned = u + 0.5
        turned -= 2 * length * tl.floor(turned / (2 * length))
        turned = tl.minimum(turned, 2 * length - turned) - 0.5
        u = tl.where(tl.abs(u) < FAR, turned, u)
    floor = tl.floor(u)
    rest = tl.where(tl.abs(u) < FAR, u - floor, 0.0)
    odd = floor - 2 * tl.floor(floor * 0.5) == 1
    index = whole(tl.where((rest > 0.5) | ((rest == 0.5) & odd), floor + 1, floor))
    index, inside = source(index, length, PADDING)
    if WIDE:
        index = index.to(tl.int64)
    return index * stride, inside & near


@triton.jit
def load_component(
    flow, image, point, points, valid, AXIS: tl.constexpr, NDIM: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """One component of the displacement."""
    if CHANNELS_LAST:
        return tl.load(flow + image * NDIM * points + point * NDIM + AXIS, mask=valid, other=0.0)
    return tl.load(flow + (image * NDIM + AXIS) * points + point, mask=valid, other=0.0)


@triton.jit
def half_extent(size, PLACES: tl.constexpr):
    """Half of what coordinates from -1 to 1 span on an axis, in voxels: to the outer voxels' centres or edges."""
    return (size - 1) * 0.5 if PLACES == "corners" else size * 0.5


@triton.jit
def displacement_along(
    flow,
    image,
    size,
    point,
    points,
    valid,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLACES: tl.constexpr,
    WORK: tl.constexpr,
):
    """The displacement on one array axis; of PLACES, whose first component is that of the last axis, the place."""
    if PLACES == "":
        return load_component(flow, image, point, points, valid, AXIS, NDIM, CHANNELS_LAST).to(WORK)
    place = load_component(flow, image, point, points, valid, NDIM - 1 - AXIS, NDIM, CHANNELS_LAST).to(WORK)
    length = size[3 - NDIM + AXIS]
    return place * half_extent(length, PLACES) + (length - 1) * 0.5


@triton.jit
def load_displacement(
    flow,
    image,
    size,
    point,
    points,
    valid,
    NDIM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLACES: tl.constexpr,
    WORK: tl.constexpr,
):
    """The displacement on every array axis, slowest first, and where a component is NaN."""
    u_x = displacement_along(
        flow, image, size, point, points, valid, NDIM - 1, NDIM, CHANNELS_LAST, PLACES, WORK
    )  # fmt: skip
    u_y = displacement_along(
        flow, image, size, point, points, valid, NDIM - 2, NDIM, CHANNELS_LAST, PLACES, WORK
    )  # fmt: skip
    is_nan = (u_x != u_x) | (u_y != u_y)
    if NDIM == 2:
        return (u_y, u_x), is_nan
    u_z = displacement_along(flow, image, size, point, points, valid, 0, NDIM, CHANNELS_LAST, PLACES, WORK)
    return (u_z, u_y, u_x), is_nan | (u_z != u_z)


@triton.jit
def own_place(place, PLACES: tl.constexpr):
    """What a displacement is added to: the point's place in its grid, or 0 where the flow holds places."""
    if PLACES == "":
        return place
    return (place[0] * 0, place[1] * 0, place[2] * 0)


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
    PLACES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """`linear_axis` of every array axis, slowest first, and where the displacement is NaN."""
    u, is_nan = load_displacement(flow, image, size, point, points, valid, NDIM, CHANNELS_LAST, PLACES, WORK)
    place = own_place(place, PLACES)
    x = linear_axis(u[NDIM - 1], place, size, 2, PADDING, WIDE)
    y = linear_axis(u[NDIM - 2], place, size, 1, PADDING, WIDE)
    axes = (y, x) if NDIM == 2 else (linear_axis(u[0], place, size, 0, PADDING, WIDE), y, x)
    return axes, is_nan


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
    PLACES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Offset of the nearest voxel, whether it is inside, and where the displacement is NaN."""
    u, is_nan = load_displacement(flow, image, size, point, points, valid, NDIM, CHANNELS_LAST, PLACES, WORK)
    place = own_place(place, PLACES)
    offset_x, inside_x = nearest_axis(u[NDIM - 1], place, size, 2, PADDING, WIDE)
    offset_y, inside_y = nearest_axis(u[NDIM - 2], place, size, 1, PADDING, WIDE)
    offset, inside = offset_x + offset_y, inside_x & inside_y & valid
    if NDIM == 3:
        offset_z, inside_z = nearest_axis(u[0], place, size, 0, PADDING, WIDE)
        offset += offset_z
        inside = inside & inside_z
    return offset, inside, is_nan


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
