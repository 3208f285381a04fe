"""Slicer's markups: .fcsv, a list of points, and .mrk.json, which holds curves, planes and their display too."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastreg.io.point_sets import PointSet, check_finite
from fastreg.utils.files import InputError

ENDINGS = (".fcsv", ".mrk.json")
FCSV = "# Markups fiducial file"
"""The first line's beginning."""
_SPACES = {"RAS": "ras", "LPS": "lps", "0": "ras", "1": "lps"}
_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/"
    "Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True, eq=False)
class Fcsv(PointSet):
    """A .fcsv file."""

    lines: list[str]
    """All lines; those of points have x, y and z in `columns`."""
    columns: list[int]

    kind: ClassVar[str] = "markups"
    ending: ClassVar[str] = ".fcsv"
    others: ClassVar[tuple[str, ...]] = ENDINGS

    def content(self) -> bytes:
        """Every line as it was but for x, y and z."""
        points = iter(self.points)
        lines = []
        for line in self.lines:
            if _is_point(line):
                cells = _cells(line)
                for column, value in zip(self.columns, next(points), strict=True):
                    cells[column] = f"{value:.6f}"
                line = _row(cells)
            lines.append(line)
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, eq=False)
class MarkupsJson(PointSet):
    """A .mrk.json file, with its markups one after the other."""

    tree: Any
    """The file as JSON."""

    kind: ClassVar[str] = "markups"
    ending: ClassVar[str] = ".mrk.json"
    others: ClassVar[tuple[str, ...]] = ENDINGS

    def content(self) -> bytes:
        """Everything as it was but for the positions of points that have one."""
        points = iter(self.points)
        markups = []
        for markup in self.tree["markups"]:
            sign = _sign(markup, self.space)
            given = markup.get("controlPoints", [])
            moved = [
                {**point, "position": (next(points) * sign).tolist()} if _is_placed(point) else point for point in given
            ]
            markups.append({**markup, "controlPoints": moved})
        return (json.dumps({**self.tree, "markups": markups}, indent=4) + "\n").encode()


def read_fcsv(text: str, path: str | Path) -> Fcsv:
    """The text of a .fcsv file; without a coordinate system, as old ones are, RAS."""
    lines = text.splitlines()
    said = {}
    for line in lines:
        name, found, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and found:
            said[name.strip().lower()] = value.strip()
    system = said.get("coordinatesystem", "RAS").upper()
    if system not in _SPACES:
        raise InputError(f"points {path}: expected the coordinate system LPS or RAS, got {system[:80]}")
    names = [name.strip() for name in said.get("columns", _COLUMNS).split(",")]
    if any(axis not in names for axis in "xyz"):
        raise InputError(f"points {path}: expected the columns x, y and z, got {','.join(names)[:80]}")
    columns = [names.index(axis) for axis in "xyz"]
    rows = [_cells(line) for line in lines if _is_point(line)]
    points = np.empty((len(rows), 3))
    for k, row in enumerate(rows):
        try:
            points[k] = [float(row[column]) for column in columns]
        except (ValueError, IndexError) as error:
            raise InputError(
                f"points {path}: expected x, y and z, got {','.join(row)[:80]} as point {k + 1}"
            ) from error
    at = names.index("label") if "label" in names else len(names)
    labels = tuple(row[at] if at < len(row) else "" for row in rows)
    return Fcsv(check_finite(points, f"points {path}"), lines, columns, space=_SPACES[system], labels=labels)


def _is_point(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error:  # a line as long as a file, of another kind
        return []


def _row(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def read_mrk_json(tree: Any, path: str | Path) -> MarkupsJson:
    """The JSON of a .mrk.json file. `points` are in the coordinate system of its first markup."""
    markups = tree.get("markups") if isinstance(tree, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise InputError(f"points {path}: expected Slicer's markups, got JSON of another kind")
    points: list[np.ndarray] = []
    labels: list[str] = []
    space = None
    for markup in markups:
        _check_markup(markup, path)
        space = space or _space(markup)
        sign = _sign(markup, space)
        for point in filter(_is_placed, markup.get("controlPoints", [])):
            try:
                points.append(np.array(point["position"], np.float64).reshape(3) * sign)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"points {path}: expected a position of three numbers as point {len(points) + 1}"
                ) from error
            labels.append(str(point.get("label") or ""))
    where = np.array(points).reshape(-1, 3)
    return MarkupsJson(check_finite(where, f"points {path}"), tree, space=space, labels=tuple(labels))


def _check_markup(markup: dict[str, Any], path: str | Path) -> None:
    kind = markup.get("type")
    if kind == "ROI":
        raise InputError(f"points {path}: expected points, lines, curves or planes, got an ROI: a warped box is none")
    if kind == "Plane":
        text = f"points {path}: of a plane the points are mapped; its own origin and axes are kept as they are"
        warnings.warn(text, UserWarning, stacklevel=5)
    if _space(markup) is None:
        raise InputError(
            f"points {path}: expected the coordinate system LPS or RAS, got {str(markup.get('coordinateSystem'))[:80]}"
        )
    units = markup.get("coordinateUnits", "mm")
    if (units[:1] if isinstance(units, list) else [units]) != ["mm"]:
        raise InputError(f"points {path}: expected mm, got the unit {str(units)[:80]}; 3D Slicer converts it")
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"points {path}: expected a list of control points, got {str(points)[:80]}")


def _space(markup: dict[str, Any]) -> str | None:
    return _SPACES.get(str(markup.get("coordinateSystem", "LPS")).upper())


def _sign(markup: dict[str, Any], space: str | None) -> np.ndarray:
    """[3], `space` -> the coordinate system of the markup, and back."""
    return np.array([1.0, 1, 1] if _space(markup) == space else [-1.0, -1, 1])


def _is_placed(point: dict[str, Any]) -> bool:
    """Whether a control point has a position: Slicer keeps those that are still to be placed, too."""
    return bool(point.get("positionStatus", "defined") == "defined")


def new_markups(points: np.ndarray, labels: Sequence[str] | None, ending: str) -> bytes:
    """A list of points [N, 3] in LPS mm, as Slicer writes it to .fcsv or .mrk.json."""
    labels = labels or [f"F-{k + 1}" for k in range(len(points))]
    if ending == ".fcsv":
        head = [f"{FCSV} version = 4.11", "# CoordinateSystem = LPS", f"# columns = {_COLUMNS}"]
        rows = [
            _row([str(k + 1), *(f"{value:.6f}" for value in point), *"0001110", label, "", ""])
            for k, (point, label) in enumerate(zip(points, labels, strict=True))
        ]
        return ("\n".join([*head, *rows]) + "\n").encode()
    given = [
        {"id": str(k + 1), "label": label, "position": point.tolist(), "positionStatus": "defined"}
        for k, (point, label) in enumerate(zip(points, labels, strict=True))
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": given}
    return (json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=4) + "\n").encode()
