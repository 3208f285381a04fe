"""What a registration pays for its velocity field: roughness, and change of volume.

`penalty_` adds the gradient of both to the image's, in place and in one sweep; `volume_l2` is the second alone, with
autograd (the first alone is `fastreg.smoothness`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.ops._autograd import needs_reference, register_kept_gradient, value_dtype, wants_grad
from fastreg.ops._define import define_op
from fastreg.types import Flow, Mask, Scalar
from fastreg.utils.checks import check_at_least, check_floating, check_flow, check_in_place, check_same_device, shape


def penalty_(
    velocity: Flow,
    grad: Flow,
    known: Mask | None = None,
    *,
    smoothness: float,
    volume: float,
    backend: str | None = None,
) -> Scalar:
    """smoothness * R + volume * V, float64; its gradient to `velocity` is added to `grad`. No autograd.

    Args:
        velocity: [batch, 3, D, H, W] or [batch, 2, H, W], float32 or float64, voxels.
        grad: Like `velocity`, contiguous, changed in place.
        known: [batch, 1, D, H, W], log determinant of the deformation that `velocity` comes on top of; 0 if None.
        smoothness: Weight of R, the mean over the axes of the mean squared forward difference.
        volume: Weight of V, as in `volume_l2`. A part of weight 0 is not computed.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Raises:
        TypeError: dtypes that are not float32 or float64.
        ValueError: shapes or devices that do not fit, a weight below 0, a `grad` that is not contiguous.
    """
    check_in_place(grad=grad)
    check_flow("velocity", velocity)
    if velocity.shape != grad.shape or velocity.dtype != grad.dtype:
        wanted, got = (f"{shape(x)} {x.dtype}" for x in (velocity, grad))
        raise ValueError(f"grad must be like velocity, {wanted}, got {got}")
    _check_known(velocity, known)
    check_same_device(velocity=velocity, grad=grad)
    check_at_least("smoothness", smoothness, 0)
    check_at_least("volume", volume, 0)
    velocity, known = velocity.detach(), None if known is None else known.detach()
    name = backends.choose(backend, velocity)
    return torch.ops.fastreg.penalty_(velocity, known, smoothness, volume, grad.detach(), name)


def volume_l2(velocity: Flow, known: Mask | None = None, backend: str | None = None) -> Scalar:
    """Mean over batch and voxels of (known + div v)^2: how far a small deformation is from keeping volumes.

    div v is made of central differences, of which the border voxels of an axis have none: they contribute 0.

    Args:
        velocity: [batch, 3, D, H, W] or [batch, 2, H, W], voxels.
        known: [batch, 1, D, H, W], log determinant of the deformation that `velocity` comes on top of; 0 if None.
        backend: As in `penalty_`.

    Returns:
        A scalar (float64 for float64 input, otherwise float32). Differentiable with respect to `velocity`.

    Raises:
        ValueError: shapes or devices that do not fit, or a `known` that requires a gradient.
    """
    check_flow("velocity", velocity)
    _check_known(velocity, known)
    if known is not None and wants_grad(known):
        raise ValueError("known has no gradient here: detach it")
    velocity = velocity.to(value_dtype(velocity))
    if needs_reference(velocity, known):
        return reference.volume(velocity, known).to(velocity.dtype)
    name = backends.choose(backend, velocity)
    return torch.ops.fastreg.volume(velocity, known, wants_grad(velocity), name)[0]


def _check_known(velocity: Flow, known: Mask | None) -> None:
    if known is None:
        return
    check_floating("known", known)
    wanted = [velocity.shape[0], 1, *velocity.shape[2:]]
    if list(known.shape) != wanted:
        raise ValueError(f"known must be {wanted} to match velocity {shape(velocity)}, got {shape(known)}")
    check_same_device(velocity=velocity, known=known)


@define_op("penalty_", ("grad",))
def _penalty(
    velocity: Tensor, known: Tensor | None, smoothness: float, volume: float, grad: Tensor, backend: str
) -> Tensor:
    return backends.get(backend).penalty(velocity, known, smoothness, volume, grad)


@_penalty.register_fake
def _(velocity: Tensor, known: Tensor | None, smoothness: float, volume: float, grad: Tensor, backend: str) -> Tensor:
    return velocity.new_empty((), dtype=torch.float64)


@define_op("volume")
def _volume(velocity: Tensor, known: Tensor | None, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    grad = torch.zeros_like(velocity, memory_format=torch.contiguous_format) if need_grad else None
    value = backends.get(backend).penalty(velocity, known, 0.0, 1.0, grad)
    return value.to(velocity.dtype), velocity.new_empty((0,)) if grad is None else grad


@_volume.register_fake
def _(velocity: Tensor, known: Tensor | None, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    return velocity.new_empty(()), velocity.new_empty(velocity.shape if need_grad else (0,))


register_kept_gradient(_volume, "volume_l2")
