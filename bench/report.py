"""Pages and pictures from a record, and from nothing else.

A page says where a table belongs: `<!-- bench: speed warp -->` ... `<!-- bench end -->`. What stands between is
replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import ROOT
from bench.groups import GROUPS
from bench.schema import Job, Memory, Record, Speed, read
from bench.tables import (
    OPS,
    exactness_table,
    grid_table,
    jobs_table,
    machine_table,
    memory_table,
    peers_table,
    reasons,
    size_of,
    speed_table,
    summary_table,
)
from fastreg.utils.files import InputError, atomic

PAGES = (
    "docs/benchmarks.md",
    "docs/ops/warp.md",
    "docs/ops/lncc.md",
    "docs/ops/integrate.md",
    "docs/ops/smoothness.md",
    "docs/ops/mind.md",
    "docs/ops/correlate.md",
)
MARK = re.compile(r"(<!-- bench: ([a-z ]+?) ?-->\n).*?(<!-- bench end -->)", re.DOTALL)
SECTIONS: dict[str, Callable[[Record, str], str]] = {
    "machine": machine_table,
    "speed": lambda record, op: speed_table(record, op, "all threads"),
    "one thread": lambda record, op: speed_table(record, op, "one thread"),
    "cost volume": lambda record, op: speed_table(record, op, "correlate"),
    "growth": lambda record, op: grid_table(record, op, "growth", size_of, "cubes"),
    "windows": lambda record, op: grid_table(record, op, "windows", lambda row: row.option, "96^3"),
    "batches": lambda record, op: grid_table(
        record, op, "batch and channels", lambda row: f"{row.size[0]}x{row.size[1]}", "batch x channels of 96^3"
    ),
    "dtypes": lambda record, op: grid_table(record, op, "dtypes", lambda row: row.dtype, "96^3"),
    "instruction sets": lambda record, op: speed_table(record, op, "instruction sets"),
    "memory": memory_table,
    "jobs": jobs_table,
    "exactness": exactness_table,
    "exactness summary": summary_table,
    "exactness peers": peers_table,
    "reasons": reasons,
}


def section(record: Record, name: str) -> str:
    """The table that a mark asks for: a name of SECTIONS, and an op if it is for one alone."""
    for op in OPS:
        if name.endswith(f" {op}"):
            return SECTIONS[name.removesuffix(f" {op}")](record, op)
    return SECTIONS[name](record, "")


def filled(text: str, record: Record, page: str = "") -> str:
    """A page with its tables made anew."""

    def made(found: re.Match[str]) -> str:
        try:
            return f"{found[1]}\n{section(record, found[2])}\n\n{found[3]}"
        except KeyError as error:
            names = ", ".join(SECTIONS)
            raise InputError(
                f"{page}: the mark 'bench: {found[2]}' must be one of {names}, and an op or not"
            ) from error

    return MARK.sub(made, text)


def write(record: Record, root: Path = ROOT) -> list[Path]:
    """All pages and pictures below `root`; the paths."""
    from bench import report_plots

    written = []
    for name in PAGES:
        page = root / name
        text = filled(page.read_text(), record, name)
        with atomic(page) as partial:
            partial.write_text(text)
        written.append(page)
    return written + report_plots.draw(record, root / "docs" / "img")


def overview(record: Record) -> str:
    """What a run prints at its end."""
    parts = []
    for group, question in GROUPS.items():
        if record.of(Speed, group=group) and group != "ci":
            made = {"growth": "growth", "windows": "windows", "batch and channels": "batches", "dtypes": "dtypes"}
            shown = section(record, made[group]) if group in made else speed_table(record, "", group)
            parts.append(f"## {group}: {question}\n\n{shown}")
    if record.of(Memory):
        parts.append(f"## memory\n\n{memory_table(record, '')}")
    if record.of(Job):
        parts.append(f"## jobs\n\n{jobs_table(record, '')}")
    return "\n\n".join(parts)


def main(words: Sequence[str] | None = None) -> None:
    """The pages and pictures of a record."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a record of `python -m bench`")
    for written in write(read(parser.parse_args(words).file)):
        print(f"written: {written}")
