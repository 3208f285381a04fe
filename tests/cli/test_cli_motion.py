"""`fastreg motion`, and what its files do in other commands."""

import json
import re

import nibabel
import numpy as np
import pytest
from helpers.moving_head import AFFINE, SHAPE, errors, head, path_of, series_of

from fastreg.cli import main
from fastreg.geometry.image import affine_field
from fastreg.geometry.transforms import Affine, Warp
from fastreg.io.affines import load_affine, save_affine
from fastreg.io.images import load_image, save_image
from fastreg.io.warps import save_warp

COUNT = 4
MOTIONS = path_of(COUNT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A series, and everything that the command writes of it."""
    folder = tmp_path_factory.mktemp("motion")
    nibabel.save(series_of(MOTIONS), folder / "bold.nii.gz")
    outputs = ("-o", "moco.nii.gz", "--parameters", "sub_motion.tsv", "--matrices", "mats", "--fd", "fd.tsv")
    more = ("--save-reference", "mean.nii.gz", "--json")
    assert ended(folder, "bold.nii.gz", *outputs, *more) == 0
    return folder


def ended(folder, *arguments, command="motion"):
    """Exit code of the command; names of files are in the folder."""
    words = [str(folder / word) if re.search(r"\.[a-z]|^mats", word) else word for word in arguments]
    with pytest.raises(SystemExit) as end:
        main([command, *words])
    return end.value.code


def test_the_series_is_still(made):
    out = nibabel.load(made / "moco.nii.gz")
    assert out.shape == (*SHAPE, COUNT) and out.header.get_zooms()[3] == 2 and out.get_data_dtype() == np.float32
    np.testing.assert_allclose(out.affine, AFFINE, atol=1e-5)
    inside = np.linalg.norm((affine_field(AFFINE[:3], SHAPE) - [3, -8, 12]) / [50, 60, 40], axis=-1) < 1
    drift = 1 + 0.02 * np.sin(np.arange(COUNT))
    before, after = (
        (np.asanyarray(nibabel.load(made / name).dataobj) / drift)[inside].std(1, ddof=1).mean()
        for name in ("bold.nii.gz", "moco.nii.gz")
    )
    assert after < 7 and before > 15  # of 1000: the noise has 6
    assert {path.name for path in made.iterdir()} >= {"sub_motion.json", "fd.tsv", "mean.nii.gz"}


def test_the_matrices_are_the_motion(made):
    names = sorted((made / "mats").iterdir())
    found = np.array([load_affine(path).matrix for path in names])
    mm, degrees = errors(found, MOTIONS, MOTIONS[COUNT // 2], np.array([3.0, -8, 12]))
    assert len(names) == COUNT and mm.max() < 0.1 and degrees.max() < 0.1


def test_the_warp_with_a_transform_a_volume_is_the_same(made):
    again = (
        "--moving",
        "bold.nii.gz",
        "-r",
        "mean.nii.gz",
        "--per-volume",
        "mats",
        "-n",
        "bspline",
        "-o",
        "again.nii.gz",
    )
    assert ended(made, *again, command="warp") == 0
    one, other = (np.asanyarray(nibabel.load(made / name).dataobj) for name in ("moco.nii.gz", "again.nii.gz"))
    np.testing.assert_allclose(one, other, atol=0.05)


def test_motion_distortion_and_template_in_one_interpolation(made, tmp_path):
    """Against the head itself, at the places where the three lead."""
    affine = np.diag([-5.0, 5, 5, 1])
    affine[:3, 3] = [50, -70, -30]
    shape = (20, 22, 16)
    save_image(tmp_path / "template.nii.gz", np.zeros(shape, np.float32), affine)
    tilt = np.eye(4)
    tilt[:3, 3], tilt[0, 1], tilt[1, 0] = [2, -3, 1], 0.05, -0.05
    save_affine(tmp_path / "tilt.mat", Affine(tilt))
    places = affine_field(AFFINE[:3], SHAPE)
    shift = np.zeros_like(places)
    shift[..., 1] = 3 * np.cos(places[..., 0] / 30)
    save_warp(tmp_path / "distortion.nii.gz", Warp.from_displacement_mm(shift, AFFINE))
    (tmp_path / "bold.nii.gz").write_bytes((made / "bold.nii.gz").read_bytes())
    chain = ("-t", "tilt.mat", "-t", "distortion.nii.gz", "-r", "template.nii.gz", "-o", "out.nii.gz")
    assert ended(tmp_path, "bold.nii.gz", "--reference", "first", *chain) == 0
    there = affine_field(affine[:3], shape) @ tilt[:3, :3].T + tilt[:3, 3]
    there[..., 1] += 3 * np.cos(there[..., 0] / 30)
    back = np.linalg.inv(MOTIONS[0])  # the first volume is the reference
    expected = head(there @ back[:3, :3].T + back[:3, 3])
    moved = np.asanyarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    inner = (slice(2, -2), slice(2, -2), slice(2, -2))
    for k in range(COUNT):
        apart = (moved[..., k] / (1 + 0.02 * np.sin(k)) - expected)[inner]
        assert apart.std() < 15  # of 1000, 6 of them noise; the linear field between its voxels is part of the rest


def test_json_sums_up(made, capfd):
    capfd.readouterr()
    assert ended(made, "bold.nii.gz", "--json", "--threshold", "0.1", "--reference", "first") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["volumes"] == COUNT and said["not_converged"] == [] and said["above_threshold"] == [1, 2, 3]
    assert 0.1 < said["mean_fd_mm"] < said["max_fd_mm"] and said["seconds"] > 0


def test_a_picture_of_it(made):
    pytest.importorskip("matplotlib")
    assert ended(made, "bold.nii.gz", "--reference", "first", "--plot", "p.png") == 0
    assert (made / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-o", "out.mha"), "expected a name that ends in .nii, .nii.gz"),
        (("--parameters", "a.xyz"), "expected a name that ends in .par, .csv, .tsv, .aff12.1d"),
        (("--parameters", "sub_motion.tsv"), "sub_motion.tsv exists; use --overwrite"),
        (("--matrices", "mats"), "holds matrices; use --overwrite"),
        (("-o", "bold.nii.gz", "--overwrite"), "is the input"),
        (("-t", "a.mat"), "--transform needs --output"),
        (("-o", "out.nii.gz", "-t", "none.mat"), "no such file"),
        (("-o", "out.nii.gz", "--reference", "99"), "expected a volume from 0 to 3"),
        (("-o", "out.nii.gz", "--background", "nan"), "expected a finite number"),
        (("--threshold", "0"), "threshold: expected a number of mm above 0"),
    ],
)
def test_what_does_not_fit_is_one_line(made, capfd, more, said):
    before = sorted(made.rglob("*"))
    assert ended(made, "bold.nii.gz", *more) == 1
    err = capfd.readouterr().err
    assert said in err.splitlines()[-1] and err.count("fastreg: ") == 1
    assert sorted(made.rglob("*")) == before


def test_an_image_is_no_series(made, capfd):
    assert ended(made, "mean.nii.gz") == 1
    assert "expected a series of volumes, 4-D, got 3-D" in capfd.readouterr().err


def test_a_volume_that_is_constant_leaves_nothing(tmp_path, capfd):
    data = np.asanyarray(series_of(MOTIONS).dataobj).copy()
    data[..., 2] = 5
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "bold.nii.gz")
    assert ended(tmp_path, "bold.nii.gz", "-o", "out.nii.gz", "--fd", "fd.txt") == 1
    assert "bold.nii.gz, volume 2: expected intensities that vary, got 5 everywhere" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bold.nii.gz"]


def test_a_reference_from_a_file(made, tmp_path):
    (tmp_path / "bold.nii.gz").write_bytes((made / "bold.nii.gz").read_bytes())
    (tmp_path / "mean.nii.gz").write_bytes((made / "mean.nii.gz").read_bytes())
    assert ended(tmp_path, "bold.nii.gz", "--reference", "mean.nii.gz", "--save-reference", "same.nii.gz") == 0
    np.testing.assert_array_equal(load_image(tmp_path / "same.nii.gz").data, load_image(made / "mean.nii.gz").data)
