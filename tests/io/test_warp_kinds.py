"""Warps that hold places, planes that are not axial, units, and series that are no warps."""

import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.geometry.image import Image, affine_field, fsl_frame
from fastreg.geometry.transforms import Warp, apply, compose
from fastreg.io.images import save_image
from fastreg.io.point_sets import check_columns
from fastreg.io.warp_kinds import detect_format
from fastreg.io.warps import FORMATS, load_warp, save_warp
from fastreg.utils.files import InputError

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 2.5, -20], [0, 0, 0, 1]])
SHAPE = (16, 18, 14)


def displacement(seed=0):
    """Smooth, a few mm long."""
    p = affine_field(np.eye(4)[:3], SHAPE)
    return 3 * np.sin(p @ np.random.default_rng(seed).normal(size=(3, 3)) * 0.3)


def write(path, data, intent=0, affine=AFFINE, **header):
    image = nibabel.Nifti1Image(data.astype(np.float32), affine)
    image.header["intent_code"] = intent
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


MOVING = Image(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), AFFINE)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("given", [None, "fsl"])
def test_fsl_s_absolute_warps_are_read_as_the_relative_ones(tmp_path, flip, given):
    affine = AFFINE @ np.diag([-1.0, 1, 1, 1]) if flip else AFFINE
    moving = Image(MOVING.data, affine)
    own = affine_field(fsl_frame(affine, SHAPE)[:3], SHAPE)
    relative = load_warp(write(tmp_path / "rel.nii.gz", displacement(), 2006, affine), moving=moving)
    path = write(tmp_path / "abs.nii.gz", own + displacement(), 2006 if given is None else 0, affine)
    np.testing.assert_allclose(load_warp(path, moving=moving, format=given).flow, relative.flow, atol=1e-4)


@pytest.mark.parametrize("intent", [0, 1006, 1007])
@pytest.mark.parametrize("kind", ["fsl", "ras", "lps", "voxels"])
def test_places_of_other_kinds_are_refused_by_name(tmp_path, intent, kind):
    frame = {
        "fsl": fsl_frame(AFFINE, SHAPE),
        "ras": AFFINE,
        "lps": np.diag([-1.0, -1, 1, 1]) @ AFFINE,
        "voxels": np.eye(4),
    }[kind]
    data = affine_field(frame[:3], SHAPE) + displacement()
    path = write(tmp_path / "places.nii.gz", data if intent == 0 else data[..., None, :], intent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="expected displacements, got places in") as error:
            load_warp(path, moving=MOVING)
    assert ("--warp-format fsl" in str(error.value)) == (kind == "fsl") and "\n" not in str(error.value)


def test_places_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", vol=affine_field(np.eye(4)[:3], SHAPE) + 0.3 * displacement())
    with pytest.raises(InputError, match="places in voxels"):
        load_warp(tmp_path / "a.npz")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_here_is_never_taken_for_places(tmp_path, format):
    """Onto voxels of half the size displacements in voxels are like the places themselves."""
    fine = np.diag([1.0, 1, 1, 1])
    warp = compose([], np.diag([2.0, 2, 2, 1]), SHAPE, fine, (32, 36, 28))
    path = tmp_path / ("a.npz" if format == "npz" else "a.nii.gz")
    save_warp(path, warp, format=format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = load_warp(path, moving=Image(np.zeros((32, 36, 28), np.float32), fine))
    np.testing.assert_allclose(back.flow, warp.flow, atol=1e-4)


def test_a_field_that_says_nothing_is_taken_for_voxels_with_a_word(tmp_path):
    path = write(tmp_path / "a.nii.gz", 0.3 * displacement())
    with pytest.warns(UserWarning, match="does not say the format; displacements in voxels are assumed"):
        assert detect_format(path) == "learn2reg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect_format(write(tmp_path / "disp_0001_0002.nii.gz", 0.3 * displacement())) == "learn2reg"


@pytest.mark.parametrize("volumes", [2, 3, 20])
def test_a_series_is_no_warp(tmp_path, volumes):
    series = np.random.default_rng(0).uniform(0, 1000, (*SHAPE, volumes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect_format(write(tmp_path / "a.nii.gz", series)) is None
        timed = write(tmp_path / "b.nii.gz", series / 1000, pixdim=[1, 2, 2, 2, 1.5, 0, 0, 0])
        assert detect_format(timed) is None
    with pytest.raises(InputError, match="got an image or a series"):
        load_warp(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_a_warp_s_grid_has_its_header_s_unit_and_its_vectors_mm_as_in_itk(tmp_path, unit):
    scale = {"micron": 1e3, "meter": 1e-3}[unit]
    flow = (0.2 * displacement()).astype(np.float32)
    save_warp(tmp_path / "mm.nii.gz", Warp(flow, AFFINE, AFFINE, SHAPE))
    image = nibabel.load(tmp_path / "mm.nii.gz")
    other = nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([scale] * 3 + [1.0]) @ AFFINE)
    other.header["intent_code"] = 1007
    other.header.set_xyzt_units(unit)
    nibabel.save(other, tmp_path / "other.nii.gz")
    fields = [sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64) for name in ("mm.nii.gz", "other.nii.gz")]
    np.testing.assert_allclose(fields[1].GetSpacing(), fields[0].GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(sitk.GetArrayFromImage(fields[1]), sitk.GetArrayFromImage(fields[0]))
    np.testing.assert_allclose(load_warp(tmp_path / "other.nii.gz").flow, flow, atol=1e-4)


PLANES = {
    "axial": np.diag([1.2, 1.1, 3, 1]),
    "turned": np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -9], [0, 0, 2, 4], [0, 0, 0, 1]]),
    "coronal": np.array([[1.2, 0, 0, -50], [0, 0, 3, 12], [0, 1.2, 0, -40], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 3, 7], [1.2, 0, 0, -50], [0, 1.2, 0, -40], [0, 0, 0, 1]]),
    "oblique": np.array([[0.8, 0, -0.6, 5], [0, 1, 0, -9], [0.6, 0, 0.8, 4], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("format", ["itk", "learn2reg", "npz"])
@pytest.mark.parametrize("plane", list(PLANES))
def test_no_component_of_a_2_d_warp_is_lost(tmp_path, plane, format):
    affine, rng = PLANES[plane], np.random.default_rng(2)
    moving_affine = affine @ np.array([[1.1, 0, 0, 3], [0, -0.9, 0, 12], [0, 0, 1, 0], [0, 0, 0, 1]])
    moving = Image(rng.normal(size=(20, 22)).astype(np.float32), moving_affine)
    start = compose([], affine, (14, 15), moving_affine, (20, 22)).flow
    warp = Warp(start + rng.uniform(-1, 1, (14, 15, 2)).astype(np.float32), affine, moving_affine, (20, 22))
    path = tmp_path / ("a.npz" if format == "npz" else "a.nii.gz")
    save_warp(path, warp, format=format)
    for given in (None, moving) if format != "learn2reg" else (moving,):
        back = load_warp(path, moving=given)
        assert back.ndim == 2
        np.testing.assert_allclose(back.displacement_mm(), warp.displacement_mm(), atol=1e-4)
    np.testing.assert_allclose(
        apply([load_warp(path, moving=moving)], moving, affine, (14, 15)).data,
        apply([warp], moving, affine, (14, 15)).data,
        atol=1e-3,
    )


def test_one_slice_of_three_components_serves_a_2_d_image(tmp_path):
    affine = PLANES["coronal"]
    warp = Warp(np.random.default_rng(3).uniform(-1, 1, (14, 15, 2)).astype(np.float32), affine, affine, (14, 15))
    save_warp(tmp_path / "a.nii.gz", warp)
    data = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    assert data.shape == (14, 15, 1, 1, 3)
    path = write(tmp_path / "b.nii.gz", data, 1007, affine)
    back = load_warp(path, moving=Image(np.zeros((14, 15), np.float32), affine))
    np.testing.assert_allclose(back.flow, warp.flow, atol=1e-5)
    assert load_warp(path).ndim == 3


def test_planes_of_different_directions_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"planes of one direction, got RS. and RA. .*90 degrees apart"):
        compose([], PLANES["coronal"], (5, 6), PLANES["axial"], (5, 6))


def test_two_components_of_a_coronal_plane_are_refused(tmp_path):
    data = np.zeros((5, 6, 1, 1, 2), np.float32)
    path = write(tmp_path / "a.nii.gz", data, 1007, PLANES["coronal"])
    with pytest.raises(InputError, match="expected three components"):
        load_warp(path)
    save_image(tmp_path / "b.nii.gz", np.zeros((5, 6), np.float32), PLANES["coronal"])


def test_points_of_two_columns_need_an_axial_plane():
    points = np.zeros((1, 2))
    check_columns(points, "ras", PLANES["axial"], PLANES["turned"])
    check_columns(points, "voxel", PLANES["coronal"])
    check_columns(np.zeros((1, 3)), "ras", PLANES["coronal"])
    with pytest.raises(InputError, match="expected x, y and z"):
        check_columns(points, "lps", PLANES["coronal"])


def test_three_volumes_in_mgz_are_a_series(tmp_path):
    nibabel.save(nibabel.MGHImage(np.zeros((*SHAPE, 3), np.float32), AFFINE), tmp_path / "a.mgz")
    assert detect_format(tmp_path / "a.mgz") is None
