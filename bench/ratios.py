"""Has an op become slower? Ratios to what torch alone can do, now and as committed; milliseconds are never compared."""

from __future__ import annotations

from pathlib import Path

from bench import ROOT, speed
from bench.groups import ci
from bench.implementations import is_ours
from bench.machine import processor
from bench.schema import Record, Speed, read
from fastreg.utils.files import InputError

RESULTS = ROOT / "bench" / "results"
LEAST = 0.5
"""Of the committed ratio."""

Ratios = dict[tuple[str, str, str], float]
"""(op, work, backend of fastreg) -> the peer's median over fastreg's."""


def of(rows: list[Speed]) -> Ratios:
    """The ratios in rows of the group "ci", each with its one peer."""
    timed = [row for row in rows if row.group == "ci" and row.median is not None]
    peers = {(row.op, row.work): row for row in timed if not is_ours(row.backend)}
    return {
        (row.op, row.work, row.backend): peers[row.op, row.work].median / row.median
        for row in timed
        if is_ours(row.backend) and (row.op, row.work) in peers
    }


def measured(seconds: float, only: set[tuple[str, str]] | None = None) -> Ratios:
    """The ratios now, of all cases or of some (op, work)."""
    cases = [case for case in ci() if only is None or (case.op, case.work) in only]
    return of(list(speed.run(cases, seconds, refused={})))


def committed(folder: Path = RESULTS, device: str | None = None) -> tuple[Ratios, str]:
    """The ratios of the newest record, if there are several of the newest of this processor; and its name."""
    records: list[tuple[bool, str, Path, Record]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = read(path)
        except InputError:
            continue  # of another benchmark
        if record.of(Speed, group="ci"):
            records.append((record.machine.device == (device or processor()), record.machine.date, path, record))
    if not records:
        return {}, ""
    *_, path, record = max(records, key=lambda one: one[:2])
    return of(record.of(Speed, group="ci")), path.name


def fallen(now: Ratios, before: Ratios) -> dict[tuple[str, str], str]:
    """(op, work) -> in words, for every ratio that is less than half of what it was."""
    return {
        key[:2]: f"{key[0]}, {key[1]}, {key[2]}: {now[key]:.1f} times as fast as torch, committed {before[key]:.1f}"
        for key in now
        if key in before and now[key] < LEAST * before[key]
    }


def check(before: Ratios, seconds: float = 15) -> list[str]:
    """What fell, three times in a row: a machine may be busy with something else for a while."""
    down = fallen(measured(seconds), before)
    for _ in range(2):
        if not down:
            break
        down = fallen(measured(seconds, set(down)), before)
    return list(down.values())
