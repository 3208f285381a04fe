"""What a run leaves and tells: its files, rows of figures, CSV tables, TensorBoard, the log."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastreg.training.config import RunConfig, TrainConfig
from fastreg.training.options import as_json
from fastreg.utils.files import InputError, atomic, check_apart, check_free, read_json

LAST, MODEL, CONFIG = "last.safetensors", "model.safetensors", "config.json"


@dataclass(frozen=True)
class Step:
    """One row of metrics.csv."""

    step: int
    loss: float
    image: float
    smoothness: float
    """Or the KL divergence, with --uncertainty."""
    segmentation: float
    """Minus the soft Dice of the label maps; 0 without --seg-weight."""
    field: float
    """Mean distance from the known deformation, in voxels; 0 without --field-weight."""
    region: float
    """Cross-entropy of the region of interest, in nats; 0 without --region-weight."""
    inconsistency: float
    """Mean squared distance from the start, there and back, in voxels; 0 without --consistency."""
    lr: float
    seconds: float
    """Since the run began, pauses left out."""
    data_seconds: float
    """Of these, waiting for data."""


@dataclass(frozen=True)
class Validation:
    """One row of validation.csv; means over the validation pairs."""

    step: int
    image: float
    dice: float
    """Over all structures; NaN without label maps."""
    dice_before: float
    folds_percent: float
    """Voxels whose Jacobian determinant (central differences) is not positive."""
    corner_folds_percent: float
    """Voxels where one of those by one-sided differences is not."""
    ndv_percent: float
    """Non-diffeomorphic volume."""


TABLES: dict[str, type] = {"metrics.csv": Step, "validation.csv": Validation}
FILES = (LAST, MODEL, CONFIG, "curve.png", *TABLES)
"""What a run writes, apart from the cache and TensorBoard's files, whose names are nobody else's."""


class Log:
    """What a run tells while it runs; the command line draws it. Does nothing by itself."""

    def config(self, config: dict[str, Any]) -> None:
        """The resolved configuration."""

    def preparing(self, done: int, total: int) -> None:
        """Volumes decoded so far."""

    def started(self, first: int, last: int, subjects: int, validation: int) -> None:
        """First and last step, training subjects, validation pairs."""

    def step(self, step: Step) -> None:
        """A training step."""

    def validated(self, validation: Validation) -> None:
        """A validation."""


def check_folder(folder: Path) -> Path:
    """`folder`, which can be written, and is made if it is not there; InputError otherwise."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"output {folder}: expected a folder, got a {'link' if folder.is_symlink() else 'file'}")
    check_free(folder / LAST, overwrite=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def claim(config: TrainConfig) -> None:
    """Makes the output folder this run's; InputError if another run, or a file that is no run's, is there."""
    run = config.run
    if (run.output / LAST).exists() and not (run.resume or run.overwrite):
        raise InputError(f"output {run.output}: a run is there; use --resume to continue it, --overwrite to replace it")
    images = (config.data.images, config.data.val, config.data.unlabelled, config.data.pairs, config.model.load_model)
    check_apart(
        {name: run.output / name for name in FILES}, [("that is read,", Path(p)) for p in images if p is not None]
    )
    if run.overwrite and not run.resume:
        for name in FILES:
            (run.output / name).unlink(missing_ok=True)
    for name in () if run.overwrite else FILES:
        path = run.output / name
        if os.path.lexists(path) and not _ours(path, resumed=(run.output / LAST).is_file()):
            what = f"a link to {os.readlink(path)}" if path.is_symlink() else "not of a run"
            raise InputError(f"output {path} is there and {what}; use --overwrite to replace it")
    for rest in run.output.glob(".partial-*"):  # of a process that was killed: the folder is ours alone
        rest.unlink(missing_ok=True)
    with atomic(run.output / CONFIG) as partial:
        partial.write_text(json.dumps(as_json(config), indent=2) + "\n", encoding="utf-8")


def _ours(path: Path, resumed: bool) -> bool:
    """Whether a file was left by a run in this folder: one that is resumed, or one that ended before it was saved."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.name in TABLES:
        return path.read_bytes().startswith(_header(TABLES[path.name]))
    if path.name == CONFIG:
        try:
            return {"output", "steps", "lr", "seed", "log_every"} <= set(read_json(path, "config"))
        except (InputError, TypeError):
            return False
    return resumed


def _header(row: type) -> bytes:
    return ",".join(f.name for f in fields(row)).encode()


class Table:
    """A CSV that grows row by row; rows after `step`, of a run that was cut off, are dropped."""

    def __init__(self, path: Path, row: type, step: int) -> None:
        names = [f.name for f in fields(row)]
        kept = []
        if path.is_file() and step > 0:
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    kept = [line for line in csv.DictReader(file) if int(line["step"]) <= step]
            except (ValueError, TypeError, KeyError, csv.Error) as error:
                raise InputError(f"table {path}: expected a row of figures for each step, got others") from error
        self.last = int(kept[-1]["step"]) if kept else 0
        """Step of the last row; 0: none."""
        with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self.path = path
        self.file = path.open("a", newline="", buffering=1, encoding="utf-8")
        self.writer = csv.DictWriter(self.file, names)

    def add(self, row: Step | Validation) -> None:
        """One more row."""
        self.last = row.step
        try:
            self.writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
            )
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def open_board(run: RunConfig) -> Any:
    """TensorBoard's writer, or None where none is asked for."""
    if not run.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard is not installed: pip install 'fastreg[tensorboard]'") from error
    return SummaryWriter(str(run.output))
