"""Padding and cropping to sizes that `torch.export` need not know.

A graph of any size holds no branch on a size, and `pad` and `narrow` do: the exporter cannot prove, say,
that an axis is at most as long as it is after padding, and would tie the graph to the sizes of its example. Where axes
are symbols, the same is done by indices, which have no such branch; else in the fastest way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def symbolic(*sizes: Sequence[int]) -> bool:
    """Whether a graph is being exported in which one of these lengths may be any."""
    return torch.compiler.is_exporting() and any(isinstance(length, torch.SymInt) for size in sizes for length in size)


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Zeros at the far ends: [batch, channels, D, H, W] with every spatial axis a multiple of `divisor`."""
    if not symbolic(x.shape[2:]):
        return F.pad(x, [pad for length in reversed(x.shape[2:]) for pad in (0, -length % divisor)])
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        at = torch.arange((length + divisor - 1) // divisor * divisor, device=x.device)
        inside = along(at < length, axis, x.ndim)
        x = torch.where(inside, x.index_select(axis, at.clamp_max(length - 1)), 0.0)
    return x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The near corner, [batch, channels, *size]; a view where that can be one."""
    by_index = symbolic(x.shape[2:], size)
    for axis, length in enumerate(size, 2):
        x = x.index_select(axis, torch.arange(length, device=x.device)) if by_index else x.narrow(axis, 0, length)
    return x


def along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """[length] -> [1, ..., length, ..., 1], so that it broadcasts along `axis`."""
    return values.view([-1 if k == axis else 1 for k in range(ndim)])
