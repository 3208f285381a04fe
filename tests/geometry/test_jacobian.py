"""Maps of the Jacobian determinant against what is known in closed form, SimpleITK and ANTs."""

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.itk_sampling import itk_field

from fastreg.geometry.image import affine_field
from fastreg.geometry.jacobian import FLOOR, jacobian_map
from fastreg.geometry.linear import product_of
from fastreg.geometry.transforms import Affine, Warp, compose
from fastreg.utils.files import InputError

SHAPES = {2: (19, 23), 3: (17, 15, 19)}


def oblique(rng, spacing, plane):
    """Voxel -> RAS mm; a plane stays in the world's."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if plane:
        turn = np.eye(3)
        turn[:2, :2] = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = rng.normal(size=3) * (not plane) - affine[:3, :3] @ [8, 8, 8 * (not plane)]
    return affine


def linear_map(rng, plane):
    matrix = np.eye(4)
    size = 2 if plane else 3
    matrix[:size, :size] += rng.normal(size=(size, size)) * 0.1
    matrix[:size, 3] = rng.normal(size=size)
    return Affine(matrix)


def bent(ndim, pitch=0.3, height=0.8):
    """Waves on a grid of 1 mm that fold nowhere."""
    shape = SHAPES[ndim]
    waves = np.random.default_rng(ndim).normal(size=(ndim, ndim)) * pitch
    flow = height * np.sin(affine_field(np.eye(4)[:ndim], shape) @ waves)
    return Warp(flow.astype(np.float32), np.eye(4), np.eye(4), shape)


@pytest.mark.parametrize("ndim", [2, 3])
def test_of_a_linear_map_nothing_is_left_without_it(ndim):
    rng = np.random.default_rng(ndim)
    chain = [linear_map(rng, ndim == 2), linear_map(rng, ndim == 2)]
    fixed, moving = oblique(rng, (1.0, 1.3, 2.0), ndim == 2), oblique(rng, (0.8, 1.7, 1.1), ndim == 2)
    warp = compose(chain, fixed, SHAPES[ndim], moving)
    expected = np.linalg.det(chain[1].matrix @ chain[0].matrix)
    np.testing.assert_allclose(jacobian_map(warp, log=True), np.log(expected), atol=2e-5)
    for linear in (product_of(chain), None):
        np.testing.assert_allclose(jacobian_map(warp, log=True, nonlinear=True, linear=linear), 0, atol=2e-5)
    assert product_of([warp]) is None


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_radial_field_has_the_determinant_of_its_formula(ndim):
    """x -> x f(r) with f = 1 + a exp(-r^2 / s^2): determinant f^(ndim - 1) (f + r f')."""
    shape, a, s = (41,) * ndim, 0.3, 12.0
    x = affine_field(np.eye(4)[:ndim], shape) - 20
    r2 = (x**2).sum(-1)
    bump = a * np.exp(-r2 / s**2)
    warp = Warp((x * bump[..., None]).astype(np.float32), np.eye(4), np.eye(4))
    expected = (1 + bump) ** (ndim - 1) * (1 + bump - 2 * r2 / s**2 * bump)
    inner = (slice(1, -1),) * ndim
    found = jacobian_map(warp, log=True)
    np.testing.assert_allclose(found[inner], np.log(expected)[inner], atol=0.01)
    assert found.dtype == np.float32


def test_without_affine_files_the_nearest_linear_map_goes():
    """Of y = A x + waves that have no linear part, least squares finds A: NumPy's agrees."""
    rng = np.random.default_rng(3)
    fixed, moving = oblique(rng, (1.0, 1.3, 2.0), False), oblique(rng, (0.8, 1.7, 1.1), False)
    warp = compose([linear_map(rng, False)], fixed, SHAPES[3], moving)
    warp = Warp(warp.flow + 0.5 * bent(3).flow, fixed, moving)
    p = affine_field(np.eye(4)[:3], SHAPES[3])
    design = np.concatenate([p.reshape(-1, 3), np.ones((p[..., 0].size, 1))], 1)
    fit = np.linalg.lstsq(design, (p + warp.flow).reshape(-1, 3), rcond=None)[0][:3].T
    linear = Affine(
        moving @ np.block([[fit, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]) @ np.linalg.inv(fixed)
    )
    expected = jacobian_map(warp, nonlinear=True, linear=linear)
    np.testing.assert_allclose(jacobian_map(warp, nonlinear=True), expected, rtol=1e-5)
    np.testing.assert_allclose(expected, warp.jacobian() / np.linalg.det(linear.matrix[:3, :3]), rtol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_simpleitk_agrees_in_the_interior(ndim):
    """Central differences too; at the border SimpleITK takes the field to go on, here the difference is one-sided."""
    warp = bent(ndim)
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(itk_field(warp.flow))).T
    inner = (slice(1, -1),) * ndim
    np.testing.assert_allclose(jacobian_map(warp)[inner], theirs[inner], atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_ants_agrees_in_the_interior(tmp_path, ndim):
    """ANTs takes differences of the fourth order: of long waves the two are as good."""
    ants = pytest.importorskip("ants")
    warp = bent(ndim, pitch=0.1, height=2.4)
    sitk.WriteImage(itk_field(warp.flow), str(tmp_path / "warp.nii.gz"))
    domain = ants.from_numpy(np.zeros(SHAPES[ndim], np.float32))
    theirs = ants.create_jacobian_determinant_image(domain, str(tmp_path / "warp.nii.gz"), do_log=True).numpy()
    ours = jacobian_map(warp, log=True)
    inner = (slice(3, -3),) * ndim
    assert np.abs(ours)[inner].max() > 0.2
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.015)


def test_folds_are_floored_and_counted():
    flow = np.zeros((9, 8, 7, 3), np.float32)
    flow[4, 4, 4, 0] = 3
    warp = Warp(flow, np.eye(4), np.eye(4))
    determinant = warp.jacobian()
    assert (determinant <= 0).sum() == 1
    with pytest.warns(UserWarning, match=r"log Jacobian: 1 voxel folds, or nearly: taken as 0.001"):
        found = jacobian_map(warp, log=True)
    assert found.min() == np.float32(np.log(FLOOR))
    np.testing.assert_allclose(found[determinant > 0], np.log(determinant[determinant > 0]), atol=1e-6)


def test_refusals():
    still = Warp(np.zeros((5, 4, 3, 3), np.float32), np.eye(4), np.eye(4))
    with pytest.raises(InputError, match=r"its linear part has no inverse"):
        jacobian_map(still, nonlinear=True, linear=Affine(np.diag([1.0, 0, 1, 1])))
    with pytest.raises(InputError, match=r"two voxels or more along each axis"):
        jacobian_map(Warp(np.zeros((5, 1, 3, 3), np.float32), np.eye(4), np.eye(4)), log=True)
