"""Pairs of images and what belongs to them, from the lists that `register`, `train` and `evaluate` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from fastreg.data.cohorts import Cohort, Subject
from fastreg.data.lists import Row, find_file, read_rows, stem
from fastreg.utils.files import InputError


@dataclass(frozen=True)
class PairFiles:
    """Two images to register, and what else is known of them."""

    name: str
    """Unlike those of the other pairs; a folder can be called so."""
    moving: Path
    fixed: Path
    moving_labels: Path | None = None
    fixed_labels: Path | None = None
    moving_mask: Path | None = None
    fixed_mask: Path | None = None
    points_fixed: Path | None = None
    """Points of the fixed image, of any kind that `fastreg.io.points` reads."""
    points_moving: Path | None = None
    """The same points in the moving image."""


_ROLES = tuple(field.name for field in fields(PairFiles) if field.name != "name")


def read_pair_files(path: Path) -> tuple[PairFiles, ...]:
    """The pairs to register of a list: .csv with a header, or `moving fixed [moving_labels fixed_labels]` on lines.

    A CSV file's columns are the fields of `PairFiles`, in any order. Files are relative to the list's folder, or as
    they are named. A pair without a name is called MOVING_to_FIXED after its files, with their folders' names where
    those alone would not tell the pairs apart. Whether the files are there is not asked here.

    Raises:
        InputError: no such list, no pairs in it, a column or line that is not understood, two pairs of one name.
    """
    rows = read_rows(path, "pairs", (*_ROLES, "name"), required=("moving", "fixed"), positional=(2, 4))
    files = [{role: find_file(path, word) for role, word in row.cells.items() if role != "name"} for row in rows]
    names = _pair_names([(file["moving"], file["fixed"]) for file in files])
    pairs = {}
    for row, file, default in zip(rows, files, names, strict=True):
        name = row.cells.get("name", default)
        if name in pairs:
            raise InputError(f"pairs {path}: two pairs are called {name!r}; a column `name` tells them apart")
        for whole, half in (("moving_labels", "fixed_labels"), ("points_fixed", "points_moving")):
            if half in file and whole not in file:
                raise InputError(f"pairs {path}, {name}: expected {whole} beside {half}, got none")
        if "/" in name or "\\" in name or name.startswith(".") or name == "results.csv":
            raise InputError(f"pairs {path}: expected a name that a folder can have, got {name!r}")
        pairs[name] = PairFiles(name, **file)
    return tuple(pairs.values())


def _pair_names(pairs: list[tuple[Path, Path]]) -> list[str]:
    plain = [f"{stem(moving)}_to_{stem(fixed)}" for moving, fixed in pairs]
    stems = {stem(path): path for pair in pairs for path in pair}
    if all(stems[stem(path)] == path for pair in pairs for path in pair):
        return plain
    return ["_to_".join(f"{path.absolute().parent.name}-{stem(path)}" for path in pair) for pair in pairs]


def read_scored_files(path: Path, roles: Sequence[str]) -> dict[str, dict[str, Path]]:
    """The files of registrations to score: a .csv whose columns are some of `roles`, and `name`.

    Returns:
        Name -> role -> file; pairs without a name are numbered from 1.

    Raises:
        InputError: as `read_pair_files`.
    """
    pairs: dict[str, dict[str, Path]] = {}
    for number, row in enumerate(read_rows(path, "pairs", (*roles, "name")), 1):
        name = row.cells.get("name", str(number))
        if name in pairs:
            raise InputError(f"pairs {path}: two pairs are called {name!r}")
        pairs[name] = {role: find_file(path, word) for role, word in row.cells.items() if role != "name"}
    return pairs


def read_subject_pairs(path: Path, cohort: Cohort) -> tuple[tuple[Subject, Subject], ...]:
    """The (moving, fixed) pairs to train on, of a text file or CSV; words are ids of the cohort or paths of images."""
    known = {s.id: s for s in cohort.subjects} | {str(s.image): s for s in cohort.subjects}

    def subject(word: str, row: Row) -> Subject:
        found = known.get(word) or known.get(str(find_file(path, word)))
        if found is None:
            raise InputError(f"pairs {path}, line {row.line}: {word!r} is neither an id nor an image of the cohort")
        return found

    rows = read_rows(path, "pairs", ("moving", "fixed"), required=("moving", "fixed"), positional=(2,), headless=True)
    return tuple((subject(row.cells["moving"], row), subject(row.cells["fixed"], row)) for row in rows)
