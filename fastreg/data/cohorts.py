"""Who is in a cohort: subjects and pairs from folders, globs, lists, CSV and JSON files. No image is opened here."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fastreg.data.lists import IMAGE_ENDINGS, TABLE_ENDINGS, Row, find_file, read_rows, stem
from fastreg.utils.files import InputError, read_json, read_text


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
    source = os.path.expanduser(source)
    path = Path(source)
    if any(sign in source for sign in "*?["):
        cohort = _from_glob(source, labels)
    elif path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(IMAGE_ENDINGS))
        cohort = Cohort(tuple(Subject(stem(f), f) for f in files))
        if labels is not None:
            cohort = _with_labels(cohort, {s.id: s for s in _from_glob(labels, None).subjects}, labels)
    elif not path.is_file():
        raise InputError(f"images {source}: no such file, folder or match")
    elif path.suffix.lower() == ".txt":
        cohort = _from_list(path, prefix, suffix)
    elif path.suffix.lower() in TABLE_ENDINGS:
        cohort = _from_csv(path)
    elif path.suffix.lower() == ".json":
        cohort = _from_learn2reg(path)
    elif path.name.endswith(IMAGE_ENDINGS):
        cohort = Cohort((Subject(stem(path), path),))
    else:
        raise InputError(f"images {source}: expected a folder, a glob, .txt, .csv, .json or an image")
    if not cohort.subjects:
        raise InputError(f"images {source}: no image there (of {', '.join(IMAGE_ENDINGS)})")
    if masks is not None:
        cohort = _with_masks(cohort, masks)
    _check(cohort, source)
    return cohort


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
            found[stem(path)] = path
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


def _from_list(path: Path, prefix: str, suffix: str) -> Cohort:
    subjects = []
    for row in read_rows(path, "images", ("image", "label"), positional=(1, 2)):
        image, *label = (find_file(path, f"{prefix}{word}{suffix}") for word in row.cells.values())
        subjects.append(Subject(stem(image), image, label[0] if label else None))
    return Cohort(tuple(subjects))


_PAIR_COLUMNS = ("moving", "fixed", "moving_labels", "fixed_labels")


def _from_csv(path: Path) -> Cohort:
    """A table of images, or of pairs of them."""
    header = next((line for line in read_text(path, "images").splitlines() if "image" in line or "moving" in line), "")
    header = header.lower()
    if "moving" in header and "fixed" in header:
        rows = read_rows(path, "images", _PAIR_COLUMNS, required=("moving", "fixed"))
        return _paired([(_subject(path, row, "moving"), _subject(path, row, "fixed")) for row in rows])
    rows = read_rows(path, "images", ("image", "label", "id"), required=("image",))
    subjects = []
    for row in rows:
        image, label = find_file(path, row.cells["image"]), row.cells.get("label")
        subjects.append(
            Subject(row.cells.get("id") or stem(image), image, None if label is None else find_file(path, label))
        )
    return Cohort(tuple(subjects))


def _subject(path: Path, row: Row, role: str) -> Subject:
    image, label = find_file(path, row.cells[role]), row.cells.get(f"{role}_labels")
    return Subject(stem(image), image, None if label is None else find_file(path, label))


def _paired(pairs: list[tuple[Subject, Subject]]) -> Cohort:
    subjects = {s.id: s for pair in pairs for s in pair}
    return Cohort(tuple(subjects.values()), tuple(pairs))


def _from_learn2reg(path: Path) -> Cohort:
    """A Learn2Reg *_dataset.json: its training images, with their labels where the file names them."""
    content = read_json(path, "images")
    entries = content.get("training") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"images {path}: expected a Learn2Reg dataset with a list 'training'")
    subjects = []
    for entry in entries:
        label = entry.get("label") or entry.get("seg") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not isinstance(label, str | None):
            raise InputError(f"images {path}: an entry of 'training' has no 'image' that is a name of a file: {entry}")
        image = find_file(path, entry["image"])
        subjects.append(Subject(stem(image), image, find_file(path, label) if label else None))
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
