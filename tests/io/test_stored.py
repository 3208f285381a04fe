"""What a NIfTI header says of what is stored: units of length, scaling, voxels that float32 cannot hold."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fastreg.geometry.resample import sample
from fastreg.io.images import load_image, load_labels


def some(shape=(7, 6, 5)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0)])
def test_the_header_s_unit_is_applied_as_itk_does(tmp_path, unit, factor, codes):
    affine = np.diag([25.0, 30, 35, 1])
    affine[:3, 3] = [100, -200, 300]
    image = nibabel.Nifti1Image(some(), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    loaded, theirs = load_image(tmp_path / "a.nii.gz"), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(loaded.spacing_mm, theirs.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(loaded.affine[:3, 3] * [-1, -1, 1], theirs.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(load_image(nibabel.load(tmp_path / "a.nii.gz")).affine, loaded.affine)
    np.testing.assert_allclose(loaded.affine[:3, 3], factor * affine[:3, 3], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float64])
def test_nearest_keeps_what_float32_cannot_hold(tmp_path, dtype):
    labels = np.array([[[0, 614454277, 576073733], [16777217, 5, 0]]]).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4), dtype=labels.dtype), tmp_path / "a.nii.gz")
    loaded = load_image(tmp_path / "a.nii.gz", integers=True)
    np.testing.assert_array_equal(sample(loaded, torch.zeros(1, 3, *labels.shape), "nearest"), labels)
    np.testing.assert_array_equal(load_labels(tmp_path / "a.nii.gz").data, labels)


def test_scaled_integers_are_labels_exactly(tmp_path):
    image = nibabel.Nifti1Image(np.array([[[0, 3, 8388609]]], np.int32), np.eye(4))
    image.to_filename(tmp_path / "a.nii.gz")
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    content[112:120] = struct.pack("<2f", 2.0, 1.0)  # slope and intercept
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for loaded in (load_image(tmp_path / "a.nii.gz", integers=True), load_labels(tmp_path / "a.nii.gz")):
        np.testing.assert_array_equal(loaded.data, [[[1, 7, 16777219]]])
