"""Where an alignment may begin: turns, and the best shift of each, against a search over every shift."""

import itertools

import numpy as np
import pytest
import torch
from helpers.textured import head

from fastreg.geometry.image import Image
from fastreg.ops.mind import mind
from fastreg.registration.linear import starts
from fastreg.registration.linear.scans import Body, Scan, pyramid
from fastreg.registration.linear.starts import correlated, everywhere, shifts, turns

CANVAS = {2: (96, 90), 3: (36, 34, 32)}


def scan_of(data, affine=None):
    values = torch.from_numpy(np.ascontiguousarray(data, np.float32))[None, None]
    return Scan(values, torch.ones_like(values), np.eye(4) if affine is None else affine)


def texture(ndim, seed=0):
    """Nothing of it is background."""
    return head(CANVAS[ndim], seed, radius=2)


def brute_force(fixed, moving):
    """The best shift and its score, from the definition in float64: of the voxels that count in both images the
    correlation of descriptors, all channels together, times the root of the share of the largest overlap.
    """
    seen = []
    for scan in (fixed, moving):
        counts = (scan.weight[0, 0] > 0.5).numpy()
        channels = mind(scan.values.double())[0, ::2].numpy()
        seen.append((channels - channels[:, counts].mean(1).reshape(-1, *[1] * counts.ndim), counts))
    (ours, here), (theirs, there) = seen
    found = {}
    for shift in itertools.product(*[range(1 - m, n) for n, m in zip(here.shape, there.shape, strict=True)]):
        own, other = [], []
        for k, n, m in zip(shift, here.shape, there.shape, strict=True):
            first, last = max(0, k), min(n, m + k)
            own.append(slice(first, last))
            other.append(slice(first - k, last - k))
        both = here[tuple(own)] & there[tuple(other)]
        a, b = (x[(slice(None), *place)][:, both].ravel() for x, place in ((ours, own), (theirs, other)))
        found[shift] = (a, b, int(both.sum()))
    most = max(count for _, _, count in found.values())
    scores = {}
    for shift, (a, b, count) in found.items():
        if count > starts.LEAST_OVERLAP * most and a.std() > 0 and b.std() > 0:
            scores[shift] = float(np.corrcoef(a, b)[0, 1]) * (count / most) ** 0.5
    best = max(scores, key=scores.__getitem__)
    return scores[best], np.array(best)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("size", "other"), [((13, 11), (9, 12)), ((8, 7, 6), (6, 8, 7))], ids=str)
def test_the_best_of_all_shifts_is_that_of_a_search(size, other, masked):
    rng = torch.Generator().manual_seed(3)
    scans = []
    for shape in (size, other):
        values = torch.rand(1, 1, *shape, generator=rng)
        weight = (torch.rand(values.shape, generator=rng) > 0.2).float() if masked else torch.ones_like(values)
        scans.append(Scan(values, weight, np.eye(4)))
    score, shift = starts._best_shift(*map(starts._Channels.of, scans))
    expected, best = brute_force(*scans)
    assert score == pytest.approx(expected, abs=1e-4)
    np.testing.assert_array_equal(shift, best)


@pytest.mark.parametrize("contrast", [1, -1])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_shift_is_found_under_a_turn_of_images_of_other_sizes(ndim, contrast):
    """A piece of an image, stored turned by a right angle, in another contrast, far from where its header says."""
    whole = texture(ndim)
    cut = [slice(4, -10), slice(9, -3), slice(3, -5)][:ndim]
    piece = whole[tuple(cut)]
    fixed = scan_of(whole)
    first = np.array([s.start for s in cut], float)
    stored = np.eye(4)  # voxel of the stored piece -> voxel of the piece
    stored[:2, :2], stored[1, 3] = [[0, 1], [-1, 0]], piece.shape[1] - 1
    moving = scan_of(contrast * piece.swapaxes(0, 1)[::-1], np.diag([1.0, 1, 1, 1]) + 300 * np.eye(4, k=3))
    body = Body.of(fixed)
    truth = np.linalg.inv(stored)
    truth[:ndim, 3] -= truth[:ndim, :ndim] @ first
    truth = moving.affine @ truth
    found = correlated(fixed, moving, turns(body, (0, 90)))
    best = found[0].world
    np.testing.assert_allclose(best[:3, :3], truth[:3, :3], atol=1e-6)
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in piece.shape]))) + first
    there = [corners @ world[:ndim, :ndim].T + world[:ndim, 3] for world in (best, truth)]
    assert np.linalg.norm(there[0] - there[1], axis=1).max() < 1
    assert found[0].score > 0.9 > 0.5 > found[1].score
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize("ndim", [2, 3])
def test_chance_does_not_lead_to_a_small_overlap(monkeypatch, ndim):
    """A strip of both images is the same: at that shift a quarter of them would overlap."""
    fixed, moving = texture(ndim, 1), texture(ndim, 2)
    strip = CANVAS[ndim][0] // 4
    moving[:strip] = fixed[-strip:]
    apart = CANVAS[ndim][0] - strip
    scans = scan_of(fixed), scan_of(moving)

    def shift():
        return correlated(*scans, [np.eye(4)])[0].world[:ndim, 3]

    assert abs(shift()[0]) < 0.65 * CANVAS[ndim][0]
    monkeypatch.setattr(starts, "LEAST_OVERLAP", 0.05)
    np.testing.assert_allclose(shift(), [-apart, *[0] * (ndim - 1)], atol=1.01)


def test_large_images_are_halved_before(monkeypatch):
    """The shift is still found, to a voxel of the grid that is left."""
    whole = texture(3)
    fixed, moving = scan_of(whole), scan_of(whole[6:, :-4, 8:])
    monkeypatch.setattr(starts, "_MOST_VOXELS", 60_000)
    found = correlated(fixed, moving, [np.eye(4)])[0].world
    assert np.abs(found[:3, 3] - [-6, 0, -8]).max() <= 2
    np.testing.assert_array_equal(found[:3, :3], np.eye(3))


@pytest.mark.parametrize("ndim", [2, 3])
def test_everywhere_is_turns_at_three_scales(ndim):
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [30, -10, 5]
    body = Body.of(scan_of(head(CANVAS[ndim]), affine))
    found = everywhere(body)
    assert len(found) == 3 * (24 if ndim == 2 else 24 * 7)
    turned = []
    for world in found:
        linear = world[:ndim, :ndim]
        scale = np.linalg.det(linear) ** (1 / ndim)
        assert min(abs(scale - one) for one in (0.75, 1.0, 1.33)) < 1e-9, "proper, of one scale"
        np.testing.assert_allclose(linear.T @ linear, scale**2 * np.eye(ndim), atol=1e-9)
        np.testing.assert_allclose(world[:3, :3] @ body.centre + world[:3, 3], body.centre, atol=1e-9)
        if ndim == 2:
            np.testing.assert_allclose(world[[2, 0, 1], [2, 2, 2]], [1, 0, 0], atol=1e-12)
        if abs(scale - 1) < 1e-9:
            turned.append(linear)
    rng = np.random.default_rng(0)
    for _ in range(40):
        wanted, triangle = np.linalg.qr(rng.standard_normal((ndim, ndim)))
        wanted = wanted * np.sign(np.diag(triangle))
        wanted[0] *= np.sign(np.linalg.det(wanted))
        traces = max(float(np.trace(one.T @ wanted)) for one in turned)
        off = np.rad2deg(np.arccos(min(1.0, traces / 2 if ndim == 2 else (traces - 1) / 2)))
        assert off < (7.6 if ndim == 2 else 48), "no side is far from all turns"


@pytest.mark.parametrize("ndim", [2, 3])
def test_shifts_are_those_of_headers_masses_and_grids(ndim):
    shape = CANVAS[ndim]
    fixed_affine, moving_affine = np.diag([2.0, 2, 2, 1]), np.diag([1.0, 3, 2, 1])
    moving_affine[:ndim, 3] = 50
    spot = np.zeros(shape, np.float32)
    spot[(10,) * ndim] = 1
    images = [Image(np.roll(spot, k, range(ndim)), a) for k, a in ((0, fixed_affine), (7, moving_affine))]
    fixed, moving = (scan_of(image.data, image.affine) for image in images)
    found = shifts(Body.of(fixed), fixed, moving)
    expected = {
        "header": np.zeros(ndim),
        "mass": np.array([67.0, 101, 84])[:ndim] - 20,
        "centre": 50 + (np.array([-1.0, 1, 0]) * (np.array(CANVAS[3]) - 1))[:ndim] / 2
        if ndim == 3
        else 50 + np.array([-1.0, 1.0]) * (np.array(shape) - 1) / 2,
    }
    assert list(found) == list(expected)
    for name, shift in expected.items():
        np.testing.assert_allclose(found[name][:ndim, 3], shift, atol=1e-4)
        np.testing.assert_array_equal(found[name][:3, :3], np.eye(3))
        assert ndim == 3 or found[name][2, 3] == 0


def test_a_scan_with_weights_of_a_pyramid_is_found_too():
    """NaN and masks: what does not count does not lead."""
    whole = texture(3)
    spoiled = whole.copy()
    spoiled[:12, :20] = np.nan
    device = torch.device("cpu")
    fixed = pyramid(Image(spoiled, np.eye(4)), None, "fixed", (1.0,), device)[0]
    moving = pyramid(Image(whole[5:, 3:], np.eye(4)), None, "moving", (1.0,), device)[0]
    np.testing.assert_allclose(correlated(fixed, moving, [np.eye(4)])[0].world[:3, 3], [-5, -3, 0], atol=0.51)
