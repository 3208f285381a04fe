"""The pairs that are registered. The data (FASTREG_DATA, or ../shared/data) are not part of the project."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import ROOT
from fastreg.evaluation.metrics import dice, hd95, labels_of, mean
from fastreg.io.images import load_labels


@dataclass(frozen=True)
class Pair:
    """Two people's images on one grid, and their labels."""

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    structures: Path | None = None
    """A JSON list of the labels that count; those in both maps if None."""


RECORD = "pair b to a, 30 labels"
RING = ("1008", "1009", "1010", "1011", "1013", "1014", "1017", "1018", "1019", "1036")
"""Ten people of whom nothing was ever chosen: each is once the moving and once the fixed image."""
SEEN = (("1000", "1006"), ("1007", "1012"), ("1003", "1015"))
"""Moving, fixed: settings of fastreg were chosen on these, too."""


def pairs_of(data: Path) -> list[Pair]:
    """The pair of the VoxelMorph papers' structures, the ten unseen ones, and those that settings were chosen on."""

    def of(name: str, folder: str, fixed: str, moving: str, structures: str | None = None) -> Pair:
        where = data / folder
        t1, labels = ({who: where / f"{who}_{what}.nii.gz" for who in (fixed, moving)} for what in ("t1", "labels"))
        counted = where / structures if structures else None
        return Pair(name, t1[fixed], t1[moving], labels[fixed], labels[moving], counted)

    brains = [*zip(RING, RING[1:] + RING[:1], strict=True), *SEEN]
    return [
        of(RECORD, "pair", "subject_a", "subject_b", "labels30.json"),
        *(of(brain_case(moving, fixed), "brains", fixed, moving) for moving, fixed in brains),
    ]


def brain_case(moving: str, fixed: str) -> str:
    """What a pair of brains is called."""
    return f"brains {moving} to {fixed}, all labels"


UNSEEN = tuple(brain_case(*pair) for pair in zip(RING, RING[1:] + RING[:1], strict=True))
"""The cases whose means are reported."""


def structures(pair: Pair) -> list[int]:
    """The labels that count."""
    if pair.structures:
        return json.loads(pair.structures.read_text())
    return sorted(
        set(labels_of(load_labels(pair.fixed_labels).data)) & set(labels_of(load_labels(pair.moving_labels).data))
    )


def before(pair: Pair) -> dict[str, float]:
    """Mean Dice and HD95 of the images as they come."""
    fixed = load_labels(pair.fixed_labels)
    return overlap(fixed.data, load_labels(pair.moving_labels).data, fixed.spacing_mm, structures(pair))


def overlap(fixed: np.ndarray, moved: np.ndarray, spacing_mm: Sequence[float], labels: list[int]) -> dict[str, float]:
    """Mean Dice and HD95 over the structures."""
    return {
        "dice": mean(dice(fixed, moved, labels).values()),
        "hd95": mean(hd95(fixed, moved, spacing_mm, labels).values()),
    }


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option --data."""
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTREG_DATA", ROOT.parent / "shared" / "data"))


def check_data(folder: Path) -> None:
    """Ends the program if the data are not there."""
    if not folder.is_dir():
        raise SystemExit(f"--data {folder}: no such folder; FASTREG_DATA names it, too")
