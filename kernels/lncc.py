"""Local correlation: value, map and gradients. docs/math.md has the definitions.

A window is merged one axis at a time. What is merged are means and sums of squared deviations, not sums of squares
(Chan et al. 1983), and deviations are taken from the voxel in the middle: nothing large cancels, so float32 is close to
float64 truth whatever the offset of the intensities, and a constant window has a variance of exactly 0.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastreg.kernels.grid import COLUMNS, ROWS, WARPS, flat, grid_3d, magnitude, programs, tile, tuned

WORKSPACE_BYTES = 128 * 2**20
"""Images are worked on in slabs, or several at a time, so that the workspace stays below this or two windows deep."""
WORKSPACE_PER_VOXEL = 15
"""Numbers: three times five fields."""


@triton.jit
def reach(position, size, WINDOW: tl.constexpr, COUNT: tl.constexpr):
    """Voxels that a window counts on one axis: all, or those inside the image."""
    if COUNT:
        return tl.minimum(position + WINDOW // 2, size - 1) - tl.maximum(position - WINDOW // 2, 0) + 1
    else:
        return WINDOW


@triton.jit
def along(place, size, AXIS: tl.constexpr):
    """Position, size and stride on one axis."""
    if AXIS == 0:
        return place[0], size[0], size[1] * size[2]
    elif AXIS == 1:
        return place[1], size[1], size[2]
    else:
        return place[2], size[2], 1


@triton.jit
def merged(
    a,
    b,
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
    WINDOW: tl.constexpr,
    COUNT: tl.constexpr,
    WORK: tl.constexpr,
):
    """Means of a and b, and sums of squared (and mixed) deviations, over the window on this axis and those before.

    From the images a and b if FIRST, otherwise from the five fields at `a`. The outside of the image, where it counts,
    is a constant: minus the shift.
    """
    position, length, stride = along(place, size, AXIS)
    voxels = reach(position, length, WINDOW, COUNT)
    before = 1  # voxels that each element stands for
    if AXIS == 2:
        before = reach(place[1], size[1], WINDOW, COUNT)
    if (AXIS == 2 or AXIS == 1) and NDIM == 3:
        before = before * reach(place[0], size[0], WINDOW, COUNT)
    if not FIRST:
        b = a + slab
    middle_a = tl.load(a + index, mask=valid, other=0.0).to(WORK)
    middle_b = tl.load(b + index, mask=valid, other=0.0).to(WORK)
    if FIRST:
        middle_a += outside_a
        middle_b += outside_b
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
            var_a += tl.load(b + slab + other, mask=inside, other=0.0)
            var_b += tl.load(b + slab + slab + other, mask=inside, other=0.0)
            cross += tl.load(b + slab + slab + slab + other, mask=inside, other=0.0)
        off_a = mean_a - middle_a
        off_b = mean_b - middle_b
        if COUNT:
            off_a = tl.where(inside, off_a, 0.0)
            off_b = tl.where(inside, off_b, 0.0)
        sum_a += off_a
        sum_b += off_b
        square_a += off_a * off_a
        square_b += off_b * off_b
        mixed += off_a * off_b
    return (
        middle_a + sum_a / voxels,
        middle_b + sum_b / voxels,
        var_a + before * (square_a - sum_a * sum_a / voxels),
        var_b + before * (square_b - sum_b * sum_b / voxels),
        cross + before * (mixed - sum_a * sum_b / voxels),
    )


@triton.jit(do_not_specialize=["first_plane", "magnitude"])
def merge_kernel(
    a,  # [images, D, H, W] if FIRST, otherwise [images, 5, planes, H, W]
    b,  # [images, D, H, W]
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
    WINDOW: tl.constexpr,
    COUNT: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, plane, y, x = tile(planes, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    z = plane + first_plane
    outside_a = -tl.load(shift_a + image)
    outside_b = -tl.load(shift_b + image)
    index = flat(plane, y, x, H, W, WIDE)
    source = flat(z, y, x, H, W, WIDE) if FIRST else index
    a += image * volume if FIRST else image * 5 * slab
    b += image * volume
    mean_a, mean_b, var_a, var_b, cross = merged(
        a, b, outside_a, outside_b, (z, y, x), (D, H, W), source, valid, slab, AXIS, FIRST, NDIM, WINDOW, COUNT, WORK
    )
    store_five(out, image, index, valid, slab, mean_a, mean_b, var_a, var_b, cross)


@triton.jit
def store_five(out, image, index, valid, slab, first, second, third, fourth, fifth):
    """One voxel of five fields [images, 5, slab]."""
    out += image * 5 * slab + index
    tl.store(out, first, mask=valid)
    tl.store(out + slab, second, mask=valid)
    tl.store(out + slab + slab, third, mask=valid)
    tl.store(out + slab + slab + slab, fourth, mask=valid)
    tl.store(out + slab + slab + slab + slab, fifth, mask=valid)


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
def correlate_kernel(
    fields,  # [images, 5, planes, H, W], merged on every axis but x
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
    slab,
    volume,
    NDIM: tl.constexpr,
    FORM: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    NEED_MAP: tl.constexpr,
    NEED_GRAD: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, plane, y, x = tile(planes, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    z = plane + first_plane
    index = flat(plane, y, x, H, W, WIDE)
    mean_a, mean_b, var_a, var_b, c = merged(
        fields + image * 5 * slab,
        fields,
        -tl.load(shift_a + image),
        -tl.load(shift_b + image),
        (z, y, x),
        (D, H, W),
        index,
        valid,
        slab,
        2,
        False,
        NDIM,
        FORM.window,
        FORM.count,
        WORK,
    )
    unit = tl.full((BLOCK_Y, BLOCK_X), 1, WORK)
    if FORM.mean:
        unit = unit / reach(x, W, FORM.window, FORM.count) / reach(y, H, FORM.window, FORM.count)
        if NDIM == 3:
            unit = unit / reach(z, D, FORM.window, FORM.count)
    c *= unit
    floored_a, varies_a = floored(var_a * unit, FORM)
    floored_b, varies_b = floored(var_b * unit, FORM)
    flat_window = tl.abs(var_a * unit * (var_b * unit)) <= FORM.flat_eps
    moving = valid & (flat_window == 0)
    crossed = 1.0
    if FORM.cross_floor:
        crossed = tl.where(c > FORM.floor_eps, 1.0, 0.0)
        c = tl.maximum(c, FORM.floor_eps)
    den = tl.where(moving, floored_a * floored_b + FORM.den_eps, 1.0)
    cc = (c * c + FORM.num_eps) / den
    if FORM.clamp:
        moving = moving & (cc <= 1)
        cc = tl.where(cc > 1, 1.0, cc)
    cc = tl.where(flat_window, FORM.flat, cc)
    location = flat(z, y, x, H, W, WIDE)
    g = tl.full((BLOCK_Y, BLOCK_X), 1, WORK)
    if WEIGHTED:
        batch = (image + first_image) // channels
        channel = (image + first_image) % channels % weight_channels
        g = tl.load(weight + (batch * weight_channels + channel) * volume + location, mask=valid, other=0.0).to(WORK)
    counted = valid & (z >= from_plane) & (z < to_plane)
    total = tl.sum(tl.where(counted, g * cc, 0.0))
    tl.store(partial + tl.program_id(0), total.to(tl.float64))
    if NEED_MAP:
        tl.store(cc_map + image * volume + location, cc, mask=counted)
    if NEED_GRAD:
        g = tl.where(moving, g * tl.load(scale) * unit, 0.0)
        slope_a = tl.where(varies_a, -g * cc * floored_b / den, 0.0)
        slope_b = tl.where(varies_b, -g * cc * floored_a / den, 0.0)
        store_five(adjoint, image, index, valid, slab, mean_a, mean_b, 2 * g * c * crossed / den, slope_a, slope_b)


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
    own_b = tl.load(adjoint + slab + index, mask=valid, other=0.0)
    source = adjoint + slab + slab if FIRST else sums
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
        off_b = tl.load(adjoint + slab + other, mask=inside, other=0.0) - own_b
        c = tl.load(source + other, mask=inside, other=0.0)
        total_c += c
        if NEED_A:
            v_a = tl.load(source + slab + other, mask=inside, other=0.0)
            total_a += v_a
            moment_a += c * off_b + 2 * v_a * off_a
            if not FIRST:
                moment_a += tl.load(source + slab + slab + slab + other, mask=inside, other=0.0)
        if NEED_B:
            v_b = tl.load(source + slab + slab + other, mask=inside, other=0.0)
            total_b += v_b
            moment_b += c * off_a + 2 * v_b * off_b
            if not FIRST:
                moment_b += tl.load(source + slab + slab + slab + slab + other, mask=inside, other=0.0)
    return total_c, total_a, total_b, moment_a, moment_b


@triton.jit(do_not_specialize=["magnitude"])
def spread_kernel(
    adjoint,  # [images, 5, planes, H, W]: means of a and b, C, V_a, V_b
    sums,  # [images, 5, planes, H, W], unless FIRST
    out,  # [images, 5, planes, H, W]
    H,
    W,
    planes,
    slab,
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
    image, plane, y, x = tile(planes, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    index = flat(plane, y, x, H, W, WIDE)
    c, v_a, v_b, t_a, t_b = spread(
        adjoint + image * 5 * slab,
        sums + image * 5 * slab,
        (plane, y, x),
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
    store_five(out, image, index, valid, slab, c, v_a, v_b, t_a, t_b)


@triton.jit(do_not_specialize=["first_plane", "from_plane", "magnitude"])
def gradient_kernel(
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
    slab,
    volume,
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
    image, plane, y, x = tile(wanted, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
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
    off_b -= tl.load(adjoint + slab + index, mask=valid, other=0.0)
    if NEED_A:
        tl.store(grad_a + location, c * off_b + 2 * v_a * off_a - t_a, mask=valid)
    if NEED_B:
        tl.store(grad_b + location, c * off_a + 2 * v_b * off_b - t_b, mask=valid)


_merge = tuned(merge_kernel, ("magnitude", "AXIS", "FIRST", "WINDOW"))
_spread = tuned(spread_kernel, ("magnitude", "AXIS", "FIRST", "WINDOW", "NEED_A", "NEED_B"))
_gradient = tuned(gradient_kernel, ("magnitude", "AXIS", "WINDOW", "NEED_A", "NEED_B"))


def lncc(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor | None,
    form: Any,
    scale: float,
    grad_a: torch.Tensor | None,
    grad_b: torch.Tensor | None,
    cc_map: torch.Tensor | None,
) -> torch.Tensor:
    """Sum of weight * cc (0-d float64, on the device); fills the gradients of scale * that sum, and the map.

    Tensors are dense and not empty, [batch, channels, (D,) H, W]; `form` is a `fastreg.types.LnccForm`.
    """
    images, (depth, height, width) = a.shape[0] * a.shape[1], grid_3d(a.shape[2:])
    work = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    halo = 0 if (grad_a is None and grad_b is None) or a.ndim == 4 else form.window // 2
    room = WORKSPACE_BYTES // (WORKSPACE_PER_VOXEL * work.itemsize * height * width)  # planes
    at_once, planes = (min(images, room // depth), depth) if room >= depth else (1, max(1, room - 2 * halo))
    sums = []
    for first in range(0, images, at_once):
        slab_of = slice(first, first + at_once)
        a_, b_, grad_a_, grad_b_, cc_ = (
            None if tensor is None else tensor.view(images, depth, height, width)[slab_of]
            for tensor in (a, b, grad_a, grad_b, cc_map)
        )
        shift_a, shift_b = (tensor.mean((1, 2, 3), dtype=work) for tensor in (a_, b_))
        for from_plane in range(0, depth, planes):
            to_plane = min(from_plane + planes, depth)
            extent = max(from_plane - halo, 0), from_plane, to_plane, min(to_plane + halo, depth)
            slab = _Slab(a_, b_, shift_a, shift_b, a.ndim - 2, form, work, extent)
            sums.append(slab.correlate(weight, first, a.shape[1], scale, cc_, grad_a is not None or grad_b is not None))
            if grad_a is not None or grad_b is not None:
                slab.gradient(grad_a_, grad_b_)
    return torch.stack(sums).sum()


class _Slab:
    """Some planes of some images, with the workspace that the kernels hand on."""

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        shift_a: torch.Tensor,
        shift_b: torch.Tensor,
        ndim: int,
        form: Any,
        work: torch.dtype,
        extent: tuple[int, int, int, int],
    ) -> None:
        self.inputs = a, b, shift_a, shift_b
        self.ndim, self.form, self.work = ndim, form, tl.float64 if work == torch.float64 else tl.float32
        self.first_plane, self.from_plane, self.to_plane, last = extent
        self.images, depth, height, width = a.shape
        self.size, self.planes = (depth, height, width), last - self.first_plane
        self.slab = self.planes * height * width
        self.wide = depth * height * width >= 2**31
        self.fields, self.spare, self.adjoint = (a.new_empty((self.images, 5, self.slab), dtype=work) for _ in range(3))

    def _grid(self, planes: int) -> Any:
        size = planes, *self.size[1:]
        return lambda config: programs(self.images, size, config["BLOCK_Y"], config["BLOCK_X"])

    def _options(self) -> dict[str, Any]:
        return {"WORK": self.work, "WIDE": self.wide, "enable_fp_fusion": True}

    def correlate(
        self,
        weight: torch.Tensor | None,
        first_image: int,
        channels: int,
        scale: float,
        cc_map: torch.Tensor | None,
        need_grad: bool,
    ) -> torch.Tensor:
        """Sum of weight * cc over the slab's own planes; keeps the adjoints if a gradient is wanted."""
        a, b, shift_a, shift_b = self.inputs
        volume = self.size[0] * self.size[1] * self.size[2]
        for axis in range(3 - self.ndim, 2):
            first = axis == 3 - self.ndim
            _merge[self._grid(self.planes)](
                a if first else self.fields,
                b,
                shift_a,
                shift_b,
                self.spare,
                *self.size,
                self.first_plane,
                self.planes,
                self.slab,
                volume,
                magnitude((self.planes, *self.size[1:])),
                AXIS=axis,
                FIRST=first,
                NDIM=self.ndim,
                WINDOW=self.form.window,
                COUNT=self.form.count,
                **self._options(),
            )
            self.fields, self.spare = self.spare, self.fields
        (count,) = grid = programs(self.images, (self.planes, *self.size[1:]), ROWS, COLUMNS)
        partial = a.new_empty(count, dtype=torch.float64)
        correlate_kernel[grid](
            self.fields,
            shift_a,
            shift_b,
            a if weight is None else weight,
            torch.full_like(shift_a[:1], scale),
            partial,
            a if cc_map is None else cc_map,
            self.adjoint,
            first_image,
            channels,
            1 if weight is None else weight.shape[1],
            *self.size,
            self.first_plane,
            self.from_plane,
            self.to_plane,
            self.planes,
            self.slab,
            volume,
            NDIM=self.ndim,
            FORM=self.form,
            WEIGHTED=weight is not None,
            NEED_MAP=cc_map is not None,
            NEED_GRAD=need_grad,
            BLOCK_Y=ROWS,
            BLOCK_X=COLUMNS,
            num_warps=WARPS,
            **self._options(),
        )
        return partial.sum()

    def gradient(self, grad_a: torch.Tensor | None, grad_b: torch.Tensor | None) -> None:
        """Fills the gradients in the slab's own planes."""
        wanted = {"NEED_A": grad_a is not None, "NEED_B": grad_b is not None, "WINDOW": self.form.window}
        for axis in range(2, 3 - self.ndim, -1):
            _spread[self._grid(self.planes)](
                self.adjoint,
                self.fields,
                self.spare,
                *self.size[1:],
                self.planes,
                self.slab,
                magnitude((self.planes, *self.size[1:])),
                AXIS=axis,
                FIRST=axis == 2,
                **wanted,
                **self._options(),
            )
            self.fields, self.spare = self.spare, self.fields
        own = self.to_plane - self.from_plane
        _gradient[self._grid(own)](
            *self.inputs,
            self.adjoint,
            self.fields,
            self.adjoint if grad_a is None else grad_a,
            self.adjoint if grad_b is None else grad_b,
            *self.size[1:],
            self.first_plane,
            self.from_plane,
            own,
            self.planes,
            self.slab,
            self.size[0] * self.size[1] * self.size[2],
            magnitude((own, *self.size[1:])),
            AXIS=3 - self.ndim,
            **wanted,
            **self._options(),
        )
