"""Registration of many pairs: outputs in a folder each, a table of all, shared among processes, resumable.

FOLDER/NAME/ holds what a pair gives; its record, pair.json, is written last, so a pair with a record is whole. The
table is made of the records alone: whoever finishes a pair writes it anew, and no two processes write one record.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastreg.data.pairs import PairFiles
from fastreg.registration.files import Outputs, register_files
from fastreg.utils.files import InputError, atomic

SAVED = {
    "moved": "moved.nii.gz",
    "warp": "warp.nii.gz",
    "inverse-warp": "inverse_warp.nii.gz",
    "affine": "affine.mat",
}
"""What can be kept of a pair, and its file's name. Labels and points that are given are always carried along."""
MOVED_LABELS, POINTS = "moved_labels.nii.gz", "points.csv"
RECORD = "pair.json"
TABLE = "results.csv"
_COLUMNS = (
    "name", "moving", "fixed", "dice_before", "dice", "folds", "folds_of", "sdlogj", "tre_mm_before", "tre_mm",
    "seconds", "suspect", "error",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """What is done with every pair."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `fastreg.register`, `model` loaded or not."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What the user asked for, in JSON's terms: a record made with something else is not taken for this run's."""
    saved: Sequence[str] = ("moved", "warp")
    """Of `SAVED`."""
    points_space: str = "ras"
    overwrite: bool = False
    """Register again what is there."""


def run(
    pairs: Sequence[PairFiles],
    batch: Batch,
    part: tuple[int, int] = (0, 1),
    on_progress: Callable[[Row, bool], None] = lambda row, fresh: None,
) -> list[Row]:
    """Registers the pairs of this part that are not done yet.

    Args:
        pairs: All pairs; those of part (k, n) are every n-th from the k-th on.
        batch: What to do with them.
        part: This process' part, counted from 0, and of how many.
        on_progress: Called after every pair with its row, and whether it was registered now.

    Returns:
        The rows of this part. A pair that failed has the text of its error and is tried again by the next run.

    Raises:
        InputError: a folder that cannot be written, or holds a pair made with other options.
    """
    unknown = [what for what in batch.saved if what not in SAVED]
    if unknown:
        raise InputError(f"save: expected some of {', '.join(SAVED)}, got {unknown[0]}")
    mine = pairs[part[0] :: part[1]]
    there = {pair.name: _finished(pair, batch) for pair in mine}  # before hours of work are spent
    rows = []
    for pair in mine:
        row = there[pair.name]
        fresh = row is None
        if row is None:
            row = _registered(pair, batch)
        rows.append(row)
        if fresh:
            write_table(pairs, batch.folder)
        on_progress(row, fresh)
    write_table(pairs, batch.folder)
    return rows


def _finished(pair: PairFiles, batch: Batch) -> Row | None:
    """The row of a pair that is done; None if it is to be registered."""
    record = None if batch.overwrite else _read_record(batch.folder / pair.name)
    if record is None or record["row"].get("error"):
        return None
    if record.get("asked") != _asked(pair, batch):
        raise InputError(f"output {batch.folder / pair.name} was made with other options or files; use --overwrite")
    return dict(record["row"])


def _asked(pair: PairFiles, batch: Batch) -> dict[str, Any]:
    files = {f.name: getattr(pair, f.name) for f in fields(pair)}
    asked = {
        "files": {role: str(path.absolute()) for role, path in files.items() if isinstance(path, Path)},
        "saved": sorted(batch.saved),
        "points_space": batch.points_space,
        "options": dict(batch.recorded),
    }
    return dict(json.loads(json.dumps(asked)))


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text())
        if not isinstance(record, dict) or not isinstance(record.get("row"), dict):
            raise ValueError("no row in it")
        return record
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"record {folder / RECORD}: expected one that fastreg register wrote ({error})") from error


def fingerprint(path: Path) -> str:
    """What tells a file from another, and from itself after it was written anew."""
    stat = path.stat() if path.exists() else None
    return f"{path.absolute()}, {stat.st_size} bytes, {stat.st_mtime_ns}" if stat else str(path.absolute())


def _outputs(pair: PairFiles, batch: Batch) -> Outputs:
    folder = batch.folder / pair.name
    return Outputs(
        **{what.replace("-", "_"): folder / SAVED[what] for what in batch.saved},
        moved_labels=None if pair.moving_labels is None else folder / MOVED_LABELS,
        points=None if pair.points_fixed is None else folder / POINTS,
    )


def _registered(pair: PairFiles, batch: Batch) -> Row:
    """Registers, writes, and records how it went, well or badly."""
    folder = batch.folder / pair.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    for name in (*SAVED.values(), MOVED_LABELS, POINTS):  # of an earlier run with other options, or one that failed
        (folder / name).unlink(missing_ok=True)
    for rest in folder.glob(".partial-*"):  # of a process that was killed
        rest.unlink(missing_ok=True)
    row: Row = {"name": pair.name, "moving": str(pair.moving), "fixed": str(pair.fixed)}
    log: dict[str, Any] = {}
    try:
        found, figures = register_files(pair, _outputs(pair, batch), points_space=batch.points_space, **batch.options)
        row |= figures
        log = found.log
    except (InputError, RuntimeError, ValueError, OSError, MemoryError) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        row["error"] = " ".join(f"{kind}{error}".split())
    with atomic(folder / RECORD) as partial:
        partial.write_text(json.dumps({"asked": _asked(pair, batch), "row": row, "log": log}, indent=1) + "\n")
    return row


def write_table(pairs: Sequence[PairFiles], folder: Path) -> Path:
    """One row for every pair that has a record, whichever process made it; FOLDER/results.csv.

    Processes may finish at the same time: the records are read once more after the table was written, and a table that
    lacks one of them is written again. So the last one written has them all.
    """
    table = folder / TABLE
    rows = _rows(pairs, folder)
    while True:
        with atomic(table) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        again = _rows(pairs, folder)
        if again == rows:
            return table
        rows = again


def _rows(pairs: Sequence[PairFiles], folder: Path) -> list[Row]:
    records = [_read_record(folder / pair.name) for pair in pairs]
    return [record["row"] for record in records if record is not None]
