"""Files that are damaged or claim more than they hold: refused in one line, before memory is taken."""

import gzip
import struct
import subprocess
import sys
import zipfile
import zlib

import nibabel
import numpy as np
import pytest

from fastreg.io import limits
from fastreg.io.images import load_image, save_image
from fastreg.io.warps import load_warp
from fastreg.utils.files import InputError


def some(shape=(12, 11, 10)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def refused(path, match=None):
    with pytest.raises(InputError, match=match) as error:
        load_image(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz"])
@pytest.mark.parametrize("at", [-8, -5, -4, -1])
def test_a_gzip_checksum_or_length_that_does_not_hold_is_refused(tmp_path, ending, at):
    path = tmp_path / f"a{ending}"
    nibabel.save((nibabel.MGHImage if ending == ".mgz" else nibabel.Nifti1Image)(some(), np.eye(4)), path)
    assert load_image(path).shape == (12, 11, 10)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[at] ^= 1
    path.write_bytes(content)
    refused(path)
    path.write_bytes(whole[:at])
    refused(path)


def test_a_flipped_voxel_in_a_stored_block_is_noticed(tmp_path):
    raw = nibabel.Nifti1Image(some(), np.eye(4)).to_bytes()
    content = bytearray(gzip.compress(raw, compresslevel=0))
    content[2000] ^= 64  # inflate alone takes it
    (tmp_path / "a.nii.gz").write_bytes(content)
    refused(tmp_path / "a.nii.gz", "CRC")


def test_a_flipped_bit_in_a_warp_is_noticed(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 1, 3), np.float32), np.eye(4))
    image.header["intent_code"] = 1007
    content = bytearray(gzip.compress(image.to_bytes(), compresslevel=0))
    content[800] ^= 64
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match="CRC"):
        load_warp(tmp_path / "a.nii.gz")


def header_with(shape, dtype=np.float32):
    """A NIfTI-1 header that claims `shape`, and a few voxels."""
    content = bytearray(nibabel.Nifti1Image(some().astype(dtype), np.eye(4)).to_bytes())
    struct.pack_into("<8h", content, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    return bytes(content)


CLAIMS = {
    "large": (1000, 1000, 1000),
    "absurd": (32767,) * 7,
    "negative": (12, -11, 10),
    "all negative": (-12, -11, -10),
    "one more": (12, 11, 11),
}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", list(CLAIMS))
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, name, ending):
    content = header_with(CLAIMS[name])
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    refused(path, "not an image that can be read|cut short")


@pytest.mark.parametrize("offset", [-352.0, 1e30, float("nan"), 1e9])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, offset):
    content = bytearray(header_with((12, 11, 10)))
    struct.pack_into("<f", content, 108, offset)
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii")


def png(width, height, raw, bits=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG = {
    "more pixels than bytes": (2**31 - 1, 2**31 - 1, b"\0" * 99),
    "none": (0, 4, b"\0" * 4),
    "one short": (4, 4, b"\0" * 19),
}


@pytest.mark.parametrize("name", list(PNG))
def test_png_sizes_that_do_not_fit_are_refused(tmp_path, name):
    (tmp_path / "a.png").write_bytes(png(*PNG[name]))
    refused(tmp_path / "a.png")


def test_npz_headers_that_claim_too_much_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", some())
    content = (tmp_path / "a.npy").read_bytes().replace(b"(12, 11, 10)", b"(99, 99, 99)")
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vol.npy", content)
    refused(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", vol=np.array([{"a": 1}], dtype=object))
    refused(tmp_path / "b.npz")


def test_unpacked_images_have_a_limit_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 4096)
    save_image(tmp_path / "a.nii.gz", some(), np.eye(4))
    save_image(tmp_path / "a.nii", some(), np.eye(4))
    np.savez_compressed(tmp_path / "a.npz", vol=some())
    (tmp_path / "a.png").write_bytes(png(100, 100, b"\0" * 10100))
    for name in ("a.nii.gz", "a.npz", "a.png"):
        refused(tmp_path / name, "at most 0 GiB unpacked")
    assert load_image(tmp_path / "a.nii").shape == (12, 11, 10)
    # A stream that goes on behind its last voxel.
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header_with((2, 2, 2)) + b"\0" * 10000))
    refused(tmp_path / "b.nii.gz", "got more")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB there")
def test_a_bomb_behind_the_last_voxel_takes_no_memory(tmp_path):
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as file:
        file.write(header_with((2, 2, 2)))
        for _ in range(256):
            file.write(bytes(2**20))
    code = (
        "import resource, sys; from fastreg.io.images import load_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load_image(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.nii.gz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 2**26


def test_an_image_in_memory_needs_no_file(tmp_path):
    image = nibabel.Nifti1Image(some(), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii.gz")  # nibabel remembers the name
    (tmp_path / "a.nii.gz").unlink()
    np.testing.assert_array_equal(load_image(image).data, some())
