"""Surfaces in PLY files: vertices are replaced in place, their normals left out, and the rest is kept byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreg.io.point_sets import check_finite
from fastreg.io.surfaces import Surface, check_triangles, fans, said_space, title
from fastreg.utils.files import InputError

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_NORMALS = ("nx", "ny", "nz")


@dataclass(frozen=True, eq=False)
class _Element:
    name: str
    count: int
    properties: list[list[str]]
    """Words of each `property` line after the first."""


@dataclass(frozen=True, eq=False)
class Ply(Surface):
    """A PLY file."""

    source: bytes
    """The file."""
    path: Path

    ending: ClassVar[str] = ".ply"

    def content(self) -> bytes:
        """Other properties, elements and comments as they were; without the vertices' normals."""
        order, elements, start = _header(self.source)
        vertex = elements[0]
        names = [words[-1] for words in vertex.properties]
        kinds = [words[0] for words in vertex.properties]
        kept = [k for k, name in enumerate(names) if name not in _NORMALS]
        lines, inside = [], False
        for line in self.source[:start].splitlines(keepends=True):
            words = line.decode("latin-1").split()
            if words[:1] == ["element"]:
                inside = words[1] == "vertex"
            if inside and words[:1] == ["property"]:
                if words[2] in _NORMALS:
                    continue
                if words[2] in ("x", "y", "z"):
                    line = line.replace(words[1].encode(), _real(words[1]).encode(), 1)
            lines.append(line)
        rows, stop = _rows(self.source, order, vertex, start)
        if not order:
            head = b"".join(lines)
            columns = {names.index(axis): self.points[:, k] for k, axis in enumerate("xyz")}
            text = "".join(
                " ".join(f"{columns[c][r]:.9g}" if c in columns else row[c] for c in kept) + "\n"
                for r, row in enumerate(rows)
            )
            return head + text.encode("latin-1") + self.source[stop:]
        fields = [(names[k], order + _TYPES[_real(kinds[k]) if names[k] in "xyz" else kinds[k]]) for k in kept]
        out = np.empty(vertex.count, fields)
        for name, _ in fields:
            out[name] = self.points[:, "xyz".index(name)] if name in "xyz" else rows[name]
        return b"".join(lines) + out.tobytes() + self.source[stop:]

    def triangles(self) -> np.ndarray:
        """[M, 3]."""
        order, elements, start = _header(self.source)
        _, stop = _rows(self.source, order, elements[0], start)
        face = elements[1] if len(elements) > 1 and elements[1].name == "face" else None
        lists = [words for words in face.properties if words[0] == "list"] if face else []
        if face is None or len(lists) != 1 or not lists[0][-1].startswith("vertex_ind"):
            raise InputError(f"points {self.path}: expected a surface with faces after its vertices, got none")
        try:
            return check_triangles(fans(*_faces(self.source, order, face, stop), len(self.points)), str(self.path))
        except (ValueError, IndexError, KeyError) as error:
            raise InputError(f"points {self.path}: expected faces of a PLY file ({error})") from error


def read_ply(content: bytes, path: str | Path) -> Ply:
    """The bytes of a PLY file, binary or ASCII."""
    try:
        order, elements, start = _header(content)
        rows, _ = _rows(content, order, elements[0], start)
        if order:
            points = np.stack([rows[axis] for axis in "xyz"], 1)
        else:
            columns = [[words[-1] for words in elements[0].properties].index(axis) for axis in "xyz"]
            points = np.array([[row[column] for column in columns] for row in rows], np.float64).reshape(-1, 3)
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"points {path}: expected a PLY file whose vertices come first ({error})") from error
    return Ply(check_finite(points, f"points {path}"), content, Path(path), space=said_space(content[:start]))


def _real(kind: str) -> str:
    """The type of a coordinate once it is warped: no integer."""
    return kind if _TYPES[kind][0] == "f" else "float"


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ("" of ASCII), elements, and where the data begin."""
    end = content.index(b"end_header")
    start = content.index(b"\n", end) + 1
    order, elements = "", list[_Element]()
    for line in content[:end].splitlines():
        words = line.decode("latin-1").split()
        if words[:1] == ["format"]:
            order = _ORDERS[words[1]]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            kinds = words[2:4] if words[1] == "list" else words[1:2]
            if any(kind not in _TYPES for kind in kinds) or len(words) != 2 + len(kinds) + (words[1] == "list"):
                raise ValueError(f"got the property {' '.join(words[1:])[:80]}")
            elements[-1].properties.append(words[1:])
    if elements[0].name != "vertex" or any(words[0] == "list" for words in elements[0].properties):
        raise ValueError(f"got {elements[0].name} first, or lists in it")
    return order, elements, start


def _rows(content: bytes, order: str, vertex: _Element, start: int) -> tuple[np.ndarray, int]:
    """The vertices, as records or (ASCII) lists of words, and where they end."""
    if order:
        kind = np.dtype([(words[-1], order + _TYPES[words[0]]) for words in vertex.properties])
        stop = start + vertex.count * kind.itemsize
        if vertex.count < 0 or stop > len(content):
            raise ValueError(f"got {vertex.count} vertices in a file that ends before")
        return np.frombuffer(content, kind, vertex.count, start), stop
    lines = content[start:].splitlines(keepends=True)[: max(vertex.count, 0)]
    rows = [line.decode("latin-1").split() for line in lines]
    if len(rows) != vertex.count or any(len(row) != len(vertex.properties) for row in rows):
        raise ValueError(f"got {len(rows)} of {vertex.count} vertices")
    table = np.empty((len(rows), len(vertex.properties)), object)
    table[:] = rows
    return table, start + sum(map(len, lines))


def _faces(content: bytes, order: str, face: _Element, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and corners of the faces, as `fans` takes them."""
    at = next(k for k, words in enumerate(face.properties) if words[0] == "list")
    _, count_kind, index_kind, _ = face.properties[at]
    if not order:
        rows = [line.split() for line in content[start:].splitlines()[: face.count]]
        sizes = [int(row[at]) for row in rows]
        return np.array(sizes), np.array(
            [int(word) for row, size in zip(rows, sizes, strict=True) for word in row[at + 1 : at + 1 + size]]
        )
    before, after = (
        sum(np.dtype(_TYPES[words[0]]).itemsize for words in part)
        for part in (face.properties[:at], face.properties[at + 1 :])
    )
    counter, index = np.dtype(order + _TYPES[count_kind]), np.dtype(order + _TYPES[index_kind])
    sizes, corners, place = [], [], start
    for _ in range(face.count):
        place += before
        size = int(np.frombuffer(content, counter, 1, place)[0])
        place += counter.itemsize
        corners.append(np.frombuffer(content, index, size, place) if size > 0 else np.empty(0, index))
        sizes.append(size)
        place += max(size, 0) * index.itemsize + after
    return np.array(sizes), np.concatenate(corners) if corners else np.empty(0, index)


def new_ply(points: np.ndarray, triangles: np.ndarray, space: str | None) -> bytes:
    """A binary PLY file."""
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment {title(space)}\nelement vertex {len(points)}\n{axes}"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, triangles
    return head.encode() + points.astype("<f4").tobytes() + faces.tobytes()
