"""Pairs of every kind: other contrasts, organs, dimensions, headers that say little.

Files are made ready for any program; what it leaves is judged by ITK itself, which knows where its transforms lead. The
folder has pairs.csv (kind, pair, fixed, moving, fixed_labels, moving_labels, fixed_points, moving_points); where there
are neither labels nor points there is no truth, and the pair is left out.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bench.registration.pairs import overlap

PICTURES = (".jpg", ".tif", ".png")

Points = np.ndarray
"""[N, 2] or [N, 3]: mm, LPS; of pictures pixels (column, row)."""


@dataclass(frozen=True)
class KindPair:
    """A pair whose files every program reads: pictures in grey, label maps of whole numbers."""

    kind: str
    name: str
    fixed: Path
    moving: Path
    labels: Sequence[Path] | None = None
    """Of the fixed and of the moving image."""
    points: Sequence[Points] | None = None
    """The same places in both."""
    listed: Path | None = None
    """The fixed image's points for `fastreg register`: a picture's as (row, column)."""

    @property
    def flat(self) -> bool:
        """Whether it is a picture."""
        return self.fixed.suffix == ".png"

    @property
    def job(self) -> dict[str, Any]:
        """What a runner is told."""
        labels = None if self.labels is None else self.labels[1]
        return {"fixed": self.fixed, "moving": self.moving, "labels": labels, "points": self.listed}

    def before(self) -> dict[str, float]:
        """Its figures where the headers put the images."""
        moved = None
        if self.labels is not None:
            fixed, moving = (sitk.ReadImage(str(path)) for path in self.labels)
            moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor))
        return self._figures(moved, None if self.points is None else self.points[0])

    def judged(self, out: Path) -> dict[str, float]:
        """Its figures from the files that a runner left."""
        steps = [_transform(path) for path in json.loads((out / "result.json").read_text())["transforms"]]
        moved = mapped = None
        if self.labels is not None:
            moved = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "moved_labels.nii.gz"))).squeeze()
            if not steps and self.flat:  # fastreg's NIfTI of a picture has its rows first
                moved = moved.T
        if self.points is not None and steps:
            mapped = np.array([_through(steps, place) for place in self.points[0]])
        elif self.points is not None:
            mapped = _read_points(out / "mapped_points.csv")
            mapped = mapped[:, ::-1] if self.flat else mapped
        return self._figures(moved, mapped)

    def _figures(self, moved: np.ndarray | None, mapped: Points | None) -> dict[str, float]:
        """Mean Dice and HD95 of the structures that both images have, and the landmarks' mean error."""
        figures: dict[str, float] = {}
        if self.labels is not None and moved is not None:
            image, there = (sitk.ReadImage(str(path)) for path in self.labels)
            fixed = sitk.GetArrayFromImage(image)
            both = np.intersect1d(fixed, sitk.GetArrayFromImage(there))
            structures = [int(label) for label in both if label > 0]
            figures |= overlap(fixed, np.rint(moved).astype(np.int64), image.GetSpacing()[::-1], structures)
        if self.points is not None and mapped is not None:
            figures["tre"] = float(np.linalg.norm(mapped - self.points[1], axis=1).mean())
        return figures


def kinds_of(folder: Path) -> list[dict[str, str]]:
    """The rows of pairs.csv that have a truth."""
    with (folder / "pairs.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["fixed_labels"] or row["fixed_points"]]


def case_of(row: dict[str, str]) -> str:
    """What a pair is called."""
    return f"{row['kind']}: {row['pair']}"


@contextmanager
def prepared(folder: Path, row: dict[str, str]) -> Iterator[KindPair]:
    """A pair of the list; its files go with the context."""
    with tempfile.TemporaryDirectory(prefix="fastreg_kinds_") as out:
        work = Path(out)
        fixed, moving = (_image(folder / row[who], work / who) for who in ("fixed", "moving"))
        labels = points = listed = None
        if row["fixed_labels"]:
            labels = [_labels(folder / row[who], work / who) for who in ("fixed_labels", "moving_labels")]
        if row["fixed_points"]:
            points = [_read_points(folder / row[who])[:, 1:] for who in ("fixed_points", "moving_points")]
            listed = work / "points.csv"
            places = points[0][:, ::-1] if fixed.suffix == ".png" else points[0]
            header = ",".join("xyz"[: places.shape[1]])
            np.savetxt(listed, places, delimiter=",", header=header, comments="", fmt="%.5f")
        yield KindPair(row["kind"], row["pair"], fixed, moving, labels, points, listed)


def _image(path: Path, out: Path) -> Path:
    """A picture as grey PNG from 0 to 255, a volume as NIfTI."""
    if path.suffix not in PICTURES:
        if path.suffix != ".mha":
            return path
        sitk.WriteImage(sitk.ReadImage(str(path)), f"{out}.nii.gz")
        return Path(f"{out}.nii.gz")
    grey = _grey(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    sitk.WriteImage(sitk.GetImageFromArray(grey), f"{out}.png")
    return Path(f"{out}.png")


def _grey(pixels: np.ndarray) -> np.ndarray:
    """[rows, columns] or [rows, columns, colours] -> [rows, columns] in uint8; luma of ITU-R 601, as others have it."""
    if pixels.ndim == 3:
        pixels = np.rint(pixels[..., :3] @ np.array([0.299, 0.587, 0.114]))
    if pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 255):
        pixels = 255.0 * (pixels - pixels.min()) / max(1, np.ptp(pixels))
    return pixels.astype(np.uint8)


def _labels(path: Path, out: Path) -> Path:
    """A label map of whole numbers: of a 4-D one the first channel, of a colour picture the first colour."""
    image = sitk.ReadImage(str(path))
    if path.suffix in PICTURES:
        pixels = sitk.GetArrayFromImage(image)
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
        sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.uint8)), f"{out}.png")
        return Path(f"{out}.png")
    image = image[:, :, :, 0] if image.GetDimension() == 4 else image
    rounded = sitk.Cast(sitk.Round(sitk.Cast(image, sitk.sitkFloat32)), sitk.sitkInt32)
    sitk.WriteImage(rounded, f"{out}.nii.gz")
    return Path(f"{out}.nii.gz")


def _read_points(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def _transform(path: str) -> sitk.Transform:
    """A file of ITK's: a matrix, or a displacement field (outside of which nothing moves)."""
    if path.endswith(".mat"):
        return sitk.ReadTransform(path)
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


def _through(steps: list[sitk.Transform], place: np.ndarray) -> tuple[float, ...]:
    where = tuple(map(float, place))
    for step in steps:
        where = step.TransformPoint(where)
    return where
