"""The studies of docs/papers in a small form: every arm trains, is scored and drawn by the one command."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PAPERS = Path(__file__).parents[2] / "docs" / "papers"


def study(script, *words, code=0):
    done = subprocess.run(
        [sys.executable, str(PAPERS / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done


def table(folder):
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def slices(tmp_path):
    chance = np.random.default_rng(0)
    grid = np.indices((32, 28))
    vol, seg = [], []
    for _ in range(8):
        centre = np.array([15.5, 13.5]) + chance.uniform(-2, 2, 2)
        distance = np.hypot(grid[0] - centre[0], grid[1] - centre[1])
        vol.append(np.exp(-((distance / 6) ** 2)))
        seg.append((distance < 5).astype(np.uint8))
    np.savez(tmp_path / "train.npz", vol=np.array(vol[:6]))
    np.savez(tmp_path / "test.npz", vol=np.array(vol[6:]), seg=np.array(seg[6:]), name=np.array(["a", "b"]))
    return tmp_path


@pytest.mark.slow
def test_shan2017(slices):
    out = slices / "out"
    words = ("--train", slices / "train.npz", "--test", slices / "test.npz", "--few", 2, "-o", out, "--threads", 1)
    done = study("shan2017.py", *words, "--steps", 3)
    rows = table(out)
    assert len(rows) == 4 * 2 and {row["pair"] for row in rows} == {"a to b", "b to a"}
    assert all(0 < float(row["dice_before"]) < 1 and 0 < float(row["dice"]) <= 1 for row in rows)
    assert all(int(row["voxels"]) == 32 * 28 for row in rows)
    assert "predicted region of interest: Dice" in done.stdout
    assert "Dice before" in done.stdout and (out / "additional_images.png").stat().st_size > 5000
    assert "6 subjects to train on" in done.stderr and "2 subjects to train on" in done.stderr
    again = study("shan2017.py", *words, "--steps", 3)
    assert "subjects to train on" not in again.stderr  # nothing is trained twice
    assert [row["dice"] for row in table(out)] == [row["dice"] for row in rows]


@pytest.mark.slow
def test_voxelmorph2019(blobs, tmp_path):
    folder, out = blobs(6), tmp_path / "out"
    groups = tmp_path / "coarse.json"
    groups.write_text(json.dumps({"outer": [1, 3], "inner": [2]}))
    words = (
        "--images", folder / "*_image.nii.gz", "--labels", folder / "*_labels.nii.gz", "--test", "s0,s1",
        "--exclude", "s2", "--last", "", "--sizes", "2,9", "--spacing", 2, "--model", "vm1", "--coarse", groups,
        "--refine", 2, "--steps", 2, "-o", out, "--threads", 1,
    )  # fmt: skip
    plan = study("voxelmorph2019.py", *words, "--dry-run")
    assert "13 arms, 8 networks of at most 30 minutes: about 4.0 hours, and 26 registrations" in plan.stderr
    study("voxelmorph2019.py", *words)
    rows = table(out)
    assert len(rows) == 13 * 2
    assert {(row["study"], row["x"]) for row in rows if row["x"]} == {("size", "2.0"), ("size", "3.0")}
    trained = [line.split(",")[2].strip() for line in (out / "first_3.csv").read_text().splitlines()[1:]]
    assert trained == ["s3", "s4", "s5"]  # nobody of the test, no rescan
    for name in ("size", "loss", "width", "refine", "segmentation"):
        assert (out / f"{name}.png").stat().st_size > 5000
    config = json.loads((out / "seg_coarse" / "config.json").read_text())
    assert config["seg_labels"] == str(groups) and config["seg_weight"] == 0.05


@pytest.mark.slow
def test_wrong_studies_end_in_one_line(blobs, tmp_path):
    folder = blobs(4)
    images = ("--images", folder / "*_image.nii.gz", "--labels", folder / "*_labels.nii.gz", "-o", tmp_path / "out")
    assert study("voxelmorph2019.py", *images, code=1).stderr.startswith("voxelmorph2019: id '1023': not in the cohort")


@pytest.mark.slow
def test_runtime(tmp_path):
    words = ("--size", 32, 24, "--repeats", 2, "--passes", 2, 1, "-o", tmp_path / "t.csv")
    done = study("runtime.py", "--networks", "vm1,match,pyramid", *words)
    assert "32 x 24 voxels" in done.stdout and "s a pair, median" in done.stdout
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows[:3]] == ["vm1", "match", "pyramid"]
    assert all(0 < float(row["least"]) <= float(row["seconds"]) <= float(row["most"]) for row in rows)
    assert study("runtime.py", "--networks", "vm9", code=1).stderr == (
        "runtime: networks: expected some of vm1, vm2, vxm, match, pyramid, got vm9\n"
    )


def test_curves(tmp_path):
    """Minutes of the step that was validated, of runs side by side."""
    for name, seconds in (("a", 60), ("b", 30)):
        (tmp_path / name).mkdir()
        steps = "".join(f"{k},{seconds * k}\n" for k in range(1, 5))
        (tmp_path / name / "metrics.csv").write_text("step,seconds\n" + steps)
        rows = "".join(f"{k},{0.4 + k / 100},0\n" for k in (2, 4))
        (tmp_path / name / "validation.csv").write_text("step,dice,folds_percent\n" + rows)
    done = study("curves.py", f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}", "-o", tmp_path / "c.png")
    said = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(("first", "second"))]
    assert said[0] == ["first", "2.0", "2", "0.420", "0.000"] and said[3][:4] == ["second", "2.0", "4", "0.440"]
    assert (tmp_path / "c.png").stat().st_size > 5000
    done = study("curves.py", f"x={tmp_path}", code=1)
    assert done.stderr.startswith(f"curves: run {tmp_path}: expected metrics.csv")


@pytest.mark.slow
def test_general(blobs, tmp_path):
    """Two pairs, three contrasts, two methods: every row is there, and the negative image is registered as well."""
    folder = blobs(4)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("moving", "fixed", "moving_labels", "fixed_labels", "structures"))
        for moving, fixed in (("s0", "s1"), ("s2", "s3")):
            images = [folder / f"{k}_image.nii.gz" for k in (moving, fixed)]
            writer.writerow((*images, *(folder / f"{k}_labels.nii.gz" for k in (moving, fixed)), "1,2"))
    done = study(
        "general.py", "--pairs", tmp_path / "pairs.csv", "--methods", "general;no model, LNCC", "-o", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    rows = table(tmp_path / "out")
    assert len(rows) == 2 * 3 * 2 and {row["contrast"] for row in rows} == {"T1", "T2-like", "FLAIR-like"}
    assert {row["pair"] for row in rows} == {"s0_image to s1_image", "s2_image to s3_image"}
    for row in rows:
        assert 0 < float(row["dice_before"]) < 1 and int(row["voxels"]) == 24 * 20 * 28
        if row["contrast"] == "T1":
            assert float(row["dice"]) > float(row["dice_before"])
    assert "general: folds" in done.stdout and (tmp_path / "out" / "general.png").stat().st_size > 5000
    assert study("general.py", "--methods", "magic", code=1).stderr.startswith(
        "general: methods: expected some of general;"
    )
