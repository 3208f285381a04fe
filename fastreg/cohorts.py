"""Who is in a cohort: subjects and pairs from folders, globs, lists, CSV and JSON files. No image is opened here."""

from __future__ import annotations

import csv
import glob
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fastreg.files import InputError

IMAGE_ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh", ".npz", ".npy", ".png")


@dataclass(frozen=True)
class Subject:
    """One image and, if there are any, its label map and its mask."""

    id: str
    image: Path
    label: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """Subjects, and the pairs of them (moving, fixed) that the source names, if it names any."""

    subjects: tuple[Subject, ...]
    pairs: tuple[tuple[Subject, Subject], ...] = ()

    def split(self, ids: set[str]) -> tuple[Cohort, Cohort]:
        """The cohort without the subjects of these ids, and the cohort of them."""
        rest = tuple(s for s in self.subjects if s.id not in ids)
        chosen = tuple(s for s in self.subjects if s.id in ids)
        pairs = tuple(p for p in self.pairs if p[0].id not in ids and p[1].id not in ids)
        return Cohort(rest, pairs), Cohort(chosen)

    def joined(self, other: Cohort) -> Cohort:
        """The subjects of both; one of the other whose id is taken gets a new one."""
        taken = {s.id for s in self.subjects}
        added = tuple(replace(s, id=f"{s.id}+" if s.id in taken else s.id) for s in other.subjects)
        return Cohort((*self.subjects, *added), self.pairs)


def read_cohort(
    source: str, labels: str | None = None, prefix: str = "", suffix: str = "", masks: str | None = None
) -> Cohort:
    """The cohort behind what a user wrote; the forms are those of `TrainConfig.images`.

    Args:
        source: Images.
        labels: A glob of label maps that pairs with a glob or folder of images.
        prefix: Put before every path of a list file.
        suffix: Put after every path of a list file.
        masks: A glob of masks that pairs with the images by their ids.

    Raises:
        InputError: nothing there, a file that is named but missing, or a form that is not understood.
    """
    path = Path(source)
    if any(sign in source for sign in "*?["):
        cohort = _from_glob(source, labels)
    elif path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(IMAGE_ENDINGS))
        cohort = Cohort(tuple(Subject(_stem(f), f) for f in files))
        if labels is not None:
            cohort = _with_labels(cohort, {s.id: s for s in _from_glob(labels, None).subjects}, labels)
    elif not path.is_file():
        raise InputError(f"images {source}: no such file, folder or match")
    elif path.suffix == ".txt":
        cohort = _from_list(path, prefix, suffix)
    elif path.suffix == ".csv":
        cohort = _from_csv(path)
    elif path.suffix == ".json":
        cohort = _from_learn2reg(path)
    elif path.name.endswith(IMAGE_ENDINGS):
        cohort = Cohort((Subject(_stem(path), path),))
    else:
        raise InputError(f"images {source}: expected a folder, a glob, .txt, .csv, .json or an image")
    if not cohort.subjects:
        raise InputError(f"images {source}: no image there (of {', '.join(IMAGE_ENDINGS)})")
    if masks is not None:
        cohort = _with_masks(cohort, masks)
    _check(cohort, source)
    return cohort


def read_pairs(path: Path, cohort: Cohort) -> tuple[tuple[Subject, Subject], ...]:
    """The (moving, fixed) pairs of a text file or CSV; words are ids of the cohort or paths of images."""
    known = {s.id: s for s in cohort.subjects} | {str(s.image): s for s in cohort.subjects}

    def subject(word: str, line: int) -> Subject:
        found = known.get(word) or known.get(str(_resolve(path, word)))
        if found is None:
            raise InputError(f"pairs {path}, line {line}: {word!r} is neither an id nor an image of the cohort")
        return found

    if not path.is_file():
        raise InputError(f"pairs {path}: no such file")
    rows = _lines(path)
    if path.suffix == ".csv":
        rows = [(k, line.replace(",", " ")) for k, line in rows]
        if rows and rows[0][1].split()[:2] == ["moving", "fixed"]:
            rows = rows[1:]
    pairs = []
    for k, line in rows:
        words = line.split()
        if len(words) != 2:
            raise InputError(f"pairs {path}, line {k}: expected moving and fixed, got {line!r}")
        pairs.append((subject(words[0], k), subject(words[1], k)))
    if not pairs:
        raise InputError(f"pairs {path}: no pairs in it")
    return tuple(pairs)


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
    """CSV of points of the fixed image."""
    points_moving: Path | None = None
    """CSV of the same points in the moving image."""


_SYNONYMS = {
    "moving_label": "moving_labels",
    "fixed_label": "fixed_labels",
    "mask_moving": "moving_mask",
    "mask_fixed": "fixed_mask",
    "mask": "fixed_mask",
    "points": "points_fixed",
}


def read_pair_files(path: Path) -> tuple[PairFiles, ...]:
    """The pairs of a list: .csv with a header, otherwise `moving fixed [moving_labels fixed_labels]` on every line.

    A CSV file's columns are the fields of `PairFiles`, in any order. Files are as they are named or relative to the
    list's folder. A pair without a name is called MOVING_to_FIXED after its files, with their folders' names where
    those alone would not tell the pairs apart. Whether the files are there is not asked here.

    Raises:
        InputError: no such list, no pairs in it, a column or line that is not understood, two pairs of one name.
    """
    if not path.is_file():
        raise InputError(f"pairs {path}: no such file")
    rows = _rows_of_csv(path) if path.suffix == ".csv" else _rows_of_text(path)
    if not rows:
        raise InputError(f"pairs {path}: no pairs in it")
    names = _pair_names([(_resolve(path, row["moving"]), _resolve(path, row["fixed"])) for row in rows])
    pairs = {}
    for row, name in zip(rows, names, strict=True):
        name = row.pop("name", name)
        if name in pairs:
            raise InputError(f"pairs {path}: two pairs are called {name!r}; a column `name` tells them apart")
        for whole, half in (("moving_labels", "fixed_labels"), ("points_fixed", "points_moving")):
            if half in row and whole not in row:
                raise InputError(f"pairs {path}, {name}: expected {whole} beside {half}, got none")
        if "/" in name or "\\" in name or name.startswith(".") or name == "results.csv":
            raise InputError(f"pairs {path}: expected a name that a folder can have, got {name!r}")
        pairs[name] = PairFiles(name, **{role: _resolve(path, word) for role, word in row.items()})
    return tuple(pairs.values())


def _pair_names(pairs: list[tuple[Path, Path]]) -> list[str]:
    plain = [f"{_stem(moving)}_to_{_stem(fixed)}" for moving, fixed in pairs]
    stems = {_stem(path): path for pair in pairs for path in pair}
    if all(stems[_stem(path)] == path for pair in pairs for path in pair):
        return plain
    return ["_to_".join(f"{path.absolute().parent.name}-{_stem(path)}" for path in pair) for pair in pairs]


def _rows_of_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True) if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"pairs {path}: not a CSV file ({error})") from error
    header = [word.strip().lower().replace("-", "_") for word in lines[0]] if lines else []
    header = [_SYNONYMS.get(word, word) for word in header]
    known = [field.name for field in fields(PairFiles)]
    strange = [word for word in header if word not in known]
    if strange or not {"moving", "fixed"} <= set(header):
        wrong = f"the column {strange[0]!r}" if strange else f"{', '.join(header) or 'nothing'}"
        raise InputError(
            f"pairs {path}: expected a header with moving, fixed, and some of {', '.join(known)}; got {wrong}"
        )
    rows = []
    for k, line in enumerate(lines[1:], 1):
        row = {role: cell.strip() for role, cell in zip(header, line, strict=False) if cell.strip()}
        if len(line) != len(header) or not {"moving", "fixed"} <= set(row):
            raise InputError(f"pairs {path}, pair {k}: expected {len(header)} cells with moving and fixed, got {line}")
        rows.append(row)
    return rows


def _rows_of_text(path: Path) -> list[dict[str, str]]:
    rows = []
    for k, line in _lines(path):
        words = line.split()
        if len(words) not in (2, 4):
            raise InputError(
                f"pairs {path}, line {k}: expected moving fixed [moving_labels fixed_labels], got {line!r}"
            )
        rows.append(dict(zip(("moving", "fixed", "moving_labels", "fixed_labels"), words, strict=False)))
    return rows


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted(IMAGE_ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            return name[: -len(ending)]
    return name


def _matches(pattern: str) -> dict[str, Path]:
    """Files by what the first * of the pattern's file name stands for, or by their stems if there is none."""
    folder, name = Path(pattern).parent, Path(pattern).name
    before, star, after = name.partition("*")
    found = {}
    for file in sorted(glob.glob(str(folder / name), recursive=True)):
        path = Path(file)
        if star and not any(sign in after + before for sign in "*?["):
            found[path.name[len(before) : len(path.name) - len(after)]] = path
        else:
            found[_stem(path)] = path
    return found


def _from_glob(pattern: str, labels: str | None) -> Cohort:
    cohort = Cohort(tuple(Subject(key, path) for key, path in _matches(pattern).items()))
    if labels is None:
        return cohort
    return _with_labels(cohort, {key: Subject(key, path) for key, path in _matches(labels).items()}, labels)


def _with_labels(cohort: Cohort, labels: dict[str, Subject], source: str) -> Cohort:
    missing = [s.id for s in cohort.subjects if s.id not in labels]
    if missing:
        raise InputError(f"labels {source}: none for image {missing[0]} ({len(missing)} of {len(cohort.subjects)})")
    return Cohort(tuple(Subject(s.id, s.image, labels[s.id].image) for s in cohort.subjects))


def _with_masks(cohort: Cohort, masks: str) -> Cohort:
    found = _matches(masks)
    missing = [s.id for s in cohort.subjects if s.id not in found]
    if missing:
        raise InputError(f"masks {masks}: none for image {missing[0]} ({len(missing)} of {len(cohort.subjects)})")
    masked = {s.id: replace(s, mask=found[s.id]) for s in cohort.subjects}
    return Cohort(tuple(masked.values()), tuple((masked[a.id], masked[b.id]) for a, b in cohort.pairs))


def _resolve(listing: Path, word: str) -> Path:
    """A path in a list file: as it is, or relative to the file's folder."""
    path = Path(word)
    return path if path.is_absolute() or path.exists() else listing.parent / path


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text, got bytes that are none") from error
    lines = [(k, line.split("#")[0].strip()) for k, line in enumerate(text.splitlines(), 1)]
    return [(k, line) for k, line in lines if line]


def _from_list(path: Path, prefix: str, suffix: str) -> Cohort:
    subjects = []
    for k, line in _lines(path):
        words = line.split()
        if len(words) > 2:
            raise InputError(f"images {path}, line {k}: expected image [label], got {len(words)} words")
        image, *label = (_resolve(path, f"{prefix}{word}{suffix}") for word in words)
        subjects.append(Subject(_stem(image), image, label[0] if label else None))
    return Cohort(tuple(subjects))


def _from_csv(path: Path) -> Cohort:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    header = set(rows[0]) if rows else set()
    if {"moving", "fixed"} <= header:
        return _paired([_pair_of(path, row) for row in rows])
    if "image" not in header:
        raise InputError(f"images {path}: expected a header with image[, label, id] or moving, fixed, got {rows[:1]}")
    subjects = []
    for row in rows:
        image = _resolve(path, row["image"].strip())
        label = (row.get("label") or "").strip()
        subjects.append(
            Subject((row.get("id") or "").strip() or _stem(image), image, _resolve(path, label) if label else None)
        )
    return Cohort(tuple(subjects))


def _pair_of(path: Path, row: dict[str, Any]) -> tuple[Subject, Subject]:
    def subject(role: str) -> Subject:
        image = _resolve(path, str(row[role]).strip())
        label = str(row.get(f"{role}_label") or "").strip()
        return Subject(_stem(image), image, _resolve(path, label) if label else None)

    return subject("moving"), subject("fixed")


def _paired(pairs: list[tuple[Subject, Subject]]) -> Cohort:
    subjects = {s.id: s for pair in pairs for s in pair}
    return Cohort(tuple(subjects.values()), tuple(pairs))


def _from_learn2reg(path: Path) -> Cohort:
    """A Learn2Reg *_dataset.json: its training images, with their labels where the file names them."""
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"images {path}: not JSON ({error})") from error
    entries = content.get("training") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"images {path}: expected a Learn2Reg dataset with a list 'training'")
    subjects = []
    for entry in entries:
        if not isinstance(entry, dict) or "image" not in entry:
            raise InputError(f"images {path}: an entry of 'training' has no 'image': {entry}")
        image = _resolve(path, entry["image"])
        label = entry.get("label") or entry.get("seg")
        subjects.append(Subject(_stem(image), image, _resolve(path, label) if label else None))
    return Cohort(tuple(subjects))


def _check(cohort: Cohort, source: str) -> None:
    for subject in cohort.subjects:
        for what, file in (("image", subject.image), ("label map", subject.label), ("mask", subject.mask)):
            if file is not None and not file.is_file():
                raise InputError(f"{what} {file} (named by {source}): no such file")
    ids = [s.id for s in cohort.subjects]
    twice = {key for key in ids if ids.count(key) > 1}
    if twice:
        raise InputError(f"images {source}: two subjects have the id {min(twice)!r}; give ids in a CSV")
