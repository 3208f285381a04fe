"""Registration of many pairs: outputs in a folder each, a table of all, shared among processes, resumable.

FOLDER/NAME/ holds what a pair gives. Its record, pair.json, says before the work which files will be written, and after
it how it went and the SHA-256 of every file: a pair with a row in its record is whole, and of the files in the folder
those that a record claims are fastreg's. Any other is the user's and stays. The table is made of the records alone:
whoever finishes a pair writes it anew, and no two processes write one record.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastreg.data.pairs import PairFiles
from fastreg.io.points import ENDINGS, points_ending
from fastreg.registration.files import UNLABELLED, Outputs, register_files
from fastreg.utils.files import InputError, atomic, check_apart, check_free, digest, read_text
from fastreg.utils.locks import locked
from fastreg.utils.stop import Stopped

SAVED = {
    "moved": "moved.nii.gz",
    "warp": "warp.nii.gz",
    "inverse-warp": "inverse_warp.nii.gz",
    "affine": "affine.mat",
}
"""What can be kept of a pair, and its file's name. Labels and points that are given are always carried along."""
MOVED_LABELS = "moved_labels.nii.gz"
POINTS = tuple(f"points{ending}" for ending in ENDINGS)
"""Points are written in the format that they came in."""
OUTPUTS = (*SAVED.values(), MOVED_LABELS, *POINTS)
RECORD = "pair.json"
TABLE = "results.csv"
_COLUMNS = (
    "name", "moving", "fixed", "dice_before", "dice", "hd95_mm_before", "hd95_mm", "folds", "folds_of", "corner_folds",
    "ndv_percent", "sdlogj", "learn2reg_sdlogj", "tre_mm_before", "tre_mm", "seconds", "suspect", "error", *UNLABELLED,
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """What is done with every pair."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `fastreg.register`, `model` loaded or not, and the `interpolation` of moved images."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What the user asked for, in JSON's terms: a record made with something else is not taken for this run's."""
    saved: Sequence[str] = ("moved", "warp")
    """Of `SAVED`."""
    points_space: str = "ras"
    overwrite: bool = False
    """Register again what is there."""
    read: Sequence[tuple[str, Path]] = ()
    """What else is read, the list itself for one, and what the user calls it: no output may be one of these files."""


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
        InputError: a folder that cannot be written, holds a pair made with other options or files that are not
            fastreg's, or is another process' at the moment.
    """
    unknown = [what for what in batch.saved if what not in SAVED]
    if unknown or not batch.saved:
        raise InputError(f"save: expected some of {', '.join(SAVED)}, got {unknown[0] if unknown else 'none'}")
    _check_names(pairs, batch.folder)
    with locked(batch.folder, part):
        return _run(pairs, batch, part, on_progress)


def _run(
    pairs: Sequence[PairFiles], batch: Batch, part: tuple[int, int], on_progress: Callable[[Row, bool], None]
) -> list[Row]:
    mine = pairs[part[0] :: part[1]]
    _check_table(batch)
    outputs = {f"{pair.name}/{path.name}": path for pair in mine for path in _outputs(pair, batch).paths()}
    given = [(role, path) for pair in pairs for role, path in vars(pair).items() if isinstance(path, Path)]
    check_apart({TABLE: batch.folder / TABLE, **outputs}, [*batch.read, *given])
    there = {pair.name: _finished(pair, batch) for pair in mine}  # before hours of work are spent
    for pair in mine:
        if there[pair.name] is None:
            _check_folder(pair, batch)
    rows: list[Row] = []
    try:
        for pair in mine:
            row = there[pair.name]
            fresh = row is None
            if row is None:
                row = _registered(pair, batch)
            rows.append(row)
            if fresh:
                write_table(pairs, batch.folder)
            on_progress(row, fresh)
    except Stopped as error:
        said = f"{len(rows)} of {len(mine)} pairs are done; the same command goes on"
        raise Stopped(error.number, said) from error
    write_table(pairs, batch.folder)
    return rows


def _check_names(pairs: Sequence[PairFiles], folder: Path) -> None:
    """InputError where two pairs would share a folder: on some file systems names that differ in case do, and links."""
    seen: dict[str, str] = {}
    for pair in pairs:
        for place in (unicodedata.normalize("NFC", pair.name).casefold(), os.path.realpath(folder / pair.name)):
            if seen.setdefault(place, pair.name) != pair.name:
                raise InputError(f"pairs: {seen[place]!r} and {pair.name!r} would be one folder; name them apart")


def _check_table(batch: Batch) -> None:
    """InputError where results.csv is not one that this module wrote."""
    table = batch.folder / TABLE
    if batch.overwrite or not os.path.lexists(table):
        check_free(table, overwrite=True)
    elif table.is_symlink() or not read_text(table, "output").startswith(",".join(_COLUMNS[: -len(UNLABELLED)])):
        raise InputError(f"output {table} exists and is no table of fastreg register; use --overwrite to replace it")


def _check_folder(pair: PairFiles, batch: Batch) -> None:
    """InputError unless the outputs of a pair can be written without a loss."""
    folder = batch.folder / pair.name
    if folder.is_symlink():
        raise InputError(f"output {folder} is a link to {os.readlink(folder)}, expected a folder of the pair's own")
    if (folder / RECORD).is_symlink():
        check_free(folder / RECORD, batch.overwrite)
    ours = _ours(folder)
    for path in _outputs(pair, batch).paths():
        check_free(path, overwrite=batch.overwrite or path.name in ours)


def _ours(folder: Path) -> set[str]:
    """Names of the files in a pair's folder that an earlier run wrote, or was about to, and nobody changed since."""
    try:
        record = read_record(folder) or {}
    except InputError:  # not ours, and the caller has said so unless it may be overwritten
        return set()
    written = record.get("written")
    if not isinstance(written, dict):
        return set()
    files = {name: folder / name for name in written if name in OUTPUTS}
    there = {name: path for name, path in files.items() if path.is_file() and not path.is_symlink()}
    return {name for name, path in there.items() if written[name] in (None, digest(path))}


def _finished(pair: PairFiles, batch: Batch) -> Row | None:
    """The row of a pair that is done; None if it is to be registered."""
    record = None if batch.overwrite else read_record(batch.folder / pair.name)
    if record is None or record["row"] is None or record["row"].get("error"):
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


def read_record(folder: Path) -> dict[str, Any] | None:
    """What pair.json in a pair's folder says; None where there is none, InputError where it is broken."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("row", 0), dict | None):
            raise ValueError("no row in it")
        return record
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"record {folder / RECORD}: expected one that fastreg register wrote ({error})") from error


def fingerprint(path: Path) -> str:
    """What tells a file from another, and from itself after it was written anew."""
    stat = path.stat() if path.exists() else None
    return f"{path.absolute()}, {stat.st_size} bytes, {stat.st_mtime_ns}" if stat else str(path.absolute())


def _outputs(pair: PairFiles, batch: Batch) -> Outputs:
    folder = batch.folder / pair.name
    kept: dict[str, Any] = {what.replace("-", "_"): folder / SAVED[what] for what in batch.saved}
    return Outputs(
        **kept,
        moved_labels=None if pair.moving_labels is None else folder / MOVED_LABELS,
        points=None if pair.points_fixed is None else folder / _points_name(pair.points_fixed),
    )


def _points_name(given: Path) -> str:
    name = f"points{points_ending(given)}"
    return name if name in POINTS else POINTS[0]


def _registered(pair: PairFiles, batch: Batch) -> Row:
    """Registers, writes, and records how it went, well or badly."""
    folder = batch.folder / pair.name
    outputs = _outputs(pair, batch)
    ours = _ours(folder)
    wanted = {path.name for path in outputs.paths()}
    _write_record(pair, batch, None, dict.fromkeys([*sorted(wanted), *sorted(ours - wanted)]))
    for name in ours | wanted:  # of an earlier run with other options, or one that failed
        (folder / name).unlink(missing_ok=True)
    for rest in folder.glob(".partial-*"):  # of a process that was killed
        rest.unlink(missing_ok=True)
    row: Row = {"name": pair.name, "moving": str(pair.moving), "fixed": str(pair.fixed)}
    log: dict[str, Any] = {}
    try:
        found, figures = register_files(pair, outputs, points_space=batch.points_space, **batch.options)
        row |= figures
        log = found.log
    except (InputError, RuntimeError, ValueError, OSError, MemoryError) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        row["error"] = " ".join(f"{kind}{error}".split())
    written = {path.name: digest(path) for path in outputs.paths() if path.is_file()}
    _write_record(pair, batch, row, written, log)
    return row


def _write_record(
    pair: PairFiles,
    batch: Batch,
    row: Row | None,
    written: Mapping[str, str | None],
    log: Mapping[str, Any] | None = None,
) -> None:
    """`row` is None while the pair is worked on; `written` has the SHA-256 of each file, None before it is there."""
    record = {"asked": _asked(pair, batch), "row": row, "written": dict(written), "log": dict(log or {})}
    with atomic(batch.folder / pair.name / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_table(pairs: Sequence[PairFiles], folder: Path) -> Path:
    """One row for every pair that has a record, whichever process made it; FOLDER/results.csv.

    Processes may finish at the same time: the records are read once more after the table was written, and a table that
    lacks one of them is written again. So the last one written has them all.
    """
    table = folder / TABLE
    rows = _rows(pairs, folder)
    while True:
        with (
            atomic(table) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        again = _rows(pairs, folder)
        if again == rows:
            return table
        rows = again


def _rows(pairs: Sequence[PairFiles], folder: Path) -> list[Row]:
    records = [read_record(folder / pair.name) for pair in pairs]
    return [record["row"] for record in records if record is not None and record["row"] is not None]
