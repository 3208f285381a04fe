"""Whatever files, disks, memory and options do: one line and a code; a traceback only for a fault of fastreg's."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from fastreg.cli import main
from fastreg.cli._failures import explain
from fastreg.data.datasets import Share, loader, read_ahead
from fastreg.utils.files import InputError


def ended(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.mark.slow
def test_a_full_disk_names_the_file(fastreg, training, scans, tmp_path):
    pair = ("register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz", "--transform", "translation")
    for option, name in (("-o", "moved.nii.gz"), ("-o", "moved.nii"), ("--warp", "w.npz"), ("--qc", "qc.png")):
        run = fastreg(*pair, option, tmp_path / name, limit=4000)
        assert run.code == 1 and f"{name}: cannot be written: File too large" in run.line, run
    words = (*training, "--save-every", "2", "-o", tmp_path / "run")
    assert fastreg(*words, "--steps", "4").code == 0
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    for limit, name in ((20000, "model.safetensors"), (200, "config.json")):
        run = fastreg(*words, "--steps", "8", "--val-every", "0", "--resume", limit=limit)
        assert run.code == 1 and f"{name}: cannot be written: File too large" in run.line, run
        assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    assert fastreg(*words, "--steps", "8", "--resume").code == 0
    left = [path.name for path in tmp_path.rglob("*") if ".partial-" in path.name or path.name.endswith(".lock")]
    assert not left and not list(tmp_path.glob("moved*"))


def test_a_folder_that_may_not_be_written(unprivileged, fastreg, scans, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    pair = ("register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz")
    run = fastreg(*pair, "-o", tmp_path / "shut" / "x.nii.gz")
    assert run.code == 1 and "shut may not be written" in run.line


def test_a_folder_that_cannot_be_made(fastreg, scans, tmp_path):
    """What only the kernel refuses: found when writing, said in one line."""
    pair = ("register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz", "--transform", "translation")
    run = fastreg(*pair, "-o", "/proc/none/x.nii.gz")
    assert run.code == 1 and "/proc" in run.line and run.err.count("fastreg:") == 1
    run = fastreg(*pair, "-o", tmp_path / f"{'a' * 300}.nii.gz")
    assert run.code == 1 and "File name too long" in run.line


@pytest.mark.slow
def test_damaged_cache_is_decoded_anew(fastreg, training, tmp_path):
    def train(name):
        run = fastreg(*training, "--steps", "3", "--val-every", "3", "--cache", tmp_path / "cache", "-o", name)
        assert run.code == 0, run
        with safe_open(tmp_path / name / "last.safetensors", "pt") as file:
            return {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118

    whole = train("whole")
    cached = sorted((tmp_path / "cache").iterdir())
    assert len(cached) == 6
    good = [path.read_bytes() for path in cached]
    for path, content in zip(cached, good, strict=True):
        path.write_bytes(content[:100] + bytes([content[100] ^ 64]) + content[101:])
    assert train("flipped") == whole
    for path, content in zip(cached, good, strict=True):
        path.write_bytes({0: b"", 1: content + b"x", 2: b"\0" * 500}.get(cached.index(path), content[:-1000]))
    assert train("cut") == whole
    assert [path.read_bytes() for path in cached] == good


@pytest.fixture
def run(fastreg, training, tmp_path):
    assert fastreg(*training, "--steps", "2", "--val-every", "0", "-o", tmp_path / "run").code == 0
    return tmp_path / "run"


@pytest.mark.slow
def test_damaged_checkpoints(run, training, scans, tmp_path, capsys):
    good = (run / "model.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    pair = ["register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz", "--device", "cpu"]
    bad = tmp_path / "bad.safetensors"
    rng = np.random.default_rng(0)
    for place in (*rng.integers(8, 8 + length, 12), *rng.integers(8 + length, len(good), 6), 0, 7):
        content = bytearray(good)
        content[place] ^= 1 << int(rng.integers(0, 7))
        bad.write_bytes(content)
        code, _, err = ended(capsys, *pair, "--model", bad, "-o", tmp_path / "x.nii.gz")
        assert code == 1 and err.startswith(f"fastreg: model {bad}: ") and err.count("\n") == 1, (place, err)
    for cut in (0, 4, 8, 100, 8 + length, len(good) - 1):
        bad.write_bytes(good[:cut])
        code, _, err = ended(capsys, *pair, "--model", bad, "-o", tmp_path / "x.nii.gz")
        assert code == 1 and "expected a safetensors file" in err and err.count("\n") == 1
    last = bytearray((run / "last.safetensors").read_bytes())
    last[-9] ^= 1
    (run / "last.safetensors").write_bytes(last)
    code, _, err = ended(capsys, *training, "--steps", "4", "--resume", "-o", run)
    assert code == 1 and "damaged, its SHA-256" in err and (run / "last.safetensors").read_bytes() == last


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, run, scans, tmp_path, capsys):
    with safe_open(run / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()["fastreg"]
    name = next(iter(tensors))
    old = tmp_path / "old.safetensors"
    save_file(tensors, old, metadata={"fastreg": header})  # of before there was a checksum
    pair = ["register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz", "--model", old, "--device", "cpu"]
    assert ended(capsys, *pair, "-o", tmp_path / "x.nii.gz")[0] == 0
    tensors[name].view(-1)[0] = value
    save_file(tensors, old, metadata={"fastreg": header})
    code, _, err = ended(capsys, *pair, "-o", tmp_path / "y.nii.gz")
    assert code == 1 and "expected finite weights, got NaN or infinity in" in err
    assert not (tmp_path / "y.nii.gz").exists()


def test_a_loss_that_is_lost_between_rows_is_not_saved(training, tmp_path, capsys, monkeypatch):
    """It comes at step 3, where no row is written and a checkpoint is due."""
    from fastreg.training.objective import Objective

    plain, calls = Objective.forward, []

    def forward(self, *args):
        calls.append(1)
        terms = plain(self, *args)
        return terms._replace(total=terms.total * float("nan")) if len(calls) == 3 else terms

    monkeypatch.setattr(Objective, "forward", forward)
    words = ("--steps", "9", "--save-every", "2", "--log-every", "100", "--val-every", "0", "-o", tmp_path / "run")
    code, _, err = ended(capsys, *training, *words)
    line = err.splitlines()[-1]
    assert code == 1 and "loss is not finite at step 3" in line and "last.safetensors is of step 2" in line
    for name in ("last", "model"):
        with safe_open(tmp_path / "run" / f"{name}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["fastreg"])["step"] == 2
            assert all(bool(file.get_tensor(key).isfinite().all()) for key in file.keys() if "model." in key)  # noqa: SIM118


class Broken(Dataset):
    """Fails as `error`."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("image x.nii: cut short"), InputError, r"^image x.nii: cut short$"),
        (OSError(5, "Input/output error", "x.nii"), OSError, r"Input/output error: 'x.nii'$"),
        (ZeroDivisionError("ours"), ZeroDivisionError, "Traceback"),
    ],
    ids=str,
)
def test_errors_of_processes_that_load(error, kind, said):
    with pytest.raises(kind, match=said):
        next(read_ahead(iter(loader(Broken(error), Share(0, 1, 1), workers=1, pin=False))))


@pytest.mark.parametrize("how", ["(pid(s) 12, 13) exited unexpectedly", "(pid 12) is killed by signal: Killed. "])
def test_processes_that_load_and_are_killed(how):
    def batches():
        raise RuntimeError(f"DataLoader worker {how}")
        yield

    with pytest.raises(InputError, match=r"^workers: DataLoader worker .*; often for want of memory: fewer --workers"):
        list(read_ahead(batches()))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), 1, "not enough memory: CUDA out"),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "x.nii"), 1, "x.nii: No space left on device"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 1, "expected text in utf-8, got the byte 0xff"),
        (json.JSONDecodeError("Expecting value", "", 0), 1, "a file cannot be read: JSONDecodeError"),
    ],
    ids=str,
)
def test_what_is_not_fastreg_s_fault(error, code, said):
    line, got = explain(error)
    assert got == code and line.startswith(said) and "\n" not in line


def test_a_fault_of_ours_says_so(monkeypatch, capsys):
    from fastreg.cli.doctor import Doctor

    monkeypatch.setattr(Doctor, "run", lambda self: {}["missing"])
    code, _, err = ended(capsys, "doctor")
    assert code == 70 and "Traceback" in err and "KeyError: 'missing'" in err
    assert err.splitlines()[-1].startswith("fastreg: this is a fault of fastreg's") and err.rstrip().endswith("/issues")


@pytest.mark.parametrize("name", ["[red]x[bold].nii", "[/]", "a:smile:b", "two\nlines", "\x1b[31mred", "ü"])
def test_names_are_printed_as_they_are(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = ended(capsys, "info", name)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    assert (code == 1 and err == f"fastreg: {shown}: no such file\n") or (err.count("\n") == 1 and shown in err)
    from fastreg.cli.output import out, print_table

    out.print(f"written: {name}", soft_wrap=True)
    print_table([name], [[name]])
    assert capsys.readouterr().out.count(name.splitlines()[-1]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--images", "x", "-o", "y", "--width", "0"], "width: expected a number above 0 to 100, got 0"),
        (["train", "--images", "x", "-o", "y", "--lambda=-1"], "lambda: expected a number of at least 0, got -1"),
        (["train", "--images", "x", "-o", "y", "--minutes=-1"], "minutes: expected a number above 0, got -1"),
        (["train", "--images", "x", "-o", "y", "--lr", "nan"], "lr: expected a number of at least 0, got nan"),
        (["register", "--refine=-1"], "refine: expected a number of iterations of at least 0, got -1"),
        (["register", "--lambda", "inf"], "smoothness: expected a number of at least 0, got inf"),
        (["register", "-f", "x", "-m", "y", "--levels", "2", "--refine", "3"], "--levels is a pyramid"),
        (["register", "-f", "x", "-m", "y", "--levels", "2", "--transform", "rigid"], "not with --transform rigid"),
        (["template", "--images", "x", "-o", "y.nii", "--rounds", "0"], "rounds: expected a number from 1 to 1000"),
        (["template", "--images", "x", "-o", "y.nii", "--spacing", "0"], "spacing: expected a number of mm above 0"),
        (["sweep", "--images", "x", "-o", "y", "--lambdas", "1,nan"], "lambdas: expected numbers of at least 0"),
        (["sweep", "--images", "x", "-o", "y", "--lambdas", ","], "lambdas: expected numbers of at least 0, got ,"),
        (["demo", "--subjects", "1"], "subjects: expected a number of at least 2, got 1"),
        (["evaluate", "--labels", "1,x"], "1,x"),
    ],
)
def test_options_out_of_their_range(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = ended(capsys, *words)
    assert code == 1 and said in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.toml", "steps = 1.5", "steps: expected an integer, got 1.5"),
        ("c.json", '{"batch-size": 2.5}', "batch-size: expected an integer, got 2.5"),
        ("c.json", '{"shape": [16, 16.5, 16]}', "shape: expected an integer, got 16.5"),
        ("c.toml", "passes = []", "passes: expected a number of at least 1, got none"),
        ("c.toml", "width = -1.0", "width: expected a number above 0 to 100, got -1"),
        ("c.toml", "stepz = 3", "stepz"),
        ("c.json", "[" * 100000, "c.json"),
        ("c.xml", "<a/>", "expected one of .toml, .json, .yaml, .yml, got .xml"),
    ],
)
def test_config_files(name, text, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    code, _, err = ended(capsys, "train", "--images", "x", "-o", "y", "--config", name)
    assert code == 1 and said in err and err.count("\n") == 1


def test_yaml_without_its_package(capsys, tmp_path, monkeypatch):
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "yaml" else there(name, *rest))
    (tmp_path / "c.yaml").write_text("steps: 3")
    code, _, err = ended(capsys, "train", "--images", "x", "-o", "y", "--config", tmp_path / "c.yaml")
    assert code == 1 and "TOML and JSON are read as they are, YAML needs PyYAML" in err


def test_missing_options_are_named(capsys):
    code, _, err = ended(capsys, "train")
    assert code == 2 and err == "fastreg: train needs --images and --output (see fastreg --help)\n"
    for words in (["train", "--images", "x", "-o", ""], ["register", "-f", " ", "-m", "x", "-o", "y"]):
        code, _, err = ended(capsys, *words)
        assert code == 2 and "expected a name, got nothing" in err and err.count("\n") == 1
    assert ended(capsys, "train", "--images", "x", "-o", "y", "--img-prefix", "")[0] == 1  # what it is by default
    code, _, err = ended(capsys, "train", "--images", "x", "-o", "y", "--steps", "1.5")
    assert code == 2 and "steps: expected an integer, got 1.5" in err
