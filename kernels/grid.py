"""How launches are sized. Shared by the launches of every op."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROWS, COLUMNS, WARPS = 8, 32, 4
"""The tile of kernels that are not tuned, because they add up a value: its order must not change."""


def programs(images: int, size: tuple[int, int, int], rows: int, columns: int) -> tuple[int]:
    """The launch grid of `tile`: one axis, because the others end at 65535."""
    depth, height, width = size
    return (images * depth * triton.cdiv(height, rows) * triton.cdiv(width, columns),)


def tuned_programs(images: int, size: tuple[int, int, int]) -> Callable[[dict[str, Any]], tuple[int]]:
    """`programs` for the tile that a `tuned` kernel runs with."""
    return lambda config: programs(images, size, config["BLOCK_Y"], config["BLOCK_X"])


def grid_3d(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """D, H, W; a 2-D image has one plane."""
    depth, height, width = (1,) * (3 - len(shape)) + tuple(shape)
    return depth, height, width


def work_type(*dtypes: torch.dtype) -> tl.dtype:
    """What kernels compute in: float64 if an argument is float64, otherwise float32."""
    return tl.float64 if torch.float64 in dtypes else tl.float32


def tuned(kernel: triton.JITFunction, key: tuple[str, ...], zeroed: tuple[str, ...] = ()) -> triton.runtime.Autotuner:
    """`kernel` with the fastest of a few tiles for each `key` of arguments, remembered on disk.

    Args:
        kernel: Has BLOCK_Y and BLOCK_X.
        key: Arguments that a tile is chosen for, beside the dtypes; `magnitude` stands for the image's size.
        zeroed: Arguments that the kernel adds to: trials must not pile up.
    """
    tiles = [(1, 128, 4), (4, 32, 4), (2, 64, 4), (8, 32, 4), (4, 64, 8), (8, 64, 8)]
    if INTERPRETED:
        tiles = [(ROWS, COLUMNS, WARPS)]
    configs = [
        triton.Config({"BLOCK_Y": rows, "BLOCK_X": columns}, num_warps=warps, num_stages=1)
        for rows, columns, warps in tiles
    ]
    return triton.autotune(configs, key=list(key), reset_to_zero=list(zeroed) or None, cache_results=True)(kernel)


def magnitude(size: tuple[int, int, int]) -> int:
    """Number of bits of the voxel count: what tuning distinguishes of the size."""
    return (size[0] * size[1] * size[2]).bit_length()
