"""Registration of many pairs: outputs in a folder each, a table of all, shared among processes, resumable.

FOLDER/NAME/ holds what a pair gives; its record, pair.json, is written last, so a pair with a record is whole. The
table is made of the records alone: whoever finishes a pair writes it anew, and no two processes write one record.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from fastreg.cohorts import PairFiles
from fastreg.evaluation import evaluate
from fastreg.files import InputError, atomic
from fastreg.images import load_labels, save_image
from fastreg.registration import Registered, register
from fastreg.transforms import save_affine, save_warp
from fastreg.transforms.points import load_points, save_text

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
    "seconds", "error",
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
    told: Callable[[Row, bool], None] = lambda row, fresh: None,
) -> list[Row]:
    """Registers the pairs of this part that are not done yet.

    Args:
        pairs: All pairs; those of part (k, n) are every n-th from the k-th on.
        batch: What to do with them.
        part: This process' part, counted from 0, and of how many.
        told: Called after every pair with its row, and whether it was registered now.

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
        told(row, fresh)
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
    told = path.stat() if path.exists() else None
    return f"{path.absolute()}, {told.st_size} bytes, {told.st_mtime_ns}" if told else str(path.absolute())


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
        figures, log = _register_one(pair, batch, folder)
        row |= figures
    except (InputError, RuntimeError, ValueError, OSError, MemoryError) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        row["error"] = " ".join(f"{kind}{error}".split())
    with atomic(folder / RECORD) as partial:
        partial.write_text(json.dumps({"asked": _asked(pair, batch), "row": row, "log": log}, indent=1) + "\n")
    return row


def _register_one(pair: PairFiles, batch: Batch, folder: Path) -> tuple[Row, dict[str, Any]]:
    labels = None if pair.moving_labels is None else load_labels(pair.moving_labels, what="moving labels")
    points = None if pair.points_fixed is None else load_points(pair.points_fixed)
    if pair.fixed_labels is not None:
        load_labels(pair.fixed_labels, what="fixed labels")  # before, not after, the work
    if pair.points_moving is not None:
        load_points(pair.points_moving)
    found = register(
        pair.fixed,
        pair.moving,
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        inverse="inverse-warp" in batch.saved,
        **batch.options,
    )
    figures = score(found, pair, batch.points_space)
    save(found, {what: folder / SAVED[what] for what in batch.saved})
    if labels is not None:
        save_image(folder / MOVED_LABELS, found.apply(labels))
    if points is not None:
        save_text(folder / POINTS, found.map_points(points, batch.points_space))
    return figures, found.log


def save(found: Registered, paths: Mapping[str, Path | None]) -> None:
    """Writes what `SAVED` names, each where it is wanted."""
    writers: dict[str, Callable[[Path], None]] = {
        "moved": found.save_moved,
        "warp": found.save_warp,
        "inverse-warp": lambda path: None if found.inverse_warp is None else save_warp(path, found.inverse_warp),
        "affine": lambda path: save_affine(path, found.affine),
    }
    for what, path in paths.items():
        if path is not None:
            writers[what](path)


def score(found: Registered, pair: PairFiles, points_space: str = "ras") -> Row:
    """The figures of one registration: folds, SDlogJ, seconds; mean Dice and TRE where labels and points are given."""
    given: dict[str, Any] = {"warp": found.warp, "fixed": found.fixed, "moving": found.moving}
    if pair.fixed_labels is not None and pair.moving_labels is not None:
        given |= {"fixed_labels": pair.fixed_labels, "moving_labels": pair.moving_labels}
    if pair.points_fixed is not None and pair.points_moving is not None:
        given |= {"points_fixed": pair.points_fixed, "points_moving": pair.points_moving}
    figures = {} if min(found.fixed.shape) < 2 else evaluate(hd95=False, points_space=points_space, **given)
    row: Row = {"seconds": round(sum(value for key, value in found.log.items() if key.endswith("_seconds")), 3)}
    for name, key in (
        ("dice_before", "dice_before_mean"), ("dice", "dice_mean"), ("folds", "folds_central"),
        ("folds_of", "folds_central_of"), ("sdlogj", "sdlogj"),
    ):  # fmt: skip
        if key in figures:
            row[name] = None if figures[key] != figures[key] else figures[key]
    for name in ("tre_mm_before", "tre_mm"):
        if name in figures:
            row[name] = figures[name]["mean"]
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


def pick_part(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process' part of the work, counted from 0, and how many there are.

    Args:
        text: "2/8", counted from 1; None: what torchrun (RANK, WORLD_SIZE) and a job array of Slurm
            (SLURM_ARRAY_TASK_ID, _MIN, _STEP, _COUNT) say, one within the other if there are both.

    Raises:
        InputError: no such part.
    """
    if text is not None:
        words = text.split("/")
        if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
            raise InputError(f"part: expected a part and how many there are, such as 2/8, got {text!r}")
        part, count = int(words[0]) - 1, int(words[1])
        if not 0 <= part < count:
            raise InputError(f"part: expected 1/{count} to {count}/{count}, got {text}")
        return part, count
    part, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        task, least, step, count = (
            int(environment.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("ID", "0"), ("MIN", "0"), ("STEP", "1"), ("COUNT", "1"))
        )
        part, odd = divmod(task - least, max(1, step))
        if odd or not 0 <= part < count:
            raise InputError(f"job array: its tasks are not evenly numbered (task {task} of {count}); give --part")
    rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    return part * world + rank, count * world


def pick_local_device(name: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The device of this process under torchrun: a GPU of its own, if none was named."""
    if name is None and "LOCAL_RANK" in environment and torch.cuda.is_available():
        return f"cuda:{int(environment['LOCAL_RANK']) % torch.cuda.device_count()}"
    return name
