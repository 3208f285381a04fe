"""The command line as a user meets it: what it prints, its exit codes, and what bad input leaves behind."""

import gzip
import hashlib
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from fastreg.cli import COMMANDS, main
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.nn import checkpoint
from fastreg.nn.checkpoint import Checkpoint, WorkingSpace
from fastreg.nn.registration_net import RegistrationNet


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def model(tmp_path):
    net = RegistrationNet("vm1")
    working = WorkingSpace(orientation="LAS")
    checkpoint.save(tmp_path / "model.safetensors", net, Checkpoint(net.options, working))
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and f"Example: fastreg {command}" in out


def test_usage_errors_end_with_two(capsys):
    for words in (["register"], ["train", "--imags", "x"], ["nonsense"], ["doctor", "--json=maybe"]):
        code, _, err = run(capsys, *words)
        assert code == 2 and err.startswith("fastreg: ") and err.count("\n") == 1


def test_doctor_checks_itself(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    figures = json.loads(out)
    assert code == 0
    native = next(row for row in figures["backends"] if row["backend"] == "native")
    assert native["refuses"] is None and 0 < native["worst_error"] < 1e-5


def test_doctor_finds_a_wrong_kernel(capsys, monkeypatch):
    from fastreg.backends import cpu

    right = cpu.warp_forward
    monkeypatch.setattr(cpu, "warp_forward", lambda *args: 1.01 * right(*args))
    code, _, err = run(capsys, "doctor")
    assert code == 1 and "self-check failed for backend native" in err


def test_register_with_a_model(capsys, blobs, model, tmp_path):
    folder = blobs(2)
    outputs = {name: tmp_path / f"{name}.nii.gz" for name in ("moved", "warp", "inverse-warp", "moved-labels")}
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "--model", model]
    words += ["--moving-labels", folder / "s1_labels.nii.gz", "--qc", tmp_path / "qc.png"]
    for name, path in outputs.items():
        words += [f"--{name}", path]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "registered in" in out
    assert load_image(outputs["moved"]).shape == (24, 20, 28)
    assert set(np.unique(load_labels(outputs["moved-labels"]).data)) == {0, 1, 2, 3}
    assert nib.load(outputs["warp"]).shape == (24, 20, 28, 1, 3) and (tmp_path / "qc.png").stat().st_size > 10_000


@pytest.mark.slow
def test_register_without_a_model(capsys, blobs, tmp_path):
    folder = blobs(2)
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "--json"]
    words += ["-o", tmp_path / "moved.nii.gz", "--affine-out", tmp_path / "a.mat", "--transform", "deformable"]
    code, out, _ = run(capsys, *words)
    figures = json.loads(out)
    assert code == 0 and {"affine_seconds", "level_4_seconds", "level_1_seconds"} <= set(figures)
    assert (tmp_path / "a.mat").is_file()
    hashed = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.*")}
    assert figures["written"] == hashed and len(hashed) == 2


@pytest.mark.slow
def test_train_from_a_config_file_then_register(capsys, blobs, tmp_path):
    folder = blobs(3)
    config = {"images": f"{folder}/*_image.nii.gz", "steps": 2, "model": "vm1", "val-every": 0, "workers": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = run(capsys, "train", "--config", tmp_path / "config.json", "-o", tmp_path / "run", "--device", "cpu")
    assert code == 0 and "model.safetensors" in out
    saved = tmp_path / "run" / "config.json"
    code, _, _ = run(capsys, "train", "--config", saved, "-o", tmp_path / "again")  # what it saves, it reads
    assert code == 0
    code, out, _ = run(capsys, "info", tmp_path / "run" / "model.safetensors", "--json")
    assert code == 0 and '"vm1"' in out


BAD = {
    "missing": "no such file",
    "truncated": "",
    "text": "",
    "four_d": "4-D",
    "rgb": "",
}


@pytest.fixture
def bad(tmp_path, blobs):
    good = blobs(2) / "s0_image.nii.gz"

    def make(kind):
        path = tmp_path / f"{kind}.nii.gz"
        if kind == "truncated":
            path.write_bytes(good.read_bytes()[:2000])
        elif kind == "text":
            path.write_text("this is no image")
        elif kind == "four_d":
            nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 5), np.float32), np.eye(4)), path)
        elif kind == "rgb":
            colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
            nib.save(nib.Nifti1Image(colour, np.eye(4)), path)
        return good, path

    return make


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_bad_images_end_with_one_line(kind, role, bad, model, tmp_path, capsys):
    good, path = bad(kind)
    pair = {"fixed": good, "moving": good, role: path}
    code, _, err = run(
        capsys, "register", "-f", pair["fixed"], "-m", pair["moving"], "--model", model, "-o", tmp_path / "out.nii.gz"
    )
    assert code == 1 and err.count("\n") == 1 and path.name in err and BAD[kind] in err
    assert not (tmp_path / "out.nii.gz").exists()
    assert not list(tmp_path.glob(".partial*"))


def test_outputs_are_not_overwritten_by_accident(bad, model, tmp_path, capsys):
    good, _ = bad("missing")
    (tmp_path / "warp.nii.gz").write_text("precious")
    words = ["register", "-f", good, "-m", good, "--model", model, "-o", tmp_path / "m.nii.gz"]
    code, _, err = run(capsys, *words, "--warp", tmp_path / "warp.nii.gz")
    assert code == 1 and "warp.nii.gz exists; use --overwrite" in err
    assert (tmp_path / "warp.nii.gz").read_text() == "precious" and not (tmp_path / "m.nii.gz").exists()
    assert run(capsys, *words, "--warp", tmp_path / "warp.nii.gz", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to write"),
        (["-o", "{t}/x.nii.gz", "--moving-labels", "{t}/l.nii.gz"], "--moving-labels and --moved-labels go together"),
        (["-o", "{t}/x.nii.gz", "--warp", "{t}/x.nii.gz"], "two outputs have the same path"),
        (["-o", "{t}/x.nii.gz", "--refine", "-1"], "refine: expected a number of iterations of at least 0, got -1"),
        (["-o", "{t}/x.nii.gz", "--levels", "4x"], "levels: expected 1 to 6, or factors and iterations"),
        (["-o", "{t}/x.nii.gz", "--levels", "2", "--refine", "3"], "--levels is a pyramid, --refine the finest"),
        (["-o", "{t}/x.mnc"], "x.mnc: expected a name that ends in"),
        (["-o", "{t}/x.nii.gz", "--points", "{t}/p.csv"], "--points and --points-output go together"),
        (["-o", "{t}/x.nii.gz", "--part", "1/2"], "--part needs --pairs"),
        (["-o", "{t}/x.nii.gz", "--fixed-labels", "{t}/l.nii.gz"], "--fixed-labels needs --moving-labels"),
        (["-o", "{t}/x.nii.gz", "--model", "{t}/none.safetensors"], "none.safetensors: no such file"),
        (["-o", "{t}/x.nii.gz", "--init", "{t}/none.mat"], "none.mat"),
        (["-o", "{t}/x.nii.gz", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_options_of_register(words, message, bad, tmp_path, capsys):
    good, _ = bad("missing")
    code, _, err = run(capsys, "register", "-f", good, "-m", good, *[word.format(t=tmp_path) for word in words])
    assert code == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "x.nii.gz").exists()


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_images_without_structure(value, bad, tmp_path, capsys):
    good, path = bad("missing")
    save_image(path, np.full((24, 20, 28), value, np.float32), np.diag([-2.0, 2.0, 2.0, 1.0]))
    code, _, err = run(capsys, "register", "-f", good, "-m", path, "-o", tmp_path / "x.nii.gz")
    assert code == 1 and f"moving image {path}: expected" in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", '{"stepz": 3}', "stepz"),
        ("c.json", '{"steps": "many"}', "many"),
        ("c.json", '{"steps": 3', "c.json"),
        ("c.toml", "steps = = 3", "c.toml"),
        ("c.ini", "steps=3", "expected one of .toml, .json, .yaml, .yml, got .ini"),
    ],
)
def test_bad_config_files(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    code, _, err = run(capsys, "train", "--images", "x", "-o", tmp_path / "run", "--config", tmp_path / name)
    assert code == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_config_file(tmp_path, capsys):
    code, _, err = run(capsys, "train", "--config", tmp_path / "none.toml")
    assert code == 1 and "none.toml: no such file" in err


def test_mismatched_labels_in_training(blobs, tmp_path, capsys):
    folder = blobs(3)
    label = folder / "s1_labels.nii.gz"
    label.write_bytes(gzip.compress(gzip.decompress(label.read_bytes())[:-100]))
    words = ["train", "--images", f"{folder}/*_image.nii.gz", "--labels", f"{folder}/*_labels.nii.gz"]
    code, _, err = run(capsys, *words, "-o", tmp_path / "run", "--val", "s1,s2", "--workers", "0")
    assert code == 1 and "s1_labels.nii.gz" in err


def test_the_installed_command_answers():
    done = subprocess.run([sys.executable, "-m", "fastreg", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "0.1.0"


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    pytest.importorskip("nilearn")
    words = ["demo", "-o", tmp_path / "demo", "--subjects", "3", "--unseen", "2", "--steps", "3", "--model", "vm1"]
    code, out, _ = run(capsys, *words, "--json")
    figures = json.loads(out)
    assert code == 0 and len(figures["pairs"]) == 2
    assert 0.3 < figures["mean"]["dice_before"] < 0.9 and figures["mean"]["error_before_mm"] > 1
    for name in ("figure.png", "loss.png", "run/model.safetensors"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
