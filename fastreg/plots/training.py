"""Curves of a training run and of a sweep."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastreg.evaluation.metrics import mean
from fastreg.plots.canvas import Grid, new_figure, save_figure, tidy
from fastreg.utils.files import InputError, check_exists


def loss_curve(metrics_csv: str | Path, path: str | Path, *, validation_csv: str | Path | None = None) -> None:
    """Loss, and validation Dice where there is any, against the step.

    Args:
        metrics_csv: With a header: `step`, columns with "loss" in their name, perhaps columns with "dice" in theirs.
            Empty cells are skipped.
        path: The picture.
        validation_csv: More such columns, at other steps; validation.csv beside `metrics_csv` if None and it is there.

    Raises:
        InputError: no such file, no step, no loss, or a cell that is no number.
    """
    curves = _curves(check_exists(metrics_csv, "metrics"))
    beside = Path(metrics_csv).with_name("validation.csv")
    if validation_csv is not None or beside.is_file():
        curves = _curves(check_exists(validation_csv or beside, "metrics")) | curves
    losses = {name: points for name, points in curves.items() if "loss" in name.lower()}
    overlaps = {name: points for name, points in curves.items() if "dice" in name.lower()}
    if not losses:
        raise InputError(f"metrics {metrics_csv}: expected figures in a column with loss in its name, got none")
    figure = new_figure((6.4, 3.6), "white")
    axes = figure.add_subplot()
    for k, (name, (steps, values)) in enumerate(losses.items()):
        axes.plot(steps, values, color=f"C{2 * k}", lw=1, label=name, alpha=0.35 if len(values) > 50 else 1)
        if len(values) > 50:
            smooth = _running_mean(values, len(values) // 25)
            axes.plot(steps, smooth, color=f"C{2 * k}", lw=1.6)
    tidy(axes, "step", "loss")
    if overlaps:
        right = axes.twinx()
        for k, (name, (steps, values)) in enumerate(overlaps.items()):
            style = {"ls": ":", "lw": 1.2} if "before" in name else {"marker": "o", "ms": 3.5, "lw": 1.6}
            right.plot(steps, values, color="C1", label=name.replace("_", " "), alpha=0.8**k, **style)
        right.set_ylabel("Dice", color="C1")
        right.tick_params(colors="C1", labelsize=8)
        for side in ("top", "left", "bottom"):
            right.spines[side].set_visible(False)
        right.spines["right"].set_color("C1")
    figure.legend(loc="upper center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    save_figure(figure, path)


def _running_mean(values: Grid, half: int) -> Grid:
    """Mean of the values at most `half` away, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = (index - half).clip(0), (index + half + 1).clip(max=len(values))
    return (total[high] - total[low]) / (high - low)


def _curves(path: Path) -> dict[str, tuple[Grid, Grid]]:
    """Column -> its steps and values."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ()):
            raise InputError(f"metrics {path}: expected a column step, got {', '.join(reader.fieldnames or ())}")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in reader.fieldnames or () if name != "step"}
        for row in reader:
            for name, points in found.items():
                if not row[name] or not ("loss" in name.lower() or "dice" in name.lower()):
                    continue
                try:
                    points.append((float(row["step"]), float(row[name])))
                except ValueError as error:
                    raise InputError(f"metrics {path}, line {reader.line_num}: {error}") from error
    columns = {name: np.array(points).reshape(-1, 2) for name, points in found.items()}
    return {name: (points[:, 0], points[:, 1]) for name, points in columns.items() if np.isfinite(points[:, 1]).any()}


def sweep_curve(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Validation Dice, and the share of folds, against the weight of the smoothness.

    Args:
        rows: With `lambda`, `dice`, `dice_before` and `folds_percent`.
        path: The picture.
    """
    weights, figure = [row["lambda"] for row in rows], new_figure((6.0, 3.6), "white")
    axes = figure.add_subplot()
    axes.axhline(mean(row["dice_before"] for row in rows), color="#9aa0a6", ls=":", label="Dice before")
    axes.plot(weights, [row["dice"] for row in rows], "o-", color="#1a73e8", ms=5, label="Dice")
    best = max(rows, key=lambda row: row["dice"] if not math.isnan(row["dice"]) else -1)
    axes.annotate(
        f"{best['dice']:.3f} at {best['lambda']:g}", (best["lambda"], best["dice"]), (0, 7),
        textcoords="offset points", ha="center", fontsize=8, color="#1a73e8",
    )  # fmt: skip
    axes.margins(y=0.15)
    tidy(axes, "weight of the smoothness, λ", "Dice")
    right = axes.twinx()
    right.plot(weights, [row["folds_percent"] for row in rows], "s--", color="#e8710a", ms=4, lw=1, label="folds")
    right.set_ylabel("voxels that fold, %", color="#e8710a")
    right.tick_params(colors="#e8710a", labelsize=8)
    right.set_ylim(bottom=0)
    right.spines["top"].set_visible(False)
    figure.legend(loc="upper center", ncols=3, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    save_figure(figure, path)
