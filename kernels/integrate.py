"""Launches of scaling and squaring: one step v <- v + v o (id + v), and its adjoint."""

from __future__ import annotations

import torch
import triton

from .grid import grid_3d, magnitude, tuned, tuned_programs, work_type
from .integrate_kernels import integrate_backward_square_kernel, integrate_forward_square_kernel

_KEY = ("magnitude", "NDIM", "PADDING")
_square = tuned(integrate_forward_square_kernel, _KEY)
_square_adjoint = tuned(integrate_backward_square_kernel, _KEY, zeroed=("grad_v",))


def _launch(kernel: triton.runtime.Autotuner, tensors: list[torch.Tensor], padding: str) -> None:
    v, *_ = tensors
    size = grid_3d(v.shape[2:])
    voxels = size[0] * size[1] * size[2]
    kernel[tuned_programs(v.shape[0], size)](
        *tensors,
        *size,
        voxels,
        magnitude(size),
        NDIM=v.ndim - 2,
        PADDING=padding,
        WORK=work_type(v.dtype),
        WIDE=3 * voxels >= 2**31,
        enable_fp_fusion=True,
    )


def square(v: torch.Tensor, out: torch.Tensor, padding: str) -> None:
    """out = v + v o (id + v). Both dense [batch, 3, D, H, W] or [batch, 2, H, W], float32 or float64, not empty."""
    _launch(_square, [v, out], padding)


def square_adjoint(grad: torch.Tensor, v: torch.Tensor, grad_v: torch.Tensor, padding: str) -> None:
    """Adds to `grad_v`, which is zero, the gradient of sum(grad * square(v)). Tensors as in `square`."""
    _launch(_square_adjoint, [grad, v, grad_v], padding)
