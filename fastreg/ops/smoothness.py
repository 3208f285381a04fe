"""The diffusion penalty of a displacement field, with its gradient made in the same sweep.

`fastreg.smoothness` is the public function; this is its `penalty="l2"`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.ops._autograd import needs_reference, no_double_backward, times, wants_grad
from fastreg.types import Flow, Scalar


def smoothness_l2(flow: Flow, backend: str | None = None) -> Scalar:
    """Mean over the axes of the mean squared forward difference (VoxelMorph's 'l2'); `flow` as in `integrate`."""
    if needs_reference(flow):
        differences = [flow.diff(dim=axis) for axis in range(2, flow.ndim)]
        present = [difference.square().mean() for difference in differences if difference.numel()]
        return sum(present, flow.new_zeros(())) / len(differences)
    return torch.ops.fastreg.smoothness(flow, wants_grad(flow), backends.choose(backend, flow))[0]


def _dtype(flow: Tensor) -> torch.dtype:
    return torch.float64 if flow.dtype == torch.float64 else torch.float32


@torch.library.custom_op("fastreg::smoothness", mutates_args=())
def _smoothness(flow: Tensor, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    value, grad = backends.get(backend).smoothness(flow, need_grad)
    return value.to(_dtype(flow)), flow.new_empty(0) if grad is None else grad


@_smoothness.register_fake
def _(flow: Tensor, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    return flow.new_empty((), dtype=_dtype(flow)), flow.new_empty(flow.shape if need_grad else 0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, again: Tensor | None) -> tuple[Tensor | None, ...]:
    if again is not None:
        no_double_backward("smoothness")(ctx)
    (kept,) = ctx.saved_tensors
    return None if grad is None else times(kept, grad), None, None


_smoothness.register_autograd(_backward, setup_context=_setup)
