"""The pairs that are registered. The data (FASTREG_DATA, or ../shared/data) are not part of the project."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

from bench import ROOT
from fastreg.evaluation.metrics import dice, labels_of, mean
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


def pairs_of(data: Path) -> list[Pair]:
    """The pair of the VoxelMorph papers' structures, and three pairs of different people."""

    def of(name: str, folder: str, fixed: str, moving: str, structures: str | None = None) -> Pair:
        where = data / folder
        t1, labels = ({who: where / f"{who}_{what}.nii.gz" for who in (fixed, moving)} for what in ("t1", "labels"))
        counted = where / structures if structures else None
        return Pair(name, t1[fixed], t1[moving], labels[fixed], labels[moving], counted)

    brains = (("1000", "1006"), ("1007", "1012"), ("1003", "1015"))
    return [
        of("pair b to a, 30 labels", "pair", "subject_a", "subject_b", "labels30.json"),
        *(of(f"brains {moving} to {fixed}, all labels", "brains", fixed, moving) for moving, fixed in brains),
    ]


def structures(pair: Pair) -> list[int]:
    """The labels that count."""
    if pair.structures:
        return json.loads(pair.structures.read_text())
    return sorted(
        set(labels_of(load_labels(pair.fixed_labels).data)) & set(labels_of(load_labels(pair.moving_labels).data))
    )


def before(pair: Pair) -> float:
    """Mean Dice of the images as they come."""
    fixed, moving = (load_labels(path).data for path in (pair.fixed_labels, pair.moving_labels))
    return mean(dice(fixed, moving, structures(pair)).values())


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option --data."""
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTREG_DATA", ROOT.parent / "shared" / "data"))


def check_data(folder: Path) -> None:
    """Ends the program if the data are not there."""
    if not folder.is_dir():
        raise SystemExit(f"--data {folder}: no such folder; FASTREG_DATA names it, too")
