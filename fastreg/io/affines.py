"""Linear transforms on disk: ITK's .mat and .tfm, and 4x4 matrices as text."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from fastreg.geometry.image import check_affine
from fastreg.geometry.transforms import LPS, Affine
from fastreg.utils.files import InputError, atomic, check_exists

AFFINE_ENDINGS = (".mat", ".tfm", ".txt")


def save_affine(path: str | Path, affine: Affine) -> None:
    """Write a linear transform: .mat or .tfm for ITK and ANTs, .txt as a 4x4 matrix fixed RAS mm -> moving RAS mm."""
    path = Path(path)
    matrix = LPS @ affine.matrix @ LPS
    figures = np.append(matrix[:3, :3].ravel(), matrix[:3, 3])
    if path.suffix == ".mat":
        content = _matlab_vector("AffineTransform_double_3_3", figures) + _matlab_vector("fixed", np.zeros(3))
    elif path.suffix == ".tfm":
        numbers = " ".join(repr(float(x)) for x in figures)
        content = (
            "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
        ).encode()
    elif path.suffix == ".txt":
        content = "".join(" ".join(repr(float(x)) for x in row) + "\n" for row in affine.matrix).encode()
    else:
        raise InputError(f"output {path}: expected a name that ends in {', '.join(AFFINE_ENDINGS)}")
    with atomic(path) as partial:
        partial.write_bytes(content)


def load_affine(path: str | Path) -> Affine:
    """Read a linear transform: ITK's .mat, .tfm or .txt (affine, Euler, translation), or a 4x4 RAS matrix in .txt.

    Raises:
        InputError: no file, another kind of transform, several in one file, a matrix that is singular.
    """
    path = check_exists(path, "affine")
    content = path.read_bytes()
    if content.startswith(b"#Insight Transform File"):
        kind, figures, fixed = _itk_text(path, content.decode(errors="replace"))
    elif path.suffix == ".mat":
        kind, figures, fixed = _itk_matlab(path, content)
    elif path.suffix == ".txt":
        return Affine(check_affine(_matrix_text(path, content), f"affine {path}"))
    else:
        raise InputError(f"affine {path}: expected an ITK transform file or, in .txt, a 4x4 matrix of RAS mm")
    matrix = LPS @ _itk_matrix(path, kind, figures, fixed) @ LPS
    return Affine(check_affine(matrix, f"affine {path}"))


def _matrix_text(path: Path, content: bytes) -> np.ndarray:
    try:
        rows = [[float(word) for word in line.split()] for line in content.decode().splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"affine {path}: expected a 4x4 matrix of numbers ({error})") from error
    if [len(row) for row in rows] != [4] * 4 or rows[3] != [0, 0, 0, 1]:
        raise InputError(f"affine {path}: expected 4 rows of 4 numbers, the last 0 0 0 1")
    return np.array(rows)


def _itk_text(path: Path, text: str) -> tuple[str, np.ndarray, np.ndarray]:
    found = {key: re.findall(rf"^{key}:(.*)$", text, re.M) for key in ("Transform", "Parameters", "FixedParameters")}
    if [len(lines) for lines in found.values()] != [1, 1, 1]:
        raise InputError(
            f"affine {path}: expected one transform, got {len(found['Transform'])}; give one file for each"
        )
    try:
        figures, fixed = (np.array(found[key][0].split(), np.float64) for key in ("Parameters", "FixedParameters"))
    except ValueError as error:
        raise InputError(f"affine {path}: expected numbers as parameters ({error})") from error
    return found["Transform"][0].strip(), figures, fixed


def _matlab_vector(name: str, values: np.ndarray) -> bytes:
    """A column vector in MATLAB's level-4 format."""
    label = name.encode() + b"\0"
    return struct.pack("<5i", 0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()


def _itk_matlab(path: Path, content: bytes) -> tuple[str, np.ndarray, np.ndarray]:
    vectors: list[tuple[str, np.ndarray]] = []
    at = 0
    try:
        while at < len(content):
            order = "<" if struct.unpack_from("<i", content, at)[0] < 1000 else ">"
            kind, rows, columns, imaginary, named = struct.unpack_from(f"{order}5i", content, at)
            dtype = {0: "f8", 10: "f4"}[kind % 1000]
            name = content[at + 20 : at + 20 + named].rstrip(b"\0").decode("ascii")
            values = np.frombuffer(content, order + dtype, rows * columns * (1 + imaginary), at + 20 + named)
            vectors.append((name, values.astype(np.float64)))
            at += 20 + named + values.nbytes
    except (struct.error, KeyError, ValueError) as error:
        raise InputError(f"affine {path}: not an ITK .mat transform (an FSL matrix, or cut short?)") from error
    if len(vectors) != 2 or vectors[1][0] != "fixed":
        raise InputError(f"affine {path}: expected one transform, got {[name for name, _ in vectors]}")
    return vectors[0][0], vectors[0][1], vectors[1][1]


def _itk_matrix(path: Path, kind: str, figures: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """[4, 4] in LPS mm of ITK's parameters: y = M (x - centre) + translation + centre."""
    found = re.fullmatch(r"(\w+?)_(?:double|float)_([23])_\2", kind)
    name, n = (found[1], int(found[2])) if found else (kind, 3)
    linear = np.eye(n)
    if name in ("AffineTransform", "MatrixOffsetTransformBase") and len(figures) == n * n + n:
        linear = figures[: n * n].reshape(n, n)
    elif name == "Euler3DTransform" and len(figures) == 6:
        linear = _euler(figures[:3], zyx=bool(fixed[3:].any()))
    elif not (name == "TranslationTransform" and len(figures) == n):
        known = "AffineTransform, MatrixOffsetTransformBase, Euler3DTransform, TranslationTransform"
        raise InputError(f"affine {path}: expected one of {known}, got {kind} with {len(figures)} parameters")
    centre = np.zeros(n) if name == "TranslationTransform" or len(fixed) < n else fixed[:n]
    matrix = np.eye(4)
    matrix[:n, :n] = linear
    matrix[:n, 3] = figures[-n:] + centre - linear @ centre
    return matrix


def _euler(angles: np.ndarray, *, zyx: bool) -> np.ndarray:
    turns = []
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        sign = -1 if axis == 1 else 1
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -sign * np.sin(angle), sign * np.sin(angle)
        turns.append(turn)
    x, y, z = turns
    return z @ y @ x if zyx else z @ x @ y
