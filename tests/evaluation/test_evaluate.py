import csv
import json
import math

import numpy as np
import pytest
import torch

from fastreg.cli import main, output
from fastreg.data.pairs import read_scored_files
from fastreg.evaluation import metrics
from fastreg.evaluation.scoring import evaluate
from fastreg.evaluation.table import average, flat, save_csv
from fastreg.geometry.transforms import Warp
from fastreg.io.images import save_image
from fastreg.io.labels import read_labels
from fastreg.io.markups import new_markups
from fastreg.io.points import load_points, save_points
from fastreg.io.warps import save_warp
from fastreg.ops.warp import warp as warp_op
from fastreg.plots import dice as dice_plots
from fastreg.utils.files import InputError

SHAPE = (18, 20, 16)
FIXED = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])
MOVING = np.array([[0, 0, 2.5, -3], [-1.5, 0, 0, 8], [0, 2.0, 0, -20], [0, 0, 0, 1.0]])  # other axes, other spacing


def boxes(shift=0):
    labels = np.zeros(SHAPE, np.uint8)
    labels[3 + shift : 9 + shift, 4:12, 3:9] = 1
    labels[10:14, 8 + shift : 15 + shift, 6:12] = 5
    return labels


def smooth_flow():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 5, 5, 5)))
    return torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0].float().numpy()


@pytest.fixture
def case(tmp_path):
    """Files of a pair on one grid, and the arrays in them."""
    flow = smooth_flow()
    save_image(tmp_path / "fixed.nii.gz", boxes(), FIXED)
    save_image(tmp_path / "moving.nii.gz", boxes(1), FIXED)
    save_warp(tmp_path / "warp.nii.gz", Warp(np.moveaxis(flow, 0, -1), FIXED, FIXED, SHAPE))
    moved = warp_op(torch.from_numpy(boxes(1)).float()[None, None], torch.from_numpy(flow)[None], mode="nearest")
    save_image(tmp_path / "moved.nii.gz", moved[0, 0].numpy().astype(np.uint8), FIXED)
    save_image(tmp_path / "mask.nii.gz", (boxes() > 0).astype(np.uint8), FIXED)
    return tmp_path, flow, moved[0, 0].numpy()


def test_labels_are_warped_as_the_op_warps_them(case):
    folder, _, moved = case
    figures = evaluate(
        fixed_labels=folder / "fixed.nii.gz", moving_labels=folder / "moving.nii.gz", warp=folder / "warp.nii.gz"
    )
    assert figures["dice"] == metrics.dice(boxes(), moved)
    assert figures["dice_before"] == metrics.dice(boxes(), boxes(1))
    assert figures["hd95_mm"] == metrics.hd95(boxes(), moved, (2, 2, 3))
    assert figures["dice_mean"] == pytest.approx(sum(figures["dice"].values()) / 2)
    given = evaluate(fixed_labels=folder / "fixed.nii.gz", moved_labels=folder / "moved.nii.gz")
    assert given["dice"] == figures["dice"] and "dice_before" not in given


def test_regularity_is_that_of_the_field(case):
    folder, flow, _ = case
    figures = evaluate(warp=folder / "warp.nii.gz", mask=folder / "mask.nii.gz")
    expected = metrics.regularity(flow, boxes() > 0)
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-4), name


def test_a_rigid_world_is_found_in_other_axes_and_spacings(tmp_path):
    """The identity of the world between grids that differ: nothing folds, landmarks stay, the volume is kept."""
    shape = (24, 22, 20)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).astype(float)
    world = index @ FIXED[:3, :3].T + FIXED[:3, 3] + np.array([1.0, -2.0, 0.5])
    inverse = np.linalg.inv(MOVING)
    flow = world @ inverse[:3, :3].T + inverse[:3, 3] - index
    save_warp(tmp_path / "warp.nii.gz", Warp(flow.astype(np.float32), FIXED, MOVING, shape))
    save_image(tmp_path / "moving.nii.gz", np.zeros(shape, np.float32), MOVING)
    save_image(tmp_path / "fixed.nii.gz", np.zeros(SHAPE, np.float32), FIXED)
    points = np.random.default_rng(1).uniform(2, 14, (7, 3))
    places = points @ FIXED[:3, :3].T + FIXED[:3, 3]
    target = places + np.array([1.0, -2.0, 0.5]) + np.array([0.0, 3.0, 4.0])  # 5 mm off
    voxels = target @ inverse[:3, :3].T + inverse[:3, 3]
    files = {"warp": tmp_path / "warp.nii.gz", "moving": tmp_path / "moving.nii.gz", "fixed": tmp_path / "fixed.nii.gz"}
    for space, a, b in (("ras", places, target), ("voxel", points, voxels)):
        for name, rows in (("a.csv", a), ("b.csv", b)):
            np.savetxt(tmp_path / name, rows, delimiter=",", header="x,y,z", comments="", fmt="%.9f")
        found = evaluate(**files, points_fixed=tmp_path / "a.csv", points_moving=tmp_path / "b.csv", points_space=space)
        assert found["tre_mm"]["mean"] == pytest.approx(5, abs=1e-4) and found["tre_mm"]["n"] == 7
        assert found["tre_mm_before"]["max"] == pytest.approx(np.linalg.norm([1, 1, 4.5]), abs=1e-4)
    assert found["folds_central"] == found["folds_forward"] == 0
    assert found["sdlogj"] == pytest.approx(0, abs=1e-5)


def test_moving_labels_are_compared_where_they_lie_in_the_world(tmp_path):
    shifted = FIXED.copy()
    shifted[:3, 3] += FIXED[:3, 0]  # one voxel along the first axis undoes the shift of structure 1
    save_image(tmp_path / "fixed.nii.gz", boxes(), FIXED)
    save_image(tmp_path / "moving.nii.gz", np.roll(boxes(), -1, 0), shifted)
    figures = evaluate(fixed_labels=tmp_path / "fixed.nii.gz", moving_labels=tmp_path / "moving.nii.gz")
    assert figures["dice_before"] == {1: 1.0, 5: 1.0}


def test_slices(tmp_path):
    """2-D label maps and displacements are scored as 3-D ones are."""
    fixed, moving = boxes()[:, :, 7], boxes(1)[:, :, 7]
    flow = smooth_flow()[:2, :, :, 7]
    figures = evaluate(
        fixed_labels=fixed, moving_labels=moving, warp=Warp(np.moveaxis(flow, 0, -1), np.eye(4), np.eye(4))
    )
    volume, field = torch.from_numpy(moving).float()[None, None], torch.from_numpy(np.ascontiguousarray(flow))[None]
    assert figures["dice"] == metrics.dice(fixed, warp_op(volume, field, mode="nearest")[0, 0])
    assert figures["sdlogj"] == pytest.approx(metrics.regularity(flow)["sdlogj"], rel=1e-4)


def test_learn2reg_mode():
    fixed, moved, moving = boxes(), boxes(1), boxes(2)
    moving[moving == 5] = 0
    figures = evaluate(fixed_labels=fixed, moved_labels=moved, moving_labels=moving, learn2reg=True)
    assert math.isnan(figures["dice"][5]) and math.isnan(figures["hd95_voxels"][5])
    assert figures["dice_mean"] == figures["dice"][1] == metrics.dice(fixed, moved)[1]
    assert figures["hd95_voxels_mean"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to score"),
        ({"fixed_labels": boxes()}, "fixed labels alone"),
        (
            {"fixed_labels": boxes(), "moved_labels": boxes()[1:]},
            r"moved labels: expected the fixed grid of \(18, 20, 16\)",
        ),
        ({"fixed_labels": 0 * boxes(), "moved_labels": boxes()}, "expected structures, got zeros alone"),
        ({"fixed_labels": boxes(), "moved_labels": boxes(), "labels": [7]}, "holds none of 7; it holds 1, 5"),
        ({"fixed_labels": "none.nii.gz", "moved_labels": boxes()}, "fixed labels none.nii.gz: no such file"),
        ({"points_fixed": "a.csv"}, "landmarks come in two files"),
        ({"warp": Warp(np.zeros((4, 4, 1, 3), np.float32), FIXED, FIXED)}, "at least 2 voxels along every axis"),
    ],
)
def test_errors_are_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(**arguments)
    assert "\n" not in str(error.value)


def test_grids_that_lie_elsewhere_are_refused(case):
    folder = case[0]
    elsewhere = FIXED.copy()
    elsewhere[0, 3] += 1
    save_image(folder / "elsewhere.nii.gz", boxes(), elsewhere)
    with pytest.raises(InputError, match=r"moved labels .*elsewhere.nii.gz: .* 1 mm apart"):
        evaluate(fixed_labels=folder / "fixed.nii.gz", moved_labels=folder / "elsewhere.nii.gz")
    with pytest.raises(InputError, match=r"warp .*: expected the fixed grid, got one"):
        evaluate(fixed=folder / "elsewhere.nii.gz", warp=folder / "warp.nii.gz")


def test_labels_option(tmp_path):
    assert read_labels("1, 2,41") == {1: "1", 2: "2", 41: "41"}
    for content in ([3, 4], {"3": "3", "4": "4"}, {"3": 3, "4": 4}):
        (tmp_path / "labels.json").write_text(json.dumps(content))
        assert read_labels(str(tmp_path / "labels.json")) == {3: "3", 4: "4"}
    (tmp_path / "labels.json").write_text('{"thalamus": 10, "caudate": 11}')
    assert read_labels(str(tmp_path / "labels.json")) == {10: "thalamus", 11: "caudate"}
    assert read_labels("all") is None
    (tmp_path / "labels.json").write_text('{"3": "cortex", "42": "cortex"}')
    assert read_labels(str(tmp_path / "labels.json")) == {3: "cortex 3", 42: "cortex 42"}
    (tmp_path / "groups.json").write_text('{"cortex": [3, 42]}')
    with pytest.raises(InputError, match="expected one label a structure, 'cortex' has 2"):
        read_labels(str(tmp_path / "groups.json"))
    for wrong in ("1,x", "", "nofile.json"):
        with pytest.raises(InputError, match="labels"):
            read_labels(wrong)


def test_figures_in_a_row_and_their_means(tmp_path):
    rows = {"a": {"dice": {1: 0.5, 2: math.nan}, "folds_central": 2}, "b": {"dice": {1: 1.0, 2: 0.25}, "sdlogj": 0.1}}
    assert average(rows.values()) == {"dice": {1: 0.75, 2: 0.25}, "folds_central": 2, "sdlogj": 0.1}
    assert flat(rows["b"]) == {"dice_1": 1.0, "dice_2": 0.25, "sdlogj": 0.1}
    save_csv(rows, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().split() == [
        "name,folds_central,sdlogj,dice_1,dice_2",
        "a,2,,0.5,",
        "b,,0.1,1.0,0.25",
    ]


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return ended.value.code


def test_command_for_one_pair(case, capsys):
    folder, _, moved = case
    options = ["--fixed-labels", folder / "fixed.nii.gz", "--moving-labels", folder / "moving.nii.gz"]
    options += ["--warp", folder / "warp.nii.gz", "--labels", "5,1"]
    assert run(*options, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["dice"] == {str(k): metrics.dice(boxes(), moved)[k] for k in (5, 1)}
    assert run(*options, "--no-hd95") == 0
    shown = capsys.readouterr().out
    assert "hd95" not in shown and f"{figures['dice_mean']:.3f}" in shown and "SDlogJ" in shown
    assert "folds, at any corner" in shown and f"{figures['ndv_percent']:.3g}" in shown and "NDV" in shown


def test_small_figures_keep_a_digit():
    assert [output.shown(figure) for figure in (0.25, 0.0, 0.0004, 3, math.nan)] == [
        "0.250",
        "0.000",
        "4.0e-04",
        "3",
        "",
    ]
    assert output.shown(None, "-") == "-"


def test_command_for_many_pairs(case, capsys):
    folder, _, moved = case
    (folder / "pairs.csv").write_text(
        "name, fixed-labels, moved_labels, moving_labels\none, fixed.nii.gz, moved.nii.gz,\n"
        "two, fixed.nii.gz, fixed.nii.gz, moving.nii.gz\n"
    )
    assert run("--pairs", folder / "pairs.csv", "--csv", folder / "out" / "table.csv") == 0
    shown = capsys.readouterr().out
    assert "mean of 2 pairs" in shown and "two" in shown
    with (folder / "out" / "table.csv").open() as file:
        one, two = csv.DictReader(file)
    assert (one["name"], two["name"]) == ("one", "two")
    assert float(one["dice_1"]) == metrics.dice(boxes(), moved)[1] and one["dice_before_1"] == ""
    assert float(two["dice_mean"]) == 1 and float(two["hd95_mm_5"]) == 0
    assert run("--pairs", folder / "pairs.csv", "--csv", folder / "out" / "table.csv") == 1
    assert "exists; use --overwrite" in capsys.readouterr().err
    assert run("--pairs", folder / "pairs.csv", "--json", "--learn2reg") == 0
    assert json.loads(capsys.readouterr().out)["mean"]["dice_mean"] > 0.5


def test_boxplot_of_this_and_other_methods(case, capsys, monkeypatch):
    folder, _, moved = case
    pair = ["--fixed-labels", folder / "fixed.nii.gz", "--moving-labels", folder / "moving.nii.gz", "--no-hd95"]
    warped = [*pair, "--warp", folder / "warp.nii.gz"]
    assert run(*warped, "--json") == 0
    (folder / "vm1.json").write_text(capsys.readouterr().out)
    drawn = {}
    draw = dice_plots.dice_boxplot
    monkeypatch.setattr(
        dice_plots, "dice_boxplot", lambda methods, *a, **k: (drawn.update(methods), draw(methods, *a, **k))
    )
    names = ["--labels", folder / "names.json"]
    (folder / "names.json").write_text('{"1": "one", "5": "five"}')
    assert run(*warped, *names, "--plot", folder / "box.png", "--against", folder / "vm1.json") == 0
    assert (folder / "box.png").stat().st_size > 5000
    after = {name: [metrics.dice(boxes(), moved)[k]] for name, k in (("one", 1), ("five", 5))}
    before = {name: [metrics.dice(boxes(), boxes(1))[k]] for name, k in (("one", 1), ("five", 5))}
    assert drawn == {"before": before, "vm1": after, "this": after}
    capsys.readouterr()
    for options, message in [
        ([*warped, "--plot", folder / "box.png"], "exists; use --overwrite"),
        ([*warped, "--plot", folder / "b.foo"], "b.foo: expected a name that ends in .png"),
        ([*warped, "--against", folder / "vm1.json"], "--against adds methods to the picture of --plot"),
        (
            [*warped, "--plot", folder / "b.png", "--against", folder / "names.json"],
            "evaluate --json prints, with dice",
        ),
        ([*pair, "--plot", folder / "b.png"], "plot: expected Dice of moved labels, got none"),
    ]:
        assert run(*options) == 1
        assert message in capsys.readouterr().err and not (folder / "b.png").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fixed_labels,colour\na,b\n", "got the column 'colour'"),
        ("", "no pairs in it"),
        ("fixed_labels\n", "no pairs in it"),
        ("fixed_labels,warp\na\n", "line 2: expected 2 cells, got"),
        ("name,warp\na,x\na,y\n", "two pairs are called 'a'"),
    ],
)
def test_pair_lists_that_cannot_be_read(content, message, tmp_path):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_scored_files(tmp_path / "pairs.csv", ["fixed_labels", "moved_labels", "warp"])


def test_command_names_what_is_wrong(case, capsys):
    folder = case[0]
    (folder / "pairs.csv").write_text("name,fixed_labels,moved_labels\nlast,fixed.nii.gz,nothing.nii.gz\n")
    assert run("--pairs", folder / "pairs.csv") == 1
    assert capsys.readouterr().err.startswith(f"fastreg: pair last: moved labels {folder / 'nothing.nii.gz'}: no such")
    assert run("--pairs", folder / "pairs.csv", "--warp", "w.nii.gz") == 1
    assert "leave out --warp" in capsys.readouterr().err
    assert run() == 1 and run("--points-space", "mars") == 2


@pytest.mark.slow
def test_real_pair(real_data):
    pair = real_data / "pair"
    figures = evaluate(
        fixed_labels=pair / "subject_a_labels.nii.gz",
        moving_labels=pair / "subject_b_labels.nii.gz",
        labels=list(read_labels(str(pair / "labels30.json"))),
        hd95=False,
    )
    assert figures["dice_before_mean"] == pytest.approx(0.522, abs=5e-4)


def landmarks(path, labels, points):
    if path.suffix == ".csv":
        rows = [f"{x},{y},{z},{label}" for label, (x, y, z) in zip(labels, points, strict=True)]
        path.write_text("\n".join(["x,y,z,label", *rows]) + "\n")
    else:
        path.write_bytes(new_markups(np.array(points) * [-1, -1, 1], labels, path.suffix))
    return path


def test_landmarks_are_matched_by_label_where_both_files_have_them(tmp_path):
    """One file in RAS mm, as the option says, the other in LPS mm, as it says itself."""
    points = np.array([[1.0, 2, 3], [-4, 5, 6], [7, 8, -9]])
    first = landmarks(tmp_path / "a.csv", ["A", "B", "C"], points)
    second = landmarks(tmp_path / "b.fcsv", ["C", "A", "B"], points[[2, 0, 1]] + [0, 3, 4])
    with pytest.warns(UserWarning, match="in another order than .*; matched by their labels"):
        figures = evaluate(points_fixed=first, points_moving=second)
    assert figures["tre_mm_before"] == {"mean": 5, "sd": 0, "median": 5, "max": 5, "n": 3}
    other = landmarks(tmp_path / "c.fcsv", ["A", "B", "D"], points)
    with pytest.raises(InputError, match=r"c\.fcsv: expected 'C' as in .*a\.csv, got none"):
        evaluate(points_fixed=first, points_moving=other)
    fewer = landmarks(tmp_path / "d.fcsv", ["A", "B"], points[:2])
    with pytest.raises(InputError, match=r"d\.fcsv: expected 3 as in .*a\.csv, got 2"):
        evaluate(points_fixed=first, points_moving=fewer)


@pytest.mark.parametrize("labels", [["", "", ""], ["F", "F", "F"]])
def test_labels_that_name_no_point_leave_the_order(tmp_path, labels):
    points = np.array([[1.0, 2, 3], [-4, 5, 6], [7, 8, -9]])
    first = landmarks(tmp_path / "a.csv", labels, points)
    second = landmarks(tmp_path / "b.csv", ["A", "B", "C"], points + np.array([0, 3, 4]))
    assert evaluate(points_fixed=first, points_moving=second)["tre_mm_before"]["max"] == 5


def test_landmarks_of_real_scans_are_the_same_in_every_kind_of_file(real_data, tmp_path):
    folder = real_data / "any" / "brain_ms_longitudinal" / "patient01"
    if not folder.is_dir():
        pytest.skip("no follow-up scans there")
    files = {"points_fixed": "study1_T1W_points.csv", "points_moving": "study2_T2W_points.csv"}
    files = {role: folder / name for role, name in files.items()}
    plain = evaluate(**files, points_space="lps")["tre_mm_before"]
    assert plain["n"] == 250
    for ending in (".fcsv", ".mrk.json"):
        for role, path in files.items():
            save_points(tmp_path / f"{role}{ending}", load_points(path), "lps")
        found = evaluate(**{role: tmp_path / f"{role}{ending}" for role in files})["tre_mm_before"]
        assert found == pytest.approx(plain, abs=1e-5)
