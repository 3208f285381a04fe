"""Local correlation on the device: value and map. docs/math.md has the definitions.

A window is merged one axis at a time. What is merged are means and sums of squared deviations, not sums of squares
(Chan et al. 1983), and deviations are taken from the voxel in the middle: nothing large cancels, so float32 is close to
float64 truth whatever the offset of the intensities, and a constant window has a variance of exactly 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import along, field, flat, store_fields, tile


@triton.jit
def reach(position, size, WINDOW: tl.constexpr, COUNT: tl.constexpr):
    """Voxels that a window counts on one axis: all, or those inside the image."""
    if COUNT:
        return tl.minimum(position + WINDOW // 2, size - 1) - tl.maximum(position - WINDOW // 2, 0) + 1
    else:
        return WINDOW


@triton.jit
def merged(
    a,
    b,
    before_here,
    after_here,
    location,
    outside_a,
    outside_b,
    place,
    size,
    index,
    valid,
    slab,
    AXIS: tl.constexpr,
    FIRST: tl.constexpr,
    NDIM: tl.constexpr,
    WINDOWS: tl.constexpr,
    COUNT: tl.constexpr,
    MASKED: tl.constexpr,
    WORK: tl.constexpr,
):
    """Means of a and b, and sums of squared (and mixed) deviations, over the window on this axis and those before.

    From the images a and b if FIRST, otherwise from the five fields at `a`. The outside of the image, where it counts,
    is a constant: minus the shift. If MASKED, every element stands for as many voxels as `before_here` says and the
    window for `after_here`, both at `location` in the image; what stands for none may be anything.
    """
    position, length, stride = along(place, size, AXIS)
    WINDOW: tl.constexpr = WINDOWS[AXIS]
    voxels = reach(position, length, WINDOW, COUNT)
    before = 1  # voxels that each element stands for
    if AXIS == 2:
        before = reach(place[1], size[1], WINDOWS[1], COUNT)
    if (AXIS == 2 or AXIS == 1) and NDIM == 3:
        before = before * reach(place[0], size[0], WINDOWS[0], COUNT)
    if not FIRST:
        b = field(a, slab, 1)
    beyond = before * 1.0  # voxels that an element outside the image stands for
    if MASKED:
        voxels = tl.maximum(tl.load(after_here + location, mask=valid, other=1.0), 1.0)
    middle_a = tl.load(a + index, mask=valid, other=0.0).to(WORK)
    middle_b = tl.load(b + index, mask=valid, other=0.0).to(WORK)
    if FIRST:
        middle_a += outside_a
        middle_b += outside_b
    if MASKED:
        stands = tl.load(before_here + location, mask=valid, other=0.0) > 0
        middle_a = tl.where(stands, middle_a, 0.0)
        middle_b = tl.where(stands, middle_b, 0.0)
    sum_a = tl.zeros_like(middle_a)
    sum_b = tl.zeros_like(middle_a)
    square_a = tl.zeros_like(middle_a)
    square_b = tl.zeros_like(middle_a)
    mixed = tl.zeros_like(middle_a)
    var_a = tl.zeros_like(middle_a)
    var_b = tl.zeros_like(middle_a)
    cross = tl.zeros_like(middle_a)
    for k in range(WINDOW):
        step = k - WINDOW // 2
        inside = (position + step >= 0) & (position + step < length) & valid
        other = index + step * stride
        if FIRST:
            mean_a = tl.load(a + other, mask=inside, other=0.0).to(WORK) + outside_a
            mean_b = tl.load(b + other, mask=inside, other=0.0).to(WORK) + outside_b
        else:
            mean_a = tl.load(a + other, mask=inside, other=outside_a)
            mean_b = tl.load(b + other, mask=inside, other=outside_b)
            var_a += tl.load(field(a, slab, 2) + other, mask=inside, other=0.0)
            var_b += tl.load(field(a, slab, 3) + other, mask=inside, other=0.0)
            cross += tl.load(field(a, slab, 4) + other, mask=inside, other=0.0)
        off_a = mean_a - middle_a
        off_b = mean_b - middle_b
        if COUNT:
            off_a = tl.where(inside, off_a, 0.0)
            off_b = tl.where(inside, off_b, 0.0)
        if MASKED:
            many = tl.where(inside, tl.load(before_here + location + step * stride, mask=inside, other=0.0), beyond)
            off_a = tl.where(many > 0, off_a, 0.0)
            off_b = tl.where(many > 0, off_b, 0.0)
            sum_a += many * off_a
            sum_b += many * off_b
            square_a += many * off_a * off_a
            square_b += many * off_b * off_b
            mixed += many * off_a * off_b
        else:
            sum_a += off_a
            sum_b += off_b
            square_a += off_a * off_a
            square_b += off_b * off_b
            mixed += off_a * off_b
    if MASKED:
        before = 1  # it is in the sums
    return (
        middle_a + sum_a / voxels,
        middle_b + sum_b / voxels,
        var_a + before * (square_a - sum_a * sum_a / voxels),
        var_b + before * (square_b - sum_b * sum_b / voxels),
        cross + before * (mixed - sum_a * sum_b / voxels),
    )


@triton.jit(do_not_specialize=["first_plane", "magnitude"])
def lncc_forward_merge_kernel(
    a,  # [images, D, H, W] if FIRST, otherwise [images, 5, planes, H, W]
    b,  # [images, D, H, W]
    before,  # [images, D, H, W] if MASKED: voxels that count in the window on the axes before this one
    after,  # likewise with this one
    shift_a,  # [images]
    shift_b,  # [images]
    out,  # [images, 5, planes, H, W]
    D,
    H,
    W,
    first_plane,
    planes,
    slab,  # planes * H * W
    volume,  # D * H * W
    magnitude,
    AXIS: tl.constexpr,
    FIRST: tl.constexpr,
    NDIM: tl.constexpr,
    WINDOWS: tl.constexpr,
    COUNT: tl.constexpr,
    MASKED: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Merges the windows on one axis."""
    image, (plane, y, x), index, valid = tile(planes, H, W, WIDE, BLOCK_Y, BLOCK_X)
    z = plane + first_plane
    outside_a = -tl.load(shift_a + image)
    outside_b = -tl.load(shift_b + image)
    location = flat(z, y, x, H, W, WIDE)
    source = location if FIRST else index
    a += image * volume if FIRST else image * 5 * slab
    b += image * volume
    before += image * volume
    after += image * volume
    fields = merged(
        a, b, before, after, location, outside_a, outside_b, (z, y, x), (D, H, W), source, valid, slab, AXIS, FIRST,
        NDIM, WINDOWS, COUNT, MASKED, WORK,
    )  # fmt: skip
    store_fields(out, image, index, valid, slab, fields)


@triton.jit
def unit_of(
    place,
    size,
    counted,
    NDIM: tl.constexpr,
    FORM: tl.constexpr,
    WINDOWS: tl.constexpr,
    MASKED: tl.constexpr,
    WORK: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """What the definition multiplies sums over a window by: 1, or 1 over the voxels that the window counts."""
    unit = tl.full((BLOCK_Y, BLOCK_X), 1, WORK)
    if FORM.mean and MASKED:
        unit = unit / counted
    elif FORM.mean:
        unit = unit / reach(place[2], size[2], WINDOWS[2], FORM.count)
        unit = unit / reach(place[1], size[1], WINDOWS[1], FORM.count)
        if NDIM == 3:
            unit = unit / reach(place[0], size[0], WINDOWS[0], FORM.count)
    return unit


@triton.jit
def floored(var, FORM: tl.constexpr):
    """The variance as the definition uses it, and whether it still varies."""
    varies = var == var
    if FORM.floor == "max":
        varies = var > FORM.floor_eps
        var = tl.maximum(var, FORM.floor_eps)
    elif FORM.floor == "add":
        varies = var > 0
        var = tl.maximum(var, 0.0) + FORM.floor_eps
    return var, varies


@triton.jit(do_not_specialize=["first_plane", "from_plane", "to_plane"])
def lncc_forward_correlate_kernel(
    fields,  # [images, 5, planes, H, W], merged on every axis but x
    before,  # [images, D, H, W] if MASKED: voxels that count in the window on every axis but x
    after,  # likewise on every axis
    shift_a,  # [images]
    shift_b,  # [images]
    weight,  # [images / channels, weight_channels, D, H, W]
    scale,  # [1]
    partial,  # [programs] float64
    cc_map,  # [images, D, H, W]
    adjoint,  # [images, 5, planes, H, W]: means of a and b, C, V_a, V_b
    first_image,
    channels,
    weight_channels,
    D,
    H,
    W,
    first_plane,
    from_plane,  # planes from here ...
    to_plane,  # ... to here count, the others are there for the gradient
    planes,
    slab,  # planes * H * W
    volume,  # D * H * W
    NDIM: tl.constexpr,
    FORM: tl.constexpr,
    WINDOWS: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    NEED_MAP: tl.constexpr,
    NEED_GRAD: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Merges the windows on the last axis; adds up the value, and writes the map and what the gradients start from."""
    image, (plane, y, x), index, valid = tile(planes, H, W, WIDE, BLOCK_Y, BLOCK_X)
    z = plane + first_plane
    fields += image * 5 * slab
    outside_a = -tl.load(shift_a + image)
    outside_b = -tl.load(shift_b + image)
    location = flat(z, y, x, H, W, WIDE)
    before += image * volume
    after += image * volume
    mean_a, mean_b, var_a, var_b, c = merged(
        fields, fields, before, after, location, outside_a, outside_b, (z, y, x), (D, H, W), index, valid, slab, 2,
        False, NDIM, WINDOWS, FORM.count, MASKED, WORK,
    )  # fmt: skip
    counted = tl.maximum(tl.load(after + location, mask=valid, other=1.0), 1.0) if MASKED else 1.0
    unit = unit_of((z, y, x), (D, H, W), counted, NDIM, FORM, WINDOWS, MASKED, WORK, BLOCK_Y, BLOCK_X)
    c *= unit
    var_a *= unit
    var_b *= unit
    floored_a, varies_a = floored(var_a, FORM)
    floored_b, varies_b = floored(var_b, FORM)
    is_flat = tl.abs(var_a * var_b) <= FORM.flat_eps
    has_slope = valid & (is_flat == 0)
    crossed = 1.0
    if FORM.cross_floor:
        crossed = tl.where(c > FORM.floor_eps, 1.0, 0.0)
        c = tl.maximum(c, FORM.floor_eps)
    product = floored_a * floored_b
    numerator = c * c
    if not FORM.squared:
        product = tl.sqrt(tl.maximum(product, 0.0))
        numerator = c
    den = tl.where(has_slope, product + FORM.den_eps, 1.0)
    cc = (numerator + FORM.num_eps) / den
    if FORM.clamp:
        has_slope = has_slope & (cc <= 1)
        cc = tl.where(cc > 1, 1.0, cc)
    cc = tl.where(is_flat, FORM.flat, cc)
    g = tl.full((BLOCK_Y, BLOCK_X), 1, WORK)
    if WEIGHTED:
        batch = (image + first_image) // channels
        channel = (image + first_image) % channels % weight_channels
        g = tl.load(weight + (batch * weight_channels + channel) * volume + location, mask=valid, other=0.0).to(WORK)
    enters = valid
    if MASKED:  # windows of no weight are left out, whatever lies in them
        enters = valid & (g != 0)
    own = enters & (z >= from_plane) & (z < to_plane)
    total = tl.sum(tl.where(own, g * cc, 0.0))
    tl.store(partial + tl.program_id(0), total.to(tl.float64))
    if NEED_MAP:
        tl.store(cc_map + image * volume + location, cc, mask=valid & (z >= from_plane) & (z < to_plane))
    if NEED_GRAD:
        g = tl.where(has_slope, g * tl.load(scale) * unit, 0.0)
        share = -g * cc / den
        slope_c = 2 * g * c * crossed / den
        if not FORM.squared:
            share = tl.where(product > 0, 0.5 * share / tl.where(product > 0, product, 1.0), 0.0)
            slope_c = g * crossed / den
        slope_a = tl.where(varies_a, share * floored_b, 0.0)
        slope_b = tl.where(varies_b, share * floored_a, 0.0)
        if MASKED:
            mean_a = tl.where(enters, mean_a, 0.0)
            mean_b = tl.where(enters, mean_b, 0.0)
            slope_c = tl.where(enters, slope_c, 0.0)
            slope_a = tl.where(enters, slope_a, 0.0)
            slope_b = tl.where(enters, slope_b, 0.0)
        start = (mean_a, mean_b, slope_c, slope_a, slope_b)
        store_fields(adjoint, image, index, valid, slab, start)
