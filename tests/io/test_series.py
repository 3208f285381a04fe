"""Series of volumes: read and written one by one."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest

from fastreg.io.series import holds_series, open_series, save_series
from fastreg.utils.files import InputError

AFFINE = np.array([[-2.0, 0.1, 0, 9], [0.1, 2.1, 0.3, -8], [0, -0.3, 3, -10], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * [2.0, -2.1, 3.0]  # no shear
SHAPE = (6, 7, 5, 4)


def series_file(path, data=None, affine=AFFINE, step=1.5, unit="sec", **header):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) if data is None else data
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(("dtype", "step", "unit"), [(np.float32, 1.5, "sec"), (np.int16, 800, "msec")])
def test_nibabel_reads_what_was_written(tmp_path, name, dtype, step, unit):
    data = (np.random.default_rng(0).normal(size=SHAPE) * 100).astype(dtype)
    volumes = (data[..., k] for k in range(4))
    save_series(tmp_path / name, volumes, AFFINE, SHAPE[:3], 4, dtype=dtype, step=step, step_unit=unit)
    image = nibabel.load(tmp_path / name)
    assert image.get_data_dtype() == dtype and image.header.get_xyzt_units() == ("mm", unit)
    assert image.header.get_zooms()[3] == step
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mgz"])
def test_volumes_are_those_that_nibabel_reads(tmp_path, name):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    kind = nibabel.MGHImage if name.endswith("mgz") else nibabel.Nifti1Image
    nibabel.save(kind(data, AFFINE), tmp_path / name)
    series = open_series(tmp_path / name)
    assert (len(series), series.shape, holds_series(tmp_path / name)) == (4, SHAPE[:3], True)
    for _ in range(2):  # each time from the beginning
        read = list(series.volumes())
        np.testing.assert_array_equal(np.stack([volume.data for volume in read], -1), data)
    np.testing.assert_allclose(read[0].affine, nibabel.load(tmp_path / name).affine, atol=1e-6)
    np.testing.assert_array_equal(series.volume(2).data, data[..., 2])


def test_an_image_in_memory_is_a_series():
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    series = open_series(nibabel.Nifti1Image(data, AFFINE))
    assert series.is_labels and series.volume(3).data.dtype == np.float32
    np.testing.assert_array_equal(series.volume(3).data, data[..., 3])


def test_scaling_is_applied_and_labels_stay(tmp_path):
    data = np.random.default_rng(0).integers(0, 2**15, SHAPE).astype(np.int16)
    scaled = open_series(series_file(tmp_path / "scaled.nii", data, scl_slope=0.5, scl_inter=-3))
    np.testing.assert_allclose(scaled.volume(1).data, data[..., 1] * 0.5 - 3)
    assert not scaled.is_labels
    plain = open_series(series_file(tmp_path / "plain.nii", data))
    labels = list(plain.volumes("labels"))
    assert labels[1].data.dtype == np.int16 and (labels[1].data == data[..., 1]).all()
    floats = open_series(series_file(tmp_path / "floats.nii", data.astype(np.float32)))
    assert (next(floats.volumes("labels")).data == data[..., 0]).all()
    with pytest.raises(InputError, match=r"scaled.nii: expected whole labels, got .* in volume 0"):
        list(scaled.volumes("labels"))


@pytest.mark.parametrize("shape", [(6, 7, 5), (6, 7, 5, 1, 3), (6, 7)])
def test_other_shapes_are_refused_by_name(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(InputError, match=rf"series .*x.nii: expected a series of volumes, 4-D, got {len(shape)}-D"):
        open_series(tmp_path / "x.nii")
    assert not holds_series(tmp_path / "x.nii")


def test_damage_is_one_line(tmp_path):
    good = series_file(tmp_path / "good.nii.gz").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.nii.gz"
    unpacked = gzip.decompress(good)
    for k in range(120):
        if k % 3 == 0:
            path.write_bytes(good[: rng.integers(len(good))])
        else:
            content = bytearray(good if k % 3 == 1 else unpacked)
            for at in rng.integers(0, len(content) if k % 3 == 1 else 352, 3):
                content[at] = rng.integers(256)
            path.write_bytes(bytes(content))
        try:
            list(open_series(path).volumes())
        except InputError as error:
            assert "\n" not in str(error) and "bad.nii.gz" in str(error)
        else:
            assert k % 3  # what is cut short is always found


def test_a_file_that_changes_is_told(tmp_path):
    series = open_series(series_file(tmp_path / "x.nii"))
    series_file(tmp_path / "x.nii", np.zeros((6, 7, 5, 3), np.float32))
    with pytest.raises(InputError, match="has changed while it was read"):
        list(series.volumes())


def test_nothing_is_left_of_volumes_that_fail(tmp_path):
    def volumes():
        yield np.zeros(SHAPE[:3])
        raise InputError("a volume is at fault")

    with pytest.raises(InputError):
        save_series(tmp_path / "x.nii.gz", volumes(), AFFINE, SHAPE[:3], 4)
    with pytest.raises(ValueError, match="expected 4 volumes, got 1"):
        save_series(tmp_path / "x.nii", [np.zeros(SHAPE[:3])], AFFINE, SHAPE[:3], 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path, name):
    peaks = []
    for count in (8, 40):
        data = np.zeros((32, 32, 24, count), np.int16)
        series = open_series(series_file(tmp_path / name, data))
        del data
        tracemalloc.start()
        volumes = (volume.data for volume in series.volumes())
        save_series(tmp_path / f"out_{name}", volumes, series.affine, series.shape, count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2e6
