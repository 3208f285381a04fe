import pytest
import torch
import torch.nn.functional as F

import fastreg
from fastreg.geometry import fields
from fastreg.nn.pyramid import DECODER, MOST, Pyramid, _cubes, _standardised
from fastreg.nn.registration_net import RegistrationNet


def make(ndim=3, seed=0, **options):
    """A pyramid that finds something on every level."""
    torch.manual_seed(seed)
    net = RegistrationNet("pyramid", ndim, **options)
    for layer in net.pyramid.flow:
        torch.nn.init.normal_(layer.weight, std=0.02)
    return net.eval()


def smooth_pair(*size, seed=0):
    """Two images of smooth noise, the second the first under a smooth deformation of about two voxels."""
    torch.manual_seed(seed)
    mode = {"mode": "trilinear" if len(size) == 3 else "bilinear", "align_corners": True}
    coarse = [max(3, length // 4) for length in size]
    moving = F.interpolate(torch.rand(1, 1, *coarse), size, **mode)
    flow = F.interpolate(2 * torch.randn(1, len(size), *[4] * len(size)), size, **mode)
    return moving, fastreg.warp(moving, flow, padding="border")


@pytest.mark.parametrize("size", [(32, 48), (16, 16, 32)])
def test_cubes_hold_every_voxel_at_its_place(size):
    image = torch.arange(2 * 3 * torch.Size(size).numel(), dtype=torch.float32).view(2, 3, *size)
    found = _cubes(image)
    ndim = len(size)
    assert found.shape == (2, 3 * 2**ndim, *[length // 2 for length in size])
    for k in range(2**ndim):
        corner = [k >> (ndim - 1 - axis) & 1 for axis in range(ndim)]
        part = image[(..., *[slice(start, None, 2) for start in corner])]
        assert torch.equal(found[:, k :: 2**ndim], part)


def test_it_starts_from_nothing_done():
    net = RegistrationNet("pyramid")
    moving, fixed = torch.rand(2, 1, 1, 32, 16, 32)
    assert net(moving, fixed).flow.abs().max() < 0.01


def test_no_level_says_more_than_its_bound():
    """Weights gone wild throw nothing out of sight: the levels' bounds add up to 31 times the finest one's."""
    net = make(2)
    for layer in net.pyramid.flow:
        torch.nn.init.normal_(layer.weight, std=1e6)
    flow = net(*smooth_pair(32, 48)).flow
    assert MOST < flow.abs().max() <= 31 * MOST


def test_features_are_compared_at_one_size():
    torch.manual_seed(0)
    ours, theirs = 40 + 5 * torch.randn(2, 3, 8, 9, 10), 42 + torch.randn(2, 3, 8, 9, 10)
    found = torch.cat(_standardised(ours, theirs), 2)
    variance, mean = torch.var_mean(found, (2, 3, 4), correction=0)
    assert torch.allclose(variance, torch.ones(2, 3), atol=1e-4) and mean.abs().max() < 1e-4
    again = torch.cat(_standardised(7 - 3 * ours, 7 - 3 * theirs), 2)
    assert torch.allclose(again, -found, atol=1e-4)
    flat = torch.cat(_standardised(*torch.ones(2, 1, 1, 4, 4)))
    assert flat.abs().max() < 1e-4


@pytest.mark.parametrize("size", [(24, 40), (20, 33, 18)])
def test_a_diffeomorphic_pyramid_has_its_inverse(size):
    net = make(len(size), diffeomorphic=True, steps=5)
    found = net(*smooth_pair(*size), inverse=True)
    assert found.velocity is None and found.flow.abs().max() > 0.3
    inner = (..., *[slice(4, -4)] * len(size))
    there_and_back = fields.compose(found.flow, found.inverse_flow)[inner]
    assert there_and_back.abs().max() < 0.2 * found.flow[inner].abs().max()


def test_half_of_the_grid_is_smoother():
    """What the levels of the whole pyramid say but the finest one."""
    pair, net, half = smooth_pair(32, 32, 32), make(), make(half=True)
    half.pyramid.encoder.load_state_dict(net.pyramid.encoder.state_dict())
    for mine, theirs in ((half.pyramid.decoder, net.pyramid.decoder), (half.pyramid.flow, net.pyramid.flow)):
        for layer, like in zip(mine, theirs[1:], strict=True):
            layer.load_state_dict(like.state_dict())
    whole, rest = net(*pair).flow, half(*pair).flow
    assert whole.shape == rest.shape and 0 < fields.smoothness(rest) < fields.smoothness(whole)


def test_what_takes_little_memory_finds_the_same_and_learns_the_same():
    pair = smooth_pair(16, 32, 16)
    gradients = []
    for save_memory in (False, True):
        net = make(save_memory=save_memory).train()
        net(*pair).moved.square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    for plain, saving in zip(*gradients, strict=True):
        torch.testing.assert_close(saving, plain)


def test_low_precision_is_near():
    net, pair = make(), smooth_pair(32, 32, 16)
    low = RegistrationNet("pyramid", amp=True, channels_last=True).eval()
    low.load_state_dict(net.state_dict())
    flow, found = net(*pair).flow, low(*pair).flow
    assert found.dtype == torch.float32
    assert (found - flow).abs().mean() < 0.05 * flow.abs().mean()


def test_descriptors_do_not_care_for_contrast():
    moving, fixed = smooth_pair(20, 33, 18)
    for descriptors, same in ((True, True), (False, False)):
        net = make(descriptors=descriptors)
        flow, other = net(moving, fixed).flow, net(5 - 3 * moving, fixed).flow
        assert torch.allclose(other, flow, rtol=1e-3, atol=1e-3) is same
    with pytest.raises(ValueError, match="descriptors is for the pyramid"):
        RegistrationNet("vm1", descriptors=True)


@pytest.mark.slow
def test_it_learns_to_register():
    """A few steps on two images bring them nearer than they were, by much."""
    net = RegistrationNet("pyramid", 2).train()
    moving, fixed = smooth_pair(48, 64)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    before = (moving - fixed).square().mean()
    for _ in range(60):
        loss = (net(moving, fixed).moved - fixed).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * before


def test_options_of_the_other_networks_are_refused():
    with pytest.raises(ValueError, match="uncertainty is for the U-Nets: a pyramid has a field on every level"):
        RegistrationNet("pyramid", uncertainty=True, diffeomorphic=True)
    with pytest.raises(ValueError, match="resampling is for the U-Nets"):
        RegistrationNet("pyramid", resampling="voxelmorph")


def test_features_follow_the_width():
    assert Pyramid(1, 3, width=2.0).outputs == 2 * DECODER[0]
    assert RegistrationNet("pyramid", region=True)(*torch.rand(2, 1, 1, 17, 16, 20)).region.shape == (1, 1, 17, 16, 20)
