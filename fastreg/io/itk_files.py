"""ITK's transform files, .tfm and .txt (text), .mat (MATLAB level 4) and .h5 (HDF5): the transforms' names and figures.

What the figures mean is in `fastreg.io.itk_kinds` and `fastreg.io.itk_transforms`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastreg.io.limits import check_size
from fastreg.utils.extras import need
from fastreg.utils.files import InputError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TEXT_MAGIC = b"#Insight Transform File"


class Step(NamedTuple):
    """One transform of a file, as it stands there."""

    kind: str
    """"AffineTransform_double_3_3"."""
    figures: np.ndarray
    """Parameters."""
    fixed: np.ndarray
    """Fixed parameters: a centre, a grid."""


def is_composite(step: Step) -> bool:
    """Whether it stands for those that follow it."""
    return step.kind.startswith("CompositeTransform")


def read_text_steps(path: Path, text: str) -> list[Step]:
    """The transforms of a text file, a composite's apart: the last is applied first."""
    steps: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            if key == "Transform":
                steps.append({})
            if not steps or key in steps[-1]:
                raise InputError(f"transform {path}: expected a line Transform: before {line[:40]!r}")
            steps[-1][key] = value.strip()
    composite = bool(steps) and steps[0]["Transform"].startswith("CompositeTransform")
    if composite:
        steps = steps[1:]
    elif len(steps) != 1:
        raise InputError(f"transform {path}: expected one transform, got {len(steps)}; give one file for each")
    if any(set(step) != {"Transform", "Parameters", "FixedParameters"} for step in steps):
        raise InputError(f"transform {path}: expected the lines Parameters and FixedParameters of every transform")
    try:
        return [Step(s["Transform"], _numbers(s["Parameters"]), _numbers(s["FixedParameters"])) for s in steps]
    except ValueError as error:
        raise InputError(f"transform {path}: expected numbers as parameters ({error})") from error


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64)


def text_of(steps: Sequence[Step]) -> bytes:
    """A text file of one transform, or of a composite of several."""
    if len(steps) > 1:
        steps = [_composite(steps), *steps]
    lines = ["#Insight Transform File V1.0"]
    for k, step in enumerate(steps):
        lines += [f"#Transform {k}", f"Transform: {step.kind}"]
        if not is_composite(step):
            lines += [f"Parameters: {_spelt(step.figures)}", f"FixedParameters: {_spelt(step.fixed)}"]
    return ("\n".join(lines) + "\n").encode()


def _composite(steps: Sequence[Step]) -> Step:
    ndim = steps[0].kind[-1]
    return Step(f"CompositeTransform_double_{ndim}_{ndim}", np.zeros(0), np.zeros(0))


def _spelt(figures: np.ndarray) -> str:
    return " ".join(repr(float(x)) for x in figures)


def matlab_of(step: Step) -> bytes:
    """A .mat file of one transform."""
    return _matlab_vector(step.kind, step.figures) + _matlab_vector("fixed", step.fixed)


def _matlab_vector(name: str, values: np.ndarray) -> bytes:
    """A column vector in MATLAB's level-4 format."""
    label = name.encode() + b"\0"
    return struct.pack("<5i", 0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()


def read_matlab_steps(path: Path, content: bytes) -> list[Step]:
    """The one transform of a .mat file."""
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
        raise InputError(f"transform {path}: not an ITK .mat transform, or cut short ({error})") from error
    if len(vectors) != 2 or vectors[1][0] != "fixed":
        raise InputError(f"transform {path}: expected one transform, got {[name for name, _ in vectors][:4]}")
    if vectors[0][0].startswith("CompositeTransform"):
        raise InputError(
            f"transform {path}: expected a single transform, for ITK's .mat loses a composite's kinds; write it as .tfm"
        )
    return [Step(vectors[0][0], vectors[0][1], vectors[1][1])]


def read_hdf5_steps(path: Path) -> list[Step]:
    """The transforms of an .h5 file, as `read_text_steps`."""
    h5py = need("h5py", "io", f"transform {path}")
    try:
        with h5py.File(path, "r") as file:
            groups = file["TransformGroup"]
            steps = [_hdf5_step(path, groups[name]) for name in sorted(groups, key=int)]
    except InputError:
        raise
    except Exception as error:  # what h5py raises on a damaged file is of any kind
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"transform {path}: not an ITK transform in HDF5, or cut short ({reason})") from error
    if steps and is_composite(steps[0]):
        steps = steps[1:]
    elif len(steps) != 1:
        raise InputError(f"transform {path}: expected one transform or a composite, got {len(steps)}")
    return steps


def _hdf5_step(path: Path, group: Any) -> Step:
    kind = np.asarray(group["TransformType"]).reshape(-1)[0]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    vectors = []
    for name in ("Parameters", "FixedParameters"):
        # Releases of ITK before 4.13 write the name without an s.
        key = next((key for key in (f"Transform{name}", f"Tranform{name}") if key in group), None)
        if key is not None:
            check_size(f"transform {path}", group[key].shape, 8)
        vectors.append(np.zeros(0) if key is None else np.asarray(group[key], np.float64).reshape(-1))
    return Step(kind, *vectors)


def write_hdf5(path: Path, steps: Sequence[Step], name: str) -> None:
    """An .h5 file of one transform, or of a composite of several."""
    h5py = need("h5py", "io", name)
    if len(steps) > 1:
        steps = [_composite(steps), *steps]
    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w") as file:
        for key, said in (("ITKVersion", "5.4.0"), ("HDFVersion", h5py.version.hdf5_version), ("OSName", "any")):
            file.create_dataset(key, data=[said], dtype=text)
        groups = file.create_group("TransformGroup")
        for k, step in enumerate(steps):
            group = groups.create_group(str(k))
            group.create_dataset("TransformType", data=[step.kind], dtype=text)
            if is_composite(step):
                continue
            group.create_dataset("TransformFixedParameters", data=step.fixed)
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if len(step.figures) > 64 else {}
            group.create_dataset("TransformParameters", data=step.figures, **packed)
