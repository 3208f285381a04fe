"""`fastreg register`: what is carried along, and many pairs in one process or several."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fastreg.cli import main
from fastreg.data.pairs import read_pair_files
from fastreg.geometry.transforms import Affine
from fastreg.io.affines import save_affine
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.io.warps import load_warp
from fastreg.registration import batch
from fastreg.utils import distributed
from fastreg.utils.files import InputError

FAST = ("--levels", "2x6,1x2", "--no-affine", "--device", "cpu")


def fastreg(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def one(blobs, tmp_path, capsys):
    """A pair registered with everything that can be carried along; the folder of what came out."""
    folder = blobs(2)
    (tmp_path / "given.csv").write_text("name,x,y,z\nfirst,-14,18,22\nsecond,-30,22,30\n")
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", *FAST]
    words += ["--moving-labels", folder / "s1_labels.nii.gz", "--fixed-labels", folder / "s0_labels.nii.gz"]
    for option, name in (
        ("-o", "moved"),
        ("--warp", "warp"),
        ("--inverse-warp", "inverse"),
        ("--moved-labels", "labels"),
    ):
        words += [option, tmp_path / f"{name}.nii.gz"]
    for direction in ("points", "points-moving"):
        words += [f"--{direction}", tmp_path / "given.csv", f"--{direction}-output", tmp_path / f"{direction}.csv"]
    code, out, err = fastreg(capsys, *words, "--json")
    assert code == 0, err
    return folder, tmp_path, json.loads(out)


@pytest.mark.slow
def test_the_moved_image_is_interpolated_as_asked(blobs, tmp_path, capsys):
    folder = blobs(2)
    for mode in ("linear", "lanczos"):
        words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", *FAST]
        words += [
            "--warp",
            tmp_path / f"{mode}_warp.nii.gz",
            "-o",
            tmp_path / f"{mode}.nii.gz",
            "--interpolation",
            mode,
        ]
        assert fastreg(capsys, *words)[0] == 0
        words = ["warp", "-i", folder / "s1_image.nii.gz", "-t", tmp_path / f"{mode}_warp.nii.gz", "-n", mode]
        assert fastreg(capsys, *words, "-o", tmp_path / "again.nii.gz", "--overwrite")[0] == 0
        moved, again = (load_image(tmp_path / f"{name}.nii.gz").data for name in (mode, "again"))
        np.testing.assert_allclose(moved, again, atol=1e-2)
    assert np.abs(load_image(tmp_path / "linear.nii.gz").data - moved).max() > 0.5


def coordinates(text):
    return np.array([line.split(",")[1:] for line in text.splitlines()[1:]], float)


def test_labels_and_points_are_those_of_fastreg_warp(one, capsys):
    folder, out, figures = one
    words = (
        "warp",
        "-i",
        folder / "s1_labels.nii.gz",
        "-n",
        "nearest",
        "-t",
        out / "warp.nii.gz",
        "-o",
        out / "l2.nii.gz",
    )
    assert fastreg(capsys, *words)[0] == 0
    ours, theirs = (load_labels(out / f"{name}.nii.gz") for name in ("labels", "l2"))
    assert (ours.data != theirs.data).mean() < 1e-3  # a coordinate exactly between two voxels may fall either way
    assert set(np.unique(ours.data)) == {0, 1, 2, 3}
    for name, warp in (("points", "warp"), ("points-moving", "inverse")):
        code, printed, _ = fastreg(capsys, "warp", "-t", out / f"{warp}.nii.gz", "--points", out / "given.csv")
        assert code == 0
        written = (out / f"{name}.csv").read_text()
        np.testing.assert_allclose(coordinates(written), coordinates(printed), atol=1e-4)
        assert written.startswith("name,x,y,z\nfirst,")
    assert figures["dice"] > figures["dice_before"] and figures["folds"] == 0
    code, printed, _ = fastreg(
        capsys, "evaluate", "--fixed-labels", folder / "s0_labels.nii.gz", "--moved-labels", out / "labels.nii.gz",
        "--no-hd95", "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(printed)["dice_mean"] == pytest.approx(figures["dice"], abs=2e-3)


def test_points_are_those_of_simpleitk(one):
    import SimpleITK as sitk

    _, out, _ = one
    start = coordinates((out / "given.csv").read_text())
    for name, warp in (("points", "warp"), ("points-moving", "inverse")):
        field = sitk.Cast(sitk.ReadImage(str(out / f"{warp}.nii.gz")), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
        theirs = np.array([transform.TransformPoint((-x, -y, z)) for x, y, z in start]) * [-1, -1, 1]
        ours = coordinates((out / f"{name}.csv").read_text())
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert np.abs(ours - start).max() > 0.1


# ---------------------------------------------------------------- many pairs


@pytest.fixture
def cohort(blobs, tmp_path):
    """Four pairs of five people in a list, with labels."""
    folder = blobs(5)
    lines = ["moving,fixed,moving_label,fixed_label"]
    lines += [f"s{k}_image.nii.gz,s0_image.nii.gz,s{k}_labels.nii.gz,s0_labels.nii.gz" for k in range(1, 5)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv", tmp_path / "out"


def table(out):
    with (out / "results.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


NAMES = [f"s{k}_image_to_s0_image" for k in range(1, 5)]


@pytest.mark.slow
def test_many_pairs_restart_and_stay(cohort, capsys):
    listed, out = cohort
    words = ("register", "--pairs", listed, "-o", out, *FAST, "--save", "moved,warp,affine,inverse-warp")
    code, printed, err = fastreg(capsys, *words)
    assert code == 0 and err.count("Dice") == 4 and "results.csv" in printed
    rows = table(out)
    assert list(rows) == NAMES
    for name, row in rows.items():
        assert float(row["dice"]) > float(row["dice_before"]) and row["error"] == "" and row["folds"] == "0"
        assert float(row["hd95_mm"]) < float(row["hd95_mm_before"]) and 0 <= float(row["ndv_percent"]) < 1
        assert int(row["corner_folds"]) >= 0 and float(row["learn2reg_sdlogj"]) < float(row["sdlogj"])
        there = {path.name for path in (out / name).iterdir()}
        assert there == {
            "moved.nii.gz", "warp.nii.gz", "affine.mat", "inverse_warp.nii.gz", "moved_labels.nii.gz", "pair.json",
        }  # fmt: skip
    single = ("register", "-f", listed.parent / "s0_image.nii.gz", "-m", listed.parent / "s2_image.nii.gz", *FAST)
    assert fastreg(capsys, *single, "--warp", out / "single.nii.gz")[0] == 0
    alone, among = load_warp(out / "single.nii.gz"), load_warp(out / NAMES[1] / "warp.nii.gz")
    np.testing.assert_array_equal(alone.flow, among.flow)

    stamps = {name: (out / name / "warp.nii.gz").stat().st_mtime_ns for name in NAMES}
    record = json.loads((out / NAMES[2] / "pair.json").read_text())  # as if it had been killed there
    record |= {"row": None, "written": dict.fromkeys(record["written"])}
    (out / NAMES[2] / "pair.json").write_text(json.dumps(record))
    (out / NAMES[2] / ".partial-xyz.nii.gz").write_text("half of a file")
    (out / "results.csv").unlink()
    code, _, err = fastreg(capsys, *words)
    assert code == 0 and err.count("done before") == 3
    again = {name: (out / name / "warp.nii.gz").stat().st_mtime_ns for name in NAMES}
    assert [name for name in NAMES if again[name] != stamps[name]] == [NAMES[2]]
    assert not list(out.rglob(".partial*"))
    assert {n: {**r, "seconds": ""} for n, r in table(out).items()} == {
        n: {**r, "seconds": ""} for n, r in rows.items()
    }


@pytest.mark.slow
def test_other_options_are_not_mixed_in(cohort, capsys):
    listed, out = cohort
    words = ("register", "--pairs", listed, "-o", out, *FAST)
    assert fastreg(capsys, *words)[0] == 0
    code, _, err = fastreg(capsys, *words, "--smoothness", "3")
    assert code == 1 and "was made with other options or files; use --overwrite" in err and err.count("\n") == 1
    before = load_warp(out / NAMES[0] / "warp.nii.gz").flow
    assert fastreg(capsys, *words, "--smoothness", "3", "--overwrite")[0] == 0
    assert not np.array_equal(before, load_warp(out / NAMES[0] / "warp.nii.gz").flow)
    assert fastreg(capsys, *words, "--save", "affine", "--overwrite")[0] == 0
    assert {path.name for path in (out / NAMES[0]).iterdir()} == {"affine.mat", "moved_labels.nii.gz", "pair.json"}


def test_a_start_that_was_written_anew_is_another(cohort, capsys):
    listed, out = cohort
    start = listed.parent / "start.txt"
    save_affine(start, Affine(np.eye(4)))
    words = ("register", "--pairs", listed, "-o", out, "--transform", "translation", "--save", "affine")
    assert fastreg(capsys, *words, "--init", start)[0] == 0
    code, _, err = fastreg(capsys, *words, "--init", start)
    assert code == 0 and err.count("done before") == 4
    save_affine(start, Affine(np.array([[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])))
    code, _, err = fastreg(capsys, *words, "--init", start)
    assert code == 1 and "was made with other options or files" in err


@pytest.mark.parametrize("text", ["{}", "[1]", "no JSON"])
def test_a_record_that_is_none(text, cohort, capsys):
    listed, out = cohort
    (out / NAMES[0]).mkdir(parents=True)
    (out / NAMES[0] / "pair.json").write_text(text)
    words = ("register", "--pairs", listed, "-o", out, *FAST)
    code, _, err = fastreg(capsys, *words)
    assert code == 1 and "expected one that fastreg register wrote" in err and err.count("\n") == 1
    assert fastreg(capsys, *words, "--overwrite")[0] == 0


def test_a_bad_pair_does_not_stop_the_rest(cohort, capsys):
    listed, out = cohort
    folder = listed.parent
    good = (folder / "s2_image.nii.gz").read_bytes()
    (folder / "s2_image.nii.gz").write_bytes(good[:3000])
    (folder / "s3_labels.nii.gz").unlink()
    words = ("register", "--pairs", listed, "-o", out, *FAST)
    code, _, err = fastreg(capsys, *words)
    assert code == 1 and err.splitlines()[-1].startswith("fastreg: 2 of 4 pairs failed, s2_image_to_s0_image first")
    rows = table(out)
    assert "s2_image.nii.gz" in rows[NAMES[1]]["error"] and "cut short" in rows[NAMES[1]]["error"]
    assert "s3_labels.nii.gz: no such file" in rows[NAMES[2]]["error"]
    assert rows[NAMES[0]]["error"] == rows[NAMES[3]]["error"] == "" and float(rows[NAMES[3]]["dice"]) > 0
    assert not (out / NAMES[1] / "moved.nii.gz").exists()
    assert not (out / NAMES[2] / "moved.nii.gz").exists()  # the labels were missed before the work
    (folder / "s2_image.nii.gz").write_bytes(good)
    code, _, err = fastreg(capsys, *words)  # what failed is tried again, and nothing else
    assert code == 1 and err.count("done before") == 2 and "1 of 4 pairs failed" in err
    assert table(out)[NAMES[1]]["error"] == ""


def test_under_torchrun_a_bad_pair_does_not_stop_the_other_processes(cohort, capsys, monkeypatch):
    listed, out = cohort
    (listed.parent / "s1_image.nii.gz").unlink()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = fastreg(capsys, "register", "--pairs", listed, "-o", out, *FAST)
    assert code == 0 and "1 of 2 pairs failed, s1_image_to_s0_image first" in err


@pytest.mark.slow
def test_parts_give_the_whole(cohort, capsys):
    listed, out = cohort
    words = ("register", "--pairs", listed, *FAST)
    assert fastreg(capsys, *words, "-o", out / "whole")[0] == 0
    for part in ("2/3", "1/3", "3/3"):
        code, _, err = fastreg(capsys, *words, "-o", out / "parts", "--part", part)
        assert code == 0 and f"1/{2 if part == '1/3' else 1} " in err
    whole, parts = table(out / "whole"), table(out / "parts")
    assert list(whole) == list(parts) == NAMES
    for name in NAMES:
        assert {**whole[name], "seconds": ""} == {**parts[name], "seconds": ""}
        flows = [load_warp(out / where / name / "warp.nii.gz").flow for where in ("whole", "parts")]
        np.testing.assert_array_equal(*flows)


@pytest.mark.slow
def test_processes_of_torchrun_share_the_pairs(cohort):
    """Side by side, into one table."""
    listed, out = cohort
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"]
    command += [sys.executable, "-m", "fastreg", "register", "--pairs", str(listed), "-o", str(out), *FAST]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(table(out)) == NAMES and done.stdout.count("written:") == 2
    assert done.stderr.count("1/2 ") == 2 and done.stderr.count("2/2 ") == 2


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (0, 1)),
        ("2/8", {"RANK": "3", "WORLD_SIZE": "4"}, (1, 8)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        (None, {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "10",
                "SLURM_ARRAY_TASK_COUNT": "3", "RANK": "1", "WORLD_SIZE": "2",
            },
            (3, 6),
        ),
    ],
)  # fmt: skip
def test_which_part_is_mine(text, environment, expected):
    assert distributed.pick_part(text, environment) == expected


def test_parts_cover_everything_once():
    environment = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3", "WORLD_SIZE": "2"}
    tasks = [{**environment, "SLURM_ARRAY_TASK_ID": str(t), "RANK": str(r)} for t in (1, 2, 3) for r in (0, 1)]
    parts = [distributed.pick_part(None, task) for task in tasks]
    assert sorted(k for part, count in parts for k in range(20)[part::count]) == list(range(20))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/2/3", "-1/2"])
def test_parts_that_are_none(text):
    with pytest.raises(InputError, match="part: expected"):
        distributed.pick_part(text, {})


def test_unevenly_numbered_job_arrays_are_refused():
    environment = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    with pytest.raises(InputError, match="give --part"):
        distributed.pick_part(None, environment)


def test_a_table_that_another_process_outruns_is_written_again(cohort, monkeypatch):
    """A record that appears between reading and writing is not lost."""
    listed, out = cohort
    pairs = read_pair_files(listed)
    for pair in pairs:
        (out / pair.name).mkdir(parents=True)

    def record(pair):
        (out / pair.name / "pair.json").write_text(json.dumps({"row": {"name": pair.name}}))

    record(pairs[0])
    honest, calls = batch._rows, []

    def rows(*arguments):
        found = honest(*arguments)
        if not calls:
            record(pairs[3])  # after this process has read
        calls.append(found)
        return found

    monkeypatch.setattr(batch, "_rows", rows)
    batch.write_table(pairs, out)
    assert list(table(out)) == [NAMES[0], NAMES[3]] and len(calls) == 3


def test_points_and_masks_of_a_cohort(cohort, capsys):
    listed, out = cohort
    folder = listed.parent
    (folder / "a.csv").write_text("x,y,z\n-14,18,22\n-30,22,30\n")
    (folder / "b.csv").write_text("x,y,z\n-15,18,22\n-30,24,30\n")
    save_image(folder / "mask.nii.gz", np.ones((24, 20, 28), np.uint8), np.diag([-2.0, 2.0, 2.0, 1.0]))
    header = "name,moving,fixed,points-fixed,points-moving,mask-fixed"
    listed.write_text(f"{header}\nmine,s1_image.nii.gz,s0_image.nii.gz,a.csv,b.csv,mask.nii.gz\n")
    assert fastreg(capsys, "register", "--pairs", listed, "-o", out, *FAST)[0] == 0
    row = table(out)["mine"]
    assert float(row["tre_mm"]) > 0 and float(row["tre_mm_before"]) == pytest.approx(1.5) and row["dice"] == ""
    code, printed, _ = fastreg(capsys, "warp", "-t", out / "mine" / "warp.nii.gz", "--points", folder / "a.csv")
    moved = np.array([line.split(",") for line in printed.splitlines()[1:]], float)
    ours = np.array([line.split(",") for line in (out / "mine" / "points.csv").read_text().splitlines()[1:]], float)
    np.testing.assert_allclose(ours, moved, atol=1e-4)
    assert code == 0


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("moving,fixed\n", "p.csv", "no pairs in it"),
        ("moving|fixed\na|b\n", "p.csv", "expected a header with moving, fixed"),
        ("moving,fixed,colour\na,b,c\n", "p.csv", "got the column 'colour'"),
        ("moving,fixed\na\n", "p.csv", "line 2: expected 2 cells"),
        ("name,moving,fixed\nx,a,b\nx,c,d\n", "p.csv", "two pairs are called 'x'"),
        ("name,moving,fixed\nresults.csv,a,b\n", "p.csv", "a name that a folder can have"),
        ("moving,fixed,fixed_labels\na,b,c\n", "p.csv", "expected moving_labels beside fixed_labels"),
        ("moving,fixed,points_moving\na,b,c\n", "p.csv", "expected points_fixed beside points_moving"),
        ("name,moving,fixed\n../x,a,b\n", "p.csv", "a name that a folder can have"),
        ("a b c\n", "p.txt", "line 1: expected moving fixed"),
        ("# nothing\n", "p.txt", "no pairs in it"),
    ],
)
def test_lists_that_are_none(content, name, message, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    code, _, err = fastreg(capsys, "register", "--pairs", tmp_path / name, "-o", tmp_path / "out")
    assert code == 1 and message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_names_of_pairs(tmp_path):
    (tmp_path / "p.txt").write_text("a/t1.nii.gz b/t1.nii.gz # two people\nb/t1.nii.gz a/t1.nii.gz x.nii y.nii\n")
    first, second = read_pair_files(tmp_path / "p.txt")
    assert (first.name, second.name) == ("a-t1_to_b-t1", "b-t1_to_a-t1")
    assert first.moving == tmp_path / "a" / "t1.nii.gz" and second.fixed_labels == tmp_path / "y.nii"
    (tmp_path / "p.txt").write_text("a.nii.gz b.nii.gz\nc.nii.gz b.nii.gz\n")
    assert [pair.name for pair in read_pair_files(tmp_path / "p.txt")] == ["a_to_b", "c_to_b"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-f", "x.nii.gz"], 1, "the list and --save say what --fixed says"),
        ([], 1, "--pairs needs -o"),
        (["-o", "{t}/file"], 1, "is a file, not a folder"),
        (["-o", "{t}/out", "--save", "moved,everything"], 1, "save: expected some of moved, warp"),
        (["-o", "{t}/out", "--save", ","], 1, "save: expected some of moved, warp, inverse-warp, affine, got none"),
        (["-o", "{t}/out", "--part", "9/8"], 1, "part: expected 1/8 to 8/8"),
        (["-o", "{t}/out", "--model", "{t}/none.safetensors"], 1, "none.safetensors: no such file"),
    ],
)
def test_wrong_options_of_a_cohort(words, code, message, cohort, tmp_path, capsys):
    listed, _ = cohort
    (tmp_path / "file").write_text("")
    got, _, err = fastreg(capsys, "register", "--pairs", listed, *[word.format(t=tmp_path) for word in words])
    assert got == code and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--affine-out", "q.foo"], "q.foo: expected a name that ends in .mat, .tfm, .txt"),
        (["--qc", "q.foo"], "q.foo: expected a name that ends in .png, .pdf, .svg"),
        (["--lambda=nan"], "smoothness: expected a number of at least 0, got nan"),
        (["--lambda=-1"], "smoothness: expected a number of at least 0, got -1"),
        (["--levels", "\u00b2"], "levels: expected 1 to 6"),
    ],
)
def test_nothing_is_written_where_an_option_is_wrong(words, message, blobs, tmp_path, capsys):
    folder = blobs(2)
    pair = ("-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "-o", tmp_path / "moved.nii.gz")
    code, _, err = fastreg(capsys, "register", *pair, *words)
    assert code == 1 and message in err and not (tmp_path / "moved.nii.gz").exists()


def test_neither_pair_nor_pairs_is_a_usage_error(capsys):
    code, _, err = fastreg(capsys, "register", "-f", "x.nii.gz", "-o", "y.nii.gz")
    assert code == 2 and "needs --fixed and --moving, or --pairs" in err


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["rigid", "deformable"])
def test_a_t2_like_image_by_mutual_information(transform, blobs, tmp_path, capsys):
    """Inverted on a dark background: both parts, from the command line."""
    folder = blobs(2)
    moving = load_image(folder / "s1_image.nii.gz")
    save_image(folder / "t2.nii.gz", np.where(moving.data > 20, 320 - moving.data, moving.data), moving.affine)
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "t2.nii.gz", "--metric", "mi", "--json"]
    words += ["--moving-labels", folder / "s1_labels.nii.gz", "--fixed-labels", folder / "s0_labels.nii.gz"]
    words += ["--transform", transform] if transform == "rigid" else ["--no-affine"]
    code, out, err = fastreg(capsys, *words, "--warp", tmp_path / "w.nii.gz", "--device", "cpu")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["dice"] > figures["dice_before"] + 0.05 and figures["folds"] == 0
