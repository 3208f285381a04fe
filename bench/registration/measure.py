"""One method on one pair: in a process of its own, by the interpreter of its own environment, judged by its files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import ROOT
from bench.implementations import Absent
from bench.peers.programs import PROGRAMS, Method, Program
from bench.registration.pairs import Pair, overlap, structures
from fastreg.evaluation.metrics import dice, mean, regularity
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import compose
from fastreg.io.affines import load_affine
from fastreg.io.images import load_image, load_labels
from fastreg.io.warps import load_warp

RUNNERS = Path(__file__).parent / "runners"


@lru_cache
def python_of(program: Program) -> Path:
    """The interpreter of a program's environment, which is made if it is not there; Absent if it cannot be."""
    if not program.packages:
        return Path(sys.executable)
    home = ROOT / ".peers" / Path(program.runner).stem
    made, wanted = home / "made", "\n".join(program.packages)
    if not (made.is_file() and made.read_text() == wanted):
        print(f"installing {', '.join(program.packages)} under {home.relative_to(ROOT)}", file=sys.stderr)
        constrained = ("-c", "constraints.txt") if "torch" in program.packages else ()  # a bare torch fetches CUDA's
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(home / "bin" / "pip"), "install", "-q", "--prefer-binary", *constrained, *program.packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                raise Absent(f"not installed: {_last_line(done.stderr)}")
        made.write_text(wanted)
    return home / "bin" / "python"


def run(
    method: Method, job: Mapping[str, Any], judge: Callable[[Path], dict[str, Any]], threads: int, minutes: float
) -> dict[str, Any]:
    """One registration in a process of its own, and what it is worth.

    Args:
        method: The program and its options.
        job: What the runner is told of the files: `fixed`, `moving`, `labels`, perhaps `points`.
        judge: Figures of what it left in the folder.
        threads: Of the program.
        minutes: A registration that takes longer is given up.
    """
    program = PROGRAMS[method.peer]
    python = python_of(program)
    with tempfile.TemporaryDirectory(prefix="fastreg_bench_") as out:
        told = Path(out) / "job.json"
        told.write_text(json.dumps({**job, "out": out, "threads": threads, "options": method.options}, default=str))
        limits = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
        load, start = os.getloadavg()[0], Moment.now()
        try:
            done = subprocess.run(
                [python, RUNNERS / program.runner, told], env=environment, capture_output=True, text=True,
                errors="replace", timeout=60 * minutes, cwd=out,  # elastix leaves files where it is called
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Absent(f"not done after {minutes:g} min") from None
        others = start.others_busy(Moment.now())
        if done.returncode:
            raise Absent(f"failed ({done.returncode}): {_last_line(done.stderr or done.stdout)}")
        result = json.loads((Path(out) / "result.json").read_text())
        return {
            **judge(Path(out)),
            "seconds": result["seconds"],
            "cpu_seconds": result["cpu_seconds"],
            "peak_mb": result["peak_mb"],
            "peak_mb_above_inputs": result["peak_mb"] - result["base_mb"],
            "load_before": round(load, 2),
            "others_busy": others,
            "versions": result["versions"],
            **({"suspect": result["suspect"]} if result.get("suspect") is not None else {}),
        }


@dataclass(frozen=True)
class Moment:
    """How long the machine's processors, and those of our children, have worked until now."""

    wall: float
    machine: float | None
    """Seconds of all cores; None where the system does not say."""
    children: float

    @classmethod
    def now(cls) -> Moment:
        """Now."""
        times, stat, machine = os.times(), Path("/proc/stat"), None
        if stat.is_file():
            user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
            machine = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), machine, times.children_user + times.children_system)

    def others_busy(self, after: Moment) -> float | None:
        """Cores that anything but our child kept busy between two moments, in the mean."""
        if self.machine is None or after.machine is None:
            return None
        others = after.machine - self.machine - (after.children - self.children)
        return round(max(0.0, others) / (after.wall - self.wall), 2)


def judged(pair: Pair, out: Path) -> dict[str, Any]:
    """The figures of a pair of brains from the files that a runner left."""
    result = json.loads((out / "result.json").read_text())
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    labels, moving_labels = load_labels(pair.fixed_labels), load_labels(pair.moving_labels)
    counted = structures(pair)
    moved = np.rint(load_image(out / "moved_labels.nii.gz").data).astype(np.int64)
    steps = [load_affine(p) if p.endswith(".mat") else load_warp(p, format="itk") for p in result["transforms"]]
    warp = compose(steps, fixed.affine, fixed.shape, moving.affine, moving.shape)
    again = sample(moving_labels, warp.tensor(), "nearest")
    found = regularity(warp.onto(fixed.affine).tensor())
    return {
        **overlap(labels.data, moved, labels.spacing_mm, counted),
        "dice_of_field": mean(dice(labels.data, again, counted).values()),
        "folds": found["folds_central"],
        "folds_percent": 100 * found["folds_central"] / found["folds_central_of"],
        "corner_folds": found["folds_corner"],
        "ndv_percent": found["ndv_percent"],
        "sdlogj": found["sdlogj"],
        "learn2reg_sdlogj": found["learn2reg_sdlogj"],
    }


def measured(
    method: Method,
    job: Mapping[str, Any],
    judge: Callable[[Path], dict[str, Any]],
    threads: int,
    minutes: float,
    times: int = 3,
    quick_seconds: float = 30,
) -> dict[str, Any]:
    """A row; a method done within `quick_seconds` runs so many times: the run of the median figure counts.

    (Programs that sample at random find something else each time; ANTs is far off in one run of some pairs and right in
    the next.) Of the seconds the median counts.
    """
    row = {"peer": method.peer, "options": method.options}
    try:
        runs = [run(method, job, judge, threads, minutes)]
        if runs[0]["seconds"] < quick_seconds:
            runs += [run(method, job, judge, threads, minutes) for _ in range(times - 1)]
    except Absent as reason:
        return {**row, "absent": str(reason)}
    medians = {name: statistics.median(one[name] for one in runs) for name in ("seconds", "cpu_seconds")}
    busy = [one["others_busy"] for one in runs if one["others_busy"] is not None]
    main = "tre" if "tre" in runs[0] else "dice"
    return {
        **row,
        **sorted(runs, key=lambda one: one[main])[(len(runs) - 1) // 2],
        **medians,
        "others_busy": max(busy, default=None),
        "seconds_of_runs": [one["seconds"] for one in runs],
        f"{main}_of_runs": [one[main] for one in runs],
    }


def job_of(pair: Pair) -> dict[str, Any]:
    """What a runner is told of a pair of brains."""
    return {"fixed": pair.fixed, "moving": pair.moving, "labels": pair.moving_labels}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")[:300]
