"""Launch of the diffusion penalty: mean over the axes of the mean squared forward difference, and its gradient."""

from __future__ import annotations

import torch

from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type
from .smoothness_kernels import smoothness_kernel


def smoothness(flow: torch.Tensor, grad: torch.Tensor | None) -> torch.Tensor:
    """The penalty (0-d float64, on the device); fills `grad`. `flow` is dense and not empty."""
    size = grid_3d(flow.shape[2:])
    images = flow.shape[0] * flow.shape[1]
    (count,) = grid = programs(images, size, ROWS, COLUMNS)
    partial = flow.new_empty((count,), dtype=torch.float64)
    smoothness_kernel[grid](
        flow,
        partial,
        flow if grad is None else grad,
        *size,
        flow[0, 0].numel(),
        flow.numel(),
        NDIM=flow.ndim - 2,
        WORK=work_type(flow.dtype),
        WIDE=size[0] * size[1] * size[2] >= 2**31,
        NEED_GRAD=grad is not None,
        BLOCK_Y=ROWS,
        BLOCK_X=COLUMNS,
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    return partial.sum()
