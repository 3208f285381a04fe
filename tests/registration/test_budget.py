"""Presets, seconds and memory."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.textured import head

import fastreg
from fastreg.cli import main
from fastreg.geometry.image import Image
from fastreg.registration import budget
from fastreg.registration.budget import PRESETS, Deadline, check_memory, memory_free, memory_needed
from fastreg.registration.deformable import deform
from fastreg.registration.stages import STAGES, Stage
from fastreg.utils.files import InputError


def pair():
    fixed = torch.from_numpy(head((40, 44, 36)))[None, None]
    return fixed, torch.roll(fixed, 2, 2)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second whenever it is asked."""
    ticks = itertools.count()
    monkeypatch.setattr(budget.time, "monotonic", lambda: float(next(ticks)))


def counted(**options):
    """The iterations of each stage that was begun."""
    done = []
    deform(
        *pair(),
        stages=(Stage(2, 30), Stage(1, 30)),
        on_progress=lambda p: done.append((p.factor, p.iterations)),
        **options,
    )
    return done


def test_no_iteration_is_begun_that_would_end_too_late(clock):
    everything = counted(tolerance=0, deadline=Deadline.after(1e9))
    assert everything == [(2, 30), (1, 30)]
    some = counted(tolerance=0, deadline=Deadline.after(40))
    assert some[0][0] == 2 and 5 <= some[0][1] <= 20  # each asks the clock three or four times
    assert len(some) == 1 or some[1][1] < 4
    assert counted(tolerance=0, deadline=Deadline.after(-5)) == [(2, budget.HASTY)]


def test_what_was_found_in_time_is_kept(clock):
    flow = deform(*pair(), stages=(Stage(2, 60), Stage(1, 30)), deadline=Deadline.after(120)).flow
    assert 0.5 < float(flow[0, 0, 12:-12, 12:-12, 12:-12].abs().mean()) <= 2.5


def test_finer_levels_are_known_to_cost_more():
    deadline = Deadline.after(10.0)
    deadline.took(1000, 1.0)
    assert deadline.allows(1000, 8) and not deadline.allows(8000, 2)
    deadline.reserve(5.0)
    assert not deadline.allows(1000, 8)


def test_presets_are_pyramids():
    assert PRESETS["default"] == STAGES
    assert [s.factor for s in PRESETS["fast"]] == [4, 2]
    assert all(2 * a.iterations == b.iterations for a, b in zip(STAGES, PRESETS["best"], strict=True))


def test_what_does_not_fit_is_refused_with_what_would():
    shape = (400, 400, 400)
    needed = memory_needed(shape, shape, STAGES, False)
    assert check_memory(shape, shape, STAGES, False, free=needed) == needed
    less = memory_needed(shape, shape, STAGES[:-1], False)
    with pytest.raises(InputError, match=r"takes about 11\.. GiB, and .* free; --levels 4x60,2x40 would fit"):
        check_memory(shape, shape, STAGES, False, free=less)
    with pytest.raises(InputError, match=r"GiB are free \(FASTREG_MEMORY=ignore"):
        check_memory(shape, shape, STAGES, False, free=2**20)
    assert memory_needed(shape, shape, STAGES, True) > needed
    free = memory_free()
    assert free is None or 2**20 < free < 2**50


def test_register_asks_before_it_begins(monkeypatch):
    fixed, moving = (Image(x[0, 0].numpy(), np.eye(4)) for x in pair())
    monkeypatch.setattr(budget, "memory_free", lambda: 1000)
    with pytest.raises(InputError, match=r"memory: a registration at 40x44x36 voxels takes about 0\.4 GiB"):
        fastreg.register(fixed, moving, affine=False, device="cpu")
    monkeypatch.setenv("FASTREG_MEMORY", "ignore")
    assert fastreg.register(fixed, moving, affine=False, device="cpu", stages=(Stage(2, 2),)).flow.abs().max() > 0


_MEASURE = """
import numpy as np, fastreg
from fastreg.geometry.image import Image
from fastreg.registration.stages import Stage
rng = np.random.default_rng(0)
images = [Image(rng.random(({n},) * 3, dtype=np.float32), np.eye(4)) for _ in range(2)]
stages = (Stage(4, 2), Stage(2, 2), Stage(1, 2))
fastreg.register(*images, stages=stages, affine=False, inverse={inverse}, metric="lncc", device="cpu")
status = open("/proc/self/status").read()  # ru_maxrss is that of the process before it was this one, too
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
@pytest.mark.parametrize("inverse", [False, True])
def test_the_forecast_is_about_what_is_taken(inverse):
    n = 128
    code = _MEASURE.format(n=n, inverse=inverse)
    taken = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    needed = memory_needed((n,) * 3, (n,) * 3, STAGES, inverse)
    assert 0.9 * taken < needed < 2 * taken, (taken, needed)


@pytest.mark.slow
def test_the_command_takes_budgets(blobs, tmp_path, capsys):
    folder = blobs(2)
    base = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "--device", "cpu"]
    base += ["--overwrite", "-o", tmp_path / "m.nii.gz"]

    def run(*words):
        threads = torch.get_num_threads()
        try:
            with pytest.raises(SystemExit) as ended:
                main([str(word) for word in (*base, *words)])
        finally:
            torch.set_num_threads(threads)
        return ended.value.code, capsys.readouterr().err

    assert run("--preset", "fast", "--threads", "1")[0] == 0
    assert run("--seconds", "1")[0] == 0
    for words, said in (
        (["--preset", "best", "--levels", "2"], "--preset is a pyramid of its own: not with --levels"),
        (["--preset", "fast", "--windows", "9"], "--preset is a pyramid of its own: not with --windows"),
        (["--seconds", "0"], "seconds"),
        (["--threads", "0"], "threads"),
    ):
        code, err = run(*words)
        assert code != 0 and said in err, err
    assert math.isfinite(memory_needed((9, 9), (9, 9), STAGES, False))
