import csv
import json

import pytest
from PIL import Image

from fastreg.cli import main

TINY = ["--spacing", "4", "--model", "vm1", "--steps", "4", "--window", "5", "--workers", "0", "--val-pairs", "2"]


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def cohort(folder):
    return ["--images", folder / "*_image.nii.gz", "--labels", folder / "*_labels.nii.gz", "--val", "s2,s3"]


@pytest.mark.slow
def test_a_sweep_trains_validates_and_draws(blobs, tmp_path, capsys):
    arguments = ["sweep", *cohort(blobs()), *TINY, "-o", tmp_path / "sweep", "--lambdas", "1,0", "--lr", "1e-2"]
    assert run(*arguments, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["lambda"] for row in rows] == [0, 1] and all(row["step"] == 4 for row in rows)
    for row in rows:
        with (tmp_path / "sweep" / f"lambda_{row['lambda']:g}" / "validation.csv").open() as file:
            assert row["dice"] == float(list(csv.DictReader(file))[-1]["dice"])
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [row["dice"] for row in rows]
    assert rows[0]["image"] != rows[1]["image"]  # the weight reached the loss
    assert Image.open(tmp_path / "sweep" / "sweep.png").size[0] > 400
    assert run(*arguments) == 1  # the runs are there
    assert run(*arguments, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_the_estimate_leaves_nothing(blobs, tmp_path, capsys):
    arguments = ["sweep", *cohort(blobs()), *TINY, "-o", tmp_path / "sweep", "--lambdas", "0,1,2", "--estimate"]
    assert run(*arguments, "--json", "--cache", tmp_path / "cache") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == 3 and told["hours"] == pytest.approx(told["seconds_a_step"] * 4 * 3 / 3600)
    assert told["seconds_a_step"] > 0 and not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lambdas", "0,x"], "lambdas: expected numbers separated by commas, got 0,x"),
        (["--lambdas", "nan"], "lambdas: expected numbers of at least 0"),
        (["--lambdas=-1,0"], "lambdas: expected numbers of at least 0"),
        (["--lambda", "1"], "--lambda is what is swept"),
        (["--val-every", "0"], "compares by validation"),
    ],
)
def test_wrong_options(arguments, message, tmp_path, capsys):
    base = ["sweep", "--images", "x", "--val", "y", "-o", tmp_path / "sweep"]
    assert run(*base, *arguments) == 1
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change", [["--val", "s3"], ["--labels", ""]], ids=str)
def test_without_dice_there_is_nothing_to_compare(change, blobs, tmp_path, capsys):
    words = [str(word) for word in cohort(blobs())]
    at = words.index(change[0])
    words[at : at + 2] = change if change[1] else []
    assert run("sweep", *words, *TINY, "-o", tmp_path / "sweep") == 1
    assert "no pair with them" in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "sweep").exists()
