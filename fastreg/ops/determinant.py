"""The determinant of a deformation's Jacobian. `fastreg.jacobian_determinant` is the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.ops._autograd import needs_reference, value_dtype, wants_grad
from fastreg.ops._define import define_op
from fastreg.types import Flow
from fastreg.utils.checks import check_choice, check_flow, shape

SCHEMES = ("central", "least")


def determinant(flow: Flow, scheme: str = "central", backend: str | None = None) -> Tensor:
    """det(I + grad u) at every voxel. The gradient of "central" takes plain PyTorch, "least" has none.

    Args:
        flow: [batch, 3, D, H, W] or [batch, 2, H, W], voxels.
        scheme: "central" differences, one-sided at the border; "least": the smallest of the determinants of one-sided
            differences, forward or backward along each axis. Where that is positive, no cell of the grid folds at
            its corners.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, D, H, W] of the flow's dtype, float32 for half precision.

    Raises:
        ValueError: an axis of one voxel, which has no derivative; a gradient of "least".
    """
    check_determinant(flow)
    check_choice("scheme", scheme, SCHEMES)
    if wants_grad(flow) and scheme == "least":
        raise ValueError('scheme "least" has no gradient: detach flow')
    if wants_grad(flow) or needs_reference(flow):
        return reference.determinant(flow, scheme)
    return torch.ops.fastreg.determinant(flow.detach(), scheme, backends.choose(backend, flow))


def check_determinant(flow: Flow) -> int:
    """Raises unless `flow` is a field with at least 2 voxels along every axis; returns the number of axes."""
    ndim = check_flow("flow", flow)
    if min(flow.shape[2:]) < 2:
        raise ValueError(f"flow must have at least 2 voxels along every axis, got {shape(flow)}")
    return ndim


@define_op("determinant")
def _determinant(flow: Tensor, scheme: str, backend: str) -> Tensor:
    return backends.get(backend).determinant(flow, scheme)


@_determinant.register_fake
def _(flow: Tensor, scheme: str, backend: str) -> Tensor:
    return flow.new_empty((flow.shape[0], *flow.shape[2:]), dtype=value_dtype(flow))
