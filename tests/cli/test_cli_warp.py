import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from helpers.oblique import FIXED, MOVING, MOVING_SHAPE, SHAPE, fastreg

from fastreg import RegistrationNet
from fastreg.cli import main
from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.resample import affine_flow, sample_filled
from fastreg.geometry.transforms import Affine, Warp, apply, compose, map_places
from fastreg.io.affines import save_affine
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.io.warps import load_warp, save_warp
from fastreg.nn import checkpoint


@pytest.fixture
def folder(tmp_path):
    """A fixed and a moving image, labels, a warp and an affine between them."""
    rng = np.random.default_rng(0)
    save_image(tmp_path / "fixed.nii.gz", rng.normal(size=SHAPE), FIXED)
    save_image(tmp_path / "moving.nii.gz", rng.normal(size=MOVING_SHAPE), MOVING)
    save_image(tmp_path / "labels.nii.gz", rng.choice([0, 5, 2**24 + 1], size=MOVING_SHAPE), MOVING)
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4)) * [0.05, 0.05, 0.05, 1.0]
    save_affine(tmp_path / "affine.mat", Affine(matrix))
    p = affine_field(np.eye(4)[:3], SHAPE)
    waves = 0.8 * np.sin(p @ rng.normal(size=(3, 3)) * 0.3)
    flow = affine_field((np.linalg.inv(MOVING) @ FIXED - np.eye(4))[:3], SHAPE) + waves
    save_warp(tmp_path / "warp.nii.gz", Warp(flow.astype(np.float32), FIXED, MOVING, MOVING_SHAPE))
    (tmp_path / "points.csv").write_text("name,x,y,z\nfirst,1.5,-2,0.25\nsecond,-3,4,1\n")
    return tmp_path


def transforms(folder):
    from fastreg.io.transforms import load_transforms

    moving = load_image(folder / "moving.nii.gz")
    return moving, [load_transforms(folder / name, moving=moving)[0] for name in ("warp.nii.gz", "affine.mat")]


def test_moves_an_image_through_a_chain(folder):
    words = ("-t", folder / "warp.nii.gz", "-t", folder / "affine.mat", "-o", folder / "new" / "out.nii.gz")
    assert fastreg("warp", "-i", folder / "moving.nii.gz", "-r", folder / "fixed.nii.gz", *words) == 0
    moving, chain = transforms(folder)
    out = load_image(folder / "new" / "out.nii.gz")
    np.testing.assert_allclose(out.affine, FIXED, atol=1e-6)
    np.testing.assert_allclose(out.data, apply(chain, moving, out.affine, SHAPE).data, atol=1e-5)
    assert np.abs(out.data).max() > 1


def test_without_a_reference_the_first_warp_s_grid_is_used(folder):
    words = ("-i", folder / "moving.nii.gz", "-t", folder / "warp.nii.gz", "-o", folder / "out.nii.gz")
    assert fastreg("warp", *words) == 0
    assert load_image(folder / "out.nii.gz").shape == SHAPE
    assert fastreg("warp", *words, "--overwrite") == 0


def test_without_a_transform_the_headers_decide(folder):
    words = ("-i", folder / "moving.nii.gz", "-r", folder / "fixed.nii.gz", "-o", folder / "out.nii.gz")
    assert fastreg("warp", *words) == 0
    moving = load_image(folder / "moving.nii.gz")
    expected = sample_filled(moving, affine_flow(FIXED, SHAPE, MOVING))
    np.testing.assert_allclose(load_image(folder / "out.nii.gz").data, expected, atol=1e-5)


def test_outside_a_ct_lies_air_or_what_is_asked_for(folder):
    hu = np.full((6, 6, 6), -1000, np.int16)
    hu[1:5, 1:5, 1:5] = 40
    save_image(folder / "ct.nii.gz", hu, np.diag([1.0, 1, 1, 1]))
    save_image(folder / "grid.nii.gz", np.zeros((14, 6, 6), np.float32), np.eye(4))
    words = ("-i", folder / "ct.nii.gz", "-r", folder / "grid.nii.gz", "-o", folder / "out.nii.gz", "--overwrite")
    for extra, outside in (
        ((), -1000),
        (("-n", "nearest"), -1000),
        (("-n", "genericlabel"), 0),
        (("--background", -2048), -2048),
        (("--background=7", "-n", "nearest"), 7),
    ):
        assert fastreg("warp", *words, *extra) == 0
        out = np.asarray(nibabel.load(folder / "out.nii.gz").dataobj)
        assert (out[6:] == outside).all() and (out[:6] == hu).all()


@pytest.mark.parametrize("mode", ["nearest", "genericlabel"])
def test_labels_stay_the_labels_they_were(folder, mode):
    words = ("-i", folder / "labels.nii.gz", "-t", folder / "warp.nii.gz", "-o", folder / "out.nii.gz", "-n", mode)
    assert fastreg("warp", *words) == 0
    assert set(np.unique(load_labels(folder / "out.nii.gz").data)) == {0, 5, 2**24 + 1}
    assert nibabel.load(folder / "out.nii.gz").get_data_dtype().kind == "i"


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "genericlabel"])
def test_ids_beyond_float32_are_kept_in_any_dtype(folder, mode, dtype):
    ids = np.random.default_rng(0).choice([0, 614454277, 576073733, 16777217], size=MOVING_SHAPE).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(ids, MOVING, dtype=ids.dtype), folder / "ids.nii.gz")
    words = ("-i", folder / "ids.nii.gz", "-t", folder / "warp.nii.gz", "-o", folder / "out.nii.gz", "-n", mode)
    assert fastreg("warp", *words) == 0
    out = np.asarray(nibabel.load(folder / "out.nii.gz").dataobj)
    assert set(np.unique(out).astype(np.int64)) == set(np.unique(ids).astype(np.int64))


@pytest.mark.parametrize("space", ["ras", "lps", "voxel"])
def test_points(folder, space, capsys):
    words = ["-t", folder / "warp.nii.gz", "-t", folder / "affine.mat", "--points", folder / "points.csv"]
    words += ["-i", folder / "moving.nii.gz", "--points-space", space]
    assert fastreg("warp", *words, "--points-output", folder / "out.csv") == 0
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[0] == "name,x,y,z" and [line.split(",")[0] for line in lines[1:]] == ["first", "second"]
    ours = np.array([line.split(",")[1:] for line in lines[1:]], float)
    _, chain = transforms(folder)
    points = np.array([[1.5, -2, 0.25], [-3, 4, 1]])
    if space == "ras":
        expected = map_places(chain, points)
    elif space == "lps":
        expected = map_places(chain, points * [-1, -1, 1]) * [-1, -1, 1]
    else:
        places = map_places(chain, points @ FIXED[:3, :3].T + FIXED[:3, 3])
        expected = (places - MOVING[:3, 3]) @ np.linalg.inv(MOVING[:3, :3]).T
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert fastreg("warp", *words) == 0
    assert capsys.readouterr().out == (folder / "out.csv").read_text()


def test_an_affine_and_its_inverse_undo_each_other(folder):
    words = ("-t", f"[{folder / 'affine.mat'},1]", "-t", folder / "affine.mat", "--points", folder / "points.csv")
    assert fastreg("warp", *words, "--points-output", folder / "out.csv") == 0
    assert (folder / "out.csv").read_text().splitlines()[1] == "first,1.500000,-2.000000,0.250000"


@pytest.mark.parametrize("format", ["itk", "fsl", "freesurfer", "learn2reg", "npz"])
def test_compose_and_convert(folder, format):
    out = folder / ("all.npz" if format == "npz" else "all.nii.gz")
    words = ("-t", folder / "warp.nii.gz", "-t", folder / "affine.mat", "--compose", out, "--convert-to", format)
    assert fastreg("warp", "-i", folder / "moving.nii.gz", *words) == 0
    moving, chain = transforms(folder)
    expected = compose(chain, FIXED, SHAPE, moving.affine, moving.shape)
    np.testing.assert_allclose(load_warp(out, moving=moving).flow, expected.flow, atol=5e-5)


def test_jacobian(folder):
    words = ("-r", folder / "fixed.nii.gz", "-t", folder / "affine.mat", "--jacobian", folder / "jacobian.nii.gz")
    assert fastreg("warp", *words) == 0
    _, chain = transforms(folder)
    np.testing.assert_allclose(
        load_image(folder / "jacobian.nii.gz").data, np.linalg.det(chain[1].matrix[:3, :3]), rtol=1e-4
    )


def test_jacobian_for_morphometry(folder, capsys):
    words = (
        "warp",
        "-r",
        folder / "fixed.nii.gz",
        "--jacobian",
        folder / "log.nii.gz",
        "--jacobian-log",
        "--overwrite",
    )
    chain = ("-t", folder / "warp.nii.gz", "-t", folder / "affine.mat")
    _, transforms_ = transforms(folder)
    determinant = np.linalg.det(transforms_[1].matrix[:3, :3])
    found = {}
    for name, extra in (("all", chain), ("bent", (*chain, "--jacobian-nonlinear"))):
        assert fastreg(*words, *extra) == 0
        found[name] = load_image(folder / "log.nii.gz").data
    np.testing.assert_allclose(found["all"] - found["bent"], np.log(determinant), atol=1e-4)
    assert capsys.readouterr().err == ""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[5, 5, 5, 1] = 3
    save_warp(folder / "fold.nii.gz", Warp(field, FIXED, FIXED, SHAPE))
    assert fastreg(*words, "-t", folder / "fold.nii.gz") == 0
    said = capsys.readouterr().err
    assert said == "fastreg: warning: log Jacobian: 1 voxel folds, or nearly: taken as 0.001\n"
    assert load_image(folder / "log.nii.gz").data.min() == pytest.approx(np.log(0.001))


@pytest.mark.parametrize("mode", ["bspline", "lanczos", "multilabel"])
def test_every_interpolation(folder, mode):
    name = "labels.nii.gz" if mode == "multilabel" else "moving.nii.gz"
    words = ("-i", folder / name, "-t", folder / "warp.nii.gz", "-o", folder / "out.nii.gz", "-n", mode)
    assert fastreg("warp", *words) == 0
    load = load_labels if mode == "multilabel" else load_image
    expected = apply(transforms(folder)[1][:1], load(folder / name), FIXED, SHAPE, mode=mode).data
    found = load(folder / "out.nii.gz").data
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found)) > 1


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


IN, BY, OUT = ("-i", "moving.nii.gz"), ("-t", "warp.nii.gz"), ("-o", "out.nii.gz")
BAD = {
    "nothing to do": (IN + BY, "nothing to do"),
    "no moving image": (BY + OUT, "--output needs --moving"),
    "missing file": (("-i", "none.nii.gz", *BY, *OUT), "moving image none.nii.gz: no such file"),
    "missing warp": ((*IN, "-t", "none.nii.gz", *OUT), "transform none.nii.gz: no such file"),
    "a warp that is an image": ((*IN, "-t", "fixed.nii.gz", *OUT), "warp fixed.nii.gz: expected a displacement field"),
    "an image that is a warp": (("-i", "warp.nii.gz", *BY, *OUT), "got 5-D of shape"),
    "a short file": (("-i", "short.nii.gz", *BY, *OUT), "moving image short.nii.gz: not an image"),
    "output exists": ((*IN, *BY, "-o", "fixed.nii.gz"), "output fixed.nii.gz exists; use --overwrite"),
    "bad ending": ((*IN, *BY, "-o", "out.jpg"), "output out.jpg: expected a name that ends in"),
    "labels that are none": (
        (*IN, *BY, *OUT, "-n", "genericlabel"),
        "moving.nii.gz: expected whole labels",
    ),
    "no grid": ((*IN, "-t", "affine.mat", *OUT), "the fixed grid is not known"),
    "neither 0 nor 1": ((*IN, "-t", "[warp.nii.gz,2]", *OUT), "expected FILE or [FILE,1]"),
    "a warp of FreeSurfer's": ((*IN, "-t", "all.m3z", *OUT), "transform all.m3z: expected one of .nii"),
    "bad bracket": ((*IN, "-t", "[affine.mat,2]", *OUT), "expected FILE or"),
    "fsl without moving": ((*BY, "--compose", "out.nii.gz", "--convert-to", "fsl"), "needs --moving"),
    "npz into nifti": ((*BY, "--compose", "out.nii.gz", "--convert-to", "npz"), "needs a .npz file"),
    "format without file": ((*IN, *BY, *OUT, "--convert-to", "fsl"), "--convert-to needs --compose"),
    "points without header": ((*BY, "--points", "bad.csv"), "expected a header with x, y and z"),
    "no points": ((*BY, "--points", "none.csv"), "expected points below the header"),
    "points with words": ((*BY, "--points", "words.csv"), "got 1,here,3 as point 2"),
    "voxels of what": ((*BY, "--points", "points.csv", "--points-space", "voxel"), "give --moving"),
    "flat on solid": (("-i", "flat.nii.gz", "-r", "fixed.nii.gz", *OUT), "2-D, but the fixed grid is 3-D"),
    "votes of intensities": ((*IN, *BY, *OUT, "-n", "multilabel"), "moving.nii.gz: expected whole labels"),
    "the log of what": ((*IN, *BY, *OUT, "--jacobian-log"), "--jacobian-log needs --jacobian"),
    "without what": ((*IN, *BY, *OUT, "--jacobian-nonlinear"), "--jacobian-nonlinear needs --jacobian"),
    "no folder": ((*IN, *BY, *OUT, "--jacobian", "file/out.nii.gz"), "file is a file, not a folder"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_line_and_writes_nothing(folder, name, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    whole = (folder / "moving.nii.gz").read_bytes()
    (folder / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    save_image(folder / "flat.nii.gz", np.zeros((9, 9), np.float32), np.eye(4))
    (folder / "bad.csv").write_text("1,2,3\n")
    (folder / "none.csv").write_text("x,y,z\n")
    (folder / "all.m3z").write_bytes(b"\x1f\x8bm3z")
    (folder / "words.csv").write_text("x,y,z\n1,2,3\n1,here,3\n")
    (folder / "file").write_text("a file where a folder should be")
    before = files(folder)
    arguments, message = BAD[name]
    assert fastreg("warp", *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert files(folder) == before


def test_an_unknown_choice_is_a_mistake_of_usage(folder):
    assert fastreg("warp", *IN, *BY, *OUT, "-n", "cubic") == 2


@pytest.mark.slow
def test_the_installed_command_runs(folder):
    words = ["-i", "moving.nii.gz", "-t", "warp.nii.gz", "-o", "out.nii.gz"]
    code = "import sys; from fastreg.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "warp", *words], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run([sys.executable, "-c", code, "warp", *words], cwd=folder, capture_output=True, text=True)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "exists" in again.stderr


# ---------------------------------------------------------------- info


def info(capsys, *arguments):
    assert fastreg("info", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_info_of_an_image(folder, capsys):
    data = np.array([[[1.5, np.nan, -2.0]], [[0, 7, 3]]])
    image = nibabel.Nifti1Image(data.astype(np.float32), MOVING)
    image.set_sform(MOVING, 1)
    shifted = MOVING.copy()
    shifted[1, 3] += 4
    image.set_qform(shifted, 1)
    nibabel.save(image, folder / "a.nii.gz")
    with pytest.raises(SystemExit):
        main(["info", str(folder / "a.nii.gz")])
    said = capsys.readouterr().err
    assert said.startswith("fastreg: warning: ") and "disagree" in said and said.count("\n") == 1
    figures = info(capsys, folder / "a.nii.gz")
    assert figures["kind"] == "image" and figures["shape"] == [2, 1, 3] and figures["orientation"] == "AIR"
    assert (figures["minimum"], figures["maximum"], figures["not_finite_voxels"]) == (-2.0, 7.0, 1)
    assert figures["q_and_s_form_differ_by_mm"] == pytest.approx(4, abs=1e-4)
    np.testing.assert_allclose(figures["spacing_mm"], [1.3, 1.2, 1.1], rtol=1e-6)


def test_info_of_labels(folder, capsys):
    figures = info(capsys, folder / "labels.nii.gz")
    assert figures["different_values"] == 3 and figures["maximum"] == 2**24 + 1 and figures["stored_as"] == "int32"


def test_info_of_a_warp(folder, capsys):
    figures = info(capsys, folder / "warp.nii.gz")
    _, (warp, _) = transforms(folder)
    length = np.linalg.norm(warp.displacement_mm(), axis=-1)
    assert (figures["kind"], figures["format"], figures["shape"]) == ("warp", "itk", list(SHAPE))
    assert figures["displacement_mm"]["max"] == pytest.approx(length.max(), abs=1e-4)
    assert figures["displacement_mm"]["mean"] == pytest.approx(length.mean(), abs=1e-4)
    assert figures["folds"] == 0 and figures["voxels"] == np.prod(SHAPE)


def test_info_counts_folds(folder, capsys):
    flow = np.zeros((8, 8, 8, 3), np.float32)
    flow[4:, ..., 0] = -3  # places 4.. of the first axis come before those that precede them
    save_warp(folder / "folded.nii.gz", Warp(flow, FIXED, FIXED, (8, 8, 8)))
    assert info(capsys, folder / "folded.nii.gz")["folds"] == 2 * 64


def test_info_of_an_affine(folder, capsys):
    figures = info(capsys, folder / "affine.mat")
    _, (_, affine) = transforms(folder)
    np.testing.assert_allclose(figures["fixed_to_moving_ras_mm"], affine.matrix)
    assert figures["volume_change"] == pytest.approx(np.linalg.det(affine.matrix))


def test_info_of_a_model(folder, capsys):
    torch.manual_seed(0)
    net = RegistrationNet("vxm", ndim=2)
    about = checkpoint.Checkpoint(network={"name": "vxm", "ndim": 2}, step=7)
    checkpoint.save(folder / "model.safetensors", net, about)
    figures = info(capsys, folder / "model.safetensors")
    assert figures["kind"] == "model" and figures["step"] == 7 and figures["network"]["name"] == "vxm"


@pytest.mark.parametrize("name", ["fixed.nii.gz", "warp.nii.gz", "affine.mat"])
def test_info_for_people(folder, name, capsys):
    assert fastreg("info", folder / name) == 0
    assert "kind" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["none.nii.gz", "text.nii.gz", "text.mat", "text.safetensors", "text.npz"])
def test_info_of_what_is_none(folder, name, capsys):
    if not name.startswith("none"):
        (folder / name).write_text("nothing of the kind")
    assert fastreg("info", folder / name) == 1
    captured = capsys.readouterr()
    assert name in captured.err and captured.err.count("\n") == 1


def test_a_2_d_image_is_moved(folder):
    rng = np.random.default_rng(1)
    image = Image(rng.normal(size=(12, 14)).astype(np.float32), np.diag([1.0, -1.2, 1, 1]))
    save_image(folder / "flat.nii.gz", image)
    flow = rng.uniform(-1, 1, size=(12, 14, 2)).astype(np.float32)
    save_warp(folder / "flat_warp.nii.gz", Warp(flow, image.affine, image.affine, image.shape))
    words = ("-i", folder / "flat.nii.gz", "-t", folder / "flat_warp.nii.gz", "-o", folder / "out.nii.gz")
    assert fastreg("warp", *words) == 0
    out = load_image(folder / "out.nii.gz")
    expected = apply([load_warp(folder / "flat_warp.nii.gz")], image, image.affine, image.shape).data
    assert out.shape == (12, 14)
    np.testing.assert_allclose(out.data, expected, atol=1e-5)
