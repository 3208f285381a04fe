"""`fastreg warp` of series: one transform for all volumes, or one more for each."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.oblique import FIXED, MOVING, MOVING_SHAPE, SHAPE, fastreg

from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.rigid import rigid_matrix
from fastreg.geometry.transforms import Affine, Warp, apply
from fastreg.io.affines import save_affine
from fastreg.io.images import save_image
from fastreg.io.series import open_series
from fastreg.io.warps import save_warp

COUNT = 3


@pytest.fixture
def folder(tmp_path):
    """A fixed image, a series of intensities and one of labels, a warp, an affine and three motions."""
    rng = np.random.default_rng(0)
    save_image(tmp_path / "fixed.nii.gz", rng.normal(size=SHAPE), FIXED)
    for name, data in (
        ("bold", rng.uniform(1, 2, (*MOVING_SHAPE, COUNT)).astype(np.float32)),
        ("labels", rng.choice([0, 5, 300], size=(*MOVING_SHAPE, COUNT)).astype(np.int16)),
    ):
        image = nibabel.Nifti1Image(data, MOVING)
        image.header.set_xyzt_units("mm", "msec")
        image.header["pixdim"][4] = 720
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4)) * [0.05, 0.05, 0.05, 1.0]
    save_affine(tmp_path / "affine.mat", Affine(matrix))
    p = affine_field(np.eye(4)[:3], SHAPE)
    flow = affine_field((np.linalg.inv(MOVING) @ FIXED - np.eye(4))[:3], SHAPE)
    flow += 0.8 * np.sin(p @ rng.normal(size=(3, 3)) * 0.3)
    save_warp(tmp_path / "warp.nii.gz", Warp(flow.astype(np.float32), FIXED, MOVING, MOVING_SHAPE))
    for k in range(COUNT):
        motion = rigid_matrix(rng.normal(size=6) * [1, 1, 1, 0.05, 0.05, 0.05], np.zeros(3))
        save_affine(tmp_path / "motion" / f"{k:04}.mat", Affine(motion))
    return tmp_path


def expected(folder, name, mode, *, each=False):
    from fastreg.io.transforms import load_transforms

    volume = nibabel.load(folder / f"{name}.nii.gz")
    data = np.asanyarray(volume.dataobj)
    shared = [t for file in ("warp.nii.gz", "affine.mat") for t in load_transforms(folder / file)]
    found = []
    for k in range(COUNT):
        more = load_transforms(folder / "motion" / f"{k:04}.mat") if each else []
        found.append(apply([*shared, *more], Image(data[..., k], MOVING), FIXED, SHAPE, mode=mode).data)
    return np.stack(found, -1)


def words(folder, name="bold"):
    chain = ("-t", folder / "warp.nii.gz", "-t", folder / "affine.mat")
    return "warp", "-i", folder / f"{name}.nii.gz", "-r", folder / "fixed.nii.gz", *chain, "-o", folder / "out.nii.gz"


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("name", "mode", "dtype"),
    [("bold", "linear", "f4"), ("bold", "bspline", "f4"), ("labels", "nearest", "i2"), ("labels", "multilabel", "i2")],
)
def test_every_volume_is_that_of_a_single_warp(folder, name, mode, dtype, each):
    per_volume = ("--per-volume", folder / "motion") if each else ()
    assert fastreg(*words(folder, name), "-n", mode, *per_volume) == 0
    out = nibabel.load(folder / "out.nii.gz")
    assert out.get_data_dtype() == np.dtype(dtype)
    assert out.header.get_zooms()[3] == 720 and out.header.get_xyzt_units() == ("mm", "msec")
    np.testing.assert_allclose(out.affine, FIXED, atol=1e-5)
    np.testing.assert_allclose(np.asanyarray(out.dataobj), expected(folder, name, mode, each=each), atol=2e-5)


@pytest.mark.slow
def test_antspy_agrees_on_motion_in_one_interpolation(folder):
    ants = pytest.importorskip("ants")
    assert fastreg(*words(folder), "--per-volume", folder / "motion") == 0
    files = [str(folder / "warp.nii.gz"), str(folder / "affine.mat"), str(folder / "motion" / "0002.mat")]
    save_image(folder / "third.nii.gz", open_series(folder / "bold.nii.gz").volume(2))
    fixed, volume = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "third"))
    theirs = ants.apply_transforms(fixed, volume, files).numpy()
    ours = open_series(folder / "out.nii.gz").volume(2).data
    assert np.abs(ours - theirs).max() < 1e-3 < np.abs(theirs).max()


def test_transforms_in_a_list_and_as_mcflirt_names_them(folder):
    assert fastreg(*words(folder), "--per-volume", folder / "motion") == 0
    out = open_series(folder / "out.nii.gz").volume(2).data
    (folder / "list.txt").write_text("# volumes\nmotion/0000.mat\n\nmotion/0001.mat\nmotion/0002.mat\n")
    assert fastreg(*words(folder), "--per-volume", folder / "list.txt", "--overwrite") == 0
    np.testing.assert_array_equal(open_series(folder / "out.nii.gz").volume(2).data, out)
    from fastreg.io.affines import load_affine

    volume = open_series(folder / "bold.nii.gz").volume(0)
    (folder / "mats").mkdir()
    for k in range(COUNT):
        motion = load_affine(folder / "motion" / f"{k:04}.mat")
        save_affine(folder / "x.mat", motion, matrix="flirt", fixed=volume, moving=volume)
        (folder / "x.mat").rename(folder / "mats" / f"MAT_{k:04}")
    matrix = ("--matrix", "flirt", "--overwrite")
    assert fastreg(*words(folder), "--per-volume", folder / "mats", *matrix) == 0
    np.testing.assert_allclose(open_series(folder / "out.nii.gz").volume(2).data, out, atol=2e-5)


def test_a_channel_is_still_one_volume(folder):
    assert fastreg(*words(folder), "--channel", "1") == 0
    out = nibabel.load(folder / "out.nii.gz")
    np.testing.assert_allclose(np.asanyarray(out.dataobj), expected(folder, "bold", "linear")[..., 1], atol=1e-5)


def test_what_does_not_fit_is_one_line(folder, capfd):
    save_image(folder / "five.nii.gz", np.zeros((4, 4, 4, 2, 2), np.float32), np.eye(4))
    for wrong, said in (
        ((*words(folder), "--per-volume", folder), "expected 3 transforms, one a volume of moving series"),
        ((*words(folder), "--per-volume", folder / "none"), "--per-volume"),
        ((*words(folder, "fixed"), "--per-volume", folder / "motion"), "--per-volume needs a series"),
        (words(folder, "five"), "expected 2-D or 3-D, got 5-D"),
        ((*words(folder, "labels"), "-n", "nearest", "--background", "40000"), "that int16"),
        ((*words(folder, "bold"), "-n", "multilabel"), "expected whole labels"),
        ((*words(folder)[:-1], folder / "out.mha"), "expected a name that ends in .nii, .nii.gz"),
        ((*words(folder), "--compose", folder / "c.nii.gz", "--convert-to", "npz"), "c.nii.gz"),
    ):
        assert fastreg(*wrong) == 1
        assert said in capfd.readouterr().err
        assert not (folder / "out.nii.gz").exists()


def test_a_series_that_is_cut_short_leaves_nothing(folder):
    content = (folder / "bold.nii.gz").read_bytes()
    (folder / "bold.nii.gz").write_bytes(content[: len(content) * 2 // 3])
    before = sorted(folder.iterdir())
    assert fastreg(*words(folder), "--compose", folder / "both.nii.gz") == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path):
    """Of the whole process: what each of 20 or 220 volumes of 1 MB leaves."""
    code = (
        "import re, sys, pathlib; from fastreg.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    save_affine(tmp_path / "a.mat", Affine(rigid_matrix(np.array([1.0, 0, 0, 0.1, 0, 0]), np.zeros(3))))
    peaks = []
    for count in (20, 220):
        nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 64, count), np.float32), np.eye(4)), tmp_path / "x.nii")
        save_image(tmp_path / "r.nii", np.zeros((64, 64, 64), np.float32), np.eye(4))
        given = ["-i", "x.nii", "-r", "r.nii", "-t", "a.mat", "-o", f"o{count}.nii", "-n", "bspline"]
        command = [sys.executable, "-c", code, "warp", *given]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40  # MB, of the 200 that the volumes have
