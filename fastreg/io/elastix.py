"""elastix's parameter files, TransformParameters.N.txt: linear transforms and cubic B-splines, and those before them.

A file names the one that is applied before it. Units are LPS mm, as ITK's.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fastreg.geometry.bsplines import BSpline
from fastreg.geometry.image import check_affine
from fastreg.geometry.transforms import LPS, Affine, Transform
from fastreg.io.itk_kinds import itk_matrix
from fastreg.utils.files import InputError, read_text

_LINEAR = {
    ("TranslationTransform", 2): "TranslationTransform_double_2_2",
    ("TranslationTransform", 3): "TranslationTransform_double_3_3",
    ("EulerTransform", 2): "Euler2DTransform_double_2_2",
    ("EulerTransform", 3): "Euler3DTransform_double_3_3",
    ("SimilarityTransform", 2): "Similarity2DTransform_double_2_2",
    ("SimilarityTransform", 3): "Similarity3DTransform_double_3_3",
    ("AffineTransform", 2): "AffineTransform_double_2_2",
    ("AffineTransform", 3): "AffineTransform_double_3_3",
}
_BSPLINES = ("BSplineTransform", "RecursiveBSplineTransform")
_MOST = 20
"""Files in a chain."""


def is_elastix(text: str) -> bool:
    """Whether the beginning of a file is that of elastix's transform parameters."""
    return re.search(r"^\s*\(Transform\s+\"", text, re.MULTILINE) is not None


def read_elastix(path: Path) -> list[Transform]:
    """The transforms of a file and of those before it, the one that is applied to the fixed places first.

    Raises:
        InputError: a kind that is not read here, transforms that are added, a file that is missing or comes twice,
            parameters that do not fit the grid or are not finite.
    """
    chain: list[Transform] = []
    seen: set[Path] = set()
    before: Path | None = path
    while before is not None:
        here = before
        if here.resolve() in seen or len(seen) == _MOST:
            raise InputError(f"transform {path}: its initial transforms lead back to {here}, or are more than {_MOST}")
        seen.add(here.resolve())
        table = _table(here)
        chain.insert(0, _transform(here, table))
        before = _initial(here, table)
    return chain


def _table(path: Path) -> dict[str, list[str]]:
    text = re.sub(r"//.*", "", read_text(path, "transform"))
    found = re.findall(r"^\s*\((\w+)\s+(.*?)\)\s*$", text, re.MULTILINE)
    return {key: [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', words)] for key, words in found}


def _initial(path: Path, table: dict[str, list[str]]) -> Path | None:
    """The file of the transform that is applied before this one."""
    keys = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
    name = next((table[key][0] for key in keys if table.get(key)), "NoInitialTransform")
    if name == "NoInitialTransform":
        return None
    how = table.get("HowToCombineTransforms", ["Compose"])[0]
    if how != "Compose":
        raise InputError(f"transform {path}: expected transforms that are composed, got {how}")
    there = Path(name)
    beside = path.parent / there.name  # folders of results are moved about
    return there if there.is_file() else path.parent / there if (path.parent / there).is_file() else beside


def _figures(path: Path, table: dict[str, list[str]], key: str, count: int | None = None) -> np.ndarray:
    try:
        found = np.array(table[key], np.float64)
    except (KeyError, ValueError) as error:
        raise InputError(f"transform {path}: expected numbers as {key}, got {table.get(key, ['none'])[:3]}") from error
    if not np.isfinite(found).all() or (count is not None and len(found) != count):
        raise InputError(f"transform {path}: expected {count or 'finite'} numbers as {key}, got {len(found)}")
    return found


def _transform(path: Path, table: dict[str, list[str]]) -> Transform:
    kind = table.get("Transform", ["none"])[0]
    n = int(_figures(path, table, "FixedImageDimension", 1)[0])
    figures = _figures(path, table, "TransformParameters")
    if kind in _BSPLINES and n in (2, 3):
        return _bspline(path, table, n, figures)
    if (kind, n) not in _LINEAR:
        known = ", ".join(dict.fromkeys(name for name, _ in _LINEAR))
        raise InputError(
            f"transform {path}: expected {known} or {', '.join(_BSPLINES)} in 2-D or 3-D, got {kind} in {n}-D; "
            "transformix -def all -tp FILE -out FOLDER writes any as deformationField.nii"
        )
    centre = _figures(path, table, "CenterOfRotationPoint", n) if "CenterOfRotationPoint" in table else np.zeros(n)
    if (kind, n) == ("EulerTransform", 3):
        centre = np.append(centre, table.get("ComputeZYX", ["false"])[0] == "true")
    matrix = LPS @ itk_matrix(path, _LINEAR[kind, n], figures, centre) @ LPS
    return Affine(check_affine(matrix, f"transform {path}"))


def _bspline(path: Path, table: dict[str, list[str]], n: int, figures: np.ndarray) -> BSpline:
    order = table.get("BSplineTransformSplineOrder", ["3"])[0]
    if order != "3":
        raise InputError(f"transform {path}: expected cubic B-splines, order 3, got order {order}")
    shape = tuple(_figures(path, table, "GridSize", n).astype(int))
    index, spacing, origin = (_figures(path, table, f"Grid{key}", n) for key in ("Index", "Spacing", "Origin"))
    # elastix writes the matrix by columns.
    direction = _figures(path, table, "GridDirection", n * n).reshape(n, n).T if "GridDirection" in table else np.eye(n)
    if min(shape) < 4 or len(figures) != n * np.prod(shape, dtype=np.float64):
        raise InputError(f"transform {path}: expected {n} x {shape} numbers as TransformParameters, got {len(figures)}")
    lps = np.eye(4)
    lps[:n, :n] = direction * spacing
    lps[:n, 3] = origin + lps[:n, :n] @ index
    control = np.moveaxis(figures.reshape(n, *shape[::-1]).transpose(0, *range(n, 0, -1)), 0, -1)
    signs = np.array([-1.0, -1.0, 1.0])[:n]
    return BSpline(control * signs, check_affine(LPS @ lps, f"transform {path}"))
