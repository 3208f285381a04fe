"""The op behind `fastreg.warp` and `fastreg.grid_sample`, of checked arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.backends.compiled import warped_shape
from fastreg.ops._autograd import needs_reference, no_double_backward
from fastreg.ops._define import define_op
from fastreg.ops._labels import is_labels, warp_whole
from fastreg.types import Flow, Volume


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
