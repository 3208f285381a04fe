import gzip
import itertools
import warnings

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
import torch

from fastreg.geometry.image import Image, affine_field, orientation
from fastreg.geometry.resample import (
    affine_flow,
    conform,
    pad_or_crop,
    reorient,
    resample_to_grid,
    resample_to_spacing,
    sample,
)
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.ops.warp import warp
from fastreg.utils.files import InputError

OBLIQUE = np.array([[0.9, -0.3, 0.1, -12], [0.3, 1.1, 0.2, 5], [-0.2, 0.1, 2.0, 31], [0, 0, 0, 1.0]])


def some(shape=(7, 6, 5), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".npz"])
def test_images_come_back(tmp_path, ending):
    save_image(tmp_path / f"a{ending}", some(), OBLIQUE)
    image = load_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(image.data, some())
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    assert image.shape == (7, 6, 5)
    np.testing.assert_allclose(image.spacing_mm, np.linalg.norm(OBLIQUE[:3, :3], axis=0), atol=1e-5)
    assert image.path == tmp_path / f"a{ending}"


def test_mgz_and_npy_load(tmp_path):
    nibabel.save(nibabel.MGHImage(some(), OBLIQUE.astype(np.float32)), tmp_path / "a.mgz")
    np.testing.assert_array_equal(load_image(tmp_path / "a.mgz").data, some())
    np.testing.assert_allclose(load_image(tmp_path / "a.mgz").affine, OBLIQUE, atol=1e-4)
    np.save(tmp_path / "a.npy", some())
    np.testing.assert_array_equal(load_image(tmp_path / "a.npy").data, some())
    np.testing.assert_array_equal(load_image(tmp_path / "a.npy").affine, np.eye(4))


@pytest.mark.parametrize("key", ["vol", "seg", "vol_data"])
def test_voxelmorph_npz_loads(tmp_path, key):
    np.savez(tmp_path / "a.npz", **{key: some()})
    np.testing.assert_array_equal(load_image(tmp_path / "a.npz").data, some())


def test_the_header_s_scaling_is_applied(tmp_path):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii.gz")
    raw = nibabel.load(tmp_path / "a.nii.gz").dataobj.get_unscaled()
    slope, inter = nibabel.load(tmp_path / "a.nii.gz").dataobj.slope, nibabel.load(tmp_path / "a.nii.gz").dataobj.inter
    loaded = load_image(tmp_path / "a.nii.gz").data
    np.testing.assert_allclose(loaded, raw * slope + inter)


def test_what_an_image_may_be():
    image = load_image(some())
    assert load_image(image) is not image and (load_image(image).data == some()).all()
    np.testing.assert_array_equal(load_image(torch.from_numpy(some())).data, some())
    np.testing.assert_array_equal(load_image(nibabel.Nifti1Image(some(), OBLIQUE)).affine, OBLIQUE)


def test_tensor_is_a_copy_in_array_order():
    image = Image(np.asfortranarray(some()).astype(">f4"), np.eye(4))
    tensor = image.tensor()
    assert tensor.shape == (1, 1, 7, 6, 5) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor[0, 0].numpy(), some())
    tensor.zero_()
    np.testing.assert_array_equal(image.data, some())


def test_a_flat_image_stays_flat_or_gets_an_axis(tmp_path):
    save_image(tmp_path / "flat.nii.gz", some((7, 6)), np.eye(4))
    save_image(tmp_path / "slice.nii.gz", some((7, 6, 1)), np.eye(4))
    assert load_image(tmp_path / "flat.nii.gz").shape == (7, 6)
    assert load_image(tmp_path / "flat.nii.gz", ndim=3).shape == (7, 6, 1)
    assert load_image(tmp_path / "slice.nii.gz").shape == (7, 6, 1)
    assert load_image(tmp_path / "slice.nii.gz", ndim=2).shape == (7, 6)
    with pytest.raises(InputError, match="expected 2-D, got 3-D"):
        load_image(some(), ndim=2)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    nibabel.save(nibabel.Nifti1Image(some((4, 5, 6, 1, 1)), np.eye(4)), tmp_path / "a.nii.gz")
    assert load_image(tmp_path / "a.nii.gz").shape == (4, 5, 6)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("ending", [".nii.gz", ".npz"])
@pytest.mark.parametrize("largest", [200, 30_000, 2**24 + 1, 2**31 + 5, 2**53 + 1])
def test_labels_of_any_size_survive(tmp_path, ending, largest):
    labels = np.array([[[0, 1, largest], [largest - 1, 2, 0]]])
    save_image(tmp_path / f"a{ending}", labels, OBLIQUE)
    loaded = load_labels(tmp_path / f"a{ending}")
    assert loaded.data.dtype.kind in "iu"
    np.testing.assert_array_equal(loaded.data, labels)
    far = Image(labels, np.eye(4))
    zero = torch.zeros(1, 3, *labels.shape)
    for mode in ("nearest", "genericlabel"):
        np.testing.assert_array_equal(sample(far, zero, mode), labels)


@pytest.mark.parametrize(
    ("labels", "dtype"), [([0, 1], np.uint8), ([-1, 300], np.int16), ([0, 40_000], np.int32), ([0, 2**40], np.int64)]
)
def test_labels_are_stored_in_the_smallest_dtype(tmp_path, labels, dtype):
    save_image(tmp_path / "a.nii.gz", np.array(labels, np.int64).reshape(1, 1, 2), np.eye(4))
    assert nibabel.load(tmp_path / "a.nii.gz").get_data_dtype() == dtype


def test_whole_floats_are_labels_and_others_are_not(tmp_path):
    save_image(tmp_path / "whole.nii.gz", np.array([[[0.0, 17.0, 2035.0]]]), np.eye(4))
    assert load_labels(tmp_path / "whole.nii.gz").data.dtype == np.int16
    for bad in (0.5, np.nan, np.inf):
        save_image(tmp_path / "bad.nii.gz", np.array([[[0.0, bad]]]), np.eye(4))
        with pytest.raises(InputError, match=r"bad.nii.gz: expected whole labels, got .* in 1 voxels"):
            load_labels(tmp_path / "bad.nii.gz")


def test_integers_stay_on_request(tmp_path):
    save_image(tmp_path / "a.nii.gz", np.array([[[3, 2**24 + 1]]]), np.eye(4))
    assert load_image(tmp_path / "a.nii.gz").data.dtype == np.float32
    assert load_image(tmp_path / "a.nii.gz", integers=True).data.max() == 2**24 + 1


def test_the_vote_is_the_label_with_the_largest_weight():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, -2, 2**24 + 1], size=(6, 7, 8))
    places = rng.uniform(-1.4, 8.4, size=(5, 6, 7, 3))
    places[0, 0] = rng.integers(0, 6, size=(7, 3))
    flow = (places - affine_field(np.eye(4)[:3], (5, 6, 7))).astype(np.float32)
    voted = sample(Image(labels, np.eye(4)), torch.from_numpy(np.moveaxis(flow, -1, 0))[None], "genericlabel")
    for index in np.ndindex(5, 6, 7):
        place = flow[index] + np.array(index)
        base, votes = np.floor(place).astype(int), {}
        for corner in itertools.product((0, 1), repeat=3):
            at, part = base + corner, place - base
            inside = ((at >= 0) & (at < labels.shape)).all()
            label = labels[tuple(at)] if inside else 0
            votes[label] = votes.get(label, 0) + np.prod(np.where(corner, part, 1 - part))
        best = max(votes.values())
        assert votes.get(voted[index], 0) > best - 1e-5


def test_colours_of_nifti_are_luminance_or_a_channel(tmp_path):
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"], rgb["B"] = 100, 10
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_allclose(load_image(tmp_path / "a.nii.gz").data, 0.299 * 100 + 0.114 * 10, rtol=1e-6)
    assert (load_image(tmp_path / "a.nii.gz", channel="blue").data == 10).all()


def test_a_number_takes_a_volume_of_a_series(tmp_path):
    series = some((4, 5, 6, 3))
    nibabel.save(nibabel.Nifti1Image(series, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(load_image(tmp_path / "a.nii.gz", channel=2).data, series[..., 2].astype(np.float32))


# ---------------------------------------------------------------- bad input


def bad_files(folder):
    save_image(folder / "good.nii.gz", some((20, 20, 20)), np.eye(4))
    save_image(folder / "good.nii", some((20, 20, 20)), np.eye(4))
    whole = (folder / "good.nii.gz").read_bytes()
    (folder / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "short.nii").write_bytes((folder / "good.nii").read_bytes()[:2000])
    (folder / "text.nii.gz").write_text("no image at all")
    (folder / "gzipped.nii.gz").write_bytes(gzip.compress(b"no image at all"))
    (folder / "nothing.nii.gz").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "other.npz", strange=some())
    (folder / "folder.nii.gz").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.complex64), np.eye(4)), folder / "complex.nii.gz")
    nibabel.save(nibabel.Nifti1Image(some((4, 4, 4, 2)), np.eye(4)), folder / "series.nii.gz")
    flat = nibabel.Nifti1Image(some(), None)
    flat.header["sform_code"], flat.header["srow_x"], flat.header["srow_z"] = 1, [1, 0, 0, 0], [0, 0, 1, 0]
    nibabel.save(flat, folder / "singular.nii.gz")
    np.savez(folder / "empty.npz", vol=np.zeros((4, 0, 4)))
    return folder


BAD = {
    "missing.nii.gz": "no such file",
    "folder.nii.gz": "a folder without a DICOM series",
    "short.nii.gz": "cut short",
    "short.nii": "cut short",
    "text.nii.gz": "not an image",
    "gzipped.nii.gz": "not an image",
    "nothing.nii.gz": "not an image",
    "picture.png": "not an image",
    "text.npz": "not an image",
    "other.npz": r"expected an array named vol or seg or vol_data, got \['strange'\]",
    "complex.nii.gz": "got complex64",
    "series.nii.gz": r"expected 2-D or 3-D, got 4-D of shape \(4, 4, 4, 2\)",
    "singular.nii.gz": "singular",
    "empty.npz": r"empty image of shape \(4, 0, 4\)",
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_clear_line(tmp_path, name):
    with pytest.raises(InputError, match=BAD[name]) as error:
        load_image(bad_files(tmp_path) / name, what="moving image")
    message = str(error.value)
    assert message.startswith(f"moving image {tmp_path / name}") and "\n" not in message


def test_forms_that_disagree_warn(tmp_path):
    image = nibabel.Nifti1Image(some(), OBLIQUE)
    other = OBLIQUE.copy()
    other[0, 3] += 3
    image.set_sform(OBLIQUE, 1)
    image.set_qform(other, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(UserWarning, match="disagree by up to .* mm; the s-form is used"):
        loaded = load_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(loaded.affine, OBLIQUE, atol=1e-5)


def test_what_we_write_never_warns(tmp_path):
    square = np.eye(4)
    square[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [1.2, 0.8, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for affine in (square, np.diag([-1, 1, 3, 1])):
            save_image(tmp_path / "a.nii.gz", some(), affine)
            np.testing.assert_allclose(load_image(tmp_path / "a.nii.gz").affine, affine, atol=1e-5)
    header = nibabel.load(tmp_path / "a.nii.gz").header
    assert header["qform_code"] == header["sform_code"] == 1
    assert header.get_xyzt_units()[0] == "mm"


def test_a_sheared_grid_is_read_with_a_word(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.01
    save_image(tmp_path / "a.nii.gz", some(), sheared)
    with pytest.warns(UserWarning, match="axes are sheared: ITK, ANTs and Slicer cannot open it") as said:
        np.testing.assert_allclose(load_image(tmp_path / "a.nii.gz").affine, sheared, atol=1e-7)
    assert len([w for w in said if "shear" in str(w.message)]) == 1


def test_a_bad_ending_writes_nothing(tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in .nii, .nii.gz, .npz"):
        save_image(tmp_path / "a.jpg", some(), np.eye(4))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- geometry


def all_orientations():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            affine[list(order), range(3)] = np.array(signs) * (1.0, 1.5, 2.0)
            affine[:3, 3] = (5, -7, 9)
            yield affine


def test_reorient_moves_no_voxel_and_comes_back():
    for affine in all_orientations():
        image = Image(some(), affine)
        turned = reorient(image)
        assert orientation(turned.affine) == "RAS"
        for voxel in [(0, 0, 0), (6, 0, 0), (3, 4, 2)]:
            place = affine @ [*voxel, 1]
            there = np.rint(np.linalg.inv(turned.affine) @ place)[:3].astype(int)
            assert turned.data[tuple(there)] == image.data[voxel]
        back = reorient(turned, orientation(affine))
        np.testing.assert_array_equal(back.data, image.data)
        np.testing.assert_allclose(back.affine, affine, atol=1e-12)


def test_affine_flow_is_the_difference_of_voxels():
    flow = affine_flow(OBLIQUE, (4, 5, 6), np.diag([2.0, -1, 1.5, 1]), world=OBLIQUE)
    for p in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        q = np.linalg.inv(np.diag([2.0, -1, 1.5, 1])) @ OBLIQUE @ OBLIQUE @ [*p, 1]
        np.testing.assert_allclose(flow[0, :, p[0], p[1], p[2]].numpy(), (q - [*p, 1])[:3], rtol=1e-6)
    flat = affine_flow(np.diag([2.0, 3, 1, 1]), (4, 5), np.eye(4))
    assert flat.shape == (1, 2, 4, 5)
    np.testing.assert_allclose(flat[0, :, 3, 4].numpy(), [3, 8])


def itk_resampled(image, affine, shape, interpolator):
    def to_itk(data, matrix):
        out = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
        lps = np.diag([-1.0, -1, 1, 1]) @ matrix
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        out.SetSpacing(spacing.tolist())
        out.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        out.SetOrigin(lps[:3, 3].tolist())
        return out

    fixed = to_itk(np.zeros(shape, np.float32), affine)
    return sitk.GetArrayFromImage(
        sitk.Resample(to_itk(image.data, image.affine), fixed, sitk.Transform(), interpolator)
    ).T


def test_resampling_to_a_finer_oblique_grid_is_itk_s():
    image = Image(some((16, 17, 18)), np.diag([2.0, 2.0, 2.0, 1]))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * [0.7, 0.8, 0.9]
    affine[:3, 3] = 16 - affine[:3, :3] @ [6, 6, 6]
    ours = resample_to_grid(image, affine, (13, 13, 13)).data
    np.testing.assert_allclose(ours, itk_resampled(image, affine, (13, 13, 13), sitk.sitkLinear), atol=2e-5)
    labels = Image(np.random.default_rng(1).integers(0, 9, (16, 17, 18)), image.affine)
    nearest = resample_to_grid(labels, affine, (13, 13, 13))
    assert nearest.data.dtype == labels.data.dtype
    np.testing.assert_array_equal(nearest.data, itk_resampled(labels, affine, (13, 13, 13), sitk.sitkNearestNeighbor))


def test_downsampling_smooths_first_and_only_there():
    image = Image(some((32, 16, 16)), np.eye(4))
    half = resample_to_spacing(image, (2, 1, 1))
    assert half.shape == (16, 16, 16)
    np.testing.assert_allclose(half.spacing_mm, (2, 1, 1))
    sigma = np.sqrt(2**2 - 1) / (2 * np.sqrt(2 * np.log(2)))
    smoothed = scipy.ndimage.gaussian_filter1d(image.data.astype(np.float64), sigma, axis=0, mode="nearest", radius=3)
    expected = (smoothed[0::2] + smoothed[1::2]) / 2  # the new voxels' centres lie between two old ones
    np.testing.assert_allclose(half.data, expected, atol=1e-5)
    same = resample_to_spacing(image, 1.0)
    np.testing.assert_allclose(same.data, image.data, atol=1e-6)


def test_resampling_to_spacing_keeps_the_centre():
    image = Image(some((9, 10, 11)), OBLIQUE)
    new = resample_to_spacing(image, 0.7)
    centres = [i.affine @ [*((np.array(i.shape) - 1) / 2), 1] for i in (image, new)]
    np.testing.assert_allclose(*centres, atol=1e-9)
    np.testing.assert_allclose(new.spacing_mm, 0.7)


@pytest.mark.parametrize("shape", [(9, 4, 5), (3, 9, 8), (7, 6, 5), (1, 1, 1)])
def test_pad_or_crop_moves_no_voxel(shape):
    image = Image(some(), OBLIQUE)
    other = pad_or_crop(image, shape)
    assert other.shape == shape
    same = resample_to_grid(image, other.affine, shape, "nearest").data
    np.testing.assert_array_equal(other.data, same)
    assert np.count_nonzero(other.data) == np.prod(np.minimum(shape, image.shape))


def test_conform_is_one_interpolation_on_a_grid_about_the_centre():
    for affine in itertools.islice(all_orientations(), 0, None, 5):
        image = Image(some((12, 10, 8)), affine)
        new = conform(image, (20, 21, 22), 1.0)
        assert new.shape == (20, 21, 22) and orientation(new.affine) == "RAS"
        np.testing.assert_allclose(new.spacing_mm, 1.0)
        places = [i.affine @ [*((np.array(i.shape) - 1) / 2), 1] for i in (image, new)]
        np.testing.assert_allclose(*places, atol=1e-9)
        back = warp(torch.from_numpy(image.data)[None, None], affine_flow(new.affine, new.shape, affine))[0, 0].numpy()
        np.testing.assert_allclose(new.data, back, atol=1e-4)


@pytest.mark.slow
def test_a_real_brain_survives_conforming(real_data, tmp_path):
    path = real_data / "raw" / "1000_labels.nii.gz"
    labels = load_labels(path)
    np.testing.assert_array_equal(labels.data, np.asarray(nibabel.load(path).dataobj).reshape(labels.shape))
    new = conform(labels, (160, 192, 224), 1.0)
    assert set(np.unique(new.data)) <= set(np.unique(labels.data))
    volumes = [np.count_nonzero(i.data) * np.prod(i.spacing_mm) for i in (labels, new)]
    assert abs(volumes[1] / volumes[0] - 1) < 0.02
