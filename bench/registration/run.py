"""Pairwise registration against its peers.

Every method runs alone, in a process of its own, with the same number of threads; peers live in environments of their
own under .peers/, made when first needed. What they leave behind (moved labels, transforms) is judged here, by the
same functions for all. The data (FASTREG_DATA, or ../shared/data) are not part of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.machine import facts as machine
from bench.peers.programs import METHODS, QUICK, Method
from bench.registration.measure import measured
from bench.registration.pairs import Pair, add_data, before, check_data, pairs_of
from bench.registration.report import markdown, scatter


def chosen(options: argparse.Namespace) -> tuple[list[Method], list[Pair]]:
    """The methods and pairs asked for."""
    where = pairs_of(options.data)
    if options.quick:
        return [method for method in METHODS if method.name in QUICK], where[:1]
    names = [method.name for method in METHODS]
    if unknown := set(options.methods) - set(names):
        raise SystemExit(f"--methods: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    methods = [m for m in METHODS if (m.name in options.methods if options.methods else options.all or not m.slow)]
    return methods, [pair for pair in where if options.cases in pair.name]


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is asked for, prints the table, writes the JSON and beside it the table and the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m bench registration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fastreg and ANTs SyN on the first case")
    parser.add_argument("--all", action="store_true", help="the methods that take many minutes, too")
    parser.add_argument("--methods", nargs="+", default=[], help="; ".join(f"'{m.name}': {m.what}" for m in METHODS))
    parser.add_argument("--cases", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=100, help="a registration that takes longer is given up")
    add_data(parser)
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "register.json", help="the results")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON has from this commit")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="measure nothing, draw this result anew")
    options = parser.parse_args(words)
    if options.plot:
        report(json.loads(options.plot.read_text()), options.plot)
        return
    check_data(options.data)
    here = {**machine(), "threads": options.threads, "cores": os.cpu_count()}
    result: dict[str, Any] = {"machine": here, "commit": here.pop("commit"), "versions": {}, "before": {}, "rows": []}
    if options.resume and options.json.is_file():
        earlier = json.loads(options.json.read_text())
        if earlier["commit"] == result["commit"] and earlier["machine"]["threads"] == options.threads:
            result = earlier
    options.json.parent.mkdir(parents=True, exist_ok=True)
    methods, where = chosen(options)
    for pair in where:
        result["before"][pair.name] = before(pair)
        for method in methods:
            if any((row["case"], row["method"]) == (pair.name, method.name) for row in result["rows"]):
                continue
            row = measured(method, pair, options.threads, options.minutes)
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
