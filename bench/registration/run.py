"""Pairwise registration against its peers: `python bench/register.py`, options with --help.

Every method runs alone, in a process of its own, with the same number of threads; peers live in environments of their
own under .peers/, made when first needed. What they leave behind (moved labels, transforms) is judged here, by the
same functions for all. The data (FASTREG_DATA, or ../shared/data) are not part of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import ROOT
from bench.machine import facts as machine
from bench.registration.report import markdown, scatter
from fastreg.evaluation.metrics import dice, labels_of, mean, regularity
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import compose
from fastreg.io.affines import load_affine
from fastreg.io.images import load_image, load_labels
from fastreg.io.warps import load_warp

RUNNERS = Path(__file__).parent / "runners"


class Absent(Exception):
    """A peer cannot take part; says why."""


@dataclass(frozen=True)
class Peer:
    """A program, and the packages that its own environment needs; none: it runs in this one."""

    runner: str
    packages: tuple[str, ...] = ()


PEERS = {
    "fastreg": Peer("fastreg_register.py"),
    "ANTs": Peer("ants_syn.py", ("antspyx==0.6.3",)),
    "elastix": Peer("elastix.py", ("itk-elastix==0.25.4",)),
    "Greedy": Peer("greedy.py", ("picsl-greedy==1.4.0.3",)),
    "FireANTs": Peer("fireants_greedy.py", ("fireants==1.5.0", "torch")),
}


@dataclass(frozen=True)
class Method:
    """A peer with its settings."""

    name: str
    peer: str
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    """Many minutes; only with --all or by name."""


FROM_HEADERS = {"type_of_transform": "SyNOnly", "initial_transform": "Identity"}
CC = {"syn_metric": "CC", "syn_sampling": 4}
FINE_GRID = {
    "FinalGridSpacingInPhysicalUnits": ["5"],
    "MaximumNumberOfIterations": ["1000"],
    "NumberOfSpatialSamples": ["10000"],
}
METHODS = (
    Method("fastreg", "fastreg", "register(affine=False), deformable from the headers", {"affine": False}),
    Method("fastreg, affine first", "fastreg", "register(), nothing else said", {"affine": True}),
    Method("fastreg, two levels", "fastreg", "deform() without the finest level", {"stages": [[4, 60], [2, 40]]}),
    Method("ANTs SyN", "ANTs", "MI, affine first, 40x20x0: the default", {"type_of_transform": "SyN"}),
    Method("ANTs SyNOnly", "ANTs", "the same without the affine", FROM_HEADERS),
    Method("ANTs SyNOnly CC", "ANTs", "CC radius 4, 40x20x0, from the headers", {**FROM_HEADERS, **CC}),
    Method("elastix", "elastix", "B-splines 10 mm, MI and bending energy: the default"),
    Method("elastix fine", "elastix", "B-splines 5 mm, 1000 iterations of 10,000 samples", FINE_GRID),
    Method("Greedy", "Greedy", "NCC 2x2x2, 100x50x10: the manual's", {"arguments": "-m NCC 2x2x2 -n 100x50x10"}),
    Method(
        "ANTs SyN long", "ANTs", "MI, affine first, 100x70x50x20",
        {"type_of_transform": "SyN", "reg_iterations": [100, 70, 50, 20]}, slow=True,
    ),
    Method(
        "ANTs SyNOnly CC long", "ANTs", "CC radius 4, 100x70x50x20, about an hour each",
        {**FROM_HEADERS, **CC, "reg_iterations": [100, 70, 50, 20]}, slow=True,
    ),
    Method(
        "FireANTs", "FireANTs", "greedy, CC 5x5x5, 200x100x25, without its CUDA kernels",
        {"scales": [4, 2, 1], "iterations": [200, 100, 25], "cc_kernel_size": 5}, slow=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Two people's images on one grid, and their labels."""

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    structures: Path | None = None
    """A JSON list of the labels that count; those in both maps if None."""


def cases(data: Path) -> list[Case]:
    """The pair of the VoxelMorph papers' structures, and three pairs of different people."""

    def of(name: str, folder: str, fixed: str, moving: str, structures: str | None = None) -> Case:
        where = data / folder
        images, labels = [[where / f"{who}_{what}.nii.gz" for who in (fixed, moving)] for what in ("t1", "labels")]
        return Case(name, *images, *labels, where / structures if structures else None)

    brains = (("1000", "1006"), ("1007", "1012"), ("1003", "1015"))
    return [
        of("pair b to a, 30 labels", "pair", "subject_a", "subject_b", "labels30.json"),
        *(of(f"brains {moving} to {fixed}, all labels", "brains", fixed, moving) for moving, fixed in brains),
    ]


# ---------------------------------------------------------------- running a method


@lru_cache
def python_of(peer: Peer) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there; Absent if it cannot be."""
    if not peer.packages:
        return Path(sys.executable)
    home = ROOT / ".peers" / Path(peer.runner).stem
    made, wanted = home / "made", "\n".join(peer.packages)
    if not (made.is_file() and made.read_text() == wanted):
        print(f"installing {', '.join(peer.packages)} under {home.relative_to(ROOT)}", file=sys.stderr)
        constrained = ("-c", "constraints.txt") if "torch" in peer.packages else ()  # a bare torch fetches CUDA's
        for command in (
            [sys.executable, "-m", "venv", "--clear", home],
            [home / "bin" / "pip", "install", "-q", "--prefer-binary", *constrained, *peer.packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                raise Absent(f"not installed: {_last_line(done.stderr)}")
        made.write_text(wanted)
    return home / "bin" / "python"


def run(method: Method, case: Case, threads: int, minutes: float) -> dict[str, Any]:
    """One registration in a process of its own, and what it is worth."""
    peer = PEERS[method.peer]
    python = python_of(peer)
    with tempfile.TemporaryDirectory(prefix="fastreg_bench_") as out:
        job = {"fixed": case.fixed, "moving": case.moving, "labels": case.moving_labels, "out": out}
        told = Path(out) / "job.json"
        told.write_text(json.dumps({**job, "threads": threads, "options": method.options}, default=str))
        limits = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
        busy = os.getloadavg()[0]
        try:
            done = subprocess.run(
                [python, RUNNERS / peer.runner, told], env=environment, capture_output=True, text=True,
                errors="replace", timeout=60 * minutes,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Absent(f"not done after {minutes:g} min") from None
        if done.returncode:
            raise Absent(f"failed ({done.returncode}): {_last_line(done.stderr or done.stdout)}")
        return {**judged(case, Path(out)), "load_before": round(busy, 2)}


def judged(case: Case, out: Path) -> dict[str, Any]:
    """A row's figures from the files that a runner left."""
    result = json.loads((out / "result.json").read_text())
    fixed, moving = load_image(case.fixed), load_image(case.moving)
    labels, moving_labels = load_labels(case.fixed_labels), load_labels(case.moving_labels)
    counted = structures(case)
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


def structures(case: Case) -> list[int]:
    """The labels that count."""
    if case.structures:
        return json.loads(case.structures.read_text())
    return sorted(
        set(labels_of(load_labels(case.fixed_labels).data)) & set(labels_of(load_labels(case.moving_labels).data))
    )


def before(case: Case) -> float:
    """Mean Dice of the images as they come."""
    maps = [load_labels(path).data for path in (case.fixed_labels, case.moving_labels)]
    return mean(dice(*maps, structures(case)).values())


def measured(method: Method, case: Case, threads: int, minutes: float, quick_seconds: float = 30) -> dict[str, Any]:
    """A row; a method done within `quick_seconds` runs three times, and the median of its seconds counts."""
    row = {"case": case.name, "method": method.name, "peer": method.peer, "what": method.what}
    try:
        runs = [run(method, case, threads, minutes)]
        if runs[0]["seconds"] < quick_seconds:
            runs += [run(method, case, threads, minutes) for _ in range(2)]
    except Absent as reason:
        return {**row, "absent": str(reason)}
    seconds = [one["seconds"] for one in runs]
    return {**row, **runs[0], "seconds": statistics.median(seconds), "seconds_of_runs": seconds}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")[:300]


# ---------------------------------------------------------------- the whole benchmark


def chosen(options: argparse.Namespace) -> tuple[list[Method], list[Case]]:
    """The methods and cases asked for."""
    where = cases(options.data)
    if options.quick:
        return [method for method in METHODS if method.name in QUICK], where[:1]
    names = [method.name for method in METHODS]
    if unknown := set(options.methods) - set(names):
        raise SystemExit(f"--methods: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    methods = [m for m in METHODS if (m.name in options.methods if options.methods else options.all or not m.slow)]
    return methods, [case for case in where if options.cases in case.name]


QUICK = ("fastreg", "fastreg, two levels", "ANTs SyN")


def main() -> None:
    """Measures what is asked for, prints the table, writes the JSON and beside it the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fastreg and ANTs SyN on the first case")
    parser.add_argument("--all", action="store_true", help="the methods that take many minutes, too")
    parser.add_argument("--methods", nargs="+", default=[], help="; ".join(f"'{m.name}': {m.what}" for m in METHODS))
    parser.add_argument("--cases", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=100, help="a registration that takes longer is given up")
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTREG_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "register.json", help="the results")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON has from this commit")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="measure nothing, draw this result anew")
    options = parser.parse_args()
    if options.plot:
        report(json.loads(options.plot.read_text()), options.plot)
        return
    if not options.data.is_dir():
        raise SystemExit(f"--data {options.data}: no such folder; FASTREG_DATA names it, too")
    here = {**machine(), "threads": options.threads, "cores": os.cpu_count()}
    result: dict[str, Any] = {"machine": here, "commit": here.pop("commit"), "versions": {}, "before": {}, "rows": []}
    if options.resume and options.json.is_file():
        earlier = json.loads(options.json.read_text())
        if earlier["commit"] == result["commit"] and earlier["machine"]["threads"] == options.threads:
            result = earlier
    options.json.parent.mkdir(parents=True, exist_ok=True)
    methods, where = chosen(options)
    for case in where:
        result["before"][case.name] = before(case)
        for method in methods:
            if any((row["case"], row["method"]) == (case.name, method.name) for row in result["rows"]):
                continue
            row = measured(method, case, options.threads, options.minutes)
            print(json.dumps(row), file=sys.stderr, flush=True)
            result["versions"] |= row.pop("versions", {})
            result["rows"].append(row)
            options.json.write_text(json.dumps(result, indent=1) + "\n")  # after each: hours of work
    report(result, options.json)


def report(result: dict[str, Any], path: Path) -> None:
    """The table, printed and beside the JSON, and the picture beside it."""
    table = markdown(result)
    print(table)
    path.with_suffix(".md").write_text(table + "\n")
    scatter(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
