"""What a stage compares: pooled images and masks under what is known, one contrast, both directions."""

import pytest
import torch
from helpers.textured import head

import fastreg
from fastreg.geometry import fields
from fastreg.nn.losses import MSE
from fastreg.ops.mind import mind
from fastreg.registration.levels import Level, exponential

SIZES = [(24, 26, 22), (48, 40)]


def images(size, shift=2):
    fixed = torch.from_numpy(head(size, 0, 2))[None, None]
    return fixed, torch.roll(fixed, shift, 2)


def level(fixed, moving, factor=2, mask=None, moving_mask=None, flow=None, back=None, seen_as="intensities"):
    return Level.of(fixed, moving, mask, moving_mask, flow, back, factor, seen_as)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_level_without_anything_known_is_averages(size):
    fixed, moving = images(size)
    found = level(fixed, moving)
    assert torch.equal(found.fixed, fields.pooled(fixed, 2)) and torch.equal(found.moving, fields.pooled(moving, 2))
    assert found.mask is None and found.known_volume is None and found.backward is None and not found.nothing_to_do
    assert level(fixed, fixed).nothing_to_do


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_meet_where_the_images_lie(size):
    """The moving one's goes where the flow puts it; half a voxel that counts counts, less does not."""
    fixed, moving = images(size)
    mask, moving_mask = torch.ones_like(fixed), torch.ones_like(fixed)
    mask[:, :, :5] = 0
    moving_mask[:, :, 14:] = 0
    flow = torch.zeros(1, len(size), *size)
    flow[:, 0] = 2
    found = level(fixed, moving, 2, mask, moving_mask, flow)
    counted = found.mask[0, 0].flatten(1).mean(1)
    # Of cubes 0 and 1 nothing counts, of cube 2 one half; the moving mask's 7 cubes have moved one down.
    expected = torch.zeros_like(counted)
    expected[2], expected[3:6] = 0.5, 1
    torch.testing.assert_close(counted, expected)
    torch.testing.assert_close(level(fixed, moving, 2, None, moving_mask).mask, fields.pooled(moving_mask, 2))
    inner = found.mask.eq(1)
    torch.testing.assert_close(found.moving[inner], found.fixed[inner], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_known_volume_is_the_logarithm_of_the_determinant(size):
    fixed, moving = images(size)
    index = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"))[None]
    found = level(fixed, moving, 2, flow=0.1 * index)
    inner = (..., *[slice(1, -1)] * len(size))
    expected = torch.tensor(1.1).log() * len(size)
    torch.testing.assert_close(found.known_volume[inner], torch.full_like(found.known_volume[inner], expected))
    folded = level(fixed, moving, 2, flow=-1.5 * index)
    assert folded.known_volume.isfinite().all(), "even where it folds"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_seen(size):
    fixed, moving = images(size)
    found = level(fixed, moving, seen_as="descriptors")
    torch.testing.assert_close(found.fixed, mind(fields.pooled(fixed, 2)))
    assert found.moving.shape[1] == 2 * len(size)
    other = 3 - 2 * torch.roll(moving, -2, 2)
    one = level(fixed, other, seen_as="one contrast")
    assert (one.fixed - one.moving).abs().mean() < 0.02 * (one.fixed.max() - one.fixed.min())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("seen_as", ["intensities", "one contrast", "descriptors"])
def test_both_directions_are_one_loss(size, seen_as):
    """At no velocity: the mean of the two, in one contrast each."""
    fixed, moving = images(size)
    flow = torch.zeros(1, len(size), *size)
    flow[:, 0] = 2
    one = level(fixed, moving, 2, flow=flow, back=-flow, seen_as=seen_as)
    zero = torch.zeros(1, len(size), *one.fixed.shape[2:])
    there = MSE()(one.moving, one.fixed)
    still, _, known = one.backward
    home = fastreg.warp(one.fixed, known, padding="border")
    torch.testing.assert_close(one.loss(zero, MSE()), (there + MSE()(home, still)) / 2)
    inner = (..., *[slice(4, -4)] * len(size))  # at the border the roll brought the other side in
    assert still.shape == one.fixed.shape
    assert (home - still)[inner].square().mean() < 0.1 * (one.fixed - still)[inner].square().mean()


@pytest.mark.parametrize("ndim", [2, 3])
def test_exponential_of_short_and_long_velocities(ndim):
    size = (20, 24, 16)[:ndim]
    for length in (0.0, 0.1, 3.0, 9.0):
        velocity = torch.full((1, ndim, *size), length)
        torch.testing.assert_close(exponential(velocity), velocity)
    assert exponential(torch.full((1, ndim, *size), float("nan"))).isnan().all()
