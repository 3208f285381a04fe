"""What fastreg is measured against, called as its users call it. A peer that is not installed says so.

Each function takes the case's tensors and gives a thunk that does the whole job once, gradients included where the case
says so. Shapes as in fastreg: vol [1, 1, D, H, W], flow [1, 3, D, H, W] in voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastreg

Thunk = Callable[[], Any]


class Absent(Exception):
    """The peer cannot run here; the message says why."""


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"{name.split('.')[0]} is not installed ({error})") from error


def _normalised_grid(flow: Tensor) -> Tensor:
    """grid_sample's coordinates of p + flow(p): [1, D, H, W, 3], in (x, y, z), from -1 to 1."""
    size = flow.shape[2:]
    axes = torch.meshgrid(*[torch.arange(n, dtype=flow.dtype) for n in size], indexing="ij")
    place = [2 * (a + u) / (n - 1) - 1 for a, u, n in zip(axes, flow[0], size, strict=True)]
    return torch.stack(place[::-1], -1)[None].contiguous()


def _differentiated(function: Callable[..., Tensor], *inputs: Tensor, wanted: tuple[int, ...], grad: Tensor) -> Thunk:
    def run() -> Any:
        leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
        return torch.autograd.grad(function(*leaves), [leaves[k] for k in wanted], grad)

    return run


def _sampler(name: str, flow: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A resampling function and the field in the form that it takes."""
    if name == "fastreg":
        return fastreg.warp, flow
    if name == "torch grid_sample, grid ready":
        return lambda vol, grid: F.grid_sample(vol, grid, align_corners=True), _normalised_grid(flow)
    if name == "VoxelMorph SpatialTransformer":
        return _module("voxelmorph.nn.modules").SpatialTransformer(), flow
    if name == "MONAI Warp":
        return _module("monai.networks.blocks").Warp("bilinear", "zeros"), flow
    raise ValueError(name)


WARPS = ("fastreg", "torch grid_sample, grid ready", "VoxelMorph SpatialTransformer", "MONAI Warp")


def warp_forward(name: str, vol: Tensor, flow: Tensor) -> Thunk:
    """The image at the displaced points."""
    function, field = _sampler(name, flow)
    return lambda: function(vol, field)


def warp_to_flow(name: str, vol: Tensor, flow: Tensor) -> Thunk:
    """The same, and the gradient to the field."""
    function, field = _sampler(name, flow)
    return _differentiated(function, vol, field, wanted=(1,), grad=torch.randn_like(vol))


def warp_to_both(name: str, vol: Tensor, flow: Tensor) -> Thunk:
    """The same, and the gradients to field and image."""
    function, field = _sampler(name, flow)
    return _differentiated(function, vol, field, wanted=(0, 1), grad=torch.randn_like(vol))


LNCCS = ("fastreg", "neurite NCC", "MONAI LocalNormalizedCrossCorrelationLoss")


def _correlation(name: str, window: int) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "fastreg":
        return lambda a, b: fastreg.lncc(a, b, window=window)
    if name == "neurite NCC":
        loss = _module("neurite.nn.modules").NCC(window_size=window)
        return lambda a, b: loss(a, b).sum()
    if name == "MONAI LocalNormalizedCrossCorrelationLoss":
        return _module("monai.losses").LocalNormalizedCrossCorrelationLoss(kernel_size=window)
    raise ValueError(name)


def lncc_forward(name: str, a: Tensor, b: Tensor, window: int) -> Thunk:
    """The mean local correlation."""
    function = _correlation(name, window)
    return lambda: function(a, b)


def lncc_to_one(name: str, a: Tensor, b: Tensor, window: int) -> Thunk:
    """The same, and the gradient to one image."""
    return _differentiated(_correlation(name, window), a, b, wanted=(0,), grad=torch.ones(()))


INTEGRATIONS = ("fastreg", "VoxelMorph IntegrateVelocityField")


def _integration(name: str, steps: int) -> Callable[[Tensor], Tensor]:
    if name == "fastreg":
        return lambda velocity: fastreg.integrate(velocity, steps=steps)
    if name == "VoxelMorph IntegrateVelocityField":
        return _module("voxelmorph.nn.modules").IntegrateVelocityField(steps=steps)
    raise ValueError(name)


def integrate_both_ways(name: str, velocity: Tensor, steps: int) -> Thunk:
    """Scaling and squaring, and the gradient to the velocity."""
    return _differentiated(_integration(name, steps), velocity, wanted=(0,), grad=torch.randn_like(velocity))


PENALTIES = ("fastreg", "VoxelMorph Grad (its formula)")


def _penalty(name: str) -> Callable[[Tensor], Tensor]:
    if name == "fastreg":
        return fastreg.smoothness
    if name == "VoxelMorph Grad (its formula)":
        return lambda u: sum((u.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4)) / 3
    raise ValueError(name)


def smoothness_both_ways(name: str, flow: Tensor) -> Thunk:
    """The diffusion penalty, and its gradient."""
    return _differentiated(_penalty(name), flow, wanted=(0,), grad=torch.ones(()))
