"""What lies at the border of a moved image and beyond it, against SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.itk_sampling import itk_sampled

from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.resample import background_of, sample_filled
from fastreg.geometry.transforms import Warp
from fastreg.registration.result import RegistrationResult
from fastreg.utils.files import InputError


def some(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("mode", "interpolator"),
    [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor), ("genericlabel", sitk.sitkLabelLinear)],
)
def test_the_border_of_files_is_itk_s(mode, interpolator):
    rng = np.random.default_rng(3)
    places = np.round(rng.uniform(-1.4, 7.4, (9, 8, 10, 3)) * 4) / 4 + (mode == "genericlabel") * 0.07
    flow = places - affine_field(np.eye(4)[:3], places.shape[:3])
    data = some((7, 6, 5)) if mode == "linear" else rng.integers(1, 4, (7, 6, 5)).astype(np.int16)
    tensor = torch.from_numpy(np.moveaxis(flow, -1, 0)).float()[None]
    ours = sample_filled(Image(data, np.eye(4)), tensor, mode, -7)
    theirs = itk_sampled(data, flow, interpolator, -7)
    assert (theirs == -7).any() and (theirs != -7).sum() > 50
    np.testing.assert_array_equal(ours == -7, theirs == -7)
    if mode == "genericlabel":  # equal votes go to another of the labels
        assert (ours != theirs).mean() < 2e-2
    else:
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_outside_an_image_lies_zero_or_its_minimum_below_zero():
    far = torch.full((1, 3, 2, 2, 2), 100.0)
    for data, outside in (([[[3.0, 9]]], 0), ([[[-1000.0, 9]]], -1000), ([[[np.nan, -3.0]]], -3), ([[[np.nan]]], 0)):
        image = Image(np.array(data, np.float32), np.eye(4))
        assert background_of(image) == outside
        assert (sample_filled(image, far) == outside).all()
        assert (sample_filled(image, far, background=5) == 5).all()
    labels = Image(np.array([[[-1, 200]]], np.int16), np.eye(4))
    assert (sample_filled(labels, far, "nearest") == 0).all()
    wide = sample_filled(Image(labels.data.astype(np.uint8), np.eye(4)), far, "nearest", -1000)
    assert (wide == -1000).all() and wide.dtype.kind == "i"
    with pytest.raises(InputError, match=r"background: expected a whole number for an image of integers, got 0.5"):
        sample_filled(labels, far, "nearest", 0.5)


def test_a_registration_s_result_has_the_background_of_its_moving_image():
    moving = Image(np.array([[[-1000.0, 40, 40]]], np.float32), np.eye(4))
    warp = Warp(np.full((1, 1, 3, 3), 9, np.float32), np.eye(4), np.eye(4), moving.shape)
    labels = Image(np.array([[[0, 1, 2]]], np.int16), np.eye(4))
    for given, outside in ((None, -1000), (-5.5, -5.5)):
        found = RegistrationResult(moving, moving, warp, background=given)
        assert (found.moved == outside).all() and (found.apply(labels).data == 0).all()
