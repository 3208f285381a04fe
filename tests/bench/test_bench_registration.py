"""The table and the picture of the registration benchmark, from made-up results; its cases and settings."""

import json

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bench.peers import programs
from bench.registration import measure, pairs, report, run
from fastreg.geometry.transforms import Warp
from fastreg.io.warps import save_warp


def row(case, method, peer, dice, seconds):
    figures = {"folds": 12, "folds_percent": 0.0002, "sdlogj": 0.41, "peak_mb_above_inputs": 1536.0}
    return {
        "case": case,
        "method": method,
        "peer": peer,
        "what": "as it comes",
        "dice": dice,
        "seconds": seconds,
        **figures,
    }


@pytest.fixture
def result():
    rows = [
        row("one", "fastreg", "fastreg", 0.78, 9.5),
        row("one", "slow", "ANTs", 0.72, 41.0),
        {"case": "one", "method": "gone", "peer": "Greedy", "what": "x", "absent": "not installed: a | b"},
        row("two", "fastreg", "fastreg", 0.61, 10.5),
    ]
    return {"before": {"one": 0.522, "two": 0.44}, "rows": rows}


def test_table_has_a_line_for_each_row_and_each_start(result):
    lines = report.markdown(result).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 2 + 4
    assert {line.count("|") for line in table} == {8}
    assert "| one | fastreg | 0.780 | 12 (0.0002 %) | 0.410 | 9.5 | 1.50 |" in table
    assert "| one | before | 0.522 | | | | |" in table
    assert any("absent: not installed: a / b" in line for line in table)
    assert "- slow: as it comes" in lines


def test_picture_is_drawn_from_the_json_alone(result, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    run.main(["--plot", str(path)])
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "result.md").read_text() == capsys.readouterr().out


def test_methods_of_one_program_share_its_colour_and_differ_in_their_mark(result):
    rows = [*result["rows"][:2], row("two", "slower", "ANTs", 0.7, 99.0)]
    style = report._styles(rows)
    assert style["slow"]["color"] == style["slower"]["color"] != style["fastreg"]["color"]
    assert style["slow"]["marker"] != style["slower"]["marker"]


def test_every_method_has_a_peer_with_a_runner_and_a_colour():
    assert len({method.name for method in programs.METHODS}) == len(programs.METHODS)
    for method in programs.METHODS:
        assert (measure.RUNNERS / programs.PROGRAMS[method.peer].runner).is_file()
        assert method.peer in report.COLOURS
    assert {method.name for method in programs.METHODS} >= set(programs.QUICK)


@pytest.fixture
def pair(tmp_path):
    """A moving image two voxels away along the first axis, and its labels, under a header with flips."""
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, 1, -4], [0, -1, 0, 6], [0, 0, 0, 1]])
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[4:8, 3:7, 2:6] = 3
    paths = []
    for who, shift in (("subject_a", 0), ("subject_b", 2)):
        for what in ("t1", "labels"):
            paths.append(tmp_path / f"{who}_{what}.nii.gz")
            nib.save(nib.Nifti1Image(np.roll(labels, shift, axis=0), affine), paths[-1])
    return pairs.Pair("shift", paths[0], paths[2], paths[1], paths[3])


def leave(out, pair, shift):
    """What a runner leaves that found `shift` voxels along the first axis."""
    fixed, moving = nib.load(pair.fixed_labels), nib.load(pair.moving_labels)
    flow = np.zeros((*fixed.shape, 3), np.float32)
    flow[..., 0] = shift
    save_warp(out / "warp.nii.gz", Warp(flow, fixed.affine, moving.affine, moving.shape), format="itk")
    moved = np.roll(np.asarray(moving.dataobj), -shift, axis=0)
    nib.save(nib.Nifti1Image(moved, fixed.affine), out / "moved_labels.nii.gz")
    told = {
        "seconds": 2.0,
        "base_mb": 100.0,
        "peak_mb": 350.0,
        "transforms": [str(out / "warp.nii.gz")],
        "versions": {},
    }
    (out / "result.json").write_text(json.dumps(told))


def test_what_a_runner_leaves_is_judged(pair, tmp_path):
    leave(tmp_path, pair, 2)
    found = measure.judged(pair, tmp_path)
    assert found["dice"] == found["dice_of_field"] == 1
    assert (found["folds"], found["sdlogj"], found["peak_mb_above_inputs"]) == (0, 0, 250)
    assert pairs.before(pair) == pytest.approx(0.5)
    leave(tmp_path, pair, 0)
    assert measure.judged(pair, tmp_path)["dice"] == pytest.approx(0.5)


def test_a_runner_that_fails_is_absent_with_its_own_words(pair, monkeypatch):
    monkeypatch.setitem(programs.PROGRAMS, "broken", programs.Program("no_such_runner.py"))
    found = measure.measured(programs.Method("x", "broken", "y"), pair, threads=1, minutes=1)
    assert "no_such_runner.py" in found["absent"]


def test_a_peer_that_cannot_be_installed_is_absent(pair, monkeypatch, tmp_path):
    (tmp_path / ".peers").touch()  # where a folder would be made
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setitem(programs.PROGRAMS, "unknown", programs.Program("greedy.py", ("no such package",)))
    found = measure.measured(programs.Method("x", "unknown", "y"), pair, threads=1, minutes=1)
    assert found["absent"].startswith("not installed:")
