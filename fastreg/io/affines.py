"""Linear transforms on disk: ITK's .mat and .tfm, and 4x4 matrices as text."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fastreg.geometry.image import Image, check_affine, fsl_frame
from fastreg.geometry.transforms import LPS, Affine
from fastreg.io.itk_kinds import itk_matrix
from fastreg.utils.files import InputError, atomic, check_exists

AFFINE_ENDINGS = (".mat", ".tfm", ".txt")
MATRICES = ("ras", "flirt")
"""What a plain 4x4 matrix may be: fixed RAS mm -> moving RAS mm, or FSL's."""
_RAS_LINE = "# fixed RAS mm -> moving RAS mm"
_LARGEST = 2**20
"""Bytes; a linear transform takes less than a thousand."""
_Step: TypeAlias = tuple[str, np.ndarray, np.ndarray]
"""ITK's name of a kind, parameters, fixed parameters."""


def save_affine(path: str | Path, affine: Affine) -> None:
    """Write a linear transform: .mat or .tfm for ITK and ANTs, .txt as a 4x4 matrix of RAS mm."""
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
        lines = [_RAS_LINE, *(" ".join(repr(float(x)) for x in row) for row in affine.matrix)]
        content = "".join(f"{line}\n" for line in lines).encode()
    else:
        raise InputError(f"output {path}: expected a name that ends in {', '.join(AFFINE_ENDINGS)}")
    with atomic(path) as partial:
        partial.write_bytes(content)


def load_affine(
    path: str | Path, *, matrix: str | None = None, fixed: Image | None = None, moving: Image | None = None
) -> Affine:
    """Read a linear transform.

    Args:
        path: ITK's .mat, .tfm or .txt: every linear kind, and in text composites of them. Or a 4x4 matrix in text.
        matrix: What a plain 4x4 matrix is, one of `MATRICES`; None reads only those that say it, as fastreg's do.
        fixed: The fixed image, which FLIRT's matrices need: FSL's -ref.
        moving: The moving image, likewise: FSL's -in.

    Raises:
        InputError: no file, another kind of transform, several in one file, a matrix that is singular, a plain matrix
            without `matrix`, one of FLIRT's without both images.
    """
    path = check_exists(path, "affine")
    if matrix is not None and matrix not in MATRICES:
        raise InputError(f"matrix: expected one of {', '.join(MATRICES)}, got {matrix}")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"affine {path}: expected a linear transform, got a file of {path.stat().st_size} bytes")
    content = path.read_bytes()
    if content.startswith(b"#Insight Transform File"):
        steps = _itk_text(path, content.decode(errors="replace"))
    elif _is_text(content):
        return _plain_matrix(path, content.decode(), matrix, fixed, moving)
    elif path.suffix.lower() == ".mat":
        steps = _itk_matlab(path, content)
    else:
        raise InputError(f"affine {path}: expected an ITK transform file or a 4x4 matrix in text")
    total = np.eye(4)
    for step in steps:  # of a composite the last is applied first
        total = total @ itk_matrix(path, *step)
    return Affine(check_affine(LPS @ total @ LPS, f"affine {path}"))


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


_FLIRT_ROW = re.compile(r"\S+(  \S+){3}")
"""FSL puts two spaces between numbers; nobody else does."""


def _plain_matrix(path: Path, text: str, matrix: str | None, fixed: Image | None, moving: Image | None) -> Affine:
    """A 4x4 matrix of numbers, of RAS mm or FLIRT's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = bool(lines) and lines[0] == _RAS_LINE
    try:
        rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    except ValueError as error:
        raise InputError(f"affine {path}: expected a 4x4 matrix of numbers ({error})") from error
    if [len(row) for row in rows] != [4] * 4 or rows[3] != [0, 0, 0, 1]:
        raise InputError(f"affine {path}: expected 4 rows of 4 numbers, the last 0 0 0 1")
    found = check_affine(np.array(rows), f"affine {path}")
    if matrix is None and not said:
        if path.suffix == ".mat" or all(_FLIRT_ROW.fullmatch(line) for line in lines):
            raise InputError(
                f"affine {path}: a plain 4x4 matrix as FLIRT writes it: give --matrix flirt to fastreg warp, or, if it "
                f"maps fixed RAS mm -> moving RAS mm, --matrix ras or the line '{_RAS_LINE}' above it"
            )
        text = f"affine {path}: a plain 4x4 matrix, taken for {_RAS_LINE[2:]}; if it is FLIRT's, give --matrix flirt"
        warnings.warn(text, UserWarning, stacklevel=4)
    if matrix != "flirt":
        return Affine(found)
    if fixed is None or moving is None:
        raise InputError(f"affine {path}: FLIRT's matrix needs both images: the fixed (-ref) and the moving (-in)")
    # FLIRT maps the moving image's coordinates to the fixed image's: the other way round.
    into, out_of = (fsl_frame(i.affine, i.shape) @ np.linalg.inv(i.affine) for i in (fixed, moving))
    world = np.linalg.inv(out_of) @ np.linalg.inv(found) @ into
    return Affine(check_affine(world, f"affine {path}"))


def _itk_text(path: Path, text: str) -> list[_Step]:
    steps: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            if key == "Transform":
                steps.append({})
            if not steps or key in steps[-1]:
                raise InputError(f"affine {path}: expected a line Transform: before {line[:40]!r}")
            steps[-1][key] = value.strip()
    composite = bool(steps) and steps[0]["Transform"].startswith("CompositeTransform")
    if composite:
        steps = steps[1:]
    elif len(steps) != 1:
        raise InputError(f"affine {path}: expected one transform, got {len(steps)}; give one file for each")
    if any(set(step) != {"Transform", "Parameters", "FixedParameters"} for step in steps):
        raise InputError(f"affine {path}: expected the lines Parameters and FixedParameters of every transform")
    try:
        return [(s["Transform"], _numbers(s["Parameters"]), _numbers(s["FixedParameters"])) for s in steps]
    except ValueError as error:
        raise InputError(f"affine {path}: expected numbers as parameters ({error})") from error


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64)


def _matlab_vector(name: str, values: np.ndarray) -> bytes:
    """A column vector in MATLAB's level-4 format."""
    label = name.encode() + b"\0"
    return struct.pack("<5i", 0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()


def _itk_matlab(path: Path, content: bytes) -> list[_Step]:
    vectors: list[tuple[str, np.ndarray]] = []
    at = 0
    try:
        while at < len(content):
            order = "<" if 0 <= struct.unpack_from("<i", content, at)[0] < 1000 else ">"
            kind, rows, columns, imaginary, named = struct.unpack_from(f"{order}5i", content, at)
            dtype = np.dtype(order + {0: "f8", 10: "f4"}[kind % 1000])
            count = rows * columns
            # Lengths that the file does not hold, or below 0, would lead back to where the reader has been.
            if min(rows, columns, named) < 0 or imaginary or at + 20 + named + count * dtype.itemsize > len(content):
                raise ValueError("lengths that the file does not hold")
            name = content[at + 20 : at + 20 + named].rstrip(b"\0").decode("ascii")
            values = np.frombuffer(content, dtype, count, at + 20 + named)
            vectors.append((name, values.astype(np.float64)))
            at += 20 + named + values.nbytes
    except (struct.error, KeyError, ValueError) as error:
        raise InputError(f"affine {path}: not an ITK .mat transform, or cut short ({error})") from error
    if len(vectors) != 2 or vectors[1][0] != "fixed":
        raise InputError(f"affine {path}: expected one transform, got {[name for name, _ in vectors][:4]}")
    if vectors[0][0].startswith("CompositeTransform"):
        raise InputError(
            f"affine {path}: expected a single transform, for ITK's .mat loses a composite's kinds; write it as .tfm"
        )
    return [(vectors[0][0], vectors[0][1], vectors[1][1])]
