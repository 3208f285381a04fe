"""B-spline, Lanczos and the Gaussian vote of labels for files, against SimpleITK, ANTs, and a ball that is known."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.itk_sampling import ants_sampled, itk_sampled
from scipy import ndimage

from fastreg.geometry.image import Image, affine_field, to_flow
from fastreg.geometry.resample import INTENSITY_INTERPOLATIONS, INTERPOLATIONS, resample_to_grid, sample, sample_filled
from fastreg.geometry.transforms import Warp
from fastreg.registration.result import RegistrationResult
from fastreg.utils.files import InputError

SIZES = {2: (17, 14), 3: (14, 12, 13)}


def rough(ndim, reach=1.4):
    """A flow [*grid, ndim] that leads anywhere in an image of `SIZES`, and a little beyond."""
    rng = np.random.default_rng(ndim)
    grid = (9, 8, 10)[3 - ndim :]
    places = rng.uniform(-reach, np.array(SIZES[ndim]) - 1 + reach, (*grid, ndim))
    return (places - affine_field(np.eye(4)[:ndim], grid)).astype(np.float32)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("mode", "interpolator"), [("bspline", sitk.sitkBSpline), ("lanczos", sitk.sitkLanczosWindowedSinc)]
)
def test_itk_agrees_up_to_half_a_voxel_outside(mode, interpolator, ndim):
    data = np.random.default_rng(0).normal(size=SIZES[ndim]).astype(np.float32)
    flow = rough(ndim)
    ours = sample_filled(Image(data, np.eye(4)), to_flow(flow), mode, -7)
    theirs = itk_sampled(data, flow, interpolator, -7)
    assert (theirs == -7).any() and (theirs != -7).sum() > 50
    np.testing.assert_array_equal(ours == -7, theirs == -7)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def phantom(count, ndim, edge=30):
    """A smooth map of `count` labels, and a smooth flow of a few voxels."""
    generator = torch.Generator().manual_seed(count)
    mode = "trilinear" if ndim == 3 else "bilinear"
    size = (edge, edge + 3, edge + 5)[3 - ndim :]

    def smooth(channels, knots):
        noise = torch.randn(1, channels, *[knots] * ndim, generator=generator)
        return torch.nn.functional.interpolate(noise, size, mode=mode)

    labels = smooth(count, 4).argmax(1)[0].numpy().astype(np.int32) * 7
    return labels, smooth(ndim, 4) * 2


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("count", [5, 30])
def test_ants_multilabel_agrees(tmp_path, count, ndim):
    pytest.importorskip("ants")
    labels, flow = phantom(count, ndim)
    ours = sample_filled(Image(labels, np.eye(4)), flow, "multilabel")
    theirs = ants_sampled(labels, flow[0].movedim(0, -1).numpy(), "multiLabel", tmp_path)
    assert len(np.unique(ours)) > count // 2 and ours.dtype == labels.dtype
    assert (ours == theirs).mean() >= 0.9995
    assert (ours == sample_filled(Image(labels, np.eye(4)), flow, "genericlabel")).mean() < 0.999


@pytest.mark.parametrize("count", [5, 30])
def test_simpleitk_s_narrower_gaussian_is_near(count):
    """It cuts the same Gaussian off at 1 sigma, where ANTs cuts at 4: 1.5 to 4 of 100 voxels differ."""
    labels, flow = phantom(count, 3)
    ours = sample_filled(Image(labels, np.eye(4)), flow, "multilabel")
    theirs = itk_sampled(labels, flow[0].movedim(0, -1).numpy(), sitk.sitkLabelGaussian, 0)
    assert (ours == theirs).mean() > 0.95


def test_multilabel_smooths_a_ball():
    """A ball of 8 voxels on a grid three times as fine: how far its outermost voxels are from one radius."""
    middle, fine = np.eye(4), np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    middle[:3, 3], fine[:3, 3] = -10, -10
    ball = Image((np.linalg.norm(affine_field(middle[:3], (21, 21, 21)), axis=-1) < 8).astype(np.uint8), middle)
    shape = (61, 61, 61)
    radius = np.linalg.norm(affine_field(fine[:3], shape), axis=-1)
    roughness, dice, size = {}, {}, {}
    for mode in ("nearest", "genericlabel", "multilabel"):
        found = resample_to_grid(ball, fine, shape, mode).data > 0
        roughness[mode] = radius[found & ~ndimage.binary_erosion(found)].std()
        size[mode] = found.sum()
        dice[mode] = 2 * (found & (radius < 8)).sum() / (found.sum() + (radius < 8).sum())
    assert roughness["multilabel"] < 0.7 * roughness["genericlabel"] < 0.7 * roughness["nearest"]
    assert dice["multilabel"] > dice["nearest"]
    assert size["multilabel"] / size["nearest"] == pytest.approx(1 - 3.25 / 8**2, abs=0.01)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["bspline", "lanczos"])
def test_what_is_not_finite_stays_where_it_is(mode, ndim):
    """One NaN and one infinity touch what linear interpolation lets them touch; beside them nothing rings."""
    flow = to_flow(rough(ndim, reach=-0.5))
    data = np.full(SIZES[ndim], 5, np.float32)
    data[(4,) * ndim], data[(9,) * ndim] = np.nan, np.inf
    linear, found = (sample(Image(data, np.eye(4)), flow, name, "border") for name in ("linear", mode))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(linear))
    assert not np.isfinite(found).all() or ndim == 2
    ripple = 1e-5 if mode == "bspline" else 0.02  # of the weights of Lanczos, which do not sum to 1
    np.testing.assert_allclose(found[np.isfinite(found)], 5, atol=ripple)
    assert (sample_filled(Image(np.full(SIZES[ndim], np.nan), np.eye(4)), flow + 99, mode) == 0).all()


def test_every_mode_keeps_voxels_on_their_grid_and_knows_what_is_outside():
    data = np.random.default_rng(0).integers(1, 5, (6, 7, 8)).astype(np.int16)
    still = torch.zeros(1, 3, 6, 7, 8)
    for mode in INTERPOLATIONS:
        found = sample(Image(data, np.eye(4)), still, mode)
        assert found.dtype == (np.float32 if mode in INTENSITY_INTERPOLATIONS else np.int16)
        if mode != "multilabel":
            np.testing.assert_allclose(found, data, atol=1e-5)
        assert (sample(Image(data, np.eye(4)), still + 50, mode) == 0).all()
        assert (sample(Image(data, np.eye(4)), still - 50, mode, "border") != 0).all()
    with pytest.raises(InputError, match=r"expected zeros, border or itk with interpolation lanczos, got reflection"):
        sample(Image(data, np.eye(4)), still, "lanczos", "reflection")
    with pytest.raises(InputError, match=r"expected one of linear, nearest, .*multilabel, got cubic"):
        sample(Image(data, np.eye(4)), still, "cubic")


def test_intensities_are_smoothed_before_they_become_coarser():
    noise = Image(np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32), np.eye(4))
    coarse = np.diag([4.0, 4, 4, 1])
    for mode in INTENSITY_INTERPOLATIONS:
        assert resample_to_grid(noise, coarse, (6, 6, 6), mode).data.std() < 0.5


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_a_registration_s_result_takes_every_mode(mode):
    image = Image(np.random.default_rng(0).integers(0, 4, (6, 7, 8)).astype(np.int16), np.eye(4))
    flow = np.full((6, 7, 8, 3), 0.25, np.float32)
    found = RegistrationResult(image, image, Warp(flow, np.eye(4), np.eye(4), image.shape)).apply(image, mode)
    np.testing.assert_array_equal(found.data, sample_filled(image, to_flow(flow), mode))


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_a_displacement_that_is_not_a_number_reads_what_lies_outside(mode):
    labels = Image(np.full((4, 5, 6), 3, np.int16), np.eye(4))
    flow = torch.zeros(1, 3, 4, 5, 6)
    flow[0, 1, 2, 2, 2] = np.nan
    found = sample_filled(labels, flow, mode, -7)
    assert found[2, 2, 2] == -7 and np.delete(found.reshape(-1), 2 * 30 + 2 * 6 + 2).min() > 2.5
