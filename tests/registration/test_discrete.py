import itertools

import pytest
import torch

import fastreg
from fastreg.geometry import fields
from fastreg.nn.cost_volume import costs
from fastreg.registration import discrete
from fastreg.registration.deformable import deform
from fastreg.registration.discrete import discrete_start, worth_it

SIZES = [(72, 64, 80), (128, 140)]


def texture(size, seed=0):
    """A random image in about [0, 1], with structures of 4 voxels and more."""
    generator = torch.Generator().manual_seed(seed)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    image = torch.zeros(1, 1, *size)
    for edge in (4, 12):
        coarse = torch.rand(1, 1, *[max(2, n // edge) for n in size], generator=generator)
        image += torch.nn.functional.interpolate(coarse, size=size, mode=mode) / 2
    return image


def shifted(size, shift):
    """A fixed image, the moving one some voxels away, and the field between them."""
    whole = texture([n + 32 for n in size])
    there = (..., *[slice(16 - d, 16 - d + n) for d, n in zip(shift, size, strict=True)])
    here = (..., *[slice(16, 16 + n) for n in size])
    flow = torch.tensor(shift, dtype=torch.float32).view(1, -1, *[1] * len(size)).expand(1, -1, *size)
    return whole[here].contiguous(), whole[there].contiguous(), flow


def stretched(size, most):
    """The moving image pulled apart from its middle, by `most` voxels at a third of the way to the border."""
    fixed, ndim = texture(size), len(size)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    window = torch.stack([torch.cos(a * torch.pi / 2) for a in axes]).prod(0)
    flow = torch.stack([torch.sin(torch.pi * a) * window for a in axes])[None]
    flow = most * flow / flow.norm(dim=1).max()
    return fixed, fastreg.warp(fixed, fields.invert(flow), padding="border"), flow


def error(flow, truth, margin=20):
    inner = (..., *[slice(margin, -margin)] * (flow.ndim - 2))
    return float((flow - truth)[inner].norm(dim=1).mean())


@pytest.mark.parametrize(("size", "shift"), [(SIZES[0], (12, -10, 6)), (SIZES[1], (14, -11))])
def test_finds_a_shift_that_the_pyramid_does_not(size, shift):
    fixed, moving, truth = shifted(size, shift)
    start = discrete_start(fixed, moving)
    print(error(start, truth), error(deform(fixed, moving).flow, truth), error(deform(fixed, moving, flow=start).flow, truth), worth_it(fixed, moving, start))


@pytest.mark.parametrize("size", SIZES)
def test_finds_a_stretch_that_the_pyramid_does_not(size):
    fixed, moving, truth = stretched(size, 12)
    start = discrete_start(fixed, moving)
    print(error(truth, 0*truth), error(start, truth), error(deform(fixed, moving).flow, truth), error(deform(fixed, moving, flow=start).flow, truth), worth_it(fixed, moving, start))
