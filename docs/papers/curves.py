"""Validation Dice against minutes of training, of several runs of `fastreg train` in one picture and one table.

python docs/papers/curves.py pyramid=run_a vm1=run_b -o curves.png
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from fastreg.cli.output import err, print_table
from fastreg.utils.files import InputError, atomic


def curve(run: Path) -> list[tuple[float, int, float, float]]:
    """Minutes, step, Dice and folds (%) of every validation of a run."""
    try:
        with (run / "metrics.csv").open(newline="") as file:
            seconds = {int(row["step"]): float(row["seconds"]) for row in csv.DictReader(file)}
        with (run / "validation.csv").open(newline="") as file:
            rows = [(int(row["step"]), float(row["dice"]), float(row["folds_percent"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"run {run}: expected metrics.csv and validation.csv of a training run ({error})") from error
    before = sorted(seconds)
    return [(seconds[max(s for s in before if s <= step)] / 60, step, dice, folds) for step, dice, folds in rows]


def main() -> None:
    """Prints the table and draws the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", nargs="+", help="name=folder")
    options.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="the picture")
    given = options.parse_args()
    runs = {}
    for word in given.runs:
        name, _, folder = word.partition("=")
        if not folder:
            raise InputError(f"runs: expected name=folder, got {word}")
        runs[name] = curve(Path(folder))
    rows = [
        [name, f"{minutes:.1f}", str(step), f"{dice:.3f}", f"{folds:.3f}"]
        for name, points in runs.items()
        for minutes, step, dice, folds in points
    ]
    print_table(["run", "minutes", "step", "Dice", "folds, %"], rows)

    from matplotlib.figure import Figure

    figure = Figure((6.0, 3.4))
    axes = figure.add_subplot()
    for name, points in runs.items():
        axes.plot([point[0] for point in points], [point[2] for point in points], marker=".", label=name)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("validation Dice")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    with atomic(given.output) as partial:
        figure.savefig(partial, dpi=130)
    err.print(f"plot {given.output}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"curves: {error}")
