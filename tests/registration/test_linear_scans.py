"""The working grids of the linear alignment: levels, where voxels lie, and what does not count."""

import itertools

import numpy as np
import pytest
import torch

from fastreg.geometry.image import Image
from fastreg.registration.linear.scans import (
    Body,
    Scan,
    default_levels,
    pyramid,
    without_background,
    without_field_of_view,
)
from fastreg.utils.files import InputError

CPU = torch.device("cpu")
SHAPES = [(24, 21, 18), (40, 33)]


def image(shape, spacing=1.0):
    return Image(np.zeros(shape, np.float32), np.diag([spacing, spacing, spacing, 1.0]))


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((192, 192, 192), 1.0, (8, 4, 2)),
        ((96, 96, 96), 1.0, (4, 2, 1)),
        ((96, 96, 96), 3.0, (12, 6, 3)),
        ((40, 40, 40), 2.0, (4, 2)),
        ((30, 30, 30), 1.0, (1,)),
        ((1000, 1000), 0.096, (2, 1, 0.5)),
        ((100, 100), 1.0, (2, 1)),
        ((50, 50), 1.0, (1,)),
        ((8, 8), 1.0, (1,)),
    ],
)
def test_levels_are_as_many_as_the_size_allows(shape, spacing, expected):
    assert default_levels(image(shape, spacing)) == pytest.approx(expected)


def test_levels_never_ask_for_more_than_the_image_has():
    thin = Image(np.zeros((300, 300, 4), np.float32), np.diag([0.5, 0.5, 5.0, 1]))
    levels = default_levels(thin)
    assert levels[-1] >= 0.5 and all(a == 2 * b for a, b in itertools.pairwise(levels))


def ramp(shape, spacing):
    """An image whose intensity is a linear function of where the voxel lies, on a turned grid."""
    ndim = len(shape)
    affine = np.eye(4)
    affine[:ndim, :ndim] = np.diag(spacing)
    turn = np.deg2rad(30)
    affine[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ affine[:2, :2]
    affine[:3, 3] = [10, -5, 3]
    return Image(at(affine, shape).astype(np.float32), affine)


def at(affine, shape):
    """The ramp at the voxels of any grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = index @ affine[:3, : len(shape)].T + affine[:3, 3]
    return places @ [1.0, 2.0, -1.5]


@pytest.mark.parametrize(
    ("shape", "spacing", "halved"),
    [
        ((24, 21, 18), (1, 1, 1), (12, 10, 9)),
        ((24, 20, 8), (1, 1, 3), (12, 10, 8)),
        ((17, 1, 9), (1, 1, 1), (8, 1, 4)),
        ((40, 33), (2, 2), (20, 16)),
        ((40, 33), (4, 2), (40, 16)),
    ],
)
def test_a_scan_halved_lies_where_it_lay(shape, spacing, halved):
    """Averages of a linear function are the function at the centres of what was averaged."""
    whole = ramp(shape, spacing)
    values = torch.from_numpy(whole.data)[None, None]
    found = Scan(values, torch.ones_like(values), whole.affine).halved()
    assert found.shape == halved and found.ndim == len(shape)
    np.testing.assert_allclose(found.values[0, 0], at(found.affine, halved), atol=1e-4)
    assert found.weight.eq(1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_level_lies_where_the_image_lies(shape):
    whole = ramp(shape, (1.0, 1.5, 2.0)[: len(shape)])
    slopes = []
    for scan in pyramid(whole, None, "fixed", (6.0, 3.0, 1.5), CPU):
        there = at(scan.affine, scan.shape)
        # The outermost intensities are clipped: away from them value and place are one line.
        inner = (scan.values[0, 0].numpy() > 0.15) & (scan.values[0, 0].numpy() < 0.85)
        line = np.polyfit(there[inner], scan.values[0, 0].numpy()[inner], 1)
        assert np.abs(np.polyval(line, there[inner]) - scan.values[0, 0].numpy()[inner]).max() < 2e-3
        slopes.append(line)
    np.testing.assert_allclose(slopes[1:], [slopes[0]] * 2, atol=2e-3)


def test_what_does_not_count_leaves_no_trace():
    """NaN and what lies outside the mask: whatever is there, the values are the same."""
    rng = np.random.default_rng(0)
    data = rng.random((24, 20, 16)).astype(np.float32)
    mask = np.ones(data.shape, np.uint8)
    mask[5:12, 4:9, 3:10] = 0
    seen = []
    for hidden in (np.nan, 1e6, -3.0):
        spoiled = np.where(mask > 0, data, hidden).astype(np.float32)
        seen.append(pyramid(Image(spoiled, np.eye(4)), Image(mask, np.eye(4)), "fixed", (4.0, 2.0), CPU))
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            torch.testing.assert_close(one.values, two.values)
            torch.testing.assert_close(one.weight, two.weight)
    with pytest.raises(InputError, match="fixed mask: 2-D, but the fixed image is 3-D"):
        pyramid(Image(data, np.eye(4)), Image(mask[0], np.eye(4)), "fixed", (2.0,), CPU)


def rimmed(shape, shift=0, seed=0, radius=0.8):
    """Texture inside of a disc or ball, black around it."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n) for n in shape]
    axes[0] = axes[0] - shift
    inside = sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) < radius**2
    values = torch.from_numpy(np.where(inside, 0.4 + 0.5 * rng.random(shape), 0).astype(np.float32))[None, None]
    return Scan(values, torch.ones_like(values), np.eye(4))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_rim_of_the_device_does_not_count(shape):
    """The same in both images: it does not move with the object."""
    fixed, moving = rimmed(shape), rimmed(shape, seed=1)
    ((one, two),) = without_field_of_view([(fixed, moving)])
    for seen, before in ((one, fixed), (two, moving)):
        outside = before.values == 0
        assert seen.weight[outside].eq(0).all()
        assert 0.4 < seen.weight[~outside].mean() < 1, "and nothing that touches it"
        assert torch.equal(seen.values, before.values)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", ["elsewhere", "smaller", "other size", "no rim"])
def test_the_outline_of_an_object_counts(shape, what):
    moving = {
        "elsewhere": lambda: rimmed(shape, shift=0.15, seed=1),
        "smaller": lambda: rimmed(shape, seed=1, radius=0.7),
        "other size": lambda: rimmed([n + 2 for n in shape], seed=1),
        "no rim": lambda: rimmed(shape, seed=1, radius=3),
    }[what]()
    levels = [(rimmed(shape), moving)]
    assert without_field_of_view(levels) is levels


def test_without_background():
    scan = rimmed((40, 33))
    assert without_background(scan).weight[scan.values == 0].eq(0).all()
    everywhere = rimmed((40, 33), radius=3)
    assert without_background(everywhere) is everywhere


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_body_is_where_the_mass_is(shape):
    """A box of one intensity in black: its centre, its root mean square radius, the directions of the grid."""
    data = np.zeros(shape, np.float32)
    data[(slice(6, 13),) * len(shape)] = 1
    affine = np.diag([2.0, 3.0, 4.0, 1])
    affine[:3, 3] = [1, 2, 3]
    values = torch.from_numpy(data)[None, None]
    body = Body.of(Scan(values, torch.ones_like(values), affine))
    ndim = len(shape)
    centre = np.array([1 + 9 * 2, 2 + 9 * 3, 3 + 9 * 4]) if ndim == 3 else np.array([19, 29, 3])
    np.testing.assert_allclose(body.centre, centre)
    assert body.radius_mm == pytest.approx(np.sqrt(4 * sum(mm**2 for mm in (2, 3, 4)[:ndim])))
    assert body.axes.shape == (3, ndim)
    np.testing.assert_allclose(body.axes.T @ body.axes, np.eye(ndim), atol=1e-12)
