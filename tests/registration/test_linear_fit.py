"""What the linear alignment maximises, and how it climbs: scores, channels, strain."""

import itertools

import numpy as np
import pytest
import torch
from helpers.textured import head
from scipy import ndimage

from fastreg.geometry.image import Image
from fastreg.ops.mind import mind
from fastreg.registration.linear.fit import STRAIN, fit, strain
from fastreg.registration.linear.objective import METRICS, Objective, aligned_channels, generators
from fastreg.registration.linear.scans import Body, Scan, pyramid

SHAPES = [(40, 36, 32), (90, 80)]
CPU = torch.device("cpu")


def scan(shape, seed=0, affine=None):
    """About the origin, isotropic of 2 mm if nothing else is said."""
    if affine is None:
        affine = np.diag([2.0, 2, 2, 1])
        affine[: len(shape), 3] = -(np.array(shape) - 1)
    return pyramid(Image(head(shape, seed, 0.9), affine), None, "fixed", (2.0,), CPU)[0]


def rotation(ndim, degrees):
    amounts = np.deg2rad(degrees) * np.array([1, -0.5, 0.7])[: 1 if ndim == 2 else 3]
    world = np.eye(4)
    tangent = np.einsum("k,kij->ij", amounts, generators("rigid", ndim))
    world[:ndim, :ndim] = torch.linalg.matrix_exp(torch.from_numpy(tangent)).numpy()
    return world


@pytest.mark.parametrize("ndim", [2, 3])
def test_rigid_maps_are_not_strained(ndim):
    world = rotation(ndim, 40)
    world[:3, 3] = [5, -7, 3]
    assert float(strain(torch.from_numpy(world))) == pytest.approx(0, abs=1e-12)
    mirrored = world @ np.diag([-1.0, 1, 1, 1])
    assert float(strain(torch.from_numpy(mirrored))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 2.0])
def test_a_scale_is_strained_by_its_logarithm(scale):
    """log(A'A) of s I is 2 log s along each axis: a quarter of 3 (2 log s)^2; as much for 1 / s."""
    world = rotation(3, 25) @ np.diag([scale] * 3 + [1.0])
    assert float(strain(torch.from_numpy(world))) == pytest.approx(3 * np.log(scale) ** 2)
    plane = np.diag([scale, scale, 1.0, 1.0])
    assert float(strain(torch.from_numpy(plane))) == pytest.approx(2 * np.log(scale) ** 2)
    inverse = np.linalg.inv(world)
    assert float(strain(torch.from_numpy(inverse))) == pytest.approx(3 * np.log(scale) ** 2)


def test_a_strain_has_a_gradient_at_the_identity_and_at_a_collapse():
    for linear in (np.eye(4), np.diag([1e-8, 1.0, 1.0, 1.0])):
        world = torch.from_numpy(linear).requires_grad_()
        strain(world).backward()
        assert world.grad.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_with_nothing_in_common_do_not_shrink_away(shape):
    """Without the strain local correlation of two noises grows as one of them is squeezed to nothing."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[: len(shape), 3] = -(np.array(shape) - 1)
    chances = [np.random.default_rng(seed).standard_normal(shape) for seed in (0, 12)]
    noises = [ndimage.gaussian_filter(chance, 1.5).astype(np.float32) for chance in chances]
    fixed, moving = (pyramid(Image(noise, affine), None, "fixed", (2.0,), CPU)[0] for noise in noises)
    left = []
    for weight in (0.0, STRAIN):
        found, objective = np.eye(4), Objective(fixed, moving, "lncc", 0)
        for _ in range(3):
            found = fit(objective, found, Body.of(fixed), "affine", 2.0, 60, weight)
        left.append(np.linalg.det(found))
    assert left[0] < 0.6 and 0.75 < left[1] < 1.33


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_a_fit_finds_its_way_home(shape, metric):
    """From a turn of three degrees and two voxels back to the image itself, by every metric."""
    ndim = len(shape)
    fixed = scan(shape)
    start = rotation(ndim, 3)
    start[:ndim, 3] = [3, -3, 2][:ndim]
    found = fit(Objective(fixed, fixed, metric, 0), start, Body.of(fixed), "rigid", 2.0, 40)
    corners = 20 * np.array(list(itertools.product((-1, 1), repeat=ndim)))
    off = corners @ (found - np.eye(4))[:ndim, :ndim].T + found[:ndim, 3]
    assert np.linalg.norm(off, axis=1).max() < 0.6
    assert np.allclose(found[:3, :3].T @ found[:3, :3], np.eye(3), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_where_nothing_is_gained_the_map_itself_comes_back(shape):
    fixed = scan(shape)
    start = np.eye(4)
    assert fit(Objective(fixed, fixed, "mse", 0), start, Body.of(fixed), "affine", 2.0, 10) is start
    away = np.eye(4)
    away[0, 3] = 1000
    assert fit(Objective(fixed, fixed, "mse", 0), away, Body.of(fixed), "affine", 2.0, 10) is away


@pytest.mark.parametrize("ndim", [2, 3])
def test_channels_are_those_of_the_image_stored_otherwise(ndim):
    """Every orientation: the descriptors of a flipped, transposed image, brought back, are those of the image."""
    shape = (9, 8, 7)[:ndim]
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    expected = mind(image)
    for axes in itertools.permutations(range(ndim)):
        for flips in itertools.product((False, True), repeat=ndim):
            flipped = [2 + axis for axis in range(ndim) if flips[axis]]
            stored = image.permute(0, 1, *[2 + axis for axis in axes]).flip(flipped)
            affine = np.eye(4)  # voxel of `stored` -> voxel of `image`
            affine[:ndim, :ndim] = 0
            for own, axis in enumerate(axes):
                affine[axis, own] = -1 if flips[own] else 1
            order = aligned_channels(np.eye(4), affine, np.eye(4), ndim)
            assert sorted(order) == list(range(2 * ndim))
            home = mind(stored).flip(flipped).permute(0, 1, *[2 + k for k in np.argsort(axes)])
            torch.testing.assert_close(home[:, order], expected)
    near = rotation(ndim, 20)
    assert aligned_channels(np.diag([2.0, 1, 3, 1]), np.diag([1.0, 4, 1, 1]), near, ndim) == list(range(2 * ndim))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_quarter_turn_is_as_good_as_none(shape):
    """The score of an image against itself, stored turned in its world, under the turn."""
    ndim = len(shape)
    fixed = scan(shape)
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    moving = Scan(fixed.values, fixed.weight, turn @ fixed.affine)
    assert Objective(fixed, moving, "mind", 0).score(turn) == pytest.approx(1, abs=1e-3)
    stored = Scan(
        fixed.values.transpose(2, 3).flip(2), fixed.weight.transpose(2, 3).flip(2), fixed.affine @ _stored(shape)
    )
    assert Objective(fixed, stored, "mind", 0).score(np.eye(4)) > 0.99, ndim


def _stored(shape):
    """Voxel of the transposed and flipped image -> voxel of the image."""
    change = np.eye(4)
    change[:2, :2] = [[0, 1], [-1, 0]]
    change[1, 3] = shape[1] - 1
    return change
