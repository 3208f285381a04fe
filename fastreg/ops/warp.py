"""`fastreg.warp`: resample an image where a displacement field says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.backends.compiled import field_grid, warped_shape
from fastreg.ops._autograd import needs_reference, no_double_backward
from fastreg.ops._define import define_op
from fastreg.ops._labels import check_source, is_labels, warp_whole
from fastreg.types import MODES, PADDINGS, Flow, Volume
from fastreg.utils.checks import check_choice, check_floating, check_same_device, shape, spatial


def warp(
    vol: Volume,
    flow: Flow,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    channels_last: bool = False,
    backend: str | None = None,
) -> Volume:
    """Resample `vol` at `p + flow(p)` for every point p of the flow's grid.

    Coordinates and weights are float32 (float64 for float64 input) whatever the dtype of the volume. At integer
    coordinates the derivative is the right-hand difference. A NaN displacement gives NaN there and only there. One
    field for all volumes, or one volume for all fields, has a batch of 1, or is expanded; it is not copied.

        moved = fastreg.warp(moving, flow)
        moved_labels = fastreg.warp(labels, flow, mode="nearest")  # integers stay integers

    Args:
        vol: [batch, channels, D, H, W] or [batch, channels, H, W], any intensity unit. With mode "nearest" also
            integers or bool, which come back exactly (0 where the displacement is NaN) and have no gradient.
        flow: [batch, 3, D', H', W'] or [batch, 2, H', W'], displacement in voxels of `vol`, channel c along array
            axis c. Its grid may differ from the volume's.
        mode: "linear", or "nearest" (ties to even; no gradient to the flow).
        padding: What lies outside: "zeros", "border" (the nearest voxel), "reflection" (about the centres of the first
            and last voxel), "symmetric" (about their edges) or "itk" (border up to half a voxel outside, 0 beyond).
        channels_last: The flow is [batch, D', H', W', 3] instead.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, channels, D', H', W'], dtype of `vol`. Differentiable in both arguments; the gradient to what a batch
        shares is summed over the batch.

    Raises:
        TypeError: an argument that is no floating-point tensor, or integers with mode "linear".
        ValueError: shapes, devices, modes or backends that do not fit, naming both sides.

    Source: Jaderberg et al. 2015; Balakrishnan et al. 2018, eq. 3. docs/math.md has the exact definition.
    """
    check_choice("mode", mode, MODES)
    ndim = check_source(vol, mode)
    check_floating("flow", flow)
    grid = field_grid(flow, channels_last)
    channels = flow.shape[-1] if channels_last else (flow.shape[1] if flow.ndim > 1 else (0,))
    fits = flow.ndim > 0 and (flow.shape[0] == vol.shape[0] or 1 in (flow.shape[0], vol.shape[0]))
    if flow.ndim != ndim + 2 or channels != ndim or not fits or 0 in grid:
        axes = spatial(ndim)
        wanted = f"[batch, {axes}, {ndim}]" if channels_last else f"[batch, {ndim}, {axes}]"
        raise ValueError(f"flow must be {wanted} to match vol {shape(vol)}, got {shape(flow)}")
    check_choice("padding", padding, PADDINGS)
    check_same_device(vol=vol, flow=flow)
    return resampled(vol, flow, mode, padding, channels_last, backend, None)


def resampled(
    vol: Volume,
    flow: Flow,
    mode: str,
    padding: str,
    channels_last: bool,
    backend: str | None,
    align_corners: bool | None,
) -> Volume:
    """`warp` of checked arguments; unless `align_corners` is None the flow is the grid of `fastreg.grid_sample`."""
    labels = is_labels(vol)
    options = padding, channels_last
    if needs_reference(vol, flow):
        if labels:
            return warp_whole(vol, lambda part: reference.warp(part, flow, mode, *options, align_corners), look=False)
        return reference.warp(vol, flow, mode, *options, align_corners)
    name = backends.choose(backend, flow) if labels else backends.choose(backend, vol, flow)
    vol, flow, batch = _shared(vol, flow)
    if labels:
        moved = torch.ops.fastreg.warp_labels(vol, flow.detach(), *options, name, align_corners)
    else:
        moved = torch.ops.fastreg.warp(vol, flow, mode, *options, name, align_corners)
    return moved if moved.shape[0] == batch else moved.reshape(batch, -1, *moved.shape[2:])


def _shared(vol: Volume, flow: Flow) -> tuple[Volume, Flow, int]:
    """Both with a batch of 1 where all items are the same, and the batch of the result.

    Volumes that share a field become the channels of one: then a place is found once for all of them.
    """
    batch = flow.shape[0] if vol.shape[0] == 1 else vol.shape[0]
    if batch == 0:
        return vol[:0], flow[:0], 0
    if vol.shape[0] > 1 and vol.stride(0) == 0 and flow.shape[0] > 1:
        vol = vol[:1]
    if flow.shape[0] > 1 and flow.stride(0) == 0 and vol.shape[0] > 1:
        flow = flow[:1]
    if flow.shape[0] < vol.shape[0]:
        vol = vol.flatten(0, 1)[None]
    return vol, flow, batch


@define_op("warp_labels")
def _warp_labels(
    vol: Tensor, flow: Tensor, padding: str, channels_last: bool, backend: str, align_corners: bool | None = None
) -> Tensor:
    warped = backends.get(backend).warp_forward
    look = vol.device.type == "cpu"  # elsewhere it would wait for the device
    return warp_whole(vol, lambda part: warped(part, flow, "nearest", padding, channels_last, align_corners), look)


@_warp_labels.register_fake
def _(
    vol: Tensor, flow: Tensor, padding: str, channels_last: bool, backend: str, align_corners: bool | None = None
) -> Tensor:
    return vol.new_empty(warped_shape(vol, flow, channels_last))


@define_op("warp")
def _warp(
    vol: Tensor,
    flow: Tensor,
    mode: str,
    padding: str,
    channels_last: bool,
    backend: str,
    align_corners: bool | None = None,
) -> Tensor:
    return backends.get(backend).warp_forward(vol, flow, mode, padding, channels_last, align_corners)


@_warp.register_fake
def _(
    vol: Tensor,
    flow: Tensor,
    mode: str,
    padding: str,
    channels_last: bool,
    backend: str,
    align_corners: bool | None = None,
) -> Tensor:
    return vol.new_empty(warped_shape(vol, flow, channels_last))


@define_op("warp_backward")
def _warp_backward(
    grad: Tensor,
    vol: Tensor,
    flow: Tensor,
    mode: str,
    padding: str,
    channels_last: bool,
    need_vol: bool,
    need_flow: bool,
    backend: str,
    align_corners: bool | None = None,
) -> tuple[Tensor, Tensor]:
    grad_vol, grad_flow = backends.get(backend).warp_backward(
        grad, vol, flow, mode, padding, channels_last, need_vol, need_flow, align_corners
    )
    return (
        vol.new_empty((0,)) if grad_vol is None else grad_vol,
        flow.new_empty((0,)) if grad_flow is None else grad_flow,
    )


@_warp_backward.register_fake
def _(
    grad: Tensor,
    vol: Tensor,
    flow: Tensor,
    mode: str,
    padding: str,
    channels_last: bool,
    need_vol: bool,
    need_flow: bool,
    backend: str,
    align_corners: bool | None = None,
) -> tuple[Tensor, Tensor]:
    return (
        vol.new_empty(vol.shape) if need_vol else vol.new_empty((0,)),
        flow.new_empty(flow.shape) if need_flow else flow.new_empty((0,)),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    vol, flow, *options = inputs
    ctx.save_for_backward(vol, flow)
    ctx.options = options


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    vol, flow = ctx.saved_tensors
    mode, padding, channels_last, backend, align_corners = ctx.options
    need_vol, need_flow = ctx.needs_input_grad[:2]
    grad_vol, grad_flow = torch.ops.fastreg.warp_backward(
        grad, vol, flow, mode, padding, channels_last, need_vol, need_flow, backend, align_corners
    )
    return grad_vol if need_vol else None, grad_flow if need_flow else None, *[None] * len(ctx.options)


_warp.register_autograd(_backward, setup_context=_setup)
_warp_backward.register_autograd(no_double_backward("warp"))
