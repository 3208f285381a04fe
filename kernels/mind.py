"""Launches of the modality independent neighbourhood descriptors."""

from __future__ import annotations

from typing import Any

import torch

from .grid import COLUMNS, ROWS, WARPS, grid_3d, programs, work_type
from .mind_kernels import (
    mind_backward_kernel,
    mind_backward_slopes_kernel,
    mind_backward_weights_kernel,
    mind_forward_kernel,
    mind_forward_mean_kernel,
)


def mind(image: torch.Tensor, out: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Fills `out`; returns the floors, [batch, channels]. Both dense, not empty. `pairs`: places along D, H, W."""
    (grid, size, options), voxels = _launch(image, pairs), image[0, 0].numel()
    partial = image.new_empty(grid, dtype=torch.float64)
    shared = {key: options[key] for key in options if key != "PLANES"}
    mind_forward_mean_kernel[grid](image, partial, *size, voxels, **shared)
    mean = partial.view(*image.shape[:2], -1).sum(2) / (len(pairs) * voxels)
    floor = (1e-3 * mean).to(_work(image)).clamp_min(_tiny(image))
    mind_forward_kernel[grid](image, floor, out, *size, voxels, image.shape[1], _tiny(image), **options)
    return floor


def mind_backward(
    grad: torch.Tensor, image: torch.Tensor, floor: torch.Tensor, out: torch.Tensor, pairs: list[tuple[int, int]]
) -> None:
    """Fills `out` with the gradient to the image. All dense, not empty."""
    (grid, size, options), voxels, count = _launch(image, pairs), image[0, 0].numel(), len(pairs)
    slope = image.new_empty((image.shape[0] * image.shape[1] * count, voxels), dtype=_work(image))
    weight = torch.empty_like(slope)
    channels = image.shape[1]
    mind_backward_slopes_kernel[grid](image, floor, grad, slope, *size, voxels, channels, _tiny(image), **options)
    single = {key: options[key] for key in options if key not in ("PAIRS", "COUNT")}
    mind_backward_weights_kernel[programs(len(slope), size, ROWS, COLUMNS)](slope, weight, *size, voxels, **single)
    mind_backward_kernel[grid](image, weight, out, *size, voxels, **options)


def _work(image: torch.Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _tiny(image: torch.Tensor) -> float:
    return torch.finfo(_work(image)).tiny


def _launch(
    image: torch.Tensor, pairs: list[tuple[int, int]]
) -> tuple[tuple[int], tuple[int, int, int], dict[str, Any]]:
    """The grid of a program a tile, the image's size in three axes, and what the kernels are compiled for."""
    size = grid_3d(image.shape[2:])
    options = {
        "PAIRS": tuple(place for pair in pairs for place in pair),
        "COUNT": len(pairs),
        "PLANES": 3 if image.ndim == 5 else 1,
        "WORK": work_type(image.dtype),
        "WIDE": size[0] * size[1] * size[2] >= 2**31,
        "BLOCK_Y": ROWS,
        "BLOCK_X": COLUMNS,
        "num_warps": WARPS,
        "enable_fp_fusion": True,
    }
    return programs(image.shape[0] * image.shape[1], size, ROWS, COLUMNS), size, options
