"""What is known of registrations that are done: figures and files, of a folder of `fastreg register --pairs` or a list.

Nothing here ends because one pair is at fault: a record that is broken or an image that is gone is said in its review.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.data.pairs import read_scored_files
from fastreg.geometry.image import Image
from fastreg.geometry.resample import resample_to_grid, sample_filled
from fastreg.geometry.transforms import Affine, Transform, Warp, compose
from fastreg.io.images import load_image
from fastreg.io.transforms import load_transforms
from fastreg.registration.batch import RECORD, SAVED, read_record
from fastreg.registration.files import UNLABELLED
from fastreg.registration.quality import field_figures, found_inverse_error_mm
from fastreg.registration.verdict import judge, of_field
from fastreg.utils.files import InputError, check_exists

ROLES = ("moving", "fixed", "moved", "warp", "inverse_warp", "affine")
"""Columns of a list of registrations that are done; fixed and one of moved, warp and affine are needed."""
FIGURES = (
    "dice_before", "dice", "hd95_mm_before", "hd95_mm", "tre_mm_before", "tre_mm", "folds", "corner_folds",
    "ndv_percent", "sdlogj", "seconds", *(name for name in UNLABELLED if name != "measure"),
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """One pair: how it went."""

    name: str
    state: str
    """done, suspect, failed, unfinished or unreadable."""
    why: str = ""
    """What is suspicious, or what went wrong."""
    measure: str = ""
    """Of the similarity before and after."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Some of `FIGURES`, finite."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Some of `ROLES`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the user asked for."""


@dataclass(frozen=True)
class Result:
    """The images of one pair, on the fixed grid."""

    fixed: Image
    moved: Image
    before: Image | None = None
    """The moving image where the headers place it."""
    warp: Warp | None = None
    """In voxels of the fixed grid."""


def reviews_of(source: Path) -> list[Review]:
    """The pairs of a folder that `fastreg register --pairs` wrote, of one pair's folder, or of a list.

    Args:
        source: A folder with pair.json or with folders that have one; or a .csv file with some of `ROLES` and `name`.

    Raises:
        InputError: nothing of the kind is there.
    """
    if not source.is_dir():
        listed = read_scored_files(check_exists(source, "report", folder=True), ROLES)
        return [_listed(source, name, files) for name, files in listed.items()]
    folders = [source] if (source / RECORD).exists() else sorted(path.parent for path in source.glob(f"*/{RECORD}"))
    if not folders:
        raise InputError(f"report {source}: expected a folder of fastreg register --pairs, got none with a {RECORD}")
    return [recorded(folder) for folder in folders]


def recorded(folder: Path) -> Review:
    """A pair by its record in a folder of `fastreg register --pairs`."""
    name = folder.absolute().name
    try:
        record = read_record(folder) or {}
    except InputError as error:
        return Review(name, "unreadable", str(error))
    asked = _mapping(record.get("asked"))
    given = {role: Path(path) for role, path in _mapping(asked.get("files")).items() if isinstance(path, str)}
    kept = {what.replace("-", "_"): folder / file for what, file in SAVED.items() if (folder / file).is_file()}
    files = {role: path for role, path in {**given, **kept}.items() if role in ROLES}
    options = {str(key): str(value) for key, value in _mapping(asked.get("options")).items() if value != "None"}
    if record.get("row") is None:
        return Review(name, "unfinished", "it is being registered, or its process was stopped", "", {}, files, options)
    row = {**_mapping(record.get("log")), **_mapping(record["row"])}
    return replace(review_of(name, row), files=files, options=options)


def review_of(name: str, row: Mapping[str, Any]) -> Review:
    """Of a row of `fastreg.registration.batch.run` or a result's log; what is of a wrong type is left out."""
    error, suspect, measure = (_text(row.get(key)) for key in ("error", "suspect", "measure"))
    state = "failed" if error else "suspect" if suspect else "done"
    return Review(name, state, error or suspect, measure, _figures(row))


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: row[key] for key in FIGURES if type(row.get(key)) in (int, float)}
    return {key: value for key, value in numbers.items() if abs(value) < _LARGEST}


_LARGEST = 1e300
"""NaN, what is infinite and whole numbers that no float holds are no figures."""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _listed(source: Path, name: str, files: Mapping[str, Path]) -> Review:
    """A pair that nobody judged yet."""
    if "fixed" not in files or not {"moved", "warp", "affine"} & set(files):
        why = f"{source}: expected the columns fixed and one of moved, warp, affine"
        return Review(name, "unreadable", why, files=files)
    try:
        found = load_result(files)
        row = {} if found.warp is None else _judged(files, found, found.warp)
    except (InputError, OSError, ValueError) as error:
        return Review(name, "unreadable", " ".join(str(error).split()), files=files)
    return replace(review_of(name, row), files=files)


def _judged(files: Mapping[str, Path], found: Result, warp: Warp) -> dict[str, Any]:
    if "moving" not in files:
        return dict(field_figures(warp))
    moving = load_image(files["moving"], what="moving image", ndim=found.fixed.ndim)
    onto = warp.onto(moving.affine, moving.shape)
    verdict = judge(found.fixed, moving, onto, Affine(np.eye(4)), "", (None, None))
    back = None
    if "inverse_warp" in files:
        steps = _steps(files, "inverse_warp", moving, found.fixed)
        back = compose(steps, moving.affine, moving.shape, found.fixed.affine, found.fixed.shape)
    figures = field_figures(onto, back)
    figures.setdefault("inverse_error_mm", found_inverse_error_mm(onto))
    return {
        "measure": verdict.measure, "measure_before": verdict.before, "measure_after": verdict.after,
        "overlap": verdict.overlap, "suspect": verdict.suspect or of_field(figures, math.prod(found.fixed.shape)),
        **figures,
    }  # fmt: skip


def load_result(files: Mapping[str, Path], channel: str | int | None = None) -> Result:
    """The images of a pair, read again.

    Args:
        files: Some of `ROLES`. The moved image is made of the moving one where it was not kept.
        channel: As in `load_image`.

    Raises:
        InputError: a file that is gone or is not what its name says, images that do not belong together.
    """
    fixed = load_image(_file(files, "fixed"), what="fixed image", channel=channel)
    moving = None
    if "moving" in files and ("moved" not in files or files["moving"].exists()):
        moving = load_image(files["moving"], what="moving image", ndim=fixed.ndim, channel=channel)
    steps: list[Transform] = []
    for role in ("warp", "affine"):
        if role in files and not steps:
            steps = _steps(files, role, fixed, moving)
    moved = None
    if "moved" in files:
        moved = load_image(files["moved"], what="moved image", ndim=fixed.ndim)
        if moved.shape != fixed.shape:
            raise InputError(f"moved image {moved.path}: expected the fixed grid of {fixed.shape}, got {moved.shape}")
    warp = compose(steps, fixed.affine, fixed.shape, fixed.affine, fixed.shape) if steps else None
    return result_of(fixed, moving, warp, moved)


def result_of(fixed: Image, moving: Image | None, warp: Warp | None, moved: Image | None = None) -> Result:
    """The moved image by the warp where there is none; what lies where without registration.

    Raises:
        InputError: neither a moved image nor what makes one.
    """
    if moved is None and moving is not None and warp is not None:
        moved = Image(sample_filled(moving, warp.onto(moving.affine, moving.shape).tensor()), fixed.affine)
    if moved is None:
        raise InputError("moved image: expected it, or the moving image and its warp, got neither")
    before = None if moving is None else resample_to_grid(moving, fixed.affine, fixed.shape)
    return Result(fixed, moved, before, None if warp is None else warp.onto(fixed.affine, fixed.shape))


def _steps(files: Mapping[str, Path], role: str, fixed: Image, moving: Image | None) -> list[Transform]:
    return load_transforms(files[role], fixed=fixed, moving=moving)


def _file(files: Mapping[str, Path], role: str) -> Path:
    if role not in files:
        raise InputError(f"{role} image: expected its path, got none")
    return check_exists(files[role], f"{role} image", folder=True)
