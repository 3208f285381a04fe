"""What a run leaves and tells: its files, rows of figures, CSV tables, TensorBoard, the log."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastreg.training.config import RunConfig, TrainConfig
from fastreg.training.options import as_json
from fastreg.utils.files import InputError

LAST, MODEL = "last.safetensors", "model.safetensors"


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


def claim(config: TrainConfig) -> None:
    """Makes the output folder this run's; InputError if another run is there."""
    run = config.run
    taken = run.output / LAST
    if run.output.exists() and not run.output.is_dir():
        raise InputError(f"output {run.output}: expected a folder, got a file")
    if taken.exists() and not (run.resume or run.overwrite):
        raise InputError(f"output {run.output}: a run is there; use --resume to continue it, --overwrite to replace it")
    if run.overwrite and not run.resume:
        for name in (LAST, MODEL, "metrics.csv", "validation.csv"):
            (run.output / name).unlink(missing_ok=True)
    run.output.mkdir(parents=True, exist_ok=True)
    (run.output / "config.json").write_text(json.dumps(as_json(config), indent=2) + "\n")


class Table:
    """A CSV that grows row by row; rows after `step`, of a run that was cut off, are dropped."""

    def __init__(self, path: Path, row: type, step: int) -> None:
        names = [f.name for f in fields(row)]
        kept = []
        if path.is_file() and step > 0:
            with path.open(newline="") as file:
                kept = [line for line in csv.DictReader(file) if int(line["step"]) <= step]
        self.file = path.open("w", newline="", buffering=1)
        self.writer = csv.DictWriter(self.file, names)
        self.writer.writeheader()
        self.writer.writerows(kept)

    def add(self, row: Step | Validation) -> None:
        """One more row."""
        self.writer.writerow(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
        )


def open_board(run: RunConfig) -> Any:
    """TensorBoard's writer, or None where none is asked for."""
    if not run.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard is not installed: pip install 'fastreg[tensorboard]'") from error
    return SummaryWriter(str(run.output))
