"""Points in CSV files: a header with x, y and z (2-D: x and y), in any order among other columns, which are kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreg.geometry.image import in_plane
from fastreg.geometry.transforms import LPS
from fastreg.utils.files import InputError, atomic, read_text

SPACES = ("ras", "lps", "voxel")
"""RAS mm (NIfTI, FreeSurfer), LPS mm (ITK, ANTs, DICOM, Slicer's default), voxel indices of the image."""


@dataclass(frozen=True)
class Table:
    """A CSV file with points."""

    points: np.ndarray
    """[N, 3] or [N, 2], float64."""
    header: list[str]
    rows: list[list[str]]

    def text(self, points: np.ndarray) -> str:
        """The table with other points, as CSV with commas."""
        columns = _columns(self.header)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        for row, point in zip(self.rows, points, strict=True):
            cells = list(row)
            for column, value in zip(columns, point, strict=True):
                cells[column] = f"{value:.6f}"
            writer.writerow(cells)
        return out.getvalue()


def load_points(path: str | Path) -> Table:
    """Read a CSV file, as spreadsheets write it: commas, semicolons or tabs, UTF-8 or UTF-16.

    Raises:
        InputError: no such file, no such header, or a cell that is no finite number.
    """
    text = read_text(path, "points")
    if text.startswith("# Markups fiducial file"):
        raise InputError(
            f"points {path}: expected a CSV table with x, y and z, got Slicer's .fcsv; export it as a table"
        )
    first = text.splitlines()[0] if text.strip() else ""
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise InputError(f"points {path}: not a CSV file ({error})") from error
    header = [name.strip() for name in lines[0]] if lines else []
    columns = _columns(header)
    if len(columns) < 2:
        raise InputError(f"points {path}: expected a header with x, y and z, got {_shown(header) or 'nothing'}")
    rows = [row for row in lines[1:] if any(cell.strip() for cell in row)]
    if not rows:
        raise InputError(f"points {path}: expected points below the header, got none")
    points = np.empty((len(rows), len(columns)))
    for k, row in enumerate(rows):
        try:
            points[k] = [float(row[column]) for column in columns]
        except (ValueError, IndexError):
            points[k] = np.nan
        if not np.isfinite(points[k]).all():
            raise InputError(f"points {path}: expected finite numbers, got {_shown(row)} as point {k + 1}")
    return Table(points, header, rows)


def _shown(row: list[str]) -> str:
    """The beginning of a row, on one line: a quoted cell may have several."""
    return " ".join(",".join(row).split())[:80]


def save_text(path: str | Path, text: str) -> None:
    """Write a table whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text)


def check_columns(points: np.ndarray, space: str, *affines: np.ndarray) -> None:
    """InputError where points of x and y alone would lose their place: mm in a plane that is not axial."""
    if points.shape[1] == 2 and space != "voxel" and not all(in_plane(affine) for affine in affines):
        raise InputError("points: expected x, y and z, for the images' plane is not axial (or --points-space voxel)")


def to_ras(points: np.ndarray, space: str, affine: np.ndarray | None = None) -> np.ndarray:
    """[N, 2 or 3] in one of `SPACES` -> [N, 3] in RAS mm; `affine` is that of the image whose voxels they are."""
    points = np.concatenate([points, np.zeros((len(points), 3 - points.shape[1]))], 1)
    matrix = _matrix(space, affine)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def from_ras(places: np.ndarray, space: str, affine: np.ndarray | None = None, ndim: int = 3) -> np.ndarray:
    """[N, 3] in RAS mm -> [N, ndim] in one of `SPACES`."""
    back = np.linalg.inv(_matrix(space, affine))
    return (places @ back[:3, :3].T + back[:3, 3])[:, :ndim]


def _matrix(space: str, affine: np.ndarray | None) -> np.ndarray:
    """[4, 4], `space` -> RAS mm."""
    if space not in SPACES:
        raise InputError(f"points space: expected one of {', '.join(SPACES)}, got {space}")
    if space != "voxel":
        return LPS if space == "lps" else np.eye(4)
    if affine is None:
        raise InputError("points in voxels need the moving image too, whose voxels they become: give --moving")
    return affine


def _columns(header: Sequence[str]) -> list[int]:
    names = [name.lower() for name in header]
    return [names.index(axis) for axis in "xyz" if axis in names]
