"""Launch of the determinant."""

from __future__ import annotations

import torch

from .determinant_kernels import determinant_kernel
from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type


def determinant(flow: torch.Tensor, out: torch.Tensor, scheme: str) -> None:
    """Fills `out` [batch, D, H, W]. Both dense, not empty."""
    size, voxels = grid_3d(flow.shape[2:]), flow[0, 0].numel()
    determinant_kernel[programs(flow.shape[0], size, ROWS, COLUMNS)](
        flow,
        out,
        *size,
        voxels,
        NDIM=flow.ndim - 2,
        LEAST=scheme == "least",
        WORK=work_type(flow.dtype),
        WIDE=voxels >= 2**31,
        BLOCK_Y=ROWS,
        BLOCK_X=COLUMNS,
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
