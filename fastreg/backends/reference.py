"""The specification: every op in plain PyTorch, any dtype, any device. Slow, and right.

The other backends are tested against this module in float64. `warp` and `lncc` here are differentiable as they
stand; the `*_backward` functions are the same derivatives written out, so that the two check each other.
"""

from __future__ import annotations

import itertools

import torch

from fastreg.backends.lncc_form import window_weights
from fastreg.backends.reference_fields import adam_step as adam_step
from fastreg.backends.reference_fields import determinant as determinant
from fastreg.backends.reference_fields import determinant_of as determinant_of
from fastreg.backends.reference_fields import penalty as penalty
from fastreg.backends.reference_fields import smoothed_update as smoothed_update
from fastreg.backends.reference_fields import smoothness as smoothness
from fastreg.backends.reference_fields import volume as volume
from fastreg.types import Flow, LnccForm, Mask, Scalar, Volume

# Displacements beyond this are outside every image; the clamp keeps them, and infinities, integers.
FAR = 2.0**30
# A variance below this part of the window's sum of squares is rounding.
FLAT = 1e-13


def why_unavailable(*tensors: torch.Tensor) -> str | None:
    """None: it runs everything."""
    return None


# ---------------------------------------------------------------- warp


def _work_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Coordinates and weights: float64 for float64 input, float32 for everything else."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _source(index: torch.Tensor, size: int, padding: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The voxel that `index` reads on an axis of `size` voxels, and where it is inside (None: everywhere)."""
    if padding == "zeros":
        return index.clamp(0, size - 1), (index >= 0) & (index < size)
    if padding == "border":
        return index.clamp(0, size - 1), None
    period = max(2 * (size - 1), 1)  # reflection about the centres of the first and last voxel
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index), None


def whole_and_fraction(flow: Flow, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel index and fraction of grid point + displacement on one axis.

    The floor is taken of the displacement alone: the sum with a large index would round the fraction.
    """
    u = flow[:, axis]
    shape = [1] * u.ndim
    shape[1 + axis] = -1
    grid = torch.arange(u.shape[1 + axis], device=u.device).view(shape)
    floor = torch.floor(u.detach()).nan_to_num(0.0).clamp(-FAR, FAR)
    fraction = torch.where(u.detach().abs() < FAR, u - floor, 0.0 * u.detach().nan_to_num(0.0, 0.0, 0.0))
    return grid + floor.long(), fraction


def _nearest(flow: Flow, axis: int) -> torch.Tensor:
    u = flow[:, axis]
    shape = [1] * u.ndim
    shape[1 + axis] = -1
    grid = torch.arange(u.shape[1 + axis], device=u.device, dtype=u.dtype).view(shape)
    return torch.round(grid + u).nan_to_num(0.0).clamp(-FAR, FAR).long()  # ties to even


def linear_index(corner: list[torch.Tensor], size: tuple[int, ...], padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index of a corner in the volume, and 1 where it is inside, else 0. Both [batch, points]."""
    flat = torch.zeros_like(corner[0])
    inside = torch.ones_like(corner[0], dtype=torch.bool)
    for index, length in zip(corner, size, strict=True):
        index, ok = _source(index, length, padding)
        flat = flat * length + index
        if ok is not None:
            inside = inside & ok
    return flat.flatten(1), inside.flatten(1)


def _gather(vol: Volume, flat: torch.Tensor) -> torch.Tensor:
    """[batch, channels, points]"""
    return vol.flatten(2).gather(2, flat[:, None].expand(-1, vol.shape[1], -1))


def _prepare(vol: Volume, flow: Flow, channels_last: bool) -> tuple[Volume, Flow]:
    dtype = _work_dtype(vol, flow)
    return vol.to(dtype), (flow.movedim(-1, 1) if channels_last else flow).to(dtype)


def warp(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> Volume:
    """See `fastreg.warp`. Differentiable by autograd, forward-mode and torch.func. A batch of 1 goes with any other."""
    dtype = vol.dtype
    vol, flow = _prepare(vol, flow, channels_last)
    batch = flow.shape[0] if vol.shape[0] == 1 else vol.shape[0]
    vol, flow = vol.expand(batch, *vol.shape[1:]), flow.expand(batch, *flow.shape[1:])
    size, grid = tuple(vol.shape[2:]), tuple(flow.shape[2:])
    ndim = len(size)
    is_nan = flow.detach().isnan().any(1).flatten(1)[:, None]  # NaN coordinate -> NaN there and only there
    if mode == "nearest":
        flat, inside = linear_index([_nearest(flow, axis) for axis in range(ndim)], size, padding)
        out = torch.where(inside[:, None], _gather(vol, flat), 0.0)
    else:
        split = [whole_and_fraction(flow, axis) for axis in range(ndim)]
        out = vol.new_zeros(())
        for corner in itertools.product((0, 1), repeat=ndim):
            flat, inside = linear_index([split[k][0] + corner[k] for k in range(ndim)], size, padding)
            weight = torch.ones_like(split[0][1])
            for k in range(ndim):
                weight = weight * (split[k][1] if corner[k] else 1 - split[k][1])
            weight = weight.flatten(1)[:, None]
            value = _gather(vol, flat)
            # A NaN voxel must not reach a neighbour whose weight for it is 0.
            value = torch.where(inside[:, None] & ((weight.detach() != 0) | value.isfinite()), value, 0.0)
            out = out + weight * value
    out = torch.where(is_nan, torch.full_like(out, float("nan")), out)
    return out.reshape(*vol.shape[:2], *grid).to(dtype)


def warp_forward(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> Volume:
    """`warp`, as the ops call it."""
    return warp(vol, flow, mode, padding, channels_last)


def warp_backward(
    grad: Volume, vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, need_vol: bool, need_flow: bool
) -> tuple[Volume | None, Flow | None]:
    """Gradients of sum(grad * warp(vol, flow)). At integer coordinates the slope is the right-hand difference."""
    vol_dtype, flow_dtype, shared = vol.dtype, flow.dtype, vol.shape[0] != flow.shape[0]
    vol, flow = _prepare(vol, flow, channels_last)
    vol = vol.expand(flow.shape[0], *vol.shape[1:])
    size, ndim = tuple(vol.shape[2:]), vol.ndim - 2
    is_nan = flow.isnan().any(1).flatten(1)[:, None]
    upstream = grad.to(vol.dtype).flatten(2)
    scattered = torch.where(is_nan, 0.0, upstream)
    grad_vol = torch.zeros_like(vol).flatten(2)
    grad_flow = torch.zeros_like(flow).flatten(2)
    if mode == "nearest":
        flat, inside = linear_index([_nearest(flow, axis) for axis in range(ndim)], size, padding)
        grad_vol.scatter_add_(2, flat[:, None].expand_as(upstream), torch.where(inside[:, None], scattered, 0.0))
    else:
        split = [whole_and_fraction(flow, axis) for axis in range(ndim)]
        for corner in itertools.product((0, 1), repeat=ndim):
            flat, inside = linear_index([split[k][0] + corner[k] for k in range(ndim)], size, padding)
            factors = [(split[k][1] if corner[k] else 1 - split[k][1]).flatten(1)[:, None] for k in range(ndim)]
            weight = torch.stack(factors).prod(0) * inside[:, None]
            if need_vol:
                grad_vol.scatter_add_(2, flat[:, None].expand_as(upstream), weight * scattered)
            if need_flow:
                value = torch.where(inside[:, None], _gather(vol, flat), 0.0) * upstream
                for k in range(ndim):
                    slope = torch.ones_like(weight) if corner[k] else -torch.ones_like(weight)
                    for other in range(ndim):
                        if other != k:
                            slope = slope * factors[other]
                    grad_flow[:, k] += (slope * value).sum(1)
        grad_flow = torch.where(is_nan, float("nan"), grad_flow)
    grad_flow = grad_flow.reshape(flow.shape)
    if channels_last:
        grad_flow = grad_flow.movedim(1, -1).contiguous()
    grad_vol = grad_vol.reshape(vol.shape)
    if shared:
        grad_vol = grad_vol.sum(0, keepdim=True)
    return (
        grad_vol.to(vol_dtype) if need_vol else None,
        grad_flow.to(flow_dtype) if need_flow else None,
    )


# ---------------------------------------------------------------- local correlation


def _box(x: Volume, form: LnccForm, outside: torch.Tensor | float = 0.0) -> Volume:
    """Weighted sum over the window around every voxel, where the outside of the image reads `outside`."""
    for axis, weights in enumerate(window_weights(form), 2):
        size, half = x.shape[axis], len(weights) // 2
        edge = torch.zeros_like(x.narrow(axis, 0, 1)) + outside
        edge = edge.expand(*[half if k == axis else -1 for k in range(x.ndim)])
        padded = torch.cat([edge, x, edge], axis)
        first, *others = (padded.narrow(axis, k, size) * weight for k, weight in enumerate(weights))
        x = sum(others, first)
        outside = outside * sum(weights)
    return x


def _statistics(a: Volume, b: Volume, form: LnccForm, mask: Mask | None) -> dict[str, torch.Tensor]:
    """Window sums of the centred images `a`, `b` (see `_centred`) over what counts, and what follows from them.

    Centred first: sum(I*I) - sum(I)^2/n cancels when the window is nearly flat. The variances do not notice the shift
    if the outside, which reads zero where n is fixed, is shifted too.
    """
    counts = torch.ones_like(a) if mask is None else (mask > 0).to(a.dtype).expand_as(a)
    (a, shift_a), (b, shift_b) = _centred(a, counts), _centred(b, counts)
    if form.count:
        shift_a = shift_b = torch.zeros_like(shift_a)
    n = _box(counts, form, 0.0 if form.count else 1.0)
    n = torch.where(n > 0, n, 1.0)
    sum_a, sum_b = _box(a, form, -shift_a), _box(b, form, -shift_b)
    square_a, square_b = _box(a * a, form, shift_a * shift_a), _box(b * b, form, shift_b * shift_b)
    var_a, var_b = square_a - sum_a * sum_a / n, square_b - sum_b * sum_b / n
    # What rounding leaves of a constant window is no variance.
    flat_a, flat_b = var_a <= FLAT * square_a, var_b <= FLAT * square_b
    c = _box(a * b, form, shift_a * shift_b) - sum_a * sum_b / n
    var_a, var_b = torch.where(flat_a, 0.0, var_a), torch.where(flat_b, 0.0, var_b)
    c = torch.where(flat_a | flat_b, 0.0, c)
    return {"a": a, "b": b, "n": n, "sum_a": sum_a, "sum_b": sum_b, "c": c, "var_a": var_a, "var_b": var_b}


def _centred(x: Volume, counts: Mask) -> tuple[Volume, torch.Tensor]:
    """`x` less the mean of what counts and is finite, 0 where it does not count, and that mean."""
    known = (counts > 0) & x.detach().isfinite()
    shift = torch.where(known, x.detach(), 0.0).sum() / known.sum().clamp_min(1)
    return torch.where(counts > 0, x - shift, 0.0), shift


def _floored(var: torch.Tensor, form: LnccForm) -> tuple[torch.Tensor, torch.Tensor]:
    """The variance as the definition uses it, and 1 where it still varies, else 0."""
    if form.floor == "max":
        return var.clamp_min(form.floor_eps), (var > form.floor_eps).to(var.dtype)
    if form.floor == "add":
        return var.clamp_min(0) + form.floor_eps, (var > 0).to(var.dtype)
    return var, torch.ones_like(var)


def _product(square: torch.Tensor, form: LnccForm) -> torch.Tensor:
    """What the covariance is divided by: the product of the variances, or its root, which has no slope at 0."""
    return square if form.squared else torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def lncc_map(a: Volume, b: Volume, form: LnccForm, mask: Mask | None = None) -> Volume:
    """Local correlation of every window, over the voxels where `mask` is above 0, computed in float64.
    Differentiable as it stands.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.double(), b.double()
    s = _statistics(a, b, form, mask)
    scale = 1 / s["n"] if form.mean else torch.ones_like(s["n"])
    c, var_a, var_b = s["c"] * scale, s["var_a"] * scale, s["var_b"] * scale
    floored_a, floored_b = _floored(var_a, form)[0], _floored(var_b, form)[0]
    if form.cross_floor:
        c = c.clamp_min(form.floor_eps)
    flat = (var_a * var_b).abs() <= form.flat_eps
    den = torch.where(flat, 1.0, _product(floored_a * floored_b, form) + form.den_eps)
    cc = ((c * c if form.squared else c) + form.num_eps) / den
    if form.clamp:
        cc = cc.clamp_max(1)
    cc = torch.where(flat, torch.full_like(cc, form.flat), cc)
    return cc.to(dtype)


def lncc(
    a: Volume,
    b: Volume,
    weight: Mask | None,
    form: LnccForm,
    scale: float,
    need_a: bool,
    need_b: bool,
    need_map: bool,
    mask: Mask | None = None,
) -> tuple[Scalar, Volume | None, Volume | None, Volume | None]:
    """Sum of weight * cc over the windows (float64), gradients of scale * that sum, and cc itself.

    `weight` is that of the windows. Voxels where `mask` is 0 or less enter no sum, n counts the others, and windows of
    weight 0 are left out, whatever lies in them; the outside of the image is as without a mask.

    With s = 1 (or 1/n for means), m the floor's mask and den = v_a v_b + den_eps: C = 2 g c s / den,
    V_a = -g cc v_b m_a s / den, A_a = -(S_b C + 2 S_a V_a) / n; d/da = box A_a + 2 a box V_a + b box C. Not squared,
    with r = sqrt(v_a v_b) and den = r + den_eps: C = g s / den, V_a = -g cc v_b m_a s / (2 r den).
    """
    dtype_a, dtype_b = a.dtype, b.dtype
    a, b = a.double(), b.double()
    g = torch.ones_like(a) if weight is None else weight.double().expand_as(a)
    s = _statistics(a, b, form, mask)
    unit = 1 / s["n"] if form.mean else torch.ones_like(s["n"])
    c, var_a, var_b = s["c"] * unit, s["var_a"] * unit, s["var_b"] * unit
    (floored_a, mask_a), (floored_b, mask_b) = _floored(var_a, form), _floored(var_b, form)
    crossed = torch.ones_like(c)
    if form.cross_floor:
        crossed = (c > form.floor_eps).to(c.dtype)
        c = c.clamp_min(form.floor_eps)
    root = _product(floored_a * floored_b, form)
    flat = (var_a * var_b).abs() <= form.flat_eps
    den = torch.where(flat, 1.0, root + form.den_eps)
    cc = ((c * c if form.squared else c) + form.num_eps) / den
    moving = ~flat
    if form.clamp:
        moving = moving & (cc <= 1)
        cc = cc.clamp_max(1)
    cc = torch.where(flat, torch.full_like(cc, form.flat), cc)
    enters = torch.ones_like(moving) if mask is None else g != 0
    value = torch.where(enters, g * cc, 0.0).sum()

    g = g * moving * scale * unit
    if form.squared:
        big_c, share = 2 * g * c * crossed / den, -g * cc / den
    else:
        big_c, share = g * crossed / den, -g * cc / den * torch.where(root > 0, 0.5 / root, 0.0)
    slope_a, slope_b = share * floored_b * mask_a, share * floored_a * mask_b
    adjoint_a = -(s["sum_b"] * big_c + 2 * s["sum_a"] * slope_a) / s["n"]
    adjoint_b = -(s["sum_a"] * big_c + 2 * s["sum_b"] * slope_b) / s["n"]
    if mask is not None:
        big_c, slope_a, slope_b, adjoint_a, adjoint_b = (
            torch.where(enters, x, 0.0) for x in (big_c, slope_a, slope_b, adjoint_a, adjoint_b)
        )
    box_c = _box(big_c, form)
    a, b = s["a"], s["b"]
    grad_a = _box(adjoint_a, form) + 2 * a * _box(slope_a, form) + b * box_c
    grad_b = _box(adjoint_b, form) + 2 * b * _box(slope_b, form) + a * box_c
    if mask is not None:
        grad_a, grad_b = torch.where(mask > 0, grad_a, 0.0), torch.where(mask > 0, grad_b, 0.0)
    return (
        value,
        grad_a.to(dtype_a) if need_a else None,
        grad_b.to(dtype_b) if need_b else None,
        cc.to(torch.promote_types(dtype_a, dtype_b)) if need_map else None,
    )


# ---------------------------------------------------------------- integration


def integrate_forward(velocity: Flow, steps: int, padding: str, need_grad: bool) -> tuple[Flow, torch.Tensor]:
    """Scaling and squaring: v / 2^steps, then `steps` times v <- v + v o (id + v). Also every v on the way."""
    v = velocity.to(_work_dtype(velocity)) / 2**steps
    saved = []
    for _ in range(steps):
        saved.append(v)
        v = v + warp(v, v, "linear", padding, False)
    kept = torch.stack(saved) if saved and need_grad else velocity.new_empty((0,))
    return v.to(velocity.dtype), kept


def integrate_saved_like(velocity: Flow, steps: int, need_grad: bool) -> torch.Tensor:
    """An empty tensor like the second result of `integrate_forward`."""
    if not need_grad or steps == 0:
        return velocity.new_empty((0,))
    return velocity.new_empty((steps, *velocity.shape), dtype=_work_dtype(velocity))


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """Gradient to the velocity, through the fields that the forward kept."""
    total = grad.to(_work_dtype(velocity))
    for v in reversed(list(saved)):
        grad_vol, grad_flow = warp_backward(total, v, v, "linear", padding, False, True, True)
        assert grad_vol is not None and grad_flow is not None
        total = total + grad_vol + grad_flow
    return (total / 2**steps).to(velocity.dtype)
