"""Lanczos' windowed sinc and the Gaussian vote of labels: compiled, against the specification and the formula."""

import numpy as np
import pytest
import torch
from scipy.special import erf

import fastreg
from fastreg.backends import cpu, reference_window
from fastreg.ops.spline import bspline_coefficients
from fastreg.ops.window import lanczos, vote

CASES = [((7, 9, 12), (5, 6, 7)), ((3, 1, 2), (4, 4, 4)), ((9, 20), (8, 11)), ((1, 5), (3, 3))]


def field(ndim, grid, scale=3.0):
    """Rough, with whole, half, tiny, far and infinite displacements; one is NaN."""
    flow = torch.randn(1, ndim, *grid, generator=torch.Generator().manual_seed(ndim)) * scale
    flat = flow.view(-1)
    flat[::7] = flat[::7].round()
    flat[::11] = -1e-30
    flat[::13] = flat[::13].round() + 0.5
    flat[[1, 4, 5]] = torch.tensor([float("nan"), float("inf"), -1e30])
    return flow


@pytest.mark.parametrize("size, grid", CASES)
def test_native_is_the_reference(isa, size, grid):
    flow = field(len(size), grid)
    vol = torch.randn(1, 1, *size)
    ours, spec = cpu.lanczos(vol, flow), reference_window.lanczos(vol, flow)
    torch.testing.assert_close(ours, spec, atol=2e-6, rtol=1e-5, equal_nan=True)
    assert ours.isnan().sum() == 1 and ours.isnan().view(-1)[1]
    shifted, far = flow.nan_to_num(0.0).clamp(-40, 40), torch.zeros(grid, dtype=torch.bool)
    for axis, points in enumerate(torch.meshgrid(*[torch.arange(n) for n in grid], indexing="ij")):
        place = points + shifted[0, axis]
        far |= (place < -0.5) | (place >= size[axis] - 0.5)
    op = fastreg.warp(vol, shifted, mode="bspline", padding="itk", backend="reference")
    ours = cpu.bspline(bspline_coefficients(vol), shifted)
    torch.testing.assert_close(ours[..., ~far], op[..., ~far], atol=2e-6, rtol=1e-5)
    assert cpu.bspline(vol, flow).isnan().view(-1).nonzero().item() == 1
    for count in (1, 2, 5):
        ranks = torch.randint(0, count, (1, 1, *size), dtype=torch.int32)
        assert torch.equal(cpu.vote(ranks, flow), reference_window.vote(ranks, flow))


@pytest.mark.parametrize("size", [(40, 30), (20, 18, 22)])
def test_smooth_label_maps_too(isa, size):
    """Where the neighbours of the nearest voxel agree, the rest of the window is not asked."""
    mode = "trilinear" if len(size) == 3 else "bilinear"
    flow = torch.randn(1, len(size), *[n // 2 for n in size]) * 3 + 6
    for seed in range(3):
        noise = torch.randn(1, 4, *[4] * len(size), generator=torch.Generator().manual_seed(seed))
        ranks = torch.nn.functional.interpolate(noise, size, mode=mode).argmax(1, keepdim=True).int()
        assert torch.equal(cpu.vote(ranks, flow), reference_window.vote(ranks, flow))


def place_and_voxels(size, place):
    return np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1) - place


def test_lanczos_is_its_formula():
    """Far from the border the sum over all voxels of sinc(x) sinc(x / 5), where |x| < 5."""
    vol = np.random.default_rng(0).normal(size=(14, 15, 16))
    for place in ([6.3, 7.1, 7.9], [5.0, 7.5, 8.0], [6.0, 7.0, 8.0]):
        x = place_and_voxels(vol.shape, place)
        weight = np.where(np.abs(x) < 5, np.sinc(x) * np.sinc(x / 5), 0).prod(-1)
        found = lanczos(torch.from_numpy(vol)[None, None].float(), torch.tensor(place).view(1, 3, 1, 1, 1))
        np.testing.assert_allclose(found.item(), (weight * vol).sum(), atol=2e-6)
    assert found.item() == np.float32(vol[6, 7, 8])


@pytest.mark.parametrize("size", [(9, 10), (9, 10, 11)])
def test_vote_is_its_formula(size):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, size)
    for _ in range(40):
        place = rng.uniform(-0.5, np.array(size) - 0.5)
        x = place_and_voxels(size, place)
        near = np.abs(x + place - np.floor(place + 0.5)) <= 4
        share = np.where(near, erf((x + 0.5) / 2**0.5) - erf((x - 0.5) / 2**0.5), 0)
        votes = [share.prod(-1)[labels == label].sum() for label in range(3)]
        flow = torch.from_numpy(place).view(1, len(size), *[1] * len(size))
        assert vote(torch.from_numpy(labels)[None, None].int(), flow.float()).item() == np.argmax(votes)


def test_equal_votes_go_to_the_smaller_label():
    for ranks in ([2, 1], [1, 2]):
        row = torch.tensor(ranks, dtype=torch.int32).repeat_interleave(6).expand(1, 1, 5, 12).contiguous()
        flow = torch.zeros(1, 2, 5, 1)
        flow[:, 1] = 5.5
        assert (cpu.vote(row, flow) == 1).all() and (reference_window.vote(row, flow) == 1).all()


def test_overshoot_and_ripple_are_those_of_the_page():
    """docs/interpolation.md: of a sharp step, and of a flat image."""
    step = torch.zeros(1, 1, 3, 60)
    step[..., 30:] = 1
    flow = torch.zeros(1, 2, 1, 2000)
    flow[0, 0], flow[0, 1, 0] = 1, torch.linspace(15, 45, 2000) - torch.arange(2000)
    spline = fastreg.warp(step, flow, mode="bspline")
    assert lanczos(step, flow).max().item() == pytest.approx(1.13, abs=0.005)
    assert spline.max().item() == pytest.approx(1.11, abs=0.005)
    between = lanczos(torch.ones(1, 1, 20, 20, 20), torch.rand(1, 3, 8, 8, 8) + 6)
    assert 0.996 < between.min() < 0.998 and between.max() < 1 + 1e-6
