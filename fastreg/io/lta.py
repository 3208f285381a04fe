"""FreeSurfer's linear transforms, .lta: text with the geometries of both images.

The matrix maps the source, which is the moving image, to the target, the fixed one: in RAS mm, or in voxels.
Source: FreeSurfer, transform.cpp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image, check_affine, spacing_mm
from fastreg.geometry.transforms import Affine
from fastreg.utils.files import InputError

_VOXELS, _RAS = 0, 1
_KINDS = {2: "physical voxels", 14: "register.dat", 15: "FSL"}


def read(path: Path, text: str, fixed: Image | None, moving: Image | None) -> np.ndarray:
    """[4, 4], fixed RAS mm -> moving RAS mm.

    Args:
        path: For messages.
        text: The file's.
        fixed: Where the file does not say how the target lies.
        moving: Likewise of the source.

    Raises:
        InputError: no .lta, several transforms, a kind that is neither in RAS mm nor in voxels, a geometry missing.
    """
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    said = dict((key.strip(), value.strip()) for key, mark, value in (line.partition("=") for line in lines) if mark)
    try:
        kind, count = int(said["type"]), int(said["nxforms"])
        start = lines.index("1 4 4") + 1
        matrix = np.array([line.split() for line in lines[start : start + 4]], np.float64)
        if matrix.shape != (4, 4):
            raise ValueError("expected 4 rows of 4 numbers")
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"transform {path}: not FreeSurfer's .lta, or cut short ({error!r})") from error
    if count != 1:
        raise InputError(f"transform {path}: expected one transform, got {count}")
    check_affine(matrix, f"transform {path}")
    if kind == _VOXELS:
        source, target = (_geometry(path, lines, which, image) for which, image in (("src", moving), ("dst", fixed)))
        matrix = target @ matrix @ np.linalg.inv(source)
    elif kind != _RAS:
        raise InputError(
            f"transform {path}: expected type 0 (voxels) or 1 (RAS mm), got {kind} ({_KINDS.get(kind, 'unknown')}); "
            "lta_convert --inlta x.lta --outlta y.lta --ltavox2vox makes one of type 0"
        )
    return np.linalg.inv(matrix)


def _geometry(path: Path, lines: list[str], which: str, image: Image | None) -> np.ndarray:
    """[4, 4], voxel -> RAS mm, of the image "src" or "dst"."""
    try:
        start = lines.index(f"{which} volume info") + 1
        said = dict(
            (key.strip(), value.split()) for key, _, value in (x.partition("=") for x in lines[start : start + 9])
        )
        if int(said["valid"][0]) != 1:
            raise KeyError("valid")
        shape, spacing = (np.array(said[key], np.float64) for key in ("volume", "voxelsize"))
        axes = np.array([said[key] for key in ("xras", "yras", "zras")], np.float64).T * spacing
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = np.array(said["cras"], np.float64) - axes @ (shape / 2)
    except (KeyError, ValueError, IndexError) as error:
        if image is not None:
            return image.affine
        role = "moving" if which == "src" else "fixed"
        raise InputError(f"transform {path}: does not say how its {which} lies: give the {role} image") from error
    return check_affine(affine, f"transform {path}, {which} volume")


def text_of(affine: Affine, fixed: Image | None, moving: Image | None, name: str) -> bytes:
    """A file of type 1, RAS mm; InputError without both images, whose geometries it holds."""
    if fixed is None or moving is None:
        raise InputError(f"{name}: FreeSurfer's .lta needs both images, the fixed and the moving one")
    rows = [" ".join(f"{x:.15e}" for x in row) for row in np.linalg.inv(affine.matrix)]
    lines = ["type      = 1", "nxforms   = 1", "mean      = 0.0000 0.0000 0.0000", "sigma     = 1.0000", "1 4 4", *rows]
    for which, image in (("src", moving), ("dst", fixed)):
        shape = np.array([*image.shape, 1, 1])[:3]
        spacing = np.array(spacing_mm(image.affine))
        axes, centre = image.affine[:3, :3] / spacing, image.affine[:3, :3] @ (shape / 2) + image.affine[:3, 3]
        lines += [f"{which} volume info", "valid = 1  # volume info valid", f"filename = {image.path or 'none'}"]
        lines += [f"volume = {' '.join(map(str, shape))}", f"voxelsize = {_spelt(spacing)}"]
        lines += [f"{key}   = {_spelt(axis)}" for key, axis in zip(("xras", "yras", "zras"), axes.T, strict=True)]
        lines += [f"cras   = {_spelt(centre)}"]
    return ("\n".join(lines) + "\n").encode()


def _spelt(figures: np.ndarray) -> str:
    return " ".join(f"{x:.15e}" for x in figures)
