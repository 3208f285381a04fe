"""One method on one pair: in a process of its own, by the interpreter of its own environment, judged by its files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import ROOT
from bench.implementations import Absent
from bench.peers.programs import PROGRAMS, Method, Program
from bench.registration.pairs import Pair, structures
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


def run(method: Method, pair: Pair, threads: int, minutes: float) -> dict[str, Any]:
    """One registration in a process of its own, and what it is worth."""
    program = PROGRAMS[method.peer]
    python = python_of(program)
    with tempfile.TemporaryDirectory(prefix="fastreg_bench_") as out:
        job = {"fixed": pair.fixed, "moving": pair.moving, "labels": pair.moving_labels, "out": out}
        told = Path(out) / "job.json"
        told.write_text(json.dumps({**job, "threads": threads, "options": method.options}, default=str))
        limits = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
        busy = os.getloadavg()[0]
        try:
            done = subprocess.run(
                [python, RUNNERS / program.runner, told], env=environment, capture_output=True, text=True,
                errors="replace", timeout=60 * minutes,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Absent(f"not done after {minutes:g} min") from None
        if done.returncode:
            raise Absent(f"failed ({done.returncode}): {_last_line(done.stderr or done.stdout)}")
        return {**judged(pair, Path(out)), "load_before": round(busy, 2)}


def judged(pair: Pair, out: Path) -> dict[str, Any]:
    """A row's figures from the files that a runner left."""
    result = json.loads((out / "result.json").read_text())
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    labels, moving_labels = load_labels(pair.fixed_labels), load_labels(pair.moving_labels)
    counted = structures(pair)
    moved = np.rint(load_image(out / "moved_labels.nii.gz").data).astype(np.int64)
    steps = [load_affine(p) if p.endswith(".mat") else load_warp(p, format="itk") for p in result["transforms"]]
    warp = compose(steps, fixed.affine, fixed.shape, moving.affine, moving.shape)
    again = sample(moving_labels, warp.tensor(), "nearest")
    found = regularity(warp.tensor())
    return {
        "dice": mean(dice(labels.data, moved, counted).values()),
        "dice_of_field": mean(dice(labels.data, again, counted).values()),
        "folds": found["folds_central"],
        "folds_percent": 100 * found["folds_central"] / found["folds_central_of"],
        "sdlogj": found["sdlogj"],
        "seconds": result["seconds"],
        "peak_mb": result["peak_mb"],
        "peak_mb_above_inputs": result["peak_mb"] - result["base_mb"],
        "versions": result["versions"],
    }


def measured(method: Method, pair: Pair, threads: int, minutes: float, quick_seconds: float = 30) -> dict[str, Any]:
    """A row; a method done within `quick_seconds` runs three times, and the median of its seconds counts."""
    row = {"case": pair.name, "method": method.name, "peer": method.peer, "what": method.what}
    try:
        runs = [run(method, pair, threads, minutes)]
        if runs[0]["seconds"] < quick_seconds:
            runs += [run(method, pair, threads, minutes) for _ in range(2)]
    except Absent as reason:
        return {**row, "absent": str(reason)}
    seconds = [one["seconds"] for one in runs]
    return {**row, **runs[0], "seconds": statistics.median(seconds), "seconds_of_runs": seconds}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")[:300]
