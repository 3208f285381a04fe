import gzip

import nibabel
import numpy as np
import pytest
import torch

from fastreg.io import packed
from fastreg.io.images import nifti_image


def image_of(dtype, shape=(9, 8, 7), kind=nibabel.Nifti1Image):
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    image = kind(values, np.diag([1.0, 2.0, 3.0, 1.0]), dtype=dtype)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(14, b"of FreeSurfer"))
    return image


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_holds_what_nibabel_writes(tmp_path, dtype, kind):
    image = image_of(dtype, (5, 4, 3, 1, 3), kind)
    for name in ("a.nii.gz", "a.nii"):
        packed.save(image, tmp_path / name)
    nibabel.save(image, tmp_path / "theirs.nii")
    wanted = (tmp_path / "theirs.nii").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == wanted == (tmp_path / "a.nii").read_bytes()


def test_freesurfers_too(tmp_path):
    image = nibabel.MGHImage(np.arange(60, dtype="f4").reshape(5, 4, 3), np.eye(4))
    packed.save(image, tmp_path / "a.mgz")
    nibabel.save(image, tmp_path / "theirs.mgh")
    assert gzip.decompress((tmp_path / "a.mgz").read_bytes()) == (tmp_path / "theirs.mgh").read_bytes()


def test_the_number_of_threads_does_not_show(tmp_path):
    """Several blocks of the stream, which different threads pack."""
    noise = np.random.default_rng(1).standard_normal((100, 100, 120)).astype(np.float32)
    written, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            packed.save(nifti_image(noise, np.eye(4)), tmp_path / "a.nii.gz")
            written.append((tmp_path / "a.nii.gz").read_bytes())
    finally:
        torch.set_num_threads(before)
    assert written[0] == written[1]
    assert np.array_equal(nibabel.load(tmp_path / "a.nii.gz").get_fdata(dtype=np.float32), noise)


def test_a_stream_goes_forward_only(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        stream = packed._Forward(file)
        stream.write(b"12")
        assert stream.seek(4) == stream.tell() == 4
        with pytest.raises(OSError, match="forward only"):
            stream.seek(1)
    assert (tmp_path / "a").read_bytes() == b"12\0\0"
