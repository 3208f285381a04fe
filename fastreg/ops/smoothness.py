"""The diffusion penalty of a displacement field, with its gradient made in the same sweep.

`fastreg.smoothness` is the public function; this is its `penalty="l2"`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastreg import backends
from fastreg.ops._autograd import needs_reference, register_kept_gradient, value_dtype, wants_grad
from fastreg.ops._define import define_op
from fastreg.types import Flow, Scalar


def smoothness_l2(flow: Flow, backend: str | None = None) -> Scalar:
    """Mean over the axes of the mean squared forward difference (VoxelMorph's 'l2'); `flow` as in `integrate`."""
    if needs_reference(flow):
        differences = [flow.diff(dim=axis) for axis in range(2, flow.ndim)]
        present = [difference.square().mean() for difference in differences if difference.numel()]
        return sum(present, flow.new_zeros(())) / len(differences)
    return torch.ops.fastreg.smoothness(flow, wants_grad(flow), backends.choose(backend, flow))[0]


@define_op("smoothness")
def _smoothness(flow: Tensor, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    value, grad = backends.get(backend).smoothness(flow, need_grad)
    return value.to(value_dtype(flow)), flow.new_empty((0,)) if grad is None else grad


@_smoothness.register_fake
def _(flow: Tensor, need_grad: bool, backend: str) -> tuple[Tensor, Tensor]:
    return flow.new_empty((), dtype=value_dtype(flow)), flow.new_empty(flow.shape if need_grad else (0,))


register_kept_gradient(_smoothness, "smoothness")
