import csv
import json
import os
import subprocess
import sys

import pytest
import torch

from fastreg.nn import checkpoint
from fastreg.training.config import TrainConfig
from fastreg.training.options import as_json
from fastreg.training.record import Log
from fastreg.training.trainer import fit
from fastreg.utils.files import InputError


@pytest.fixture
def config(blobs, tmp_path):
    folder = blobs(5)
    return TrainConfig.of(
        images=str(folder / "*_image.nii.gz"),
        labels=str(folder / "*_labels.nii.gz"),
        val="s3,s4",
        output=tmp_path / "run",
        model="vm1",
        window=5,
        lr=1e-3,
        steps=6,
        val_every=3,
        save_every=3,
        workers=0,
        device="cpu",
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def weights(path):
    return checkpoint.load(path).net.state_dict()


@pytest.mark.slow
def test_a_run_learns_and_writes_what_it_says(config):
    told = []

    class Listener(Log):
        def step(self, step):
            told.append(step)

    path = fit(config.changed(loss="mse", lr=2e-3, steps=40, val_every=20), Listener())
    metrics = rows(config.run.output / "metrics.csv")
    assert [int(row["step"]) for row in metrics] == list(range(1, 41)) == [step.step for step in told]
    first, last = (sum(float(row["image"]) for row in part) / 8 for part in (metrics[:8], metrics[-8:]))
    assert last < 0.8 * first
    validation = rows(config.run.output / "validation.csv")
    assert [int(row["step"]) for row in validation] == [20, 40]
    assert 0 < float(validation[0]["dice_before"]) < 1
    assert float(validation[-1]["dice"]) > float(validation[-1]["dice_before"])
    net, about = checkpoint.load(path)
    assert net.config.name == "vm1" and about.working.orientation == "LAS" and about.working.shape == (24, 20, 28)
    assert json.loads((config.run.output / "config.json").read_text())["lambda"] == 0.01


@pytest.mark.slow
def test_resume_continues_bit_for_bit(config, tmp_path):
    whole = fit(config.changed(flip=True))
    parts = config.changed(flip=True, output=tmp_path / "parts")
    fit(parts.changed(steps=3))
    resumed = fit(parts.changed(resume=True))
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    strip = ("step", "loss", "image", "smoothness", "lr")
    tables = [[[row[c] for c in strip] for row in rows(c_.run.output / "metrics.csv")] for c_ in (config, parts)]
    assert tables[0] == tables[1] and len(tables[0]) == 6


def test_resume_drops_rows_after_the_checkpoint(config):
    fit(config.changed(steps=3))
    with (config.run.output / "metrics.csv").open("a") as file:
        file.write("4,0,0,0,0,0,0\n")
    fit(config.changed(resume=True))
    assert [int(row["step"]) for row in rows(config.run.output / "metrics.csv")] == [1, 2, 3, 4, 5, 6]


def test_resume_without_a_run_starts_one(config):
    assert fit(config.changed(steps=2, resume=True)).is_file()


@pytest.mark.slow
def test_accumulated_batches_are_one_larger_batch(config, tmp_path):
    fit(config.changed(batch_size=4, steps=3, output=tmp_path / "one"))
    fit(config.changed(batch_size=2, accumulate=2, steps=3, output=tmp_path / "two"))
    for one, two in zip(rows(tmp_path / "one" / "metrics.csv"), rows(tmp_path / "two" / "metrics.csv"), strict=True):
        assert float(one["loss"]) == pytest.approx(float(two["loss"]), abs=2e-5)


@pytest.mark.slow
def test_a_clipped_gradient_is_short(config, tmp_path):
    """So short that what Adam divides by, 1e-8 more than its root mean square, leaves next to nothing of a step."""
    moved = {}
    for clip in (0.0, 1e-12):
        folder = tmp_path / f"clip_{clip}"
        fit(config.changed(steps=1, output=folder / "start", lr=0.0))
        fit(config.changed(steps=3, output=folder / "end", clip=clip))
        start, end = weights(folder / "start/last.safetensors"), weights(folder / "end/last.safetensors")
        moved[clip] = max(float((end[name] - start[name]).abs().max()) for name in start)
    assert moved[0.0] > 1e-3 and moved[1e-12] < 1e-5


@pytest.mark.slow
def test_the_average_of_the_weights_is_kept_and_resumed(config, tmp_path):
    averaged = config.changed(ema=0.5, lr=1e-2)
    whole = weights(fit(averaged))
    plain = weights(fit(config.changed(lr=1e-2, output=tmp_path / "plain")))
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)
    parts = averaged.changed(output=tmp_path / "parts")
    fit(parts.changed(steps=3))
    resumed = weights(fit(parts.changed(resume=True)))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # The run itself goes on from the weights, not from their average.
    last = weights(averaged.run.output / "last.safetensors")
    assert all(torch.equal(last[name], value) for name, value in weights(tmp_path / "plain/last.safetensors").items())


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "change"), [(2, {}), (4, {"model": "pyramid", "accumulate": 2})])
def test_processes_are_one_with_a_larger_batch(config, tmp_path, processes, change):
    config = config.changed(**change)
    fit(config.changed(batch_size=processes, output=tmp_path / "one"))
    script = tmp_path / "two.py"
    script.write_text(
        "import json, sys\nfrom pathlib import Path\n"
        "from fastreg.training.config import TrainConfig\nfrom fastreg.training.trainer import fit\n"
        "values = json.loads(sys.argv[1])\nvalues['output'] = Path(values['output'])\nfit(TrainConfig.of(**values))\n"
    )
    values = {**as_json(config), "output": str(tmp_path / "two")}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    done = subprocess.run(
        [*command, str(script), json.dumps(values)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for one, two in zip(rows(tmp_path / "one" / "metrics.csv"), rows(tmp_path / "two" / "metrics.csv"), strict=True):
        assert float(one["loss"]) == pytest.approx(float(two["loss"]), abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"diffeomorphic": True, "bidir": True, "int_steps": 4},
        {"loss": "mse"},
        {"model": "vm2", "spacing": 4.0, "amp": True, "channels_last": True, "penalty": "bending"},
        {"shape": (16, 16, 16), "schedule": "cosine", "workers": 1},
        {"minutes": 1e-4, "steps": 1000},
        {"tensorboard": True},
        {"model": "pyramid", "save_memory": True},
        {"model": "vxm", "save_memory": True, "ema": 0.9},
    ],
    ids=str,
)
def test_options(config, change):
    path = fit(config.changed(**{"steps": 2, "val_every": 2, **change}))
    assert path.is_file()
    if "minutes" in change:
        assert len(rows(config.run.output / "metrics.csv")) < 1000


def test_atlas_based(config, blobs):
    folder = blobs(5)
    atlas = {"atlas": folder / "s0_image.nii.gz", "atlas_labels": folder / "s0_labels.nii.gz"}
    fit(config.changed(steps=2, val_every=2, **atlas))
    assert float(rows(config.run.output / "validation.csv")[0]["dice"]) > 0


def test_two_dimensions(config, blobs, tmp_path):
    folder = blobs(4, (24, 20), tmp_path / "flat")
    two = config.changed(images=str(folder / "*_image.nii.gz"), labels=str(folder / "*_labels.nii.gz"), val="s3,s2")
    net, _ = checkpoint.load(fit(two))
    assert net.config.ndim == 2


def test_starts_from_other_weights(config, tmp_path):
    first = fit(config)
    second = fit(config.changed(output=tmp_path / "second", load_model=first, lr=0.0, steps=1, val_every=0))
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bidir": True}, "bidir: needs --diffeomorphic"),
        ({"window": 4}, "window: expected an odd number of at least 1, got 4"),
        ({"steps": 0}, "steps: expected a number of at least 1, got 0"),
        ({"spacing": -1.0}, "spacing: expected a number of mm above 0"),
        ({"val": "s3,nobody"}, "neither a cohort nor ids of this one .'nobody' is not."),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"atlas": "nowhere.nii.gz"}, "atlas nowhere.nii.gz: no such file"),
        ({"load_model": "nowhere.safetensors"}, "model nowhere.safetensors: no such file"),
    ],
)
def test_wrong_options(config, change, message):
    with pytest.raises(InputError, match=message):
        fit(config.changed(**change))
    assert not (config.run.output / "last.safetensors").exists()


def test_a_run_is_not_overwritten_by_accident(config):
    fit(config.changed(steps=1))
    with pytest.raises(InputError, match="a run is there; use --resume to continue it, --overwrite to replace it"):
        fit(config)
    assert len(rows(config.run.output / "metrics.csv")) == 1
    fit(config.changed(steps=2, overwrite=True))
    assert len(rows(config.run.output / "metrics.csv")) == 2


def test_resume_of_another_network_is_refused(config):
    fit(config.changed(steps=1))
    with pytest.raises(InputError, match="another network or working grid"):
        fit(config.changed(model="vm2", resume=True))


def test_a_diverging_run_stops_with_a_reason(config):
    with pytest.raises(InputError, match=r"loss is (nan|inf).* at step"):
        fit(config.changed(lr=1e20, steps=50))


def test_validates_as_the_model_is_used(config, tmp_path):
    """With passes the same weights, which stay as they are, give another validation than one application."""
    once = config.changed(steps=1, val_every=1, lr=0.0)
    first = fit(once.changed(output=tmp_path / "first", lr=0.5))
    figures = {}
    for name, passes in (("one", (1,)), ("two", (2, 1))):
        path = fit(once.changed(output=tmp_path / name, passes=passes, load_model=first))
        figures[name] = (tmp_path / name / "validation.csv").read_text()
        assert checkpoint.read_header(path)["working"].get("passes") == (None if name == "one" else [2, 1])
    assert figures["one"] != figures["two"]
