"""What the studies of this folder share: train each arm, register the test pairs with it, print and plot the figures.

A study is a script beside this file. It names its arms and its question; nothing here knows which paper it is about.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreg.cli.output import err, print_table
from fastreg.cli.train_bar import TrainBar
from fastreg.data.cohorts import Cohort, Subject
from fastreg.evaluation.scoring import evaluate
from fastreg.registration.pairwise import register
from fastreg.training.config import TrainConfig
from fastreg.training.trainer import fit
from fastreg.utils.files import InputError, atomic

COLUMNS = ("study", "arm", "x", "pair", "dice_before", "dice", "folds", "voxels", "seconds")


@dataclass(frozen=True)
class Arm:
    """One row of a study's table: how to train, and how to register with the network."""

    study: str
    name: str
    config: TrainConfig
    refine: int = 0
    """Iterations of optimisation after the network."""
    x: float | None = None
    """Where it stands on the horizontal axis of the study's plot; None: it has none."""


def parser(about: str | None, output: str) -> argparse.ArgumentParser:
    """The options that every study has."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("-o", "--output", type=Path, default=Path(output), help="folder of runs, table and plots")
    options.add_argument("--steps", type=int, default=100_000, help="training steps of an arm, at most")
    options.add_argument("--minutes", type=float, default=30.0, help="training time of an arm, at most")
    options.add_argument("--device", help="cpu, cuda ...; a GPU if there is one")
    options.add_argument("--threads", type=int, help="threads of the computation; one for each core if not given")
    options.add_argument("--seed", type=int, default=0, help="chance of weights and pairs")
    options.add_argument("--dry-run", action="store_true", help="print the arms and the expected duration only")
    return options


def subset(cohort: Cohort, ids: Sequence[str]) -> tuple[Subject, ...]:
    """The subjects of these ids, in this order; InputError if one is missing."""
    known = {subject.id: subject for subject in cohort.subjects}
    missing = [key for key in ids if key not in known]
    if missing:
        raise InputError(f"id {missing[0]!r}: not in the cohort of {', '.join(known)}")
    return tuple(known[key] for key in ids)


def write_list(path: Path, subjects: Sequence[Subject]) -> str:
    """A CSV of the subjects that `fastreg train --images` takes; returns its path."""
    rows = [(s.image.resolve(), s.label.resolve() if s.label else "", s.id) for s in subjects]
    with atomic(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "id"), *rows])
    return str(path)


def run(
    arms: Sequence[Arm],
    pairs: Sequence[tuple[Subject, Subject]],
    options: argparse.Namespace,
    structures: Sequence[int] | None = None,
) -> list[dict[str, str]]:
    """Trains what is not trained yet, registers the pairs (moving, fixed), writes table.csv; returns its rows.

    A run that was stopped goes on where it was. Arms of equal training share their network.
    """
    trainings = list(dict.fromkeys(arm.config.run.output for arm in arms))
    err.print(
        f"{len(arms)} arms, {len(trainings)} networks of at most {options.minutes:g} minutes: "
        f"about {len(trainings) * options.minutes / 60:.1f} hours, and {len(arms) * len(pairs)} registrations"
    )
    for arm in arms:
        err.print(f"  {arm.study}: {arm.name}")
    if options.dry_run:
        return []
    rows: list[dict[str, str]] = []
    for arm in arms:
        model = _train(arm)
        for moving, fixed in pairs:
            found = register(fixed.image, moving.image, model=model, refine=arm.refine or None, device=options.device)
            figures = evaluate(
                fixed_labels=fixed.label, moving_labels=moving.label, warp=found.warp, labels=structures, hd95=False
            )
            seconds = found.seconds
            values = (
                arm.study, arm.name, "" if arm.x is None else arm.x, f"{moving.id} to {fixed.id}",
                figures["dice_before_mean"], figures["dice_mean"], figures["folds_central"],
                figures["folds_central_of"], seconds,
            )  # fmt: skip
            rows.append({name: str(value) for name, value in zip(COLUMNS, values, strict=True)})
        _write(rows, options.output / "table.csv")
    _print(rows)
    return rows


def _write(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Of the arms that are done, so that a study which is stopped leaves what it found."""
    with atomic(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _train(arm: Arm) -> Path:
    done = arm.config.run.output / "done"
    if not done.is_file():
        with TrainBar(quiet=True) as bar:
            fit(arm.config.changed(resume=True), bar)
        done.write_text("trained to the end of its steps or minutes\n")
    return arm.config.run.output / "model.safetensors"


def mean_sd(rows: Sequence[dict[str, str]], column: str) -> tuple[float, float]:
    """Over the rows; the deviation of one row is NaN."""
    values = [float(row[column]) for row in rows]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def _arms(rows: Sequence[dict[str, str]]) -> dict[tuple[str, str], list[dict[str, str]]]:
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault((row["study"], row["arm"]), []).append(row)
    return found


def _print(rows: Sequence[dict[str, str]]) -> None:
    table = []
    for (study, name), mine in _arms(rows).items():
        (before, _), (dice, sd), (seconds, _) = (mean_sd(mine, c) for c in ("dice_before", "dice", "seconds"))
        count, total = (sum(int(row[c]) for row in mine) for c in ("folds", "voxels"))
        folds = f"{count} of {total} ({100 * count / total:.3g} %)"
        table.append([study, name, f"{before:.3f}", f"{dice:.3f} ± {sd:.3f}", folds, f"{seconds:.2f}"])
    print_table(
        ["study", "arm", "Dice before", "Dice, mean ± sd", "folds, central differences", "s a pair"], table,
        title=f"over {len({row['pair'] for row in rows})} pairs that no training saw",
    )  # fmt: skip


def plot(rows: Sequence[dict[str, str]], study: str, path: Path, x: str) -> None:
    """Dice of one study's arms: a line against their x where they have one, otherwise a bar each."""
    from matplotlib.figure import Figure

    mine = {name: group for (of, name), group in _arms(rows).items() if of == study}
    figure = Figure((6.0, 3.4))
    axes = figure.add_subplot()
    values = [mean_sd(group, "dice") for group in mine.values()]
    places = [float(group[0]["x"]) if group[0]["x"] else math.nan for group in mine.values()]
    before = mean_sd(next(iter(mine.values())), "dice_before")[0]
    if all(math.isfinite(place) for place in places):
        axes.errorbar(places, [v for v, _ in values], [sd for _, sd in values], marker="o", capsize=3)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xlabel(x)
    else:
        axes.bar(list(mine), [v for v, _ in values], yerr=[sd for _, sd in values], capsize=3, color="C0", width=0.6)
        low = min([before, *(v for v, _ in values)])
        axes.set_ylim(max(0.0, low - 0.05), None)
        axes.tick_params(axis="x", labelsize=8, rotation=15)
    axes.axhline(before, color="0.5", ls=":", label="before registration")
    axes.set_ylabel("mean Dice")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=130)
    err.print(f"plot {path}")
