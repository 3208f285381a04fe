"""A step of Adam for a velocity field, its update smoothed before it is added."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastreg import backends
from fastreg.ops._define import define_op
from fastreg.types import Flow
from fastreg.utils.checks import check_at_least, check_in_place, check_whole

MOST_PASSES = 4


def adam_step(
    velocity: Flow,
    grad: Flow,
    mean: Flow,
    square: Flow,
    count: int,
    *,
    step: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    passes: int = 0,
    backend: str | None = None,
) -> None:
    """One step down the gradient, in place; `backends.reference.smoothed_update` says by how much. No autograd.

    Args:
        velocity: [batch, 3, D, H, W] or [batch, 2, H, W], float32 or float64; changed.
        grad: Like `velocity`; overwritten with anything.
        mean: Like `velocity`, zeros at first: running mean of the gradients; changed.
        square: Like `velocity`, zeros at first: running mean of their squares; changed.
        count: Number of steps, this one included.
        step: Length of a step, in voxels where the gradient keeps its sign.
        passes: How often the update goes through the filter (1 2 1) / 4 along every axis, at most 4. 0: Adam.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Raises:
        TypeError: dtypes that are not float32 or float64, a `count` that is no integer.
        ValueError: fields that are not contiguous or not alike, numbers out of range.

    Source: Kingma and Ba 2015.
    """
    check_in_place(velocity=velocity, grad=grad, mean=mean, square=square)
    check_whole("count", count, 1)
    check_whole("passes", passes, 0)
    if passes > MOST_PASSES:
        raise ValueError(f"passes must be at most {MOST_PASSES}, got {passes}")
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {beta}")
    check_at_least("eps", eps, 0)
    if not math.isfinite(step):
        raise ValueError(f"step must be finite, got {step}")
    fields = [field.detach() for field in (velocity, grad, mean, square)]
    torch.ops.fastreg.adam_step_(*fields, count, step, beta1, beta2, eps, passes, backends.choose(backend, velocity))


@define_op("adam_step_", ("velocity", "grad", "mean", "square"))
def _adam_step(
    velocity: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    count: int,
    step: float,
    beta1: float,
    beta2: float,
    eps: float,
    passes: int,
    backend: str,
) -> None:
    backends.get(backend).adam_step(velocity, grad, mean, square, count, step, beta1, beta2, eps, passes)


@_adam_step.register_fake
def _(
    velocity: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    count: int,
    step: float,
    beta1: float,
    beta2: float,
    eps: float,
    passes: int,
    backend: str,
) -> None:
    return None
