"""Killed, stopped and started twice: nothing half-written, and what is resumed ends as if nothing had happened."""

import csv
import json
import re
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

LENGTH = ("--steps", "120", "--save-every", "4", "--val-every", "50")


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def outcome(folder):
    """Everything that a run says of its result, times apart."""
    tensors = {n: load_file(folder / f"{n}.safetensors") for n in ("last", "model")}
    with (folder / "metrics.csv").open() as file:
        rows = [[row["step"], row["loss"], row["lr"]] for row in csv.DictReader(file)]
    plain = {f"{n}.{key}": value.numpy().tobytes() for n, found in tensors.items() for key, value in found.items()}
    return plain, rows, (folder / "validation.csv").read_text()


@pytest.fixture
def whole(fastreg, training, tmp_path):
    assert fastreg(*training, *LENGTH, "-o", "whole").code == 0
    return outcome(tmp_path / "whole")


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if ".partial-" in path.name or path.name.endswith(".lock")]


@pytest.mark.slow
def test_a_run_that_is_stopped_anyhow_resumes_bit_for_bit(start, fastreg, training, tmp_path, whole):
    folder = tmp_path / "run"
    words = (*training, *LENGTH, "-o", folder)
    extra = ()
    for rows, number in ((3, signal.SIGKILL), (20, signal.SIGTERM), (40, signal.SIGHUP), (60, signal.SIGINT)):
        run = start(*words, *extra)
        run.wait_for(lambda rows=rows: lines(folder / "metrics.csv") > rows)
        run.kill(number)
        ended = run.end()
        extra = ("--resume",)
        if number == signal.SIGKILL:
            continue
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        assert ended.code == 128 + number and "Traceback" not in ended.err
        said = re.search(rf"stopped by {name}: step (\d+) of 120 is saved in .*--resume", " ".join(ended.err.split()))
        assert said and lines(folder / "metrics.csv") == int(said[1]) + 1 and not leftovers(folder)
    assert fastreg(*words, "--resume").code == 0
    assert outcome(folder) == whole and not leftovers(folder)
    before = (folder / "last.safetensors").read_bytes()
    assert fastreg(*words, "--resume").code == 0  # there is nothing left to do
    assert outcome(folder) == whole and (folder / "last.safetensors").read_bytes() == before


@pytest.mark.slow
def test_signals_to_the_whole_group(start, fastreg, training, tmp_path, whole):
    """As a terminal and Slurm send them: the processes that load data wait for the step's end."""
    import os

    folder = tmp_path / "run"
    words = [word if word != "0" else "2" for word in training]
    run = start(*words, *LENGTH, "-o", folder, group=True)
    run.wait_for(lambda: lines(folder / "metrics.csv") > 3)
    os.killpg(run.process.pid, signal.SIGTERM)
    ended = run.end()
    assert ended.code == 143 and "stopped by SIGTERM: step" in ended.err and "Traceback" not in ended.err
    assert fastreg(*words, *LENGTH, "-o", folder, "--resume").code == 0 and outcome(folder) == whole


def test_a_second_signal_ends_at_once(tmp_path):
    import os

    from fastreg.utils.stop import Stopped, stopping_between_steps

    with pytest.raises(Stopped, match="stopped by SIGHUP"), stopping_between_steps() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


LOADING = """
import importlib.abc, importlib.util, os, signal, sys
class Half(importlib.abc.Loader):
    def exec_module(self, module):
        os.kill(os.getpid(), signal.SIGTERM)
        while True: pass
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, Half()) if name == "torch" else None
sys.meta_path.insert(0, Finder())
from fastreg.utils.stop import stopping_at_once
with stopping_at_once():
    try:
        import torch
    except BaseException:
        print("an exception went through the half of torch that is there")
"""


def test_a_signal_while_torch_is_loading_ends_the_process_in_a_line():
    """An exception there would go through C++ that aborts."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (143, "stopped by SIGTERM\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_pairs_go_on_where_they_stopped(number, start, fastreg, scans, tmp_path):
    words = (
        "register",
        "--pairs",
        scans / "pairs.csv",
        "--levels",
        "4x60,2x60,1x60",
        "--no-affine",
        "--device",
        "cpu",
        "-o",
    )
    assert fastreg(*words, "whole").code == 0
    run = start(*words, "out")
    run.wait_for((tmp_path / "out" / "p2" / "pair.json").exists)  # the second pair is begun, or done
    run.kill(number)
    ended = run.end()
    assert ended.code == (-9 if number == signal.SIGKILL else 143)
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM" in ended.line and "of 3 pairs are done; the same command goes on" in ended.err
    assert fastreg(*words, "out").code == 0
    for name in ("p1", "p2", "p3"):
        records = [json.loads((tmp_path / where / name / "pair.json").read_text()) for where in ("whole", "out")]
        assert records[0]["written"] == records[1]["written"] and len(records[0]["written"]) == 2
    assert not leftovers(tmp_path / "out")


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_and_a_dead_one_taken_over(start, fastreg, training, scans, tmp_path):
    folder = tmp_path / "run"
    long = (*training, "--steps", "100000", "--save-every", "2", "--val-every", "0", "-o", folder)
    run = start(*long)
    run.wait_for(lambda: lines(folder / "metrics.csv") > 3)
    rows = (folder / "metrics.csv").read_text()
    for extra in ((), ("--resume",), ("--overwrite",)):
        ended = fastreg(*long, *extra)
        assert ended.code == 1 and f"process {run.process.pid} on " in ended.err and "works there" in ended.line
    assert (folder / "metrics.csv").read_text().startswith(rows)
    run.kill(signal.SIGKILL)
    run.end()
    assert fastreg(*training, "--steps", "1", "--val-every", "0", "--resume", "-o", folder).code == 0


def test_locks(tmp_path, monkeypatch):
    from fastreg.utils import locks
    from fastreg.utils.files import InputError

    with locks.locked(tmp_path, (0, 2)), locks.locked(tmp_path, (1, 2)):  # parts of one work
        for part in ((0, 2), (0, 1), (2, 3)):
            with pytest.raises(InputError, match="works there"), locks.locked(tmp_path, part):
                pass
    assert not list(tmp_path.iterdir())
    me = locks._myself()
    lock = tmp_path / ".fastreg-1-of-1.lock"
    for change, taken in (
        ({"pid": 2**22 + 1}, True),  # no such process
        ({"began": "1"}, True),  # its number is another's now
        ({"boot": "before"}, True),
        ({"host": "elsewhere"}, False),  # nobody here can tell
        ({"space": "another container"}, False),
    ):
        lock.write_text(json.dumps({**me, **change}))
        if taken:
            with locks.locked(tmp_path):
                pass
            assert not lock.exists()
        else:
            with pytest.raises(InputError, match="works there"), locks.locked(tmp_path):
                pass
    lock.unlink()
    dead = tmp_path / ".fastreg-2-of-3.lock"
    dead.write_text(json.dumps({**me, "boot": "before"}))
    with locks.locked(tmp_path):
        assert not dead.exists()
    lock.write_text("mine")
    with pytest.raises(InputError, match="no lock of fastreg's"), locks.locked(tmp_path):
        pass
    assert lock.read_text() == "mine"
