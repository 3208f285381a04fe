"""Launches of the cost volume."""

from __future__ import annotations

from typing import Any

import torch

from .correlate_kernels import correlate_backward_kernel, correlate_forward_kernel
from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type


def _shared(a: torch.Tensor, radius: int, measure: str, padding: str) -> tuple[tuple[int, ...], dict[str, Any]]:
    """What all launches take: sizes, and constants."""
    size, voxels = grid_3d(a.shape[2:]), a[0, 0].numel()
    options: dict[str, Any] = {"NDIM": a.ndim - 2, "RADIUS": radius, "SSD": measure == "ssd"}
    options |= {"BORDER": padding == "border", "WORK": work_type(a.dtype), "WIDE": voxels >= 2**31}
    options |= {"BLOCK_Y": ROWS, "BLOCK_X": COLUMNS, "num_warps": WARPS, "enable_fp_fusion": True}
    return (*size, voxels, a.shape[1]), options


def correlate_forward(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, radius: int, measure: str, padding: str,
    sharpness: float | None, grad: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Fills `out` with the scores, or the mean displacement, or, with `grad` to that, the gradient to the scores."""
    sizes, options = _shared(a, radius, measure, padding)
    steep = (sharpness or 0.0) * (1 if measure == "dot" else -1)
    mean, slopes = sharpness is not None and grad is None, grad is not None
    correlate_forward_kernel[programs(a.shape[0], grid_3d(a.shape[2:]), ROWS, COLUMNS)](
        a,
        b,
        out,
        a if grad is None else grad,
        torch.tensor([steep], dtype=torch.float64, device=a.device),
        *sizes,
        MEAN=mean,
        SLOPES=slopes,
        **options,
    )


def correlate_backward(
    slopes: torch.Tensor, a: torch.Tensor, b: torch.Tensor, grad: torch.Tensor, radius: int, measure: str,
    padding: str, to_b: bool,
) -> None:  # fmt: skip
    """Fills `grad`, to `b` or to `a`, from the gradient to the scores. All is dense and not empty."""
    sizes, options = _shared(a, radius, measure, padding)
    correlate_backward_kernel[programs(a.shape[0], grid_3d(a.shape[2:]), ROWS, COLUMNS)](
        a, b, slopes, grad, *sizes, TO_B=to_b, **options
    )
