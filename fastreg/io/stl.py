"""Surfaces in STL files: triangles of which each has its own corners; those at one place are one point here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreg.io.point_sets import check_finite
from fastreg.io.surfaces import Surface, said_space, title
from fastreg.utils.files import InputError

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NUMBERS = re.compile(rb"(normal|vertex)\s+(\S+)\s+(\S+)\s+(\S+)")


@dataclass(frozen=True, eq=False)
class Stl(Surface):
    """An STL file. Normals of the facets are computed anew."""

    faces: np.ndarray
    """[M, 3], indices of points."""
    source: bytes
    """The file."""

    ending: ClassVar[str] = ".stl"

    def triangles(self) -> np.ndarray:
        """[M, 3]."""
        return self.faces

    def content(self) -> bytes:
        """Title, names of solids and attributes as they were."""
        facets = _facets(self.points, self.faces)
        if _is_binary(self.source):
            facets["attribute"] = _binary(self.source)["attribute"]
            return self.source[:84] + facets.tobytes()
        rows = np.concatenate([facets["normal"][:, None], facets["corners"]], 1).reshape(-1, 3).tolist()
        given = iter(rows)

        def other(found: re.Match[bytes]) -> bytes:
            return found[1] + b"".join(b" %.9g" % value for value in next(given))

        return _NUMBERS.sub(other, self.source)


def read_stl(content: bytes, path: str | Path) -> Stl:
    """The bytes of an STL file, binary or ASCII."""
    if _is_binary(content):
        corners = _binary(content)["corners"].reshape(-1, 3)
    else:
        found = _NUMBERS.findall(content)
        if [row[0] for row in found] != [b"normal", b"vertex", b"vertex", b"vertex"] * (len(found) // 4):
            raise InputError(f"points {path}: expected an STL file, got one that is cut short, or of another kind")
        try:
            corners = np.array([row[1:] for row in found if row[0] == b"vertex"], np.float32).reshape(-1, 3)
        except ValueError as error:
            raise InputError(f"points {path}: expected numbers in an STL file ({error})") from error
    corners = check_finite(corners, f"points {path}")
    points, faces = np.unique(corners, axis=0, return_inverse=True)
    return Stl(points, faces.reshape(-1, 3), content, space=said_space(content[:300]))


def _is_binary(content: bytes) -> bool:
    # A binary title may begin with "solid" too: the size tells.
    return len(content) >= 84 and len(content) == 84 + 50 * int.from_bytes(content[80:84], "little")


def _binary(content: bytes) -> np.ndarray:
    return np.frombuffer(content, _FACET, offset=84)


def _facets(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    facets = np.zeros(len(faces), _FACET)
    facets["corners"] = corners
    facets["normal"] = np.divide(normal, length, where=length > 0, out=np.zeros_like(normal))
    return facets


def new_stl(points: np.ndarray, triangles: np.ndarray, space: str | None) -> bytes:
    """A binary STL file."""
    head = title(space).encode().ljust(80, b" ")
    return head + len(triangles).to_bytes(4, "little") + _facets(points, triangles).tobytes()
