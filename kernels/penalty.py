"""Launches of the regularisation: roughness and change of volume, and the gradient of both."""

from __future__ import annotations

import torch

from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type
from .penalty_kernels import penalty_divergence_kernel, penalty_gradient_kernel


def penalty(
    velocity: torch.Tensor,
    known: torch.Tensor | None,
    smoothness_weight: float,
    volume_weight: float,
    grad: torch.Tensor | None,
) -> torch.Tensor:
    """The penalty (0-d float64, on the device); its gradient is added to `grad`. All is dense and not empty."""
    batch, ndim = velocity.shape[:2]
    size, voxels = grid_3d(velocity.shape[2:]), velocity[0, 0].numel()
    (count,) = grid = programs(batch, size, ROWS, COLUMNS)
    options = {"NDIM": ndim, "WORK": work_type(velocity.dtype), "WIDE": voxels >= 2**31}
    options |= {"BLOCK_Y": ROWS, "BLOCK_X": COLUMNS, "num_warps": WARPS, "enable_fp_fusion": True}
    value, divergence = velocity.new_zeros((), dtype=torch.float64), velocity
    if volume_weight != 0:
        divergence = velocity.new_empty((batch, voxels))
        partial = velocity.new_empty((count,), dtype=torch.float64)
        arguments = velocity, velocity if known is None else known, divergence, partial, *size, voxels
        penalty_divergence_kernel[grid](*arguments, KNOWN=known is not None, **options)
        value = value + volume_weight / (batch * voxels) * partial.sum()
    if smoothness_weight != 0 or (grad is not None and volume_weight != 0):
        weights = [smoothness_weight, volume_weight / (batch * voxels)]
        partial = velocity.new_empty((count,), dtype=torch.float64)
        penalty_gradient_kernel[grid](
            velocity,
            divergence,
            torch.tensor(weights, dtype=torch.float64, device=velocity.device),
            velocity if grad is None else grad,
            partial,
            *size,
            voxels,
            velocity.numel(),
            SMOOTHNESS=smoothness_weight != 0,
            VOLUME=volume_weight != 0 and grad is not None,
            NEED_GRAD=grad is not None,
            **options,
        )
        value = value + partial.sum()
    return value
