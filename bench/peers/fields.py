"""Integrations of a velocity and penalties of a field, called as their users call them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from bench.implementations import Absent, Function, Implementation, Options
from bench.peers.packages import module
from bench.peers.warp import normalised_grid, sampled


def _torch_integrate(options: Options) -> Function:
    def run(velocity: Tensor) -> Tensor:
        v = velocity / 2**options.steps
        for _ in range(options.steps):
            v = v + sampled(v, normalised_grid(v), options.padding)
        return v

    return run


def _voxelmorph_integrate(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("IntegrateVelocityField pads with zeros")
    return module("voxelmorph.nn.modules").IntegrateVelocityField(steps=options.steps)


def _monai_integrate(options: Options) -> Function:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module("monai.networks.blocks").DVF2DDF(options.steps, padding_mode=options.padding)


INTEGRATIONS = (
    Implementation("torch, grid_sample", _torch_integrate),
    Implementation("VoxelMorph IntegrateVelocityField", _voxelmorph_integrate),
    Implementation("MONAI DVF2DDF", _monai_integrate),
)


def differences(u: Tensor) -> Tensor:
    """VoxelMorph's 'l2': the mean over the axes of the mean squared forward difference."""
    return torch.stack([(u.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4)]).mean()


def central_differences(u: Tensor) -> Tensor:
    """MONAI's diffusion: the sum over the axes of squared central differences, in the interior of all axes."""
    inner = slice(1, -1)
    total = torch.zeros((), dtype=u.dtype, device=u.device)
    for axis in range(3):
        after, before = [inner] * 3, [inner] * 3
        after[axis], before[axis] = slice(2, None), slice(None, -2)
        total = (
            total + (((u[..., after[0], after[1], after[2]] - u[..., before[0], before[1], before[2]]) / 2) ** 2).mean()
        )
    return total


def _neurite_gradient(options: Options) -> Function:
    return module("neurite.nn.modules").SpatialGradient("l2")


def _monai_diffusion(options: Options) -> Function:
    return module("monai.losses").DiffusionLoss()


PENALTIES = (
    Implementation("torch, differences", lambda options: differences),
    Implementation("neurite SpatialGradient", _neurite_gradient),
    Implementation("MONAI DiffusionLoss", _monai_diffusion, definition="central"),
)
