"""`fastreg.integrate`: the exponential of a stationary velocity field by scaling and squaring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.ops._autograd import needs_reference, no_double_backward, wants_grad
from fastreg.ops._define import define_op
from fastreg.types import PADDINGS, Flow
from fastreg.utils.checks import check_choice, check_flow, check_whole


def integrate(velocity: Flow, *, steps: int = 7, padding: str = "zeros", backend: str | None = None) -> Flow:
    """Displacement after unit time along a stationary velocity field: v / 2^steps, then v <- v + v o (id + v).

    `integrate(-velocity)` is its inverse.

    Args:
        velocity: [batch, 3, D, H, W] or [batch, 2, H, W], voxels per unit time.
        steps: Number of squarings; 0 returns the velocity itself.
        padding: The field outside its grid, as in `fastreg.warp`: "zeros" is VoxelMorph's.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        Like `velocity`, in voxels. Differentiable.

    Raises:
        TypeError: `velocity` is no floating-point tensor, or `steps` no integer.
        ValueError: shapes or names that do not fit.

    Source: Arsigny et al. 2006; Dalca et al. 2018.
    """
    check_flow("velocity", velocity)
    check_whole("steps", steps, 0)
    check_choice("padding", padding, PADDINGS)
    if needs_reference(velocity):
        return reference.integrate_forward(velocity, steps, padding, False)[0]
    name = backends.choose(backend, velocity)
    return torch.ops.fastreg.integrate(velocity, steps, padding, wants_grad(velocity), name)[0]


@define_op("integrate")
def _integrate(velocity: Tensor, steps: int, padding: str, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    return backends.get(backend).integrate_forward(velocity, steps, padding, need_grad)


@_integrate.register_fake
def _(velocity: Tensor, steps: int, padding: str, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    return velocity.new_empty(velocity.shape), backends.get(backend).integrate_saved_like(velocity, steps, need_grad)


@define_op("integrate_backward")
def _integrate_backward(
    grad: Tensor, velocity: Tensor, saved: Tensor, steps: int, padding: str, backend: str
) -> Tensor:
    return backends.get(backend).integrate_backward(grad, velocity, saved, steps, padding)


@_integrate_backward.register_fake
def _(grad: Tensor, velocity: Tensor, saved: Tensor, steps: int, padding: str, backend: str) -> Tensor:
    return velocity.new_empty(velocity.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    velocity, steps, padding, _, backend = inputs
    ctx.save_for_backward(velocity, output[1])
    ctx.options = steps, padding, backend
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, again: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    velocity, saved = ctx.saved_tensors
    return torch.ops.fastreg.integrate_backward(grad, velocity, saved, *ctx.options), None, None, None, None


_integrate.register_autograd(_backward, setup_context=_setup)
_integrate_backward.register_autograd(no_double_backward("integrate"))
