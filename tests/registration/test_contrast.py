"""One image in the other's contrast, and the metrics that may suit two images."""

import numpy as np
import pytest
import torch
from helpers.textured import head

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.registration.contrast import ACROSS, WITHIN, candidates, correlated
from fastreg.registration.remap import Curve, curves
from fastreg.registration.samples import Seen

SIZES = [(30, 32, 28), (96, 90)]
HERE = Affine(np.eye(4))


def volume(size, seed=0):
    return torch.from_numpy(head(size, seed, radius=2))[None, None]


ALL = 0.9
"""Of what a function explains its curve, smoothed over bins, leaves a twentieth to a tenth."""


def bent(x):
    """Falling, then rising: no line maps the one onto the other, and there is no way back."""
    return 0.3 + 1.5 * abs(x - np.median(x[x > 0]))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_curve_is_the_function_between_two_images(size):
    source = volume(size)
    curve = Curve.of(source, bent(source))
    assert curve.ratio > ALL
    assert (curve(source) - bent(source)).abs().mean() < 0.01
    noisy = bent(source) + 0.1 * torch.randn(source.shape)
    assert (Curve.of(source, noisy)(source) - bent(source)).abs().mean() < 0.02, "noise averages out"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_correlation_ratio(size):
    """1 of a function, about 0 of chance, the share that is explained in between."""
    source = volume(size)
    assert Curve.of(source, 3 - 2 * source).ratio == pytest.approx(1, abs=0.06)
    chance = torch.randn(source.shape)
    assert Curve.of(source, chance).ratio < 0.02
    mixed = source / source.std() + chance / chance.std()
    assert Curve.of(source, mixed).ratio == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_without_intensities_give_a_curve_that_says_nothing(size):
    source, flat = volume(size), torch.full((1, 1, *size), 0.5)
    of_flat, to_flat = Curve.of(flat, source), Curve.of(source, flat)
    assert of_flat.ratio < 1e-6 and to_flat.ratio < 1e-6
    torch.testing.assert_close(of_flat(flat), torch.full_like(flat, source.mean().item()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_flat(source), flat)
    nothing = Curve.of(source, source, torch.zeros_like(source))
    assert nothing.ratio == 0 and nothing(source).eq(0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_mask_says_what_gives_the_curve(size):
    source = volume(size)
    target, mask = bent(source), torch.ones_like(source)
    target[..., :8], mask[..., :8] = 9.0, 0.4  # what counts for less than half does not
    curve = Curve.of(source, target, mask)
    assert curve.ratio > ALL and (curve(source) - bent(source)).abs().mean() < 0.01
    assert Curve.of(source, target).ratio < 0.9


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_image_is_mapped_that_explains_the_other(size):
    source = volume(size)
    ours, theirs = curves(source, bent(source))
    assert theirs is None and ours.ratio > ALL
    ours, theirs = curves(bent(source), source)
    assert ours is None and theirs.ratio > ALL


def pair(size, other):
    """The same object on black, its inside seen otherwise."""
    data = head(size)
    return Image(data, np.eye(4)), Image(np.where(data > 0, other(data), 0).astype(np.float32), np.eye(4))


@pytest.mark.parametrize("size", [(40, 44, 36), (160, 150)], ids=str)
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (lambda x: x, WITHIN),
        (lambda x: 40 * x**1.5 + 3, WITHIN),
        (lambda x: 1.4 - x, ACROSS),
        (bent, ACROSS),
        (lambda x: np.random.default_rng(0).random(x.shape) + 0.3, ACROSS),
    ],
    ids=["same", "gamma", "inverted", "bent", "unrelated"],
)
def test_the_metrics_that_may_suit(size, other, expected):
    assert candidates(*pair(size, other), HERE, (None, None)) == expected


def test_it_is_looked_where_the_images_lie():
    """Under the alignment, and inside of the masks."""
    fixed, moving = pair((40, 44, 36), lambda x: 1.4 - x)
    away = Image(moving.data, moving.affine + 200 * np.eye(4, k=3))
    world = Affine(np.eye(4) + 200 * np.eye(4, k=3))
    assert candidates(fixed, away, world, (None, None)) == ACROSS
    assert candidates(fixed, away, HERE, (None, None)) == WITHIN, "too little overlap to tell"
    spoiled, mask = fixed.data.copy(), np.ones(fixed.shape, np.uint8)
    spoiled[:24], mask[:24] = moving.data[:24], 0
    half = Image(spoiled, np.eye(4)), Image(mask, np.eye(4))
    assert candidates(fixed, half[0], HERE, (None, None)) == ACROSS
    assert candidates(fixed, half[0], HERE, (None, half[1])) == WITHIN
    assert candidates(fixed, half[0], HERE, (half[1], None)) == WITHIN


def test_too_little_to_correlate():
    seen = np.random.default_rng(0).random((6, 6, 6))
    few = np.zeros(seen.shape, bool)
    few[:2] = True
    assert correlated(Seen(seen, seen, few, 1.0)) is None
    assert correlated(Seen(seen, np.ones_like(seen), ~few | few, 1.0)) is None
    assert correlated(Seen(seen, -2 * seen, ~few | few, 1.0)) == pytest.approx(-1)
