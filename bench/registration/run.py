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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.machine import facts as machine
from bench.peers.programs import KIND_METHODS, METHODS, PROGRAMS, QUICK, Method
from bench.registration import kinds
from bench.registration.measure import job_of, judged, measured
from bench.registration.pairs import Pair, add_data, before, check_data, pairs_of
from bench.registration.report import markdown, pictures
from fastreg.utils.files import atomic

Result = dict[str, Any]
Judge = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A pair of either part of the record."""

    name: str
    about: dict[str, str]
    """What else its rows say."""
    ready: Callable[[], AbstractContextManager[tuple[dict[str, Any], Judge, Callable[[], dict[str, float]]]]]
    """What a runner is told, how its files are judged, and the figures before."""


def brain(pair: Pair) -> Case:
    """A pair of brains."""

    @contextmanager
    def ready() -> Iterator[tuple[dict[str, Any], Judge, Callable[[], dict[str, float]]]]:
        yield job_of(pair), lambda out: judged(pair, out), lambda: before(pair)

    return Case(pair.name, {}, ready)


def kind(folder: Path, row: dict[str, str]) -> Case:
    """A pair of any kind."""

    @contextmanager
    def ready() -> Iterator[tuple[dict[str, Any], Judge, Callable[[], dict[str, float]]]]:
        with kinds.prepared(folder, row) as pair:
            yield pair.job, pair.judged, pair.before

    return Case(kinds.case_of(row), {"kind": row["kind"]}, ready)


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, list[Method], list[Case]]]:
    """The parts of the record that are asked for, each with its methods and cases."""
    if options.quick:
        yield "brains", [method for method in METHODS if method.name in QUICK], [brain(pairs_of(options.data)[0])]
        return
    names = list(dict.fromkeys(method.name for method in (*METHODS, *KIND_METHODS)))
    if unknown := set(options.methods) - set(names):
        raise SystemExit(f"--methods: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")

    def wanted(methods: tuple[Method, ...]) -> list[Method]:
        return [m for m in methods if (m.name in options.methods if options.methods else options.all or not m.slow)]

    folder = options.data / "any"
    parts: dict[str, tuple[tuple[Method, ...], list[Case]]] = {}
    if "brains" in options.parts:
        parts["brains"] = METHODS, [brain(pair) for pair in pairs_of(options.data)]
    if "kinds" in options.parts and folder.is_dir():
        parts["kinds"] = KIND_METHODS, [kind(folder, row) for row in kinds.kinds_of(folder)]
    for part, (methods, cases) in parts.items():
        yield part, wanted(methods), [case for case in cases if any(word in case.name for word in options.cases)]


def is_kept(row: dict[str, Any], method: Method, commit: str, minutes: float) -> bool:
    """Whether a row of an earlier run still holds: a peer's does while its version and options are the same.

    fastreg's own holds for its commit alone. What was absent is tried again, unless it ran out of as many minutes.
    """
    if row["options"] != json.loads(json.dumps(method.options)):
        return False
    if "absent" in row:
        return bool(row["absent"] == f"not done after {minutes:g} min")
    pins = dict(package.split("==") for package in PROGRAMS[method.peer].packages if "==" in package)
    if not pins:
        return bool(row["commit"] == commit)
    return all(row["versions"].get(package, version) == version for package, version in pins.items())


def earlier(path: Path, here: Result) -> Result:
    """The results that are there, if they are of this machine and of as many threads; else none."""
    empty = {"machine": here, "brains": {"before": {}, "rows": []}, "kinds": {"before": {}, "rows": []}}
    if not path.is_file():
        return empty
    there = json.loads(path.read_text())
    if "brains" not in there or any(there["machine"][key] != here[key] for key in ("device", "cores", "threads")):
        return empty
    for part, methods in (("brains", METHODS), ("kinds", KIND_METHODS)):
        says = {method.name: {"what": method.what, "line": method.line} for method in methods}
        for row in there[part]["rows"]:
            row |= says.get(row["method"], {})  # words may change without a new measurement
    return {**there, "machine": here}


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is asked for, prints the tables, writes the JSON and beside it the tables and the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench registration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help="brains, kinds (of any image); both if none is named")
    parser.add_argument("--quick", action="store_true", help="fastreg and ANTs SyN on the first case")
    parser.add_argument("--all", action="store_true", help="the methods that take many minutes, too")
    parser.add_argument("--methods", nargs="+", default=[], help="; ".join(f"'{m.name}': {m.what}" for m in METHODS))
    parser.add_argument("--cases", nargs="+", default=[""], help="cases whose name contains one of these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=100, help="a registration that takes longer is given up")
    parser.add_argument("--times", type=int, default=3, help="how often one that is done within 30 s is run")
    add_data(parser)
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "register.json", help="the results")
    parser.add_argument(
        "--resume", action="store_true", help="keep the JSON's rows: fastreg's of this commit, a peer's of its version"
    )
    parser.add_argument("--plot", type=Path, metavar="JSON", help="measure nothing, draw this result anew")
    options = parser.parse_args(words)
    if options.plot:
        report(json.loads(options.plot.read_text()), options.plot)
        return
    options.parts = options.parts or ["brains", "kinds"]
    if unknown := set(options.parts) - {"brains", "kinds"}:
        raise SystemExit(f"expected brains or kinds, got {', '.join(sorted(unknown))}")
    check_data(options.data)
    here = {**machine(), "threads": options.threads, "cores": os.cpu_count()}
    result = earlier(options.json if options.resume else Path(), here)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for part, methods, cases in chosen(options):
        for method in methods:  # the methods one after the other: after each there is something to compare
            for case in cases:
                measure(result[part], method, case, here["commit"], options)
                with atomic(options.json) as partial:  # after each: hours of work
                    partial.write_text(json.dumps(result, indent=1) + "\n")
    report(result, options.json)


def measure(part: Result, method: Method, case: Case, commit: str, options: argparse.Namespace) -> None:
    """Brings the row of a method and a case up to date."""
    rows = part["rows"]
    about = {"case": case.name, **case.about, "method": method.name, "what": method.what, "line": method.line}
    there = next((row for row in rows if (row["case"], row["method"]) == (case.name, method.name)), None)
    if there is not None and case.name in part["before"] and is_kept(there, method, commit, options.minutes):
        return
    with case.ready() as (job, judge, start):
        if case.name not in part["before"]:
            part["before"][case.name] = {**case.about, **start()}
        row = measured(method, job, judge, options.threads, options.minutes, options.times)
    row = {**about, **row, "commit": commit}
    print(json.dumps(row), file=sys.stderr, flush=True)
    rows[:] = [other for other in rows if other is not there] + [row]


def report(result: Result, path: Path) -> None:
    """The tables, printed and beside the JSON, and the pictures beside them."""
    tables = markdown(result)
    print(tables)
    path.with_suffix(".md").write_text(tables + "\n")
    pictures(result, path.with_suffix(".png"))
