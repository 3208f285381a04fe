"""Launches of Adam with a smoothed update: moments and update, then the filter along one axis after the other."""

from __future__ import annotations

import math

import torch

from .adam_kernels import adam_filter_kernel, adam_update_kernel
from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type


def adam_step(
    velocity: torch.Tensor,
    grad: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    count: int,
    step: float,
    beta1: float,
    beta2: float,
    eps: float,
    passes: int,
) -> None:
    """Changes all four in place; `grad` is overwritten. All are dense and alike, not empty."""
    size, voxels = grid_3d(velocity.shape[2:]), velocity[0, 0].numel()
    grid = programs(velocity.shape[0] * velocity.shape[1], size, ROWS, COLUMNS)
    options = {"WORK": work_type(velocity.dtype), "WIDE": voxels >= 2**31}
    options |= {"BLOCK_Y": ROWS, "BLOCK_X": COLUMNS, "num_warps": WARPS, "enable_fp_fusion": True}
    rates = beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - beta1**count), 1 / (1 - beta2**count), eps
    adam_update_kernel[grid](grad, mean, square, _numbers(velocity, *rates), *size, voxels, **options)
    taps = [math.comb(2 * passes, k) / 4**passes for k in range(2 * passes + 1)]
    source, spare = grad, torch.empty_like(grad)
    axes = range(5 - velocity.ndim, 3) if passes else [2]
    for axis in axes:
        last = axis == 2
        weights = _numbers(velocity, *(-step * tap if last else tap for tap in taps))
        target = velocity if last else spare
        adam_filter_kernel[grid](source, target, weights, *size, voxels, AXIS=axis, PASSES=passes, ADD=last, **options)
        source, spare = target, source


def _numbers(like: torch.Tensor, *values: float) -> torch.Tensor:
    """On the device, in full: an argument of a kernel would be float32."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)
