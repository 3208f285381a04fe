"""Exactness first, then speed, memory and jobs of what passed it: one record, and the pages from it."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import bench
from bench import ROOT, exactness, groups, jobs, machine, memory, report, speed, tables
from bench.cases import Case
from bench.data import DATA
from bench.implementations import ours_here
from bench.schema import Exactness, Record
from fastreg.utils.files import InputError

PARTS = ("exactness", "speed", "memory", "jobs")
SHARES = {"speed": 0.62, "jobs": 0.38}
"""Of the seconds that exactness and memory leave."""
MEMORY_SECONDS = 110
"""About what memory takes at full size."""


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=bench.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all of them)")
    parser.add_argument("--seconds", type=float, default=720, help="for everything, about (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="every op and implementation at half the size")
    parser.add_argument("--size", type=int, nargs=3, metavar=("D", "H", "W"), help="of every case, in voxels")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--group", default="", help="speed: groups whose name contains this")
    parser.add_argument("--threads", type=int, help="as many as there are cores, if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-triton", action="store_true", help="leave out Triton's interpreter, which takes a minute")
    parser.add_argument("--json", type=Path, help="write the record here (all parts: bench/results/MACHINE-DATE.json)")
    parser.add_argument("--no-report", action="store_true", help="leave docs/ as it is")
    options = parser.parse_args(words)
    if unknown := [part for part in options.what if part not in PARTS]:
        parser.error(f"PART must be some of {', '.join(PARTS)}, or a command alone; got {unknown[0]}")
    if options.seconds <= 0:
        parser.error(f"--seconds must be more than 0, got {options.seconds:g}")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.size and min(options.size) < 24:
        parser.error(f"--size must be at least 24 along every axis, got {min(options.size)}")
    options.what = options.what or list(PARTS)
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; the exit code is 1 if a gradient failed."""
    options = parsed(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is visible")
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    began = time.monotonic()
    whole = options.what == list(PARTS) and not (options.quick or options.only or options.group or options.size)
    record = Record(machine=machine.machine(options.device))
    path = options.json or (ROOT / "bench/results" / f"{machine.name()}-{record.machine.date}.json" if whole else None)
    ops = [op for op in DATA if options.only in op]
    if not ops:
        raise InputError(f"--only {options.only}: expected part of {', '.join(DATA)}")
    to_time = chosen(options, ops) if "speed" in options.what else []

    def on_progress(line: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {line}", file=sys.stderr, flush=True)

    def keep() -> None:
        if path is not None:
            record.write(path)  # after every case: an interrupted run keeps its figures

    rows = proved(options, ops, record, on_progress)
    failed, refused = exactness.failures(rows), exactness.refused(rows)
    keep()
    shares = seconds_of(options, began)
    if "speed" in options.what:
        for row in speed.run(to_time, shares["speed"], refused, options.device, on_progress):
            record.rows.append(row)
            keep()
    if "memory" in options.what:
        size = tuple(options.size or ((80, 96, 112) if options.quick else groups.FULL))
        cases = [case for case in memory.cases(size) if case.op in ops]
        record.rows += [
            row for row in memory.run(cases, options.device, on_progress) if (row.op, row.backend) not in refused
        ]
        keep()
    if "jobs" in options.what:
        size = tuple(options.size or ((48, 48, 48) if options.quick else jobs.SIZE))
        if any(backend == ours_here(torch.empty(0, device=options.device)) for _, backend in refused):
            print("jobs: left out, for a gradient fails")
        else:
            record.rows += jobs.run(shares["jobs"], size, device=options.device, on_progress=on_progress)
        keep()
    print(report.overview(record))
    if path is not None:
        print(f"\nwritten: {path}")
    if whole and not options.no_report and not failed:
        print("\n".join(f"written: {one}" for one in report.write(record)))
    return 1 if failed else 0


def proved(
    options: argparse.Namespace, ops: list[str], record: Record, on_progress: Callable[[str], None]
) -> list[Exactness]:
    """The rows of exactness, printed and recorded if they were asked for.

    They are computed where only speed was asked for, too: no speed without gradients.
    """
    asked = "exactness" in options.what
    triton = asked and not options.no_triton and not options.quick
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small arrays; the bits do not depend on it
    rows = exactness.everything(options.device, ops, with_peers=asked, triton=triton, on_progress=on_progress)
    torch.set_num_threads(threads)
    if asked:
        record.rows += rows
        print_exactness(record, options.quick)
    for row in exactness.failures(rows):
        print(f"FAILS: {row.backend}: {exactness.describe(row)}")
    return rows


def seconds_of(options: argparse.Namespace, began: float) -> dict[str, float]:
    """What is left for speed and jobs."""
    left = options.seconds - (time.monotonic() - began)
    parts = [part for part in SHARES if part in options.what]
    if "memory" in options.what and parts:
        left -= MEMORY_SECONDS
    return {part: max(5.0, left) * (SHARES[part] if len(parts) == 2 else 1.0) for part in parts}


def chosen(options: argparse.Namespace, ops: list[str]) -> list[Case]:
    """The cases of speed that were asked for."""
    small = tuple(options.size or (80, 96, 112))
    found = groups.quick(small) if options.quick or options.size else groups.everything()
    found = [case for case in found if case.op in ops and options.group in case.group]
    if not found:
        raise InputError(f"--group {options.group}: expected part of {', '.join(groups.GROUPS)}")
    return found


def print_exactness(record: Record, quick: bool) -> None:
    """Tables of fastreg's backends and of the peers."""
    print(f"{tables.machine_table(record, '')}\n\n## exactness: fastreg\n")
    print(tables.summary_table(record, "") if quick else tables.exactness_table(record, ""))
    print(f"\n## exactness: fastreg and its peers, float32\n\n{tables.peers_table(record, '')}")
    rows = record.of(Exactness)
    print(f"\n{sum(row.ok for row in rows)} of {len(rows)} rows as they should be. Tolerances:")
    print(tables.reasons(record, ""), end="\n\n")
