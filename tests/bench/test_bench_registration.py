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


def row(case, method, peer, dice, seconds, line="", **more):
    figures = {
        "hd95": 3.25, "corner_folds": 12, "ndv_percent": 0.0002, "sdlogj": 0.5 - dice / 4, "cpu_seconds": 1.9 * seconds,
        "peak_mb_above_inputs": 1536.0, "others_busy": 0.0, "versions": {"pack": "1.0"}, "commit": "abc",
    }  # fmt: skip
    about = {"case": case, "method": method, "peer": peer, "what": "as it comes", "line": line, "options": {}}
    return {**about, "dice": dice, "seconds": seconds, **figures, **more}


@pytest.fixture
def result():
    unseen = pairs.UNSEEN
    rows = [
        row(pairs.RECORD, "fastreg", "fastreg", 0.78, 9.5),
        {**row(pairs.RECORD, "gone", "Greedy", 0, 0), "absent": "not installed: a | b"},
        *(row(case, "fastreg", "fastreg", 0.60 + k / 100, 10.0, "fastreg") for k, case in enumerate(unseen)),
        *(row(case, "fastreg, smooth", "fastreg", 0.59, 10.0, "fastreg") for case in unseen),
        *(row(case, "slow", "ANTs", 0.55, 50.0, others_busy=1.5) for case in unseen[:3]),
        row("brains 1 to 2", "fastreg", "fastreg", 0.5, 1.0),
    ]
    kinds_rows = [
        {**row("knee: a", "fastreg", "fastreg command", 0.8, 2.0), "kind": "knee"},
        {**row("knee: b", "fastreg", "fastreg command", 0.6, 4.0), "kind": "knee"},
        {**row("knee: a", "elastix", "elastix", 0.7, 2.0), "kind": "knee"},
        {**row("knee: b", "elastix", "elastix", 0, 0), "kind": "knee", "absent": "failed"},
        {**row("2d_leaf: c", "elastix", "elastix", 0, 0), "kind": "2d_leaf", "absent": "failed"},
        {**row("2d_leaf: c", "fastreg", "fastreg command", 0, 0), "kind": "2d_leaf", "tre": 1.234},
    ]
    return {
        "machine": {"date": "2026-01-02", "device": "a CPU", "cores": 2, "threads": 2, "commit": "abc"},
        "brains": {"before": {case: {"dice": 0.4, "hd95": 6.0} for case in (pairs.RECORD, *unseen, "brains 1 to 2")},
                   "rows": rows},
        "kinds": {"before": {"knee: a": {"kind": "knee", "dice": 0.2, "hd95": 9.0},
                             "knee: b": {"kind": "knee", "dice": 0.4, "hd95": 7.0},
                             "2d_leaf: c": {"kind": "2d_leaf", "tre": 50.0}}, "rows": kinds_rows},
    }  # fmt: skip


def test_tables_have_means_and_say_what_is_missing(result):
    text = report.markdown(result)
    lines = text.splitlines()
    assert "| fastreg | 0.780 | 3.25 | 0.305 | 0.0002 | 12 | 9.5 | 18.1 | 1536 |" in lines
    assert "| fastreg | 0.645 | 3.25 | 0.339 | 0.0002 | 12 | 10.0 | 19.0 | 1536 |" in lines
    assert "| before | 0.400 | 6.00 |  |  |  |  |  |  |" in lines
    assert any(line.startswith("| slow (3 of 10 pairs) | 0.550 ") and "50.0* | 95.0" in line for line in lines)
    assert any(line.startswith("| gone | absent: not installed: a / b |") for line in lines)
    assert "- slow: as it comes" in lines and "pack 1.0" in text and "chosen on" in text
    tables = [line.count("|") for line in lines if line.startswith("|") and "knee" not in line and "2d" not in line]
    assert tables.count(10) >= 12


def test_table_of_kinds_has_a_line_for_each_figure(result):
    lines = report.kinds_table(result["kinds"]).splitlines()
    assert lines[0] == "| kind | pairs | figure | before | fastreg | elastix |"
    assert lines[2:] == [
        "| knee | 2 | Dice | 0.300 | 0.700 | 0.700 (1 failed) |",
        "| knee | 2 | HD95 mm | 8.00 | 3.25 | 3.25 (1 failed) |",
        "| 2d_leaf | 1 | TRE px | 50.00 | 1.23 | failed |",
        "| all |  | CPU seconds |  | 3.8 | 3.8 |",
    ]


def test_verdicts_are_held_against_the_truth(result):
    """Worse by 0.01 Dice or 5 % of TRE than before: named or missed; better and named all the same: a false alarm."""
    kinds = result["kinds"]
    kinds["before"] |= {
        "knee: c": {"kind": "knee", "dice": 0.5, "hd95": 7.0},
        "2d_leaf: d": {"kind": "2d_leaf", "tre": 2.0},
        "2d_leaf: e": {"kind": "2d_leaf", "tre": 2.0},
    }
    ours = {"kind": "knee", "method": "fastreg"}
    kinds["rows"] += [
        {**ours, "case": "knee: a", "dice": 0.1, "suspect": True},
        {**ours, "case": "knee: b", "dice": 0.3, "suspect": False},
        {**ours, "case": "knee: c", "dice": 0.495, "suspect": True},
        {**ours, "case": "2d_leaf: d", "tre": 2.2, "suspect": True},
        {**ours, "case": "2d_leaf: e", "tre": 2.05, "suspect": False},
    ]
    (told,) = report.verdicts(kinds)
    assert "of 5 pairs 3 are worse" in told and "calls 2 of these suspect" in told
    assert "of the other 2 it calls 1 so" in told


def test_curves_are_means_over_the_unseen_pairs(result):
    curves = report._means(result["brains"])
    assert [round(point["dice"], 3) for point in curves["fastreg"]] == [0.645, 0.59]
    assert list(curves) == ["fastreg", "slow"] and curves["slow"][0]["pairs"] == 3


def test_picture_is_drawn_from_the_json_alone(result, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    run.main(["--plot", str(path)])
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "result.md").read_text() == capsys.readouterr().out


def test_what_is_kept_of_an_earlier_run(tmp_path):
    peer = next(method for method in programs.METHODS if method.name == "ANTs SyN")
    ours = next(method for method in programs.METHODS if method.name == "fastreg")
    theirs = {"options": dict(peer.options), "versions": {"antspyx": "0.6.3"}, "commit": "older"}
    assert run.is_kept(theirs, peer, "now", 100)  # a peer does not change when fastreg does
    assert not run.is_kept({**theirs, "versions": {"antspyx": "0.6.2"}}, peer, "now", 100)
    assert not run.is_kept({**theirs, "options": {"type_of_transform": "SyNRA"}}, peer, "now", 100)
    assert run.is_kept({"options": ours.options, "versions": {"fastreg": "0.1.0"}, "commit": "now"}, ours, "now", 100)
    assert not run.is_kept({"options": ours.options, "versions": {}, "commit": "older"}, ours, "now", 100)
    gone = {"options": dict(peer.options), "commit": "now"}
    assert not run.is_kept({**gone, "absent": "not installed: no network"}, peer, "now", 100)
    assert run.is_kept({**gone, "absent": "not done after 100 min"}, peer, "now", 100)
    assert not run.is_kept({**gone, "absent": "not done after 100 min"}, peer, "now", 200)


def test_results_of_another_machine_are_not_mixed_in(result, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(result))
    here = {"device": "a CPU", "cores": 2, "threads": 2, "date": "later"}
    kept = run.earlier(tmp_path / "r.json", here)["brains"]
    assert kept["before"] == result["brains"]["before"]
    assert [row["dice"] for row in kept["rows"]] == [row["dice"] for row in result["brains"]["rows"]]
    assert kept["rows"][0]["what"] == "register(affine=False), deformable from the headers"  # as it is said now
    assert run.earlier(tmp_path / "r.json", here)["machine"] == here
    assert run.earlier(tmp_path / "r.json", {**here, "threads": 1})["brains"]["rows"] == []
    assert run.earlier(tmp_path / "none.json", here)["kinds"]["rows"] == []


def test_unseen_pairs_are_of_ten_people_that_nothing_was_chosen_on():
    people = [case.split()[word] for case in pairs.UNSEEN for word in (1, 3)]
    people = [name.strip(",") for name in people]
    assert len(set(pairs.UNSEEN)) == 10 and all(people.count(name) == 2 for name in people)
    seen = {name for pair in pairs.SEEN for name in pair}
    assert not set(people) & (seen | {"1001", "1002", "1004", "1005", "1023", "1024", "1025"})
    rescans = {"1038": "1018", "1039": "1019"}
    assert len({rescans.get(name, name) for name in people}) == 10


def test_every_method_has_a_peer_with_a_runner_and_a_colour():
    assert len({method.name for method in programs.METHODS}) == len(programs.METHODS)
    for method in (*programs.METHODS, *programs.KIND_METHODS):
        assert (measure.RUNNERS / programs.PROGRAMS[method.peer].runner).is_file()
        assert method.peer in report.COLOURS or method in programs.KIND_METHODS
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
    (out / "result.json").write_text(json.dumps({"transforms": [str(out / "warp.nii.gz")]}))


def test_what_a_runner_leaves_is_judged(pair, tmp_path):
    leave(tmp_path, pair, 2)
    found = measure.judged(pair, tmp_path)
    assert found["dice"] == found["dice_of_field"] == 1 and found["hd95"] == 0
    assert (found["folds"], found["corner_folds"], found["ndv_percent"], found["sdlogj"]) == (0, 0, 0, 0)
    assert pairs.before(pair) == {"dice": pytest.approx(0.5), "hd95": 2.0}
    leave(tmp_path, pair, 0)
    assert measure.judged(pair, tmp_path)["dice"] == pytest.approx(0.5)


def a_run(monkeypatch, tmp_path, pair, script, **options):
    """A row by a made-up runner in this interpreter."""
    (tmp_path / "runner.py").write_text(script)
    monkeypatch.setattr(measure, "RUNNERS", tmp_path)
    monkeypatch.setitem(programs.PROGRAMS, "made up", programs.Program("runner.py"))
    method = programs.Method("x", "made up", "y", {"a": 1})
    return measure.measured(method, measure.job_of(pair), threads=1, minutes=1, **options)


def test_a_quick_method_counts_by_its_median_run(pair, monkeypatch, tmp_path):
    script = (
        "import json, sys\njob = json.load(open(sys.argv[1]))\nassert job['options'] == {'a': 1}\n"
        "told = {'seconds': 2.0, 'cpu_seconds': 3.0, 'base_mb': 100.0, 'peak_mb': 350.0, 'versions': {}}\n"
        "json.dump(told, open(job['out'] + '/result.json', 'w'))\n"
    )
    values = iter((0.1, 0.9, 0.7))
    found = a_run(monkeypatch, tmp_path, pair, script, judge=lambda out: {"dice": next(values)})
    assert found["dice"] == 0.7 and found["dice_of_runs"] == [0.1, 0.9, 0.7]
    assert (found["seconds"], found["cpu_seconds"], found["peak_mb_above_inputs"]) == (2, 3, 250)
    assert found["others_busy"] is None or found["others_busy"] >= 0


def test_a_runner_that_fails_is_absent_with_its_own_words(pair, monkeypatch, tmp_path):
    found = a_run(monkeypatch, tmp_path, pair, "raise SystemExit('error: no licence')", judge=lambda out: {})
    assert found["absent"] == "failed (1): error: no licence"


def test_a_peer_that_cannot_be_installed_is_absent(pair, monkeypatch, tmp_path):
    (tmp_path / ".peers").touch()  # where a folder would be made
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setitem(programs.PROGRAMS, "unknown", programs.Program("greedy.py", ("no such package",)))
    method = programs.Method("x", "unknown", "y")
    found = measure.measured(method, measure.job_of(pair), lambda out: {}, threads=1, minutes=1)
    assert found["absent"].startswith("not installed:")
