"""Motion that is put into a series is found again."""

import nibabel
import numpy as np
import pytest
import torch
from helpers.moving_head import AFFINE, SHAPE, errors, head, path_of, series_of

from fastreg import motion
from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.rigid import rigid_matrix
from fastreg.io.images import save_image
from fastreg.utils.files import InputError

COUNT = 6


@pytest.fixture(scope="module")
def moving():
    motions = path_of(COUNT)
    return motions, series_of(motions)


@pytest.mark.parametrize(("reference", "at"), [("mean", 3), ("first", 0), ("middle", 3), (2, 2), ("5", 5)])
def test_known_motion_is_found(moving, reference, at):
    motions, series = moving
    found = motion(series, reference=reference)
    mm, degrees = errors(found.matrices, motions, motions[at], found.centre_mm)
    assert mm.mean() < 0.05 and degrees.mean() < 0.05
    assert mm.max() < 0.1 and degrees.max() < 0.1
    assert found.converged.all() and found.correlation.min() > 0.99
    assert np.isnan(found.fd_mm[0]) and found.fd_mm[1:].max() > 1


def test_a_reference_on_a_grid_of_its_own(moving, tmp_path):
    motions, series = moving
    affine = AFFINE @ np.diag([0.9, 0.9, 0.8, 1])
    affine[:3, 3] += [2, 1, 5]
    image = head(affine_field(affine[:3], (30, 31, 20)))
    save_image(tmp_path / "sbref.nii.gz", image, affine)
    found = motion(series, reference=tmp_path / "sbref.nii.gz")
    mm, degrees = errors(found.matrices, motions, np.eye(4), found.centre_mm)
    assert mm.mean() < 0.05 and degrees.mean() < 0.05


def test_motion_of_a_single_slice():
    """In its plane: two translations and a turn."""
    places = np.array([[0, 0, 0, 0, 0, 0], [1.5, -1, 0, 0, 0, 0.02], [3, 1, 0, 0, 0, -0.03], [0.2, 0, 0, 0, 0, 0.05]])
    motions = np.array([rigid_matrix(row, np.array([3.0, -8.0, 12.0])) for row in places])
    affine = np.diag([-3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [3 + 3 * 29.5, -8 - 3 * 29.5, 12]
    found = motion(series_of(motions, affine=affine, shape=(60, 60, 1)), reference="first")
    mm, degrees = errors(found.matrices, motions, motions[0], found.centre_mm)
    assert mm.max() < 0.05 and degrees.max() < 0.05
    assert np.abs(found.matrices[:, 2, :2]).max() < 1e-6 and found.reference.shape == (60, 60, 1)


def test_a_leap_of_a_centimetre_is_found():
    motions = path_of(COUNT)
    motions[2] = rigid_matrix(np.array([8, -7, 5, 0.12, -0.1, 0.12]), np.zeros(3))
    found = motion(series_of(motions), reference="first")
    mm, degrees = errors(found.matrices, motions, motions[0], found.centre_mm)
    assert mm.mean() < 0.05 and degrees.mean() < 0.05 and found.converged.all()


def test_activation_and_a_spike_are_outliers():
    """A blob of 6 % in some volumes and a bright voxel do not move the head."""
    motions = np.array([np.eye(4)] * COUNT)
    series = series_of(motions, noise=0.005)
    data = np.asanyarray(series.dataobj).copy()
    inside = np.exp(-((affine_field(AFFINE[:3], SHAPE) - [30, 10, 30]) ** 2).sum(-1) / (2 * 12**2))
    data[..., 3:] *= 1 + 0.06 * inside[..., None]
    data[14, 14, 8, 4] = 1e6
    found = motion(nibabel.Nifti1Image(data, AFFINE), reference="first")
    mm, degrees = errors(found.matrices, motions, motions[0], found.centre_mm)
    assert mm.max() < 0.05 and degrees.max() < 0.05 and found.converged.all()


def test_the_number_of_threads_does_not_count(moving, threads):
    found = []
    for count in (1, 2):
        threads(count)
        found.append(motion(moving[1], reference="first").matrices)
        assert torch.get_num_threads() == count
    np.testing.assert_array_equal(*found)


def test_a_mask_says_what_counts(moving):
    motions, series = moving
    still = np.asanyarray(series.dataobj).copy()
    still[:10] = still[:10, ..., :1]  # a part that does not move with the head
    mask = np.ones(SHAPE, np.uint8)
    mask[:11] = 0
    found = motion(nibabel.Nifti1Image(still, AFFINE), reference="first", mask=Image(mask, AFFINE))
    mm, degrees = errors(found.matrices, motions, motions[0], found.centre_mm)
    assert mm.mean() < 0.1 and degrees.mean() < 0.1
    blind = motion(nibabel.Nifti1Image(still, AFFINE), reference="first")
    assert errors(blind.matrices, motions, motions[0], found.centre_mm)[0].mean() > 3 * mm.mean()


def test_voxels_that_are_not_finite_are_air(moving):
    motions, series = moving
    data = np.asanyarray(series.dataobj).copy()
    data[data < 30] = np.nan
    found = motion(nibabel.Nifti1Image(data, AFFINE))
    mm, degrees = errors(found.matrices, motions, motions[3], found.centre_mm)
    assert mm.mean() < 0.05 and degrees.mean() < 0.05


@pytest.mark.parametrize(
    ("fill", "said"), [(np.nan, "volume 4: expected intensities that vary, got no finite"), (7, "got 7 everywhere")]
)
def test_volumes_that_show_nothing_are_named(moving, fill, said):
    data = np.asanyarray(moving[1].dataobj).copy()
    data[..., 4] = fill
    with pytest.raises(InputError, match=said):
        motion(nibabel.Nifti1Image(data, AFFINE))


def test_a_volume_that_is_not_found_is_told(moving):
    data = np.asanyarray(moving[1].dataobj).copy()
    data[..., 4] = np.random.default_rng(0).normal(size=SHAPE)
    with pytest.warns(UserWarning, match="got none for volume 4: their motion"):
        found = motion(nibabel.Nifti1Image(data, AFFINE), reference="first")
    assert found.converged.tolist() == [True] * 4 + [False, True]


@pytest.mark.filterwarnings("ignore:.*come to rest")
def test_a_volume_that_is_not_found_stays_out_of_the_mean(moving):
    data = np.asanyarray(moving[1].dataobj).copy()
    data[..., 1] = 1e5 * np.random.default_rng(0).uniform(size=SHAPE)
    found = motion(nibabel.Nifti1Image(data, AFFINE))
    mm, degrees = errors(np.delete(found.matrices, 1, 0), np.delete(moving[0], 1, 0), moving[0][3], found.centre_mm)
    assert mm.mean() < 0.05 and degrees.mean() < 0.05 and found.reference.data.max() < 3000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reference": 6}, "expected a volume from 0 to 5 of series, got 6"),
        ({"reference": "none.nii"}, "reference image none.nii: no such file"),
        ({"mask": Image(np.zeros(SHAPE, np.uint8), AFFINE)}, "mask: expected at least 200 voxels"),
        ({"reference": Image(np.zeros(SHAPE, np.float32), AFFINE)}, "reference image: expected intensities that vary"),
        ({"reference": Image(np.ones((8, 8), np.float32), AFFINE)}, "reference image: expected"),
    ],
)
def test_what_does_not_fit_is_refused(moving, given, said):
    with pytest.raises(InputError, match=said):
        motion(moving[1], **given)
