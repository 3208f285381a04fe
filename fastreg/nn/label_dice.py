"""Soft Dice of label maps under a warp, for any number of labels at the memory of one.

One-hot channels are never built: a warped channel's value at a voxel is the sum of the weights of those of the 8
corners that carry its label, so sums over voxels are weighted counts of corners, and so is their gradient.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastreg.backends.reference import linear_index, whole_and_fraction
from fastreg.types import Flow, Scalar
from fastreg.utils.checks import check_flow, shape


class LabelDice(nn.Module):
    """Minus the mean soft Dice of structures, the moving ones warped linearly: -1 where they agree (TMI 2019, eq. 6).

    Equals `losses.Dice` of warped one-hot channels. Structures that are empty in both maps do not count; without any
    the loss is 0. Memory does not grow with the number of structures.
    """

    def forward(self, moving: Tensor, fixed: Tensor, flow: Flow) -> Scalar:
        """The loss; the gradient goes to `flow`.

        Args:
            moving: [batch, 1, D, H, W], integers: 0 for the background, k for structure k.
            fixed: Likewise, on the grid of `flow`.
            flow: [batch, 3, D, H, W], voxels.

        Raises:
            ValueError: shapes that do not fit, maps that are no integers.
        """
        ndim = check_flow("flow", flow)
        for name, labels in (("moving", moving), ("fixed", fixed)):
            if labels.is_floating_point():
                raise ValueError(f"{name} must hold integers, got {labels.dtype}")
            if labels.ndim != ndim + 2 or labels.shape[:2] != (len(flow), 1):
                raise ValueError(f"{name} must be [{len(flow)}, 1, ...] with {ndim} axes, got {shape(labels)}")
        if fixed.shape[2:] != flow.shape[2:]:
            raise ValueError(f"fixed must lie on the grid of flow {shape(flow)}, got {shape(fixed)}")
        loss: Scalar = _LabelDice.apply(flow, moving, fixed)  # type: ignore[no-untyped-call]
        return loss


class _LabelDice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flow: Flow, moving: Tensor, fixed: Tensor) -> Scalar:
        work = torch.promote_types(flow.dtype, torch.float32)
        batch = len(flow)
        columns = 1 + int(max(moving.max(), fixed.max())) if flow.numel() else 1
        ours = _columns(fixed.flatten(1), columns)
        overlap, moved = (torch.zeros(batch * columns, dtype=torch.float64, device=flow.device) for _ in range(2))
        for theirs, factors, _ in _corners(moving, flow.to(work), columns):
            weight = _product(factors)
            moved.index_add_(0, theirs.flatten(), weight.flatten().double())
            overlap.index_add_(0, theirs.flatten(), torch.where(theirs == ours, weight, 0).flatten().double())
        total = moved + torch.bincount(ours.flatten(), minlength=batch * columns)
        present = total > 0
        present.view(batch, columns)[:, 0] = False  # the background is no structure
        count = present.sum().clamp_min(1)
        inverse = torch.where(present, 1 / total, 0.0)
        ctx.save_for_backward(flow, moving, fixed, -2 * inverse / count, 2 * overlap * inverse.square() / count)
        ctx.columns = columns
        return (-(2 * overlap * inverse).sum() / count).to(work)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Flow, None, None]:
        flow, moving, fixed, by_overlap, by_moved = ctx.saved_tensors
        work = torch.promote_types(flow.dtype, torch.float32)
        by_overlap, by_moved = (grad.double() * by_overlap).to(work), (grad.double() * by_moved).to(work)
        ours = _columns(fixed.flatten(1), ctx.columns)
        slope = torch.zeros_like(flow, dtype=work).flatten(2)
        for theirs, factors, corner in _corners(moving, flow.to(work), ctx.columns):
            share = by_moved[theirs] + torch.where(theirs == ours, by_overlap[theirs], 0)
            for axis, upper in enumerate(corner):
                rest = _product([share, *factors[:axis], *factors[axis + 1 :]])
                slope[:, axis] += rest if upper else -rest
        return slope.view_as(flow).to(flow.dtype), None, None


def _columns(labels: Tensor, columns: int) -> Tensor:
    """[batch, points], int64: where each label of each batch item is counted."""
    return labels.long() + columns * torch.arange(len(labels), device=labels.device)[:, None]


def _corners(moving: Tensor, flow: Flow, columns: int) -> Iterator[tuple[Tensor, list[Tensor], tuple[int, ...]]]:
    """For each corner: the column of the label there, [batch, points], its weight's factor along each axis, and which
    corner it is. The outside is background, column 0."""
    ndim, size = flow.shape[1], tuple(moving.shape[2:])
    split = [whole_and_fraction(flow.detach(), axis) for axis in range(ndim)]
    values = moving.flatten(1)
    for corner in itertools.product((0, 1), repeat=ndim):
        flat, inside = linear_index([split[k][0] + corner[k] for k in range(ndim)], size, "zeros")
        there = torch.where(inside, values.gather(1, flat), 0)
        factors = [(split[k][1] if corner[k] else 1 - split[k][1]).flatten(1) for k in range(ndim)]
        yield _columns(there, columns), factors, corner


def _product(factors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.mul, factors)
