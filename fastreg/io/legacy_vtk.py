"""Surfaces and lines in legacy VTK files (.vtk): the block of points is replaced, normals are left out, all else stays.

Source: VTK file formats, "Simple legacy formats", and what vtkPolyDataWriter writes of versions 3 to 5.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreg.io.point_sets import check_finite
from fastreg.io.surfaces import Surface, check_triangles, fans, said_space, title, unpack_cells
from fastreg.utils.files import InputError

_TYPES = {
    "char": "i1", "signed_char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2", "int": "i4",
    "unsigned_int": "u4", "long": "i8", "unsigned_long": "u8", "long_long": "i8", "unsigned_long_long": "u8",
    "vtktypeint64": "i8", "vtktypeuint64": "u8", "vtktypeint32": "i4", "vtkidtype": "i4", "float": "f4",
    "double": "f8",
}  # fmt: skip
_CELLS = (b"VERTICES", b"LINES", b"POLYGONS", b"TRIANGLE_STRIPS", b"CELLS")
_WIDTHS = {
    b"VECTORS": 3, b"NORMALS": 3, b"TENSORS": 9, b"TENSORS6": 6, b"GLOBAL_IDS": 1, b"PEDIGREE_IDS": 1, b"EDGE_FLAGS": 1,
}  # fmt: skip
"""Attributes of one line, `KEYWORD name type`, and their numbers a point or cell."""
_WORD = re.compile(rb"\S+")
_KINDS = (b"POLYDATA", b"UNSTRUCTURED_GRID")


@dataclass(frozen=True, eq=False)
class Vtk(Surface):
    """A legacy VTK file."""

    source: bytes
    """The file."""
    path: Path

    ending: ClassVar[str] = ".vtk"

    def content(self) -> bytes:
        """Lines, polygons and data as they were; without normals, which a warped surface does not keep."""
        found = _Walk(self.source)
        kind = found.points_kind if found.points_kind in ("float", "double") else "float"
        head = f"POINTS {len(self.points)} {kind}\n".encode()
        if found.binary:
            body = self.points.astype(">" + _TYPES[kind]).tobytes() + b"\n"
        else:
            digits = "%.17g" if kind == "double" else "%.9g"
            body = "".join(" ".join(digits % value for value in point) + "\n" for point in self.points).encode()
        out, at = [], 0
        for start, stop, other in sorted([(*found.points_span, head + body), *((*s, b"") for s in found.normals)]):
            out += [self.source[at:start], other]
            at = stop
        return b"".join([*out, self.source[at:]])

    def triangles(self) -> np.ndarray:
        """[M, 3], of the polygons."""
        polygons = _Walk(self.source).polygons
        try:
            corners = [fans(sizes, corners, len(self.points)) for sizes, corners in polygons]
        except ValueError as error:
            raise InputError(f"points {self.path}: expected polygons of a VTK file ({error})") from error
        return check_triangles(np.concatenate([np.empty((0, 3), np.int64), *corners]), str(self.path))


def read_vtk(content: bytes, path: str | Path) -> Vtk:
    """The bytes of a legacy VTK file of polygonal data or an unstructured grid, binary or ASCII."""
    try:
        found = _Walk(content)
        points = found.numbers(found.points_data, found.points_kind).reshape(-1, 3)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"points {path}: expected a legacy VTK file with points and cells ({said})") from error
    return Vtk(check_finite(points, f"points {path}"), content, Path(path), space=said_space(content[:300]))


@dataclass
class _Walk:
    """Where everything stands in a legacy VTK file. ValueError, IndexError or KeyError where it is none."""

    content: bytes
    at: int = 0
    line_start: int = 0
    binary: bool = False
    points_kind: str = ""
    points_span: tuple[int, int] = (0, 0)
    """The keyword's line and the numbers below it."""
    points_data: tuple[int, int] = (0, 0)
    normals: list[tuple[int, int]] = field(default_factory=list)
    polygons: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Sizes and corners, as `fans` takes them."""

    def __post_init__(self) -> None:
        self._line()
        self.at = self.content.index(b"\n", self.at) + 1  # a title may be empty
        self.binary = {b"BINARY": True, b"ASCII": False}[self._line()[0].upper()]
        kind = self._line()[1].upper()
        if kind not in _KINDS:
            raise ValueError(f"got {kind.decode('latin-1')}, which is an image's grid")
        count = 0
        while words := self._line():
            start = self.line_start
            word = words[0].upper()
            if word in (b"POINT_DATA", b"CELL_DATA"):
                count = int(words[1])
            else:
                self._block(word, words, count)
            if word == b"NORMALS":
                self._metadata()
                self.normals.append((start, self.at))
            elif word == b"POINTS":
                self.points_span = (start, self.at)
        if not self.points_kind:
            raise ValueError("got no points")

    def _block(self, word: bytes, words: list[bytes], count: int) -> None:
        """Steps over one block; its line has been read."""
        if word == b"POINTS":
            self.points_kind = words[2].decode("latin-1").lower()
            self.points_data = self._skip(3 * int(words[1]), self.points_kind)
        elif word in _CELLS:
            self._cells(word, int(words[1]), int(words[2]))
        elif word == b"CELL_TYPES":
            self._skip(int(words[1]), "int")
        elif word == b"FIELD":
            for _ in range(int(words[2])):
                _, width, length, kind, *_ = self._line()
                self._skip(int(width) * int(length), kind.decode("latin-1").lower())
                self._metadata()
        elif word == b"METADATA":
            self.at = self.line_start
            self._metadata()
        elif word == b"SCALARS":
            if self.content[self.at : self.at + 12].upper() == b"LOOKUP_TABLE":
                self._line()
            self._skip(count * (int(words[3]) if len(words) > 3 else 1), words[2].decode("latin-1").lower())
        elif word == b"COLOR_SCALARS":
            self._skip(count * int(words[2]), "unsigned_char")
        elif word == b"LOOKUP_TABLE":
            self._skip(4 * int(words[2]), "unsigned_char")
        elif word == b"TEXTURE_COORDINATES":
            self._skip(count * int(words[2]), words[3].decode("latin-1").lower())
        else:
            self._skip(count * _WIDTHS[word], words[2].decode("latin-1").lower())

    def _cells(self, word: bytes, first: int, second: int) -> None:
        """Connectivity: counts and corners in one list, or (5.1) offsets and corners apart."""
        if self.content.startswith(b"OFFSETS", self.at):
            lists = []
            for length in (first, second):
                kind = self._line()[1].decode("latin-1").lower()
                lists.append((self._skip(length, kind), kind))
            if word == b"POLYGONS" and first:
                offsets, corners = (self.numbers(span, kind) for span, kind in lists)
                self.polygons.append((np.diff(offsets), corners))
        else:
            span = self._skip(second, "int")
            if word == b"POLYGONS":
                self.polygons.append(unpack_cells(self.numbers(span, "int").astype(np.int64)))

    def numbers(self, span: tuple[int, int], kind: str) -> np.ndarray:
        """What stands between two places."""
        text = self.content[slice(*span)]
        if self.binary:
            return np.frombuffer(text, ">" + _TYPES[kind])
        return np.array(text.split(), np.float64 if _TYPES[kind][0] == "f" else np.int64)

    def _line(self) -> list[bytes]:
        """Words of the next line that has some; none at the end."""
        while self.at < len(self.content):
            self.line_start = self.at
            end = self.content.find(b"\n", self.at)
            end = len(self.content) if end < 0 else end
            self.at = end + 1
            words = self.content[self.line_start : end].split()
            if words:
                return words
        return []

    def _skip(self, count: int, kind: str) -> tuple[int, int]:
        """Steps over `count` values; where they begin and end."""
        start = self.at
        if count < 0 or count > 8 * len(self.content):
            raise ValueError(f"got {count} values in a file of {len(self.content)} bytes")
        if kind == "string":
            for _ in range(count):
                self._string()
            return start, self.at
        if self.binary:
            stop = start + ((count + 7) // 8 if kind == "bit" else count * np.dtype(_TYPES[kind]).itemsize)
        elif count:
            last = next(islice(_WORD.finditer(self.content, start), count - 1, None), None)
            stop = len(self.content) + 1 if last is None else last.end()
        else:
            stop = start
        if stop > len(self.content):
            raise ValueError("it ends too soon")
        # Blank lines below the numbers stay theirs: at least the one that ends them.
        self.at = stop + 1 if self.content[stop : stop + 1] == b"\n" else stop
        self.at = self.at if self.binary or not count else self.content.find(b"\n", stop) + 1 or len(self.content)
        return start, stop

    def _string(self) -> None:
        """A value of a string array: a line, or its length in 1, 2, 4 or 8 bytes and its letters."""
        if not self.binary:
            self.at = self.content.index(b"\n", self.at) + 1
            return
        width = (8, 4, 2, 1)[self.content[self.at] >> 6]
        length = int.from_bytes(self.content[self.at : self.at + width], "big") & ((1 << (8 * width - 2)) - 1)
        self.at += width + length

    def _metadata(self) -> None:
        """Steps over METADATA, which ends with a blank line, if it is next."""
        rest = re.compile(rb"\s*METADATA[^\n]*\n(?:[^\n]*\S[^\n]*\n)*\s*?\n").match(self.content, self.at)
        if rest is not None:
            self.at = rest.end()


def new_vtk(points: np.ndarray, triangles: np.ndarray, space: str | None) -> bytes:
    """A binary file of version 4.2, which every VTK reads."""
    cells = np.concatenate([np.full((len(triangles), 1), 3), triangles], 1).astype(">i4")
    head = f"# vtk DataFile Version 4.2\n{title(space)}\nBINARY\nDATASET POLYDATA\nPOINTS {len(points)} float\n"
    middle = f"\nPOLYGONS {len(triangles)} {cells.size}\n"
    return head.encode() + points.astype(">f4").tobytes() + middle.encode() + cells.tobytes() + b"\n"
