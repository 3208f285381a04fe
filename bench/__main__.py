"""Benchmarks that prove speed and gradients: `python -m bench`, or a part of it.

    python -m bench                       everything, about twelve minutes, into bench/results/ and docs/
    python -m bench --quick               every op against everybody at 80x96x112: two minutes, printed, nothing kept
    python -m bench exactness             errors against float64, on easy and hard data; exit code 1 if a row fails
    python -m bench speed --only lncc     one op; --group growth: one question
    python -m bench memory jobs           several parts
    python -m bench report FILE.json      the pages and pictures anew, from a record and nothing else

Nothing is measured for an op and backend whose gradients fail in the same run. Peers come with pip install '.[bench]'
(FireANTs by hand: pip install --no-deps fireants); one that is absent is said to be absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from bench.schema import Exactness, Record, read
from fastreg.utils.files import InputError

PARTS = ("exactness", "speed", "memory", "jobs")
SHARES = {"speed": 0.62, "jobs": 0.38}
"""Of the seconds that exactness and memory leave."""
MEMORY_SECONDS = 110
"""About what memory takes at full size."""


def main() -> int:
    """Runs the parts; the exit code is 1 if a gradient failed or an input is at fault, 2 for usage."""
    options = parsed()
    try:
        if options.what[0] == "report":
            return report(Path(options.what[1]))
        return run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all of them), or: report FILE")
    parser.add_argument("--seconds", type=float, default=720, help="for everything, about (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="every op against everybody at half the size")
    parser.add_argument("--size", type=int, nargs=3, metavar=("D", "H", "W"), help="of every case, in voxels")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--group", default="", help="speed: groups whose name contains this")
    parser.add_argument("--threads", type=int, help="as many as there are cores, if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-triton", action="store_true", help="leave out Triton's interpreter, which takes a minute")
    parser.add_argument("--json", type=Path, help="write the record here (all parts: bench/results/MACHINE-DATE.json)")
    parser.add_argument("--no-report", action="store_true", help="leave docs/ as it is")
    options = parser.parse_args()
    if options.what[:1] == ["report"]:
        if len(options.what) != 2:
            parser.error("report takes one FILE")
    elif unknown := [part for part in options.what if part not in PARTS]:
        parser.error(f"PART must be some of {', '.join(PARTS)}, or report FILE; got {unknown[0]}")
    if options.seconds <= 0:
        parser.error(f"--seconds must be more than 0, got {options.seconds:g}")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.size and min(options.size) < 24:
        parser.error(f"--size must be at least 24 along every axis, got {min(options.size)}")
    options.what = options.what or list(PARTS)
    return options


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes."""
    from bench import exactness, machine, speed
    from bench import report as pages

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is visible")
    warnings.simplefilter("ignore")
    threads = options.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    began = time.monotonic()
    whole = options.what == list(PARTS) and not (options.quick or options.only or options.group or options.size)
    record = Record(machine=machine.machine(options.device))
    path = options.json or (ROOT / "bench/results" / f"{machine.name()}-{record.machine.date}.json" if whole else None)

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {line}", file=sys.stderr, flush=True)

    # Also where only speed was asked for: no speed without gradients.
    ops = [op for op in exactness.DATA if options.only in op]
    if not ops:
        raise InputError(f"--only {options.only}: expected part of {', '.join(exactness.DATA)}")
    to_time = chosen(options, ops) if "speed" in options.what else []
    asked = "exactness" in options.what
    torch.set_num_threads(1)  # small arrays; the bits do not depend on it
    rows = exactness.everything(
        options.device, ops, with_peers=asked, triton=asked and not options.no_triton and not options.quick, tell=tell
    )
    torch.set_num_threads(threads)
    refused = exactness.refused(rows)
    if asked:
        record.rows += rows
        print_exactness(record, pages, options.quick)
    failed = exactness.failures(rows)
    for row in failed:
        print(f"FAILS: {row.backend}: {exactness.describe(row)}")

    def keep() -> None:
        if path is not None:
            record.write(path)  # after every case: an interrupted run keeps its figures

    keep()
    left = options.seconds - (time.monotonic() - began)
    parts = [part for part in ("speed", "jobs") if part in options.what]
    if "memory" in options.what and parts:
        left -= MEMORY_SECONDS
    shares = {part: max(5.0, left) * (SHARES[part] if len(parts) == 2 else 1.0) for part in parts}
    if "speed" in options.what:
        for row in speed.run(to_time, shares["speed"], refused, options.device, tell):
            record.rows.append(row)
            keep()
    if "memory" in options.what:
        from bench import memory

        size = tuple(options.size or ((80, 96, 112) if options.quick else memory.FULL))
        cases = [case for case in memory.cases(size) if case.op in ops]
        record.rows += [row for row in memory.run(cases, options.device, tell) if (row.op, row.backend) not in refused]
        keep()
    if "jobs" in options.what:
        from bench import jobs

        size = tuple(options.size or ((48, 48, 48) if options.quick else jobs.SIZE))
        if any(backend == speed.ours_here(torch.empty(0, device=options.device)) for _, backend in refused):
            print("jobs: left out, for a gradient fails")
        else:
            record.rows += jobs.run(shares["jobs"], size, device=options.device, tell=tell)
        keep()
    print(pages.overview(record))
    if path is not None:
        print(f"\nwritten: {path}")
    if whole and not options.no_report and not failed:
        print("\n".join(f"written: {one}" for one in pages.write(record)))
    return 1 if failed else 0


def chosen(options: argparse.Namespace, ops: list[str]) -> list[Any]:
    """The cases of speed that were asked for."""
    from bench import cases

    found = cases.quick(tuple(options.size or (80, 96, 112))) if options.quick or options.size else cases.everything()
    found = [case for case in found if case.op in ops and options.group in case.group]
    if not found:
        raise InputError(f"--group {options.group}: expected part of {', '.join(cases.GROUPS)}")
    return found


def print_exactness(record: Record, pages: Any, quick: bool) -> None:
    """Tables of fastreg's backends and of the peers."""
    print(f"{pages.machine_table(record, '')}\n\n## exactness: fastreg\n")
    print(pages.summary_table(record, "") if quick else pages.exactness_table(record, ""))
    print(f"\n## exactness: fastreg and its peers, float32\n\n{pages.peers_table(record, '')}")
    rows = record.of(Exactness)
    print(f"\n{sum(row.ok for row in rows)} of {len(rows)} rows as they should be. Tolerances:")
    print(pages.reasons(record, ""), end="\n\n")


def report(path: Path) -> int:
    """The pages and pictures of a record."""
    from bench import report as pages

    for written in pages.write(read(path)):
        print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
