"""`fastreg.correlate`: how well each voxel fits those around it in another image, and where it fits best."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.backends.compiled import correlated_like
from fastreg.ops._autograd import needs_reference, no_double_backward
from fastreg.ops._define import define_op
from fastreg.types import MEASURES, Flow, Volume
from fastreg.utils.checks import check_choice, check_same_device, check_volume, check_whole, shape

PADDINGS = ("zeros", "border")
MOST = 15
"""Voxels of radius: 29791 displacements of a volume."""


def correlate(
    a: Volume,
    b: Volume,
    radius: int = 1,
    measure: str = "dot",
    padding: str = "zeros",
    sharpness: float | None = None,
    backend: str | None = None,
) -> Volume | Flow:
    """The local cost volume: `a` at p against `b` at p + d, for every d with components from -radius to radius.

    Sums over channels are float32 (float64 for float64 input) whatever the dtype. With `sharpness` the volume is not
    written: the result is the mean of d with weights softmax(sharpness * score).

        scores = fastreg.correlate(fixed_features, moving_features)  # [batch, 27, D, H, W]
        flow = fastreg.correlate(fixed_features, moving_features, sharpness=10.0)  # [batch, 3, D, H, W], voxels
        moved = fastreg.warp(moving, flow)

    Args:
        a: [batch, channels, D, H, W] or [batch, channels, H, W], features of the fixed image.
        b: Like `a`, features of the moving image.
        radius: Of the search, in voxels, 0 to 15.
        measure: "dot", the mean over channels of a(p) b(p + d), or "ssd", that of (a(p) - b(p + d))^2.
        padding: What `b` is outside of its grid: "zeros", or "border" (the nearest voxel).
        sharpness: Above 0, or None. A score is "dot", or minus "ssd".
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, (2 radius + 1)^ndim, D, H, W], dtype of `a`, the last component of d running fastest. With `sharpness`
        [batch, 3, D, H, W] or [batch, 2, H, W], voxels, float32 for half precision. Differentiable in both arguments.

    Raises:
        TypeError: an argument that is no floating-point tensor, or a radius that is no integer.
        ValueError: shapes, dtypes, devices, names or numbers that do not fit.

    Source: Dosovitskiy et al. 2015, section 3; Sun et al. 2018 (PWC-Net). docs/math.md has the exact definition.
    """
    check_volume("a", a)
    check_volume("b", b)
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"b must be like a, {shape(a)} {a.dtype}, got {shape(b)} {b.dtype}")
    check_same_device(a=a, b=b)
    check_whole("radius", radius, 0)
    if radius > MOST:
        raise ValueError(f"radius must be at most {MOST}, got {radius}")
    check_choice("measure", measure, MEASURES)
    check_choice("padding", padding, PADDINGS)
    if sharpness is not None and not 0 < sharpness < float("inf"):
        raise ValueError(f"sharpness must be positive and finite, got {sharpness}")
    if needs_reference(a, b):
        return reference.correlate(a, b, radius, measure, padding, sharpness)
    return torch.ops.fastreg.correlate(a, b, radius, measure, padding, sharpness, backends.choose(backend, a, b))


@define_op("correlate")
def _correlate(
    a: Tensor, b: Tensor, radius: int, measure: str, padding: str, sharpness: float | None, backend: str
) -> Tensor:
    return backends.get(backend).correlate_forward(a, b, radius, measure, padding, sharpness)


@_correlate.register_fake
def _(a: Tensor, b: Tensor, radius: int, measure: str, padding: str, sharpness: float | None, backend: str) -> Tensor:
    return correlated_like(a, radius, sharpness)


@define_op("correlate_backward")
def _correlate_backward(
    grad: Tensor,
    a: Tensor,
    b: Tensor,
    radius: int,
    measure: str,
    padding: str,
    sharpness: float | None,
    need_a: bool,
    need_b: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = backends.get(backend).correlate_backward(
        grad, a, b, radius, measure, padding, sharpness, need_a, need_b
    )
    return a.new_empty((0,)) if grad_a is None else grad_a, b.new_empty((0,)) if grad_b is None else grad_b


@_correlate_backward.register_fake
def _(grad: Tensor, a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    need_a, need_b = options[-3:-1]
    return a.new_empty(a.shape if need_a else (0,)), b.new_empty(b.shape if need_b else (0,))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, *options = inputs
    ctx.save_for_backward(a, b)
    ctx.options = options


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *options, backend = ctx.options
    need_a, need_b = ctx.needs_input_grad[:2]
    grad_a, grad_b = torch.ops.fastreg.correlate_backward(grad, *ctx.saved_tensors, *options, need_a, need_b, backend)
    return grad_a if need_a else None, grad_b if need_b else None, *[None] * len(ctx.options)


_correlate.register_autograd(_backward, setup_context=_setup)
_correlate_backward.register_autograd(no_double_backward("correlate"))
