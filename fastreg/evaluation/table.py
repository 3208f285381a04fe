"""Figures of many pairs as rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastreg.evaluation import metrics
from fastreg.evaluation.scoring import Figures
from fastreg.utils.files import atomic


def flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures in one row, single ones first: `dice_3` is label 3's Dice, `tre_mm_mean` the landmarks' mean."""
    row = {name: value for name, value in figures.items() if not isinstance(value, Mapping)}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            row |= {f"{name}_{key}": figure for key, figure in value.items()}
    return row


def average(rows: Iterable[Mapping[str, Any]]) -> Figures:
    """Mean of every figure over the pairs that have it; NaN is left out. Counts of folds become means too."""
    collected: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            collected.setdefault(name, []).append(value)
    return {
        name: average(values) if isinstance(values[0], Mapping) else metrics.mean(values)
        for name, values in collected.items()
    }


def save_csv(rows: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """One row for each pair, one column for each figure of `flat`; what a pair lacks stays empty."""
    table = [{"name": name, **flat(figures)} for name, figures in rows.items()]
    single = [name for figures in rows.values() for name, value in figures.items() if not isinstance(value, Mapping)]
    columns = list(dict.fromkeys(["name", *single, *(column for row in table for column in row)]))
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in table)
