"""Every reader on damaged files: each ends in success or in one line of InputError, soon, and in little memory.

Bounded to about a second a reader; FASTREG_FUZZ_SECONDS=600 gives each that long, FASTREG_FUZZ_SEED=7 other damage.
"""

import gzip
import os
import struct
import time
import warnings
import zlib

import nibabel
import numpy as np
import pytest

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine, Warp
from fastreg.io.affines import load_affine, save_affine
from fastreg.io.gifti import new_gifti
from fastreg.io.images import load_image, load_labels
from fastreg.io.labels import read_structures
from fastreg.io.legacy_vtk import new_vtk
from fastreg.io.markups import new_markups
from fastreg.io.ply import new_ply
from fastreg.io.points import encode_points, load_points
from fastreg.io.stl import new_stl
from fastreg.io.warp_kinds import detect_format
from fastreg.io.warps import load_warp, save_warp
from fastreg.utils.files import InputError

SECONDS = float(os.environ.get("FASTREG_FUZZ_SECONDS", "1"))
SEED = int(os.environ.get("FASTREG_FUZZ_SEED", "0"))
SHAPE = (6, 5, 4)
SLOWEST = 5.0
"""Seconds; no file here has more than a few kilobytes."""


def some(dtype=np.float32):
    return np.random.default_rng(0).integers(0, 9, SHAPE).astype(dtype)


def warp_of(folder, format):
    flow = np.random.default_rng(1).uniform(-1, 1, (*SHAPE, 3)).astype(np.float32)
    path = folder / ("good.npz" if format == "npz" else "good.nii.gz")
    save_warp(path, Warp(flow, np.diag([2.0, 2, 2, 1]), np.eye(4), SHAPE), format=format)
    return path


def nifti(kind, dtype=np.float32):
    def make(folder):
        nibabel.save(kind(some(dtype), np.diag([2.0, 2, 2, 1])), folder / "good.nii")
        return folder / "good.nii"

    return make


def mgz(folder):
    nibabel.save(nibabel.MGHImage(some(), np.eye(4)), folder / "good.mgz")
    return folder / "good.mgz"


def numpy_file(ending):
    def make(folder):
        path = folder / f"good{ending}"
        np.save(path, some()) if ending == ".npy" else np.savez(path, vol=some(), affine=np.eye(4))
        return path

    return make


def png(folder):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = np.random.default_rng(0).integers(0, 256, (9, 8), dtype=np.uint8)
    raw[:, 0] = np.arange(9) % 5
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 9, 8, 0, 0, 0, 0)), chunk(b"IDAT", zlib.compress(raw.tobytes()))
    (folder / "good.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join((*parts, chunk(b"IEND", b""))))
    return folder / "good.png"


def affine(ending):
    def make(folder):
        save_affine(folder / f"good{ending}", Affine(np.diag([1.1, 0.9, 1.2, 1])))
        return folder / f"good{ending}"

    return make


def text(name, content):
    def make(folder):
        (folder / name).write_text(content)
        return folder / name

    return make


def moved(path):
    load_warp(path, moving=Image(some(), np.eye(4)))


def bytes_of(name, make):
    """A file of points around a square roof."""

    def write(folder):
        points = np.array([[0, 0, 0], [4, 0, 0.5], [4, 3, 0], [0, 3, -1.25], [2, 1.5, 5]])
        (folder / name).write_bytes(make(points, np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])))
        return folder / name

    return write


def ascii_vtk(points, triangles):
    rows = [" ".join(map(str, row)) for row in points.tolist()]
    faces = [" ".join(map(str, (3, *row))) for row in triangles.tolist()]
    head = ["# vtk DataFile Version 4.2", "roof", "ASCII", "DATASET POLYDATA", f"POINTS {len(rows)} float", *rows]
    data = ["POINT_DATA 5", "NORMALS n float", *rows, "FIELD FieldData 1", "depth 1 5 double", "1 2 3 4 5"]
    return "\n".join([*head, f"POLYGONS {len(faces)} {4 * len(faces)}", *faces, *data, ""]).encode()


def ascii_ply(points, triangles):
    head = "ply\nformat ascii 1.0\nelement vertex 5\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    head += "element face 4\nproperty list uchar int vertex_indices\nend_header\n"
    rows = [*points.tolist(), *([3, *row] for row in triangles.tolist())]
    return (head + "".join(" ".join(map(str, row)) + "\n" for row in rows)).encode()


def lines(ending):
    def write(folder):
        tracks = [np.arange(12, dtype=np.float32).reshape(4, 3), np.ones((2, 3), np.float32)]
        tractogram = nibabel.streamlines.Tractogram(tracks, affine_to_rasmm=np.eye(4))
        if ending == ".trk":
            tractogram.data_per_streamline["weight"] = np.ones((2, 1), np.float32)
        nibabel.streamlines.save(tractogram, folder / f"good{ending}")
        return folder / f"good{ending}"

    return write


def rewritten(path):
    """Read, and written with other points in every format that the kind can have."""
    given = load_points(path)
    grid = np.eye(4), SHAPE
    moved = given.moved(given.points + 1, grid)
    for ending in {given.ending, *given.others, ".csv"}:
        encode_points(f"x{ending}", moved, "ras", grid)


CASES = {
    "nifti 1": (nifti(nibabel.Nifti1Image), load_image),
    "nifti 2": (nifti(nibabel.Nifti2Image), load_image),
    "labels": (nifti(nibabel.Nifti1Image, np.int16), load_labels),
    "mgz": (mgz, load_image),
    "npy": (numpy_file(".npy"), load_image),
    "npz": (numpy_file(".npz"), load_image),
    "png": (png, load_image),
    "itk warp": (lambda folder: warp_of(folder, "itk"), load_warp),
    "freesurfer warp": (lambda folder: warp_of(folder, "freesurfer"), load_warp),
    "fsl warp": (lambda folder: warp_of(folder, "fsl"), moved),
    "learn2reg warp": (lambda folder: warp_of(folder, "learn2reg"), load_warp),
    "npz warp": (lambda folder: warp_of(folder, "npz"), load_warp),
    "kind of warp": (lambda folder: warp_of(folder, "itk"), detect_format),
    "mat": (affine(".mat"), load_affine),
    "tfm": (affine(".tfm"), load_affine),
    "txt": (affine(".txt"), load_affine),
    "points": (text("good.csv", "name,x,y,z\na,1,2,3\nb,-1.5,2e3,0\n"), load_points),
    "fcsv": (bytes_of("good.fcsv", lambda points, _: new_markups(points, None, ".fcsv")), rewritten),
    "mrk.json": (bytes_of("good.mrk.json", lambda points, _: new_markups(points, None, ".mrk.json")), rewritten),
    "vtk": (bytes_of("good.vtk", lambda points, faces: new_vtk(points, faces, "lps")), rewritten),
    "ascii vtk": (bytes_of("good.vtk", ascii_vtk), rewritten),
    "ply": (bytes_of("good.ply", lambda points, faces: new_ply(points, faces, "lps")), rewritten),
    "ascii ply": (bytes_of("good.ply", ascii_ply), rewritten),
    "stl": (bytes_of("good.stl", lambda points, faces: new_stl(points, faces, "lps")), rewritten),
    "gifti": (bytes_of("good.gii", new_gifti), rewritten),
    "trk": (lines(".trk"), rewritten),
    "tck": (lines(".tck"), rewritten),
    "structures": (text("good.json", '{"left": [1, 2], "right": 3}'), lambda path: read_structures(str(path))),
}


def damaged(content, rng):
    """Flipped bytes, a cut, extremes in place of numbers, or pieces moved."""
    out = bytearray(content)
    kind = rng.integers(5)
    if kind == 0:
        for at in rng.integers(0, len(out), rng.integers(1, 9)):
            out[at] = rng.integers(256)
    elif kind == 1:
        out = out[: rng.integers(len(out))]
    elif kind == 2:  # a field of the header, at one of its boundaries
        size = int(rng.choice([1, 2, 4, 8]))
        at = int(rng.integers(0, max(1, min(len(out), 600) - size))) // min(size, 4) * min(size, 4)
        extreme = [b"\xff" * size, b"\0" * size, b"\x7f" + b"\xff" * (size - 1), b"\xff" * (size - 1) + b"\x7f"]
        floats = [np.float32(x).tobytes() for x in (np.nan, np.inf, -1e38, 1e-38, -1)]
        choice = [*extreme, *(floats if size == 4 else [])]
        out[at : at + size] = choice[rng.integers(len(choice))]
    elif kind == 3:
        start, stop = sorted(rng.integers(0, len(out), 2))
        at = rng.integers(len(out))
        out[at:at] = out[start:stop]
    else:
        at = rng.integers(len(out))
        out[at : at + 1] = rng.choice(np.frombuffer(b"\0-9e,;[]{}\"'\n \xff", np.uint8), rng.integers(1, 5)).tobytes()
    return bytes(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_no_damage_ends_in_anything_but_a_line(tmp_path, name):
    make, read = CASES[name]
    good = make(tmp_path)
    read(good)
    whole = good.read_bytes()
    packed = whole[:2] == b"\x1f\x8b"
    inner = gzip.decompress(whole) if packed else whole
    rng = np.random.default_rng(SEED)
    path = tmp_path / f"bad{''.join(good.suffixes)}"
    end, count = time.monotonic() + SECONDS, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        while count < 20 or time.monotonic() < end:
            count += 1
            # Inside gzip half of the time, so that headers and not only checksums are met.
            content = gzip.compress(damaged(inner, rng), 1) if packed and rng.random() < 0.7 else damaged(whole, rng)
            path.write_bytes(content)
            began = time.monotonic()
            try:
                read(path)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
            except Exception as error:
                raise AssertionError(f"{name}, damage {count} of seed {SEED}: {error!r}") from error
            assert time.monotonic() - began < SLOWEST, f"{name}, damage {count} of seed {SEED}"
