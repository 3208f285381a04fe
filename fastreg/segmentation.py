"""Soft Dice of label maps under a warp, for any number of labels at the memory of one.

One-hot channels are never built: a warped channel's value at a voxel is the sum of the weights of those of the 8
corners that carry its label, so sums over voxels are weighted counts of corners, and so is their gradient.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreg.backends.reference import linear_index, whole_and_fraction
from fastreg.files import InputError, check_exists
from fastreg.ops._checks import check_flow, shape
from fastreg.types import Flow, Scalar


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


# ---------------------------------------------------------------- which labels make a structure


def read_structures(text: str) -> tuple[tuple[int, ...], ...] | None:
    """Structures, each one or more labels, from what a user wrote; None for "all".

    Args:
        text: "all"; labels as in "3,42"; or a JSON file: a list of labels or of lists of labels, a table
            {name: label}, {label: name} or, for coarse groups, {name: [labels]}.

    Raises:
        InputError: anything else, a label in two structures, 0 (the background).
    """
    if text.strip().lower() == "all":
        return None
    if not text.lower().endswith(".json"):
        found: Any = [word.strip() for word in text.split(",") if word.strip()]
    else:
        try:
            found = json.loads(check_exists(Path(text), "seg labels").read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"seg labels {text}: not a JSON file ({error})") from error
    if isinstance(found, dict):
        found = list(found) if all(_is_label(key) for key in found) else list(found.values())
    groups = [entry if isinstance(entry, list) else [entry] for entry in found] if isinstance(found, list) else []
    words = [label for group in groups for label in group]
    bad = next((word for word in words if not _is_label(word) or int(word) == 0), None)
    if bad is not None or not words or not all(groups):
        raise InputError(f"seg labels {text}: expected all, labels such as 3,42, or JSON of them, got {bad!r}")
    labels = [int(word) for word in words]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"seg labels {text}: label {twice} comes twice")
    return tuple(tuple(int(label) for label in group) for group in groups)


def _is_label(value: Any) -> bool:
    return not isinstance(value, bool) and str(value).strip().lstrip("-").isdigit()


def structure_codes(labels: Tensor, structures: Sequence[Sequence[int]]) -> Tensor:
    """The map with the labels of the k-th structure as k + 1 and all others as 0, int32."""
    known = sorted((label, k + 1) for k, group in enumerate(structures) for label in group)
    values = torch.tensor([label for label, _ in known])
    codes = torch.tensor([code for _, code in known], dtype=torch.int32)
    place = torch.searchsorted(values, labels.long()).clamp_max(len(known) - 1)
    return torch.where(values[place] == labels, codes[place], 0)
