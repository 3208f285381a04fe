"""Files of points of every kind: what is read, what is written, and tables (CSV), which are read here.

A table has a header with x, y and z (2-D: x and y; in Slicer's tables r, a and s, or l, p and s), in any order among
other columns, which are kept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreg.io.foreign import foreign_points
from fastreg.io.gifti import new_gifti, read_gifti
from fastreg.io.legacy_vtk import new_vtk, read_vtk
from fastreg.io.markups import ENDINGS as MARKUPS
from fastreg.io.markups import FCSV, new_markups, read_fcsv, read_mrk_json
from fastreg.io.ply import new_ply, read_ply
from fastreg.io.point_sets import Grid, PointSet, from_ras, to_ras
from fastreg.io.stl import new_stl, read_stl
from fastreg.io.streamlines import ENDINGS as LINES
from fastreg.io.streamlines import Streamlines, read_streamlines
from fastreg.io.surfaces import ENDINGS as SURFACES
from fastreg.io.surfaces import Surface
from fastreg.utils.files import InputError, check_exists, read_json, read_text, save_bytes

TABLES = (".csv", ".tsv", ".txt")
ENDINGS = (".csv", *MARKUPS, *SURFACES, *LINES)
"""Of files that are read and written."""
_NAMES = ("label", "name")
"""Columns that name the points of a table."""
_AXES = {"xyz": None, "xy": None, "ras": "ras", "lps": "lps"}
"""Columns of coordinates, and the space that they say."""


@dataclass(frozen=True, eq=False)
class Table(PointSet):
    """A CSV file with points."""

    header: list[str]
    rows: list[list[str]]

    kind: ClassVar[str] = "a table"
    ending: ClassVar[str] = ".csv"
    others: ClassVar[tuple[str, ...]] = MARKUPS

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

    def content(self) -> bytes:
        """Other columns as they were."""
        return self.text(self.points).encode()


def load_points(path: str | Path) -> PointSet:
    """Read points of any kind in `ENDINGS`; the content decides, and the ending where that says nothing.

    Returns:
        `points`, their `space` where the file says it, `labels` where it has some, and with `content()` the same file
        with other points.

    Raises:
        InputError: no such file, one of another kind (with what converts it), or damaged; no points; a coordinate that
            is no finite number.
    """
    path = check_exists(path, "points")
    with path.open("rb") as file:
        head = file.read(256)
    ending = points_ending(path)
    if head.startswith(b"# vtk DataFile"):
        return read_vtk(path.read_bytes(), path)
    if head.startswith((b"ply\n", b"ply\r\n")):
        return read_ply(path.read_bytes(), path)
    if head.startswith((b"TRACK", b"mrtrix tracks")):
        return read_streamlines(path.read_bytes(), path)
    if ending == ".stl":
        return read_stl(path.read_bytes(), path)
    if ending == ".gii" and not head.startswith(b"\x1f\x8b"):
        return read_gifti(path.read_bytes(), path)
    other = foreign_points(path, head)
    if other is not None:
        raise InputError(f"points {path}: {other}")
    if ending in (*SURFACES, *LINES):
        raise InputError(f"points {path}: expected a {ending} file, got one that does not begin as those do")
    if ending == ".mrk.json" or head.lstrip().startswith(b"{"):
        return read_mrk_json(read_json(path, "points"), path)
    text = read_text(path, "points")
    return read_fcsv(text, path) if ending == ".fcsv" or text.startswith(FCSV) else _read_table(text, path)


def points_ending(path: str | Path) -> str:
    """The ending of a file of points, lower case, .mrk.json whole."""
    name = Path(path).name.lower()
    return ".mrk.json" if name.endswith(".mrk.json") else Path(name).suffix


def check_conversion(path: str | Path, given: PointSet) -> None:
    """InputError unless `given` can be written into a file of that ending.

    A table becomes markups, markups become the other kind of markups, a surface one of another format, streamlines the
    other format of those; and everything becomes a table.
    """
    ending = points_ending(path)
    any_ending = isinstance(given, Table) and ending not in ENDINGS
    if not any_ending and ending not in (given.ending, *given.others, *TABLES):
        known = ", ".join(dict.fromkeys((".csv", given.ending, *given.others)))
        raise InputError(f"output {path}: expected {known} for {given.kind}, got {ending or 'no ending'}")
    if isinstance(given, Surface) and ending in given.others and ending != given.ending:
        given.triangles()


def encode_points(path: str | Path, given: PointSet, space: str = "ras", grid: Grid | None = None) -> bytes:
    """What `save_points` writes."""
    check_conversion(path, given)
    ending = points_ending(path)
    if ending == given.ending or (isinstance(given, Table) and ending not in MARKUPS):
        return given.content()
    affine = None if grid is None else grid[0]
    said = given.space or space
    places = to_ras(given.points, said, affine)
    if ending in TABLES:
        return _new_table(from_ras(places, space, affine), given).content()
    if ending in MARKUPS:
        return new_markups(from_ras(places, "lps"), given.labels, ending)
    if isinstance(given, Streamlines):
        return given.written(ending, grid)
    assert isinstance(given, Surface)
    if ending == ".gii":
        return new_gifti(places, given.triangles())
    new = {".vtk": new_vtk, ".ply": new_ply, ".stl": new_stl}[ending]
    into = "ras" if said == "voxel" else said
    return new(from_ras(places, into), given.triangles(), into)


def save_points(path: str | Path, given: PointSet, space: str = "ras", grid: Grid | None = None) -> None:
    """Write points whole or not at all, in the format of the file's ending.

    Args:
        path: Of the kind that was read, everything else in it is kept; another kind gets points, names and faces.
        given: Points that `load_points` has read, or that were carried from there.
        space: One of `SPACES`: of points whose file does not say it, and of a new table.
        grid: The image that they lie in; for voxels, and for a .trk file, which names it.

    Raises:
        InputError: a kind that these points cannot be written as.
    """
    save_bytes(path, encode_points(path, given, space, grid))


def _new_table(points: np.ndarray, given: PointSet) -> Table:
    """A table of points that came in another format, with their labels or the numbers of their streamlines."""
    header, firsts = list("xyz"), list[list[str]]([] for _ in points)
    if isinstance(given, Streamlines):
        header = ["streamline", *header]
        firsts = [[str(k)] for k, length in enumerate(given.lengths) for _ in range(length)]
    elif given.labels is not None:
        header = ["label", *header]
        firsts = [[label] for label in given.labels]
    return Table(points, header, [[*first, "", "", ""] for first in firsts])


def _read_table(text: str, path: Path) -> Table:
    """CSV as spreadsheets write it: commas, semicolons or tabs, UTF-8 or UTF-16."""
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
    named = next((k for k, name in enumerate(header) if name.lower() in _NAMES), None)
    labels = None if named is None else tuple(row[named].strip() if named < len(row) else "" for row in rows)
    space = _AXES.get("".join(header[column].lower() for column in columns))
    return Table(points, header, rows, labels=labels, space=space)


def _shown(row: list[str]) -> str:
    """The beginning of a row, on one line: a quoted cell may have several."""
    return " ".join(",".join(row).split())[:80]


def _columns(header: Sequence[str]) -> list[int]:
    """Where the coordinates are: x, y, z (2-D: x, y), or r, a, s or l, p, s, as Slicer names them in its tables."""
    names = [name.lower() for name in header]
    axes = next((axes for axes in _AXES if all(axis in names for axis in axes)), "xyz")
    return [names.index(axis) for axis in axes if axis in names]
