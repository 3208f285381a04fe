"""`fastreg compose`, `invert` and `convert`, and what `register` takes as a start and writes for ANTs."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.cli import main
from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.linear import linear_part
from fastreg.geometry.transforms import Affine, Warp, map_places
from fastreg.io.affines import load_affine, save_affine
from fastreg.io.images import load_image, save_image
from fastreg.io.transforms import load_transforms
from fastreg.io.warps import load_warp, save_warp
from fastreg.registration.inversion import inverse_warp, inverted
from fastreg.registration.landmarks import from_landmarks
from fastreg.utils.files import InputError

FLIP = np.array([-1.0, -1.0, 1.0])
ALIGNED = ("--levels", "2x15,1x5", "--device", "cpu")


def fastreg(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def turned(seed, shape, spacing):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(shape), len(shape))))
    affine = np.eye(4)
    n = len(shape)
    affine[:n, :n] = axes * np.array(spacing)[:n]
    affine[:n, 3] = -affine[:n, :n] @ (np.array(shape) - 1) / 2
    return affine


def bent(ndim=3, size=3.0):
    """A smooth warp with a linear part between oblique grids."""
    shape, moving_shape = (26, 28, 24)[:ndim], (30, 24, 28)[:ndim]
    fixed, moving = turned(1, shape, (1.5, 1.4, 1.6)), turned(2, moving_shape, (1.4, 1.6, 1.5))
    places = affine_field(fixed[:3], shape)
    waves = np.zeros_like(places)
    waves[..., :ndim] = size * np.sin(places[..., :ndim] @ np.full((ndim, ndim), 0.06) + np.arange(ndim))
    matrix = np.eye(4)
    matrix[:ndim, :ndim] += np.random.default_rng(3).normal(size=(ndim, ndim)) * 0.05
    displacement = Affine(matrix)(places + waves) - places
    return Warp.from_displacement_mm(displacement, fixed).onto(moving, moving_shape)


def blank(shape, affine):
    return Image(np.zeros(shape, np.float32), affine)


@pytest.fixture
def folder(tmp_path):
    warp = bent()
    save_warp(tmp_path / "warp.nii.gz", warp)
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(4).normal(size=(3, 4)) * [0.05, 0.05, 0.05, 2]
    save_affine(tmp_path / "affine.mat", Affine(matrix))
    rng = np.random.default_rng(0)
    save_image(tmp_path / "fixed.nii.gz", rng.random(warp.fixed_shape, dtype=np.float32), warp.fixed_affine)
    save_image(tmp_path / "moving.nii.gz", rng.random(warp.moving_shape, dtype=np.float32), warp.moving_affine)
    return tmp_path


def inner(count=200, reach=9):
    return np.random.default_rng(5).uniform(-reach, reach, (count, 3))


# ---------------------------------------------------------------- inverses


@pytest.mark.parametrize("ndim", [2, 3])
def test_there_and_back_is_where_it_was(ndim):
    warp = bent(ndim)
    back = inverse_warp(warp, blank(warp.moving_shape, warp.moving_affine))
    assert back.fixed_shape == warp.moving_shape
    places = inner()
    places[:, ndim:] = 0
    left = np.linalg.norm(back(warp(places)) - places, axis=1)
    assert np.median(left) < 0.02 and left.max() < 0.1


def test_a_linear_warp_has_its_exact_inverse_and_linear_part():
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(4).normal(size=(3, 4)) * [0.2, 0.2, 0.2, 9]
    shape, affine = (13, 12, 11), turned(1, (13, 12, 11), (1, 2, 3))
    places = affine_field(affine[:3], shape)
    warp = Warp.from_displacement_mm(Affine(matrix)(places) - places, affine)
    np.testing.assert_allclose(linear_part(warp).matrix, matrix, atol=1e-5)
    back = inverse_warp(warp, blank(shape, affine))
    np.testing.assert_allclose(places + back.displacement_mm(), Affine(matrix).inverse()(places), atol=1e-4)


def test_invert_prints_how_far_from_its_start_a_place_is(folder, capsys):
    words = ("invert", folder / "warp.nii.gz", folder / "back.nii.gz", "-i", folder / "moving.nii.gz", "--json")
    code, out, err = fastreg(capsys, *words)
    figures = json.loads(out)
    assert code == 0 and figures["left_mm_median"] < 0.02, err
    back, warp = load_warp(folder / "back.nii.gz"), load_warp(folder / "warp.nii.gz")
    assert np.linalg.norm(back(warp(inner())) - inner(), axis=1).max() < 0.1
    assert fastreg(capsys, "invert", folder / "affine.mat", folder / "back.lta")[0] == 1  # needs both images
    assert fastreg(capsys, "invert", folder / "affine.mat", folder / "back.tfm")[:2][0] == 0
    product = load_affine(folder / "back.tfm").matrix @ load_affine(folder / "affine.mat").matrix
    np.testing.assert_allclose(product, np.eye(4), atol=1e-12)


def test_a_composite_and_a_spline_are_inverted(folder, capsys, tmp_path):
    words = ("-t", folder / "warp.nii.gz", "-t", folder / "affine.mat", "-o", folder / "both.h5")
    assert fastreg(capsys, "compose", *words)[0] == 0
    assert fastreg(capsys, "invert", folder / "both.h5", folder / "back.nii.gz", "-i", folder / "moving.nii.gz")[0] == 0
    there = map_places(load_transforms(folder / "both.h5"), inner(reach=6))
    assert np.linalg.norm(load_warp(folder / "back.nii.gz")(there) - inner(reach=6), axis=1).max() < 0.15
    mesh = sitk.BSplineTransformInitializer(sitk.Image([60, 60, 60], sitk.sitkFloat32), [6, 6, 6])
    weights = np.random.default_rng(1).normal(size=len(mesh.GetParameters())) * 1.5
    mesh.SetParameters(weights.tolist())
    sitk.WriteTransform(mesh, str(folder / "spline.tfm"))
    spline = load_transforms(folder / "spline.tfm")
    places = np.random.default_rng(2).uniform(15, 45, (100, 3)) * FLIP
    back = inverted(spline, None, None)
    assert np.linalg.norm(map_places([*spline, *back], places) - places, axis=1).max() < 0.2


def test_one_file_inverted_in_a_list(folder, capsys):
    (folder / "points.csv").write_text("x,y,z\n" + "".join("{:.6f},{:.6f},{:.6f}\n".format(*p) for p in inner(20)))
    words = ("-t", f"[{folder / 'warp.nii.gz'},1]", "-r", folder / "moving.nii.gz", "--points", folder / "points.csv")
    code, out, err = fastreg(capsys, "warp", *words)
    assert code == 0, err
    moved = np.loadtxt(out.splitlines(), delimiter=",", skiprows=1)
    np.testing.assert_allclose(load_warp(folder / "warp.nii.gz")(moved), inner(20), atol=0.1)


# ---------------------------------------------------------------- compose, convert


@pytest.mark.parametrize("name", ["all.h5", "all.nii.gz", "all.mha", "all.nrrd", "all.npz"])
def test_compose_keeps_or_samples(folder, capsys, name):
    words = ["-t", folder / "affine.mat", "-t", folder / "warp.nii.gz", "-r", folder / "fixed.nii.gz"]
    assert fastreg(capsys, "compose", *words, "-i", folder / "moving.nii.gz", "-o", folder / name)[0] == 0
    parts = [*load_transforms(folder / "affine.mat"), *load_transforms(folder / "warp.nii.gz")]
    kept = load_transforms(folder / name)
    places = affine_field(bent().fixed_affine[:3], bent().fixed_shape)[8:-8:3, 8:-8:3, 8:-8:3].reshape(-1, 3)
    np.testing.assert_allclose(map_places(kept, places), map_places(parts, places), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.lta", ()), ("a.aff12.1D", ()), ("a.tfm", ()), ("a.h5", ()), ("a.txt", ()), ("a.mat", ("--to", "flirt"))],
)
def test_convert_goes_between_all_linear_formats(folder, capsys, name, options):
    given = ("-r", folder / "fixed.nii.gz", "-i", folder / "moving.nii.gz")
    assert fastreg(capsys, "convert", folder / "affine.mat", folder / name, *given, *options)[0] == 0
    back = ("--matrix", "flirt") if options else ()
    assert fastreg(capsys, "convert", folder / name, folder / "back.txt", *given, *back, "--overwrite")[0] == 0
    expected = load_affine(folder / "affine.mat").matrix
    np.testing.assert_allclose(load_affine(folder / "back.txt").matrix, expected, atol=1e-9)


@pytest.mark.parametrize("format", ["fsl", "freesurfer", "niftyreg", "learn2reg"])
def test_convert_goes_between_formats_of_warps(folder, capsys, format):
    given = ("-r", folder / "fixed.nii.gz", "-i", folder / "moving.nii.gz")
    assert fastreg(capsys, "convert", folder / "warp.nii.gz", folder / "a.nii.gz", *given, "--to", format)[0] == 0
    kind = () if format != "learn2reg" else ("--warp-format", format)
    assert fastreg(capsys, "convert", folder / "a.nii.gz", folder / "b.nrrd", *given, *kind)[0] == 0
    np.testing.assert_allclose(load_warp(folder / "b.nrrd")(inner()), bent()(inner()), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compose", "-t", "warp.nii.gz", "-o", "x.mat"), "a linear format, and these transforms are not"),
        (("compose", "-t", "affine.mat", "-o", "x.nii.gz"), "the fixed grid is not known"),
        (("compose", "-o", "x.mat"), "compose needs --transform"),
        (("convert", "affine.mat", "x.foo"), "expected .safetensors (a network) or .nii"),
        (("convert", "none.mat", "x.tfm"), "transform none.mat: no such file"),
        (("convert", "affine.mat", "affine.mat"), "is the input"),
        (("invert", "fixed.nii.gz", "x.nii.gz"), "expected a displacement field"),
        (("convert", "affine.mat", "x.mat", "--to", "flirt"), "FLIRT's matrix needs both images"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    code, out, err = fastreg(capsys, *words)
    assert code == 1 and message in err and err.count("\n") == 1 and out == ""
    assert sorted(path.name for path in folder.iterdir()) == before


# ---------------------------------------------------------------- starts


def test_landmarks_give_the_map_that_made_them():
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(12, 3)) * 30
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    for kind, linear in (("rigid", turn), ("similarity", 1.3 * turn), ("affine", turn @ np.diag([1.1, 0.8, 1.3]))):
        moving = fixed @ linear.T + [5, -6, 7]
        found = from_landmarks(fixed, moving, kind)
        np.testing.assert_allclose(found(fixed), moving, atol=1e-9)
        np.testing.assert_allclose(found.matrix[:3, :3], linear, atol=1e-9)
    few = from_landmarks(fixed[:4], moving[:4])  # four pairs: a turn, and no mirror image
    np.testing.assert_allclose(few.matrix[:3, :3] @ few.matrix[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(few.matrix[:3, :3]) > 0
    flat = from_landmarks(fixed * [1, 1, 0], moving)
    np.testing.assert_allclose(flat.matrix[:3, :3] @ flat.matrix[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(from_landmarks(fixed[:1], moving[:1]).matrix[:3, :3], np.eye(3))
    with pytest.raises(InputError, match="expected pairs of places"):
        from_landmarks(fixed, moving[:3])


def test_flat_landmarks_turn_in_their_plane():
    rng = np.random.default_rng(0)
    fixed = np.c_[rng.normal(size=(5, 2)) * 30, np.zeros(5)]
    turn = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
    found = from_landmarks(fixed, fixed @ turn.T + [3, 4, 0], ndim=2)
    np.testing.assert_allclose(found.matrix[:3, :3], turn, atol=1e-9)


@pytest.fixture
def far(blobs, tmp_path):
    """A pair whose moving image was turned by 100 degrees, and landmarks in both."""
    folder = blobs(1)
    image = load_image(folder / "s0_image.nii.gz")
    turn = np.eye(4)
    angle = np.radians(100)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = [12, -8, 5]
    save_image(tmp_path / "moving.nii.gz", image.data, turn @ image.affine)
    places = np.random.default_rng(1).uniform(-25, 25, (9, 3)) + (image.affine @ [*np.array(image.shape) / 2, 1])[:3]
    for name, points in (("fixed", places), ("moving", places @ turn[:3, :3].T + turn[:3, 3])):
        rows = [f"p{k},{p[0]},{p[1]},{p[2]}" for k, p in enumerate(points)]
        if name == "moving":
            rows = rows[::-1]  # matched by their labels
        (tmp_path / f"{name}.csv").write_text("label,x,y,z\n" + "\n".join(rows) + "\n")
    return folder / "s0_image.nii.gz", tmp_path, turn


@pytest.mark.slow
def test_registration_starts_from_landmarks_and_refines_them(far, capsys):
    fixed, folder, turn = far
    words = ["register", "-f", fixed, "-m", folder / "moving.nii.gz", "--transform", "affine"]
    words += ["--landmarks-fixed", folder / "fixed.csv", "--landmarks-moving", folder / "moving.csv"]
    code, _, err = fastreg(capsys, *words, "--affine-out", folder / "a.mat")
    assert code == 0 and "landmarks: " in err and "matched by their labels" in err, err
    np.testing.assert_allclose(load_affine(folder / "a.mat").matrix, turn, atol=0.05)
    assert "go together" in fastreg(capsys, *words[:-2], "-o", folder / "b.nii.gz")[2]
    assert "not with --init" in fastreg(capsys, *words, "--init", "mass", "-o", folder / "b.nii.gz")[2]


@pytest.mark.slow
def test_registration_goes_on_from_a_warp(blobs, tmp_path, capsys):
    folder = blobs(2)
    pair = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "--device", "cpu"]
    pair += ["--metric", "lncc"]
    assert fastreg(capsys, *pair, "--levels", "2x60,1x30", "--warp", tmp_path / "first.h5")[0] == 0
    first = load_transforms(tmp_path / "first.h5")[0]
    assert (
        fastreg(capsys, *pair, "--init", tmp_path / "first.h5", "--levels", "1x1", "--warp", tmp_path / "b.nii.gz")[0]
        == 0
    )
    second = load_warp(tmp_path / "b.nii.gz")
    moved = np.linalg.norm(first.displacement_mm() - second.displacement_mm(), axis=-1)
    assert np.linalg.norm(first.displacement_mm(), axis=-1).max() > 1
    assert np.percentile(moved, 99) < 0.3  # one iteration leaves it about where it was
    words = [*pair, "--init", tmp_path / "first.h5", "--transform", "affine", "--affine-out", tmp_path / "a.mat"]
    assert fastreg(capsys, *words)[0] == 0
    code, _, err = fastreg(capsys, *pair, "--init", tmp_path / "first.h5", "--affine", "--warp", tmp_path / "c.nii.gz")
    assert code == 1 and "a warp is given, which a linear alignment cannot start from" in err
    code, _, err = fastreg(capsys, *pair, "--init", "nowhere", "--warp", tmp_path / "c.nii.gz")
    assert code == 1 and "expected one of auto, header, mass, centre, search or a file" in err


# ---------------------------------------------------------------- ANTs


@pytest.fixture
def for_ants(blobs, tmp_path, capsys):
    folder = blobs(2)
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", *ALIGNED]
    words += [
        "--background",
        "0",
        "--ants-prefix",
        f"{tmp_path}/out_",
        "--warp",
        tmp_path / "w.nii.gz",
        "--inverse-warp",
        tmp_path / "i.nii.gz",
    ]
    code, _, err = fastreg(capsys, *words)
    assert code == 0, err
    return folder, tmp_path


@pytest.mark.slow
def test_ants_files_say_what_our_warp_says(for_ants, capsys):
    folder, out = for_ants
    names = {path.name for path in out.glob("out_*")}
    assert names == {
        f"out_{name}" for name in ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz", "Warped.nii.gz")
    }
    theirs = sitk.CompositeTransform([  # the last is applied first
        sitk.ReadTransform(str(out / "out_0GenericAffine.mat")),
        sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "out_1Warp.nii.gz"), sitk.sitkVectorFloat64)),
    ])  # fmt: skip
    fixed, moving = (sitk.ReadImage(str(folder / f"s{k}_image.nii.gz"), sitk.sitkFloat32) for k in (0, 1))
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, theirs, sitk.sitkLinear, 0.0)).T
    ours = np.asarray(nibabel.load(out / "out_Warped.nii.gz").dataobj)
    assert np.abs(moved - ours).max() < 2e-3 * np.ptp(ours)
    image = load_image(folder / "s0_image.nii.gz")
    middle = (image.affine @ [*np.array(image.shape) / 2, 1])[:3]
    places = middle + np.random.default_rng(0).uniform(-15, 15, (50, 3))
    there = load_warp(out / "w.nii.gz")(places)
    np.testing.assert_allclose(
        [np.array(theirs.TransformPoint((p * FLIP).tolist())) * FLIP for p in places], there, atol=1e-3
    )
    back = sitk.CompositeTransform([
        sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "out_1InverseWarp.nii.gz"), sitk.sitkVectorFloat64)),
        sitk.ReadTransform(str(out / "out_0GenericAffine.mat")).GetInverse(),
    ])  # fmt: skip
    returned = np.array([np.array(back.TransformPoint((p * FLIP).tolist())) * FLIP for p in there])
    left = np.linalg.norm(returned - places, axis=1)
    assert np.median(left) < 0.05 and left.max() < 0.5


@pytest.mark.slow
def test_ants_apply_transforms_agrees(for_ants):
    ants = pytest.importorskip("ants")
    folder, out = for_ants
    fixed, moving = (ants.image_read(str(folder / f"s{k}_image.nii.gz")) for k in (0, 1))
    listed = [str(out / "out_1Warp.nii.gz"), str(out / "out_0GenericAffine.mat")]
    moved = ants.apply_transforms(fixed, moving, listed, interpolator="linear").numpy()
    ours = np.asarray(nibabel.load(out / "out_Warped.nii.gz").dataobj)
    assert np.abs(moved - ours).max() < 2e-3 * np.ptp(ours)
    image = load_image(folder / "s0_image.nii.gz")
    middle = (image.affine @ [*np.array(image.shape) / 2, 1])[:3]
    places = middle + np.random.default_rng(0).uniform(-15, 15, (20, 3))
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(places * FLIP, columns=["x", "y", "z"])
    there = ants.apply_transforms_to_points(3, table, listed)[["x", "y", "z"]].to_numpy() * FLIP
    np.testing.assert_allclose(there, load_warp(out / "w.nii.gz")(places), atol=1e-3)
