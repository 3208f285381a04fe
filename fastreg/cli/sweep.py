"""`fastreg sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fastreg.training.config import TrainConfig

if TYPE_CHECKING:
    from fastreg.training.record import Log

TABLE, PICTURE = "sweep.csv", "sweep.png"
COLUMNS = (
    "lambda", "dice", "dice_before", "folds_percent", "corner_folds_percent", "ndv_percent", "image", "step", "seconds",
)  # fmt: skip


@Parameter(name="*")
@dataclass(kw_only=True)
class Sweep:
    """Train a network for each weight of the smoothness, and plot validation Dice against the weight.

    Example: `fastreg sweep --lambdas 0,0.5,1,1.5,2 --images 'scans/*_t1.nii.gz' --labels 'scans/*_seg.nii.gz' --val
    101,102 --spacing 4 --model vm1 --steps 2000 -o sweep`

    All options of `fastreg train` apply to every run. Writes a folder `lambda_X` for each run, sweep.csv and sweep.png
    into --output. --resume continues a sweep; --estimate tells beforehand how long all of it will take.
    """

    config: Annotated[TrainConfig, Parameter(name="*")]
    lambdas: str = "0,0.1,0.5,1,1.5,2,4"
    """The weights, separated by commas."""
    estimate: bool = False
    """Only time a few steps, and print how long the whole sweep would take."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> None:
        """Trains, and writes the table and the picture after every run."""
        from fastreg.cli.output import err, out, print_json, print_table
        from fastreg.cli.train_bar import TrainBar
        from fastreg.training.record import check_folder
        from fastreg.training.setup import validation_pairs
        from fastreg.training.trainer import fit
        from fastreg.utils.files import InputError
        from fastreg.utils.locks import locked

        run = self.config.run
        weights = _weights(self.lambdas)
        if self.config.loss.lambda_ is not None:
            raise InputError("--lambda is what is swept; give --lambdas")
        if self.config.data.val is None or not run.val_every:
            raise InputError("sweep: compares by validation; give --val, and --val-every above 0")
        config = self.config.changed(cache=run.cache or run.output / "cache")
        if not any(moving.label and fixed.label for moving, fixed in validation_pairs(config)):
            raise InputError("sweep: compares the Dice of label maps; --val has no pair with them (needs --labels)")
        if self.estimate:
            seconds = _seconds_of_a_step(config.changed(lambda_=weights[0]))
            hours = seconds * run.steps * len(weights) / 3600
            if run.minutes is not None:
                hours = min(hours, run.minutes / 60 * len(weights))
            figures = {"runs": len(weights), "steps": run.steps, "seconds_a_step": seconds, "hours": hours}
            if self.json:
                print_json(figures)
            else:
                out.print(
                    f"{len(weights)} runs of {run.steps} steps, {seconds:.3g} s a step: {hours:.3g} hours, "
                    "validations apart"
                )
            return
        rows = []
        with locked(check_folder(run.output)):
            _check_outputs(run.output, run.overwrite)
            for weight in weights:
                err.print(f"lambda {weight:g}")
                folder = run.output / f"lambda_{weight:g}"
                bar: Log
                with TrainBar(quiet=self.json) as bar:
                    fit(config.changed(lambda_=weight, output=folder), bar)
                rows.append(_result(folder, weight))
                _write(rows, run.output)
        if self.json:
            print_json(rows)
            return
        shown = ("lambda", "dice before", "Dice", "folds, %", "NDV, %", "step")
        print_table(
            shown,
            [
                [f"{r['lambda']:g}", f"{r['dice_before']:.3f}", f"{r['dice']:.3f}", f"{r['folds_percent']:.3f}",
                 f"{r['ndv_percent']:.3g}", f"{r['step']:.0f}"]
                for r in rows
            ],
        )  # fmt: skip
        out.print(f"table {run.output / TABLE}{_pictured(run.output)}", soft_wrap=True)


def _check_outputs(folder: Path, overwrite: bool) -> None:
    """InputError where the table or the picture there is no sweep's; a picture without its table is none."""
    from fastreg.utils.files import check_free, read_text

    table = folder / TABLE
    ours = table.is_file() and not table.is_symlink() and read_text(table, "output").startswith(",".join(COLUMNS))
    check_free(table, overwrite or ours)
    picture = folder / PICTURE
    check_free(picture, overwrite or (ours and not picture.is_symlink()))


def _weights(text: str) -> list[float]:
    from fastreg.utils.files import InputError

    try:
        found = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError as error:
        raise InputError(f"lambdas: expected numbers separated by commas, got {text}") from error
    if not found or not all(0 <= weight < float("inf") for weight in found):
        raise InputError(f"lambdas: expected numbers of at least 0, got {text or 'none'}")
    return found


def _seconds_of_a_step(config: TrainConfig, steps: int = 12) -> float:
    """Timed on the run itself, in a folder that is thrown away; the first steps, which warm up, do not count."""
    import csv
    import tempfile

    from fastreg.training.trainer import fit

    with tempfile.TemporaryDirectory() as folder:
        fit(config.changed(output=Path(folder), steps=steps, minutes=None, val_every=0, save_every=0, log_every=1,
                    resume=False, overwrite=False, tensorboard=False))  # fmt: skip
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    warm = len(seconds) // 3
    return (seconds[-1] - seconds[warm]) / (len(seconds) - 1 - warm)


def _result(folder: Path, weight: float) -> dict[str, float]:
    """The last validation of a run."""
    import csv

    with (folder / "validation.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    with (folder / "metrics.csv").open(newline="") as file:
        seconds = list(csv.DictReader(file))[-1]["seconds"]
    return {"lambda": weight, "seconds": float(seconds)} | {
        name: float(last[name]) for name in COLUMNS if name not in ("lambda", "seconds")
    }


def _write(rows: list[dict[str, float]], folder: Path) -> None:
    import csv
    import importlib.util

    from fastreg.utils.files import atomic

    with atomic(folder / TABLE) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    if importlib.util.find_spec("matplotlib"):
        from fastreg.plots.training import sweep_curve

        sweep_curve(rows, folder / PICTURE)


def _pictured(folder: Path) -> str:
    return f", picture {folder / PICTURE}" if (folder / PICTURE).is_file() else ""
