"""Whole numbers through kernels that compute in floating point: cut into parts that float32 holds exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastreg.types import Volume
from fastreg.utils.checks import check_volume

_SHORT = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16)
_SIGNED = {torch.uint32: torch.int32, torch.uint64: torch.int64}
_BITS = 24  # whole numbers of so many bits are exact in float32


def is_labels(vol: object) -> bool:
    """Whether `vol` is a tensor of integers or bool."""
    return isinstance(vol, Tensor) and not vol.is_floating_point() and not vol.is_complex()


def check_source(vol: Volume, mode: str) -> int:
    """The number of axes of what is resampled; TypeError for integers that would be interpolated, or no tensor."""
    labels = is_labels(vol)
    if labels and mode != "nearest":
        raise TypeError(f"vol of integers needs mode 'nearest', got {vol.dtype} and mode {mode!r}")
    return check_volume("vol", vol, labels=labels)


def warp_whole(vol: Volume, warp: Callable[[Volume], Volume], look: bool) -> Volume:
    """`warp`, which copies voxels or gives 0 or NaN, of integers or bool: exact, in their dtype; 0 for NaN.

    Args:
        vol: [batch, channels, D, H, W].
        warp: Takes and gives float32.
        look: Numbers are looked at, so that wide integers of few bits are as fast as narrow ones.
    """
    words = vol.view(_SIGNED[vol.dtype]) if vol.dtype in _SIGNED else vol
    if vol.dtype in _SHORT or (look and _few_bits(words)):
        return warp(words.float()).nan_to_num(0.0).to(words.dtype).view(vol.dtype)
    bits, parts = torch.iinfo(words.dtype).bits, []
    for start in range(0, bits, _BITS):
        part = words >> start  # the last part has the sign
        parts.append(part if start + _BITS >= bits else part & (1 << _BITS) - 1)
    moved = warp(torch.cat(parts, 1).float()).nan_to_num(0.0).to(torch.int64).chunk(len(parts), 1)
    total = sum((part << _BITS * k for k, part in enumerate(moved)), torch.zeros_like(moved[0]))
    return total.to(words.dtype).view(vol.dtype)


def _few_bits(words: Tensor) -> bool:
    if words.numel() == 0:
        return True
    low, high = words.aminmax()
    return max(-int(low), int(high)) <= 1 << _BITS
