"""Scaling and squaring: one step v <- v + v o (id + v), and its adjoint."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from fastreg.kernels.grid import flat, grid_3d, magnitude, programs, tile, tuned
from fastreg.kernels.warp import corner, linear_axes, slope


@triton.jit(do_not_specialize=["magnitude"])
def square_kernel(
    v,  # [B, NDIM, D, H, W]
    out,  # [B, NDIM, D, H, W]
    D,
    H,
    W,
    voxels,
    magnitude,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    image, z, y, x = tile(D, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    point = flat(z, y, x, H, W, WIDE)
    axes, lost = linear_axes(v, image, (z, y, x), (D, H, W), point, voxels, valid, NDIM, PADDING, False, WORK, WIDE)
    v += image * NDIM * voxels
    out += image * NDIM * voxels
    for _ in tl.static_range(NDIM):
        total = tl.load(v + point, mask=valid, other=0.0)
        for which in tl.static_range(1 << NDIM):
            offset, inside, weight = corner(axes, which, NDIM)
            total += weight * tl.load(v + offset, mask=inside & valid & (weight != 0), other=0.0)
        tl.store(out + point, tl.where(lost, float("nan"), total), mask=valid)
        v += voxels
        out += voxels


@triton.jit(do_not_specialize=["magnitude"])
def square_adjoint_kernel(
    grad,  # [B, NDIM, D, H, W]
    v,  # [B, NDIM, D, H, W]
    grad_v,  # [B, NDIM, D, H, W], added to
    D,
    H,
    W,
    voxels,
    magnitude,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """A field is read in three ways: as itself, as the image that is warped, and as the displacement."""
    image, z, y, x = tile(D, H, W, BLOCK_Y, BLOCK_X)
    valid = (y < H) & (x < W)
    point = flat(z, y, x, H, W, WIDE)
    axes, lost = linear_axes(v, image, (z, y, x), (D, H, W), point, voxels, valid, NDIM, PADDING, False, WORK, WIDE)
    slope_0 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    slope_1 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    slope_2 = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    for component in tl.static_range(NDIM):
        start = (image * NDIM + component) * voxels
        upstream = tl.load(grad + start + point, mask=valid, other=0.0)
        for which in tl.static_range(1 << NDIM):
            offset, inside, weight = corner(axes, which, NDIM)
            value = upstream * tl.load(v + start + offset, mask=inside & valid, other=0.0)
            slope_0 += slope(axes, which, 0, NDIM) * value
            slope_1 += slope(axes, which, 1, NDIM) * value
            if NDIM == 3:
                slope_2 += slope(axes, which, 2, NDIM) * value
            reached = inside & valid & (weight != 0) & (lost == 0)
            tl.atomic_add(grad_v + start + offset, weight * upstream, mask=reached, sem="relaxed")
    for component in tl.static_range(NDIM):
        start = (image * NDIM + component) * voxels
        own = slope_0 if component == 0 else (slope_1 if component == 1 else slope_2)
        own = tl.where(lost, float("nan"), own) + tl.load(grad + start + point, mask=valid, other=0.0)
        tl.atomic_add(grad_v + start + point, own, mask=valid, sem="relaxed")


_KEY = ("magnitude", "NDIM", "PADDING")
_square = tuned(square_kernel, _KEY)
_square_adjoint = tuned(square_adjoint_kernel, _KEY, zeroed=("grad_v",))


def _launch(kernel: Any, tensors: list[torch.Tensor], padding: str) -> None:
    v, *_ = tensors
    size = grid_3d(v.shape[2:])
    voxels = size[0] * size[1] * size[2]
    kernel[lambda config: programs(v.shape[0], size, config["BLOCK_Y"], config["BLOCK_X"])](
        *tensors,
        *size,
        voxels,
        magnitude(size),
        NDIM=v.ndim - 2,
        PADDING=padding,
        WORK=tl.float64 if v.dtype == torch.float64 else tl.float32,
        WIDE=3 * voxels >= 2**31,
        enable_fp_fusion=True,
    )


def square(v: torch.Tensor, out: torch.Tensor, padding: str) -> None:
    """out = v + v o (id + v). Both dense [batch, 3, D, H, W] or [batch, 2, H, W], float32 or float64, not empty."""
    _launch(_square, [v, out], padding)


def square_adjoint(grad: torch.Tensor, v: torch.Tensor, grad_v: torch.Tensor, padding: str) -> None:
    """Adds to `grad_v`, which is zero, the gradient of sum(grad * square(v)). Tensors as in `square`."""
    _launch(_square_adjoint, [grad, v, grad_v], padding)
