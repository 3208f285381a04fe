"""The specification of the local correlation: value, map, and the gradients written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fastreg.backends.lncc_form import window_weights
from fastreg.types import LnccForm, Mask, Scalar, Volume

# A variance below this part of the window's sum of squares is rounding.
FLAT = 1e-13


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


def _matrix_box(x: Volume, form: LnccForm, outside: torch.Tensor | float = 0.0) -> Volume:
    """`_box` as a product with a band matrix along every axis: many times faster, but a NaN reaches the whole axis."""
    for axis, weights in enumerate(window_weights(form), 2):
        size, shape = x.shape[axis], x.shape
        band = x.new_zeros((size, size))
        for step, weight in enumerate(weights, -(len(weights) // 2)):
            band.diagonal(step).fill_(weight) if abs(step) < size else None
        lines = x.reshape(-1, size) if axis == x.ndim - 1 else x.reshape(-1, size, math.prod(shape[axis + 1 :]))
        x = (lines @ band.T if lines.ndim == 2 else band @ lines).reshape(shape)
        beyond = sum(weights) - band.sum(1)
        x = x + outside * beyond.view([-1 if k == axis else 1 for k in range(x.ndim)])
        outside = outside * sum(weights)
    return x


def _statistics(
    a: Volume, b: Volume, form: LnccForm, mask: Mask | None, box: Callable[..., Volume] = _box
) -> dict[str, torch.Tensor]:
    """Window sums of the centred images `a`, `b` (see `_centred`) over what counts, and what follows from them.

    Centred first: sum(I*I) - sum(I)^2/n cancels when the window is nearly flat. The variances do not notice the shift
    if the outside, which reads zero where n is fixed, is shifted too.
    """
    counts = torch.ones_like(a) if mask is None else (mask > 0).to(a.dtype).expand_as(a)
    (a, shift_a), (b, shift_b) = _centred(a, counts), _centred(b, counts)
    if form.count:
        shift_a = shift_b = torch.zeros_like(shift_a)
    n = box(counts, form, 0.0 if form.count else 1.0)
    n = torch.where(n > 0, n, 1.0)
    sum_a, sum_b = box(a, form, -shift_a), box(b, form, -shift_b)
    square_a, square_b = box(a * a, form, shift_a * shift_a), box(b * b, form, shift_b * shift_b)
    var_a, var_b = square_a - sum_a * sum_a / n, square_b - sum_b * sum_b / n
    # What rounding leaves of a constant window is no variance.
    flat_a, flat_b = var_a <= FLAT * square_a, var_b <= FLAT * square_b
    c = box(a * b, form, shift_a * shift_b) - sum_a * sum_b / n
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
    box = _box
    if form.kernel != "box" and all(x.isfinite().all() for x in (a, b, g)):
        box = _matrix_box
    s = _statistics(a, b, form, mask, box)
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
    box_c = box(big_c, form) if need_a or need_b else big_c
    a, b = s["a"], s["b"]
    inside = torch.ones_like(moving) if mask is None else mask > 0

    def gradient(adjoint: torch.Tensor, own: Volume, slope: torch.Tensor, other: Volume) -> Volume:
        return torch.where(inside, box(adjoint, form) + 2 * own * box(slope, form) + other * box_c, 0.0)

    return (
        value,
        gradient(adjoint_a, a, slope_a, b).to(dtype_a) if need_a else None,
        gradient(adjoint_b, b, slope_b, a).to(dtype_b) if need_b else None,
        cc.to(torch.promote_types(dtype_a, dtype_b)) if need_map else None,
    )
