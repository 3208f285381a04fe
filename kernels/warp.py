"""Launches of the warp: out(p) = vol(p + flow(p)), and of its adjoint."""

from __future__ import annotations

import torch

from .grid import grid_3d, magnitude, tuned, tuned_programs, work_type
from .warp_kernels import warp_backward_kernel, warp_forward_kernel

_KEY = ("magnitude", "channels", "NDIM", "MODE", "PADDING", "CHANNELS_LAST", "PLACES")
_forward = tuned(warp_forward_kernel, _KEY)
_backward_to_flow = tuned(warp_backward_kernel, _KEY)
_backward_to_vol = tuned(warp_backward_kernel, (*_KEY, "NEED_FLOW", "FIXED"), zeroed=("grad_vol",))


def _arguments(vol: torch.Tensor, flow: torch.Tensor, channels_last: bool) -> tuple[tuple[int, int, int], list[int]]:
    """The flow's grid, and the kernels' integers from `channels` on."""
    size = grid_3d(vol.shape[2:])
    grid = grid_3d(flow.shape[1:-1] if channels_last else flow.shape[2:])
    voxels, points = size[0] * size[1] * size[2], grid[0] * grid[1] * grid[2]
    return grid, [vol.shape[1], *size, *grid, voxels, points, magnitude(grid)]


def _options(
    vol: torch.Tensor, flow: torch.Tensor, mode: str, padding: str, channels_last: bool, align_corners: bool | None
) -> dict[str, object]:
    ndim = vol.ndim - 2
    return {
        "NDIM": ndim,
        "MODE": mode,
        "PADDING": padding,
        "CHANNELS_LAST": channels_last,
        "PLACES": "" if align_corners is None else ("corners" if align_corners else "edges"),
        "SHARED": vol.shape[0] != flow.shape[0],
        "WORK": work_type(vol.dtype, flow.dtype),
        "WIDE": max(vol[0, 0].numel(), ndim * flow[0].numel()) >= 2**31,
        "enable_fp_fusion": True,
    }


def warp_forward(
    vol: torch.Tensor,
    flow: torch.Tensor,
    out: torch.Tensor,
    mode: str,
    padding: str,
    channels_last: bool,
    align_corners: bool | None,
) -> None:
    """Fills `out`. Tensors are dense and not empty. Unless `align_corners` is None the flow is `grid_sample`'s grid."""
    grid, sizes = _arguments(vol, flow, channels_last)
    _forward[tuned_programs(flow.shape[0], grid)](
        vol, flow, out, *sizes, **_options(vol, flow, mode, padding, channels_last, align_corners)
    )


def warp_backward(
    grad: torch.Tensor,
    vol: torch.Tensor,
    flow: torch.Tensor,
    grad_vol: torch.Tensor | None,
    grad_flow: torch.Tensor | None,
    unit: torch.Tensor | None,
    mode: str,
    padding: str,
    channels_last: bool,
    align_corners: bool | None,
) -> None:
    """Adds to `grad_vol`, which is zero, and fills `grad_flow`; either may be None. Tensors are dense and not empty.

    Args:
        grad: What comes from above, like the warp's result.
        vol: As in `warp_forward`.
        flow: As in `warp_forward`.
        grad_vol: In the dtype of the computation; or int64, counting 1 / `unit`, so that the order does not matter.
        grad_flow: Not with mode "nearest".
        unit: [1] float64, if `grad_vol` is int64.
        mode: As in `warp_forward`.
        padding: As in `warp_forward`.
        channels_last: As in `warp_forward`.
        align_corners: As in `warp_forward`.
    """
    grid, sizes = _arguments(vol, flow, channels_last)
    kernel = _backward_to_flow if grad_vol is None else _backward_to_vol
    kernel[tuned_programs(flow.shape[0], grid)](
        grad,
        vol,
        flow,
        grad if grad_vol is None else grad_vol,  # an address that the kernel does not use
        grad if grad_flow is None else grad_flow,
        grad if unit is None else unit,
        *sizes,
        **_options(vol, flow, mode, padding, channels_last, align_corners),
        NEED_VOL=grad_vol is not None,
        NEED_FLOW=grad_flow is not None,
        FIXED=unit is not None,
    )
