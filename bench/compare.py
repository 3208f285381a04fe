"""fastreg and its peers in one interleaved run: `python bench/compare.py`, options with --help.

Rounds go over all rivals in turn, so that a machine that drifts drifts for all; what counts is the ratio of medians.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from cases import FULL, Case, cases
from peers import Absent

import fastreg
from fastreg.backends import native


def measure(case: Case, seconds: float, least: int) -> dict[str, Any]:
    """Medians and 20th and 80th percentiles in ms; rivals that are much slower take part in fewer rounds."""
    thunks, absent = {}, {}
    for rival in case.rivals:
        try:
            thunks[rival] = case.make(rival)
            thunks[rival]()  # warm up
        except Absent as reason:
            absent[rival] = str(reason)
    times: dict[str, list[float]] = {rival: [] for rival in thunks}
    began = time.perf_counter()
    while len(times["fastreg"]) < least or time.perf_counter() - began < seconds:
        for rival, thunk in thunks.items():
            repeats = 1 if rival != "fastreg" else 3
            for _ in range(repeats):
                start = time.perf_counter()
                thunk()
                times[rival].append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - began > 4 * seconds and len(times["fastreg"]) >= 3:
            break
    figures = {}
    for rival, values in times.items():
        cuts = statistics.quantiles(values, n=5) if len(values) > 1 else values * 4
        figures[rival] = {"median": statistics.median(values), "p20": cuts[0], "p80": cuts[3], "runs": len(values)}
    return {"case": case.name, "ms": figures, "absent": absent}


def machine() -> dict[str, Any]:
    """Where this was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    described = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line.split(":")[1].strip() for line in described if "model name" in line), platform.processor())
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "instructions": native.isa(),
        "torch": torch.__version__,
        "fastreg": fastreg.__version__,
        "system": platform.platform(),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table that people read."""
    lines = ["| case | rival | ms, median (p20 to p80) | fastreg is faster by |", "| --- | --- | --- | --- |"]
    for row in result["rows"]:
        ours = row["ms"]["fastreg"]["median"]
        for rival, f in row["ms"].items():
            ratio = "" if rival == "fastreg" else f"{f['median'] / ours:.1f}x"
            lines.append(
                f"| {row['case']} | {rival} | {f['median']:.1f} ({f['p20']:.1f} to {f['p80']:.1f}) | {ratio} |"
            )
        lines += [f"| {row['case']} | {rival} | absent: {why} | |" for rival, why in row["absent"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=FULL)
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=8, help="for each case, about")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case in cases(tuple(options.size), options.window):
        if options.only in case.name:
            rows.append(measure(case, options.seconds, least=9))
            print(json.dumps(rows[-1]), flush=True)
    result = {"machine": machine(), "size": list(options.size), "window": options.window, "rows": rows}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
