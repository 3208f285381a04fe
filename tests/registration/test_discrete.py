import itertools

import pytest
import torch

import fastreg
from fastreg.geometry import fields
from fastreg.nn.cost_volume import costs
from fastreg.registration import discrete
from fastreg.registration.deformable import deform
from fastreg.registration.discrete import discrete_start, start_if_worth_it, worth_it

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
    """A fixed image, the moving one pulled apart from its middle by up to `most` voxels, and the field between them."""
    fixed = texture(size)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    window = torch.stack([torch.cos(a * torch.pi / 2) for a in axes]).prod(0)
    flow = torch.stack([torch.sin(torch.pi * a) * window for a in axes])[None]
    flow = most * flow / flow.norm(dim=1).max()
    return fixed, fastreg.warp(fixed, fields.invert(flow), padding="border"), flow


def error(flow, truth, margin=20):
    inner = (..., *[slice(margin, -margin)] * (flow.ndim - 2))
    return float((flow - truth)[inner].norm(dim=1).mean())


@pytest.mark.parametrize(("size", "shift"), [(SIZES[0], (12, -10, 6)), (SIZES[1], (10, -9))])
def test_finds_a_shift_that_the_pyramid_does_not(size, shift):
    fixed, moving, truth = shifted(size, shift)
    start = discrete_start(fixed, moving)
    _bridges(fixed, moving, start, truth)


@pytest.mark.parametrize("size", SIZES)
def test_finds_a_stretch_that_the_pyramid_does_not(size):
    fixed, moving, truth = stretched(size, 12)
    start = start_if_worth_it(fixed, moving)
    assert start is not None
    _bridges(fixed, moving, start, truth)


def _bridges(fixed, moving, start, truth):
    assert _no_folds(start)
    alone, after = (error(deform(fixed, moving, flow=flow).flow, truth) for flow in (None, start))
    assert alone > 2
    assert after < 0.5 * alone
    assert worth_it(fixed, moving, start)


def _no_folds(flow):
    return fields.jacobian_determinant(flow, scheme="least").min() > 0


@pytest.mark.parametrize("size", SIZES)
def test_no_motion_where_there_is_none(size):
    image = texture(size)
    start = discrete_start(image, image)
    assert (start == 0).all()
    assert start_if_worth_it(image, image) is None


@pytest.mark.parametrize("size", [(48, 40, 44), (96, 90)])
def test_unrelated_images_do_not_fold(size):
    fixed, moving = texture(size), torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(3))
    assert _no_folds(discrete_start(fixed, moving))


def test_a_start_that_does_not_pay_is_refused():
    fixed, moving, _ = stretched((48, 52, 44), 2)
    wrong = torch.full_like(discrete_start(fixed, moving), 4.0)
    assert not worth_it(fixed, moving, wrong)


def test_contrast_does_not_matter():
    fixed, moving, truth = stretched(SIZES[0], 10)
    assert error(discrete_start(fixed, 1 - moving), truth) < 0.6 * error(torch.zeros_like(truth), truth)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", ["fixed", "moving", "both"])
def test_masked_voxels_do_not_count(size, side):
    """Whatever they hold: the field is the same to the last bit."""
    fixed, moving, _ = stretched(size, 10)
    mask = torch.ones_like(fixed)
    mask[..., : size[-1] // 4] = 0
    masks = (mask if side != "moving" else None, mask if side != "fixed" else None)
    start = discrete_start(fixed, moving, *masks)
    other = torch.rand(fixed.shape, generator=torch.Generator().manual_seed(5))
    spoilt = [
        image if weight is None else torch.where(weight > 0, image, other)
        for image, weight in zip((fixed, moving), masks, strict=True)
    ]
    assert torch.equal(discrete_start(*spoilt, *masks), start)
    assert start.abs().max() > 2
    assert _no_folds(start)
    assert isinstance(worth_it(*spoilt, start, *masks), bool)


@pytest.mark.parametrize(
    "size", [(41, 38, 43), (30, 3, 29), (40, 1, 36), (2, 33, 30), (61, 70), (9, 80), (1, 50), (5, 5)]
)
@pytest.mark.parametrize("factor", [4, 3])
def test_any_size(size, factor):
    fixed, moving = texture(size), texture(size, seed=2)
    start = discrete_start(fixed, moving, factor=factor, radius=2)
    assert start.shape == (1, len(size), *size)
    assert start.isfinite().all()
    for axis, length in enumerate(size):
        if length == 1:
            assert (start[:, axis] == 0).all()
    assert isinstance(worth_it(fixed, moving, start), bool)


def test_a_wide_search_gets_a_coarser_grid():
    """The reach stays; a cost volume has a radius of 15 at most."""
    fixed, moving, _ = shifted((40, 44), (12, -10))
    expected = discrete_start(fixed, moving, factor=4, radius=8)
    torch.testing.assert_close(discrete_start(fixed, moving, factor=2, radius=16), expected, rtol=0, atol=0)


def test_large_images_get_a_coarser_grid(monkeypatch):
    """The reach stays, the costs fit."""
    fixed, moving, truth = shifted(SIZES[0], (12, -10, 6))
    held = []

    def counted(*arguments):
        found = costs(*arguments)
        held.append(found.numel())
        return found

    monkeypatch.setattr(discrete, "LARGEST", 500_000)
    monkeypatch.setattr(discrete, "costs", counted)
    start = discrete_start(fixed, moving)
    assert max(held) <= 500_000
    assert error(start, truth) < 0.8 * error(torch.zeros_like(truth), truth)


@pytest.mark.parametrize("size", [(5, 6, 4), (2, 7, 1), (7, 5)])
def test_costs_of_the_way_back(size):
    """Against the costs of the other direction, wherever both voxels lie in the image; 1 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 3, *size, generator=generator)
    radius = 2
    steps = list(itertools.product(range(-radius, radius + 1), repeat=len(size)))
    found, direct = costs(b, a, radius)[0], costs(a, b, radius)[0]
    discrete._turn_round(found, torch.tensor(steps, dtype=torch.float32))
    for k, step in enumerate(steps):
        for place in itertools.product(*map(range, size)):
            inside = all(0 <= p + d < n for p, d, n in zip(place, step, size, strict=True))
            torch.testing.assert_close(found[k][place], direct[k][place] if inside else torch.ones(()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes(dtype):
    fixed, moving, _ = stretched((40, 44), 6)
    start = discrete_start(fixed.to(dtype), moving.to(dtype))
    assert start.dtype == dtype
    assert start.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"moving": torch.zeros(1, 1, 20, 21)}, "moving must lie on the grid of fixed"),
        ({"mask": torch.zeros(1, 1, 3, 3)}, "mask must lie on the grid of fixed"),
        ({"fixed": torch.zeros(1, 2, 20, 20)}, "one image of one channel"),
        ({"radius": 0}, "radius"),
        ({"factor": 0}, "factor"),
    ],
)
def test_says_what_is_wrong(wrong, words):
    given = {"fixed": torch.zeros(1, 1, 20, 20), "moving": torch.zeros(1, 1, 20, 20)} | wrong
    with pytest.raises(ValueError, match=words):
        discrete_start(**given)
