"""Local correlation on the device: the gradients, from what the forward's last kernel wrote."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import along, field, flat, store_fields, tile


@triton.jit
def spread(
    adjoint,
    sums,
    place,
    size,
    index,
    valid,
    slab,
    AXIS: tl.constexpr,
    FIRST: tl.constexpr,
    NEED_A: tl.constexpr,
    NEED_B: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Sums over the windows that hold a voxel, on this axis and those before: C, V_a, V_b, T_a, T_b.

    With m the means of the windows and o those of the window around the voxel itself,
    T_a = sum C (m_b - o_b) + 2 V_a (m_a - o_a) and T_b = sum C (m_a - o_a) + 2 V_b (m_b - o_b).
    """
    position, length, stride = along(place, size, AXIS)
    own_a = tl.load(adjoint + index, mask=valid, other=0.0)
    own_b = tl.load(field(adjoint, slab, 1) + index, mask=valid, other=0.0)
    source = field(adjoint, slab, 2) if FIRST else sums
    total_c = tl.zeros_like(own_a)
    total_a = tl.zeros_like(own_a)
    total_b = tl.zeros_like(own_a)
    moment_a = tl.zeros_like(own_a)
    moment_b = tl.zeros_like(own_a)
    for k in range(WINDOW):
        step = k - WINDOW // 2
        inside = (position + step >= 0) & (position + step < length) & valid
        other = index + step * stride
        off_a = tl.load(adjoint + other, mask=inside, other=0.0) - own_a
        off_b = tl.load(field(adjoint, slab, 1) + other, mask=inside, other=0.0) - own_b
        c = tl.load(source + other, mask=inside, other=0.0)
        total_c += c
        if NEED_A:
            v_a = tl.load(field(source, slab, 1) + other, mask=inside, other=0.0)
            total_a += v_a
            moment_a += c * off_b + 2 * v_a * off_a
            if not FIRST:
                moment_a += tl.load(field(source, slab, 3) + other, mask=inside, other=0.0)
        if NEED_B:
            v_b = tl.load(field(source, slab, 2) + other, mask=inside, other=0.0)
            total_b += v_b
            moment_b += c * off_a + 2 * v_b * off_b
            if not FIRST:
                moment_b += tl.load(field(source, slab, 4) + other, mask=inside, other=0.0)
    return total_c, total_a, total_b, moment_a, moment_b


@triton.jit(do_not_specialize=["magnitude"])
def lncc_backward_spread_kernel(
    adjoint,  # [images, 5, planes, H, W]: means of a and b, C, V_a, V_b
    sums,  # [images, 5, planes, H, W], unless FIRST
    out,  # [images, 5, planes, H, W]
    H,
    W,
    planes,
    slab,  # planes * H * W
    magnitude,
    AXIS: tl.constexpr,
    FIRST: tl.constexpr,
    NEED_A: tl.constexpr,
    NEED_B: tl.constexpr,
    WORK: tl.constexpr,
    WINDOW: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Spreads on one axis."""
    image, place, index, valid = tile(planes, H, W, WIDE, BLOCK_Y, BLOCK_X)
    totals = spread(
        adjoint + image * 5 * slab,
        sums + image * 5 * slab,
        place,
        (planes, H, W),
        index,
        valid,
        slab,
        AXIS,
        FIRST,
        NEED_A,
        NEED_B,
        WINDOW,
    )
    store_fields(out, image, index, valid, slab, totals)


@triton.jit(do_not_specialize=["first_plane", "from_plane", "magnitude"])
def lncc_backward_gradient_kernel(
    a,  # [images, D, H, W]
    b,  # [images, D, H, W]
    shift_a,  # [images]
    shift_b,  # [images]
    adjoint,  # [images, 5, planes, H, W]: means of a and b, C, V_a, V_b
    sums,  # [images, 5, planes, H, W], spread on every axis but AXIS
    grad_a,  # [images, D, H, W]
    grad_b,  # [images, D, H, W]
    H,
    W,
    first_plane,
    from_plane,
    wanted,  # planes
    planes,
    slab,  # planes * H * W
    volume,  # D * H * W
    magnitude,
    AXIS: tl.constexpr,
    NEED_A: tl.constexpr,
    NEED_B: tl.constexpr,
    WORK: tl.constexpr,
    WINDOW: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Spreads on the last axis, and puts the gradients together."""
    image, (plane, y, x), _, valid = tile(wanted, H, W, WIDE, BLOCK_Y, BLOCK_X)
    z = plane + from_plane
    plane = z - first_plane
    index = flat(plane, y, x, H, W, WIDE)
    adjoint += image * 5 * slab
    c, v_a, v_b, t_a, t_b = spread(
        adjoint,
        sums + image * 5 * slab,
        (plane, y, x),
        (planes, H, W),
        index,
        valid,
        slab,
        AXIS,
        False,
        NEED_A,
        NEED_B,
        WINDOW,
    )
    location = image * volume + flat(z, y, x, H, W, WIDE)
    off_a = tl.load(a + location, mask=valid, other=0.0).to(WORK) - tl.load(shift_a + image)
    off_b = tl.load(b + location, mask=valid, other=0.0).to(WORK) - tl.load(shift_b + image)
    off_a -= tl.load(adjoint + index, mask=valid, other=0.0)
    off_b -= tl.load(field(adjoint, slab, 1) + index, mask=valid, other=0.0)
    if NEED_A:
        tl.store(grad_a + location, c * off_b + 2 * v_a * off_a - t_a, mask=valid)
    if NEED_B:
        tl.store(grad_b + location, c * off_a + 2 * v_b * off_b - t_b, mask=valid)
