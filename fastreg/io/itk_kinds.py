"""ITK's linear transforms: the matrix that the parameters of each kind stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastreg.geometry.rigid import turn
from fastreg.utils.files import InputError

_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Linear part [n, n], translation [n], and the centre [n] where the parameters and not the fixed ones hold it."""


def itk_matrix(path: Path, kind: str, figures: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """[4, 4] in LPS mm of ITK's parameters: y = M (x - centre) + translation + centre.

    Raises:
        InputError: a kind that is not linear or not known, another number of parameters than it has, figures that are
            not finite.
    """
    said = repr(kind[:60])
    found = re.fullmatch(r"(\w+?)Transform(?:Base)?_(?:double|float)_([23])_\2", kind)
    name, n = (found[1], int(found[2])) if found else (kind, 3)
    known = _KINDS.get((name, n))
    if known is None:
        kinds = ", ".join(dict.fromkeys(name for name, _ in _KINDS))
        raise InputError(f"affine {path}: expected a linear transform ({kinds}, or a composite of them), got {said}")
    count, parts = known
    if len(figures) != count:
        raise InputError(f"affine {path}: expected {count} parameters of {said}, got {len(figures)}")
    if not (np.isfinite(figures).all() and np.isfinite(fixed).all()):
        raise InputError(f"affine {path}: expected finite parameters of {said}")
    if name == "Euler3D":
        linear, translation, centre = _euler_3d(figures, zyx=bool(fixed[3:].any()))
    else:
        linear, translation, centre = parts(figures)
    if centre is None:
        centre = np.zeros(n) if name in ("Translation", "Identity") or len(fixed) < n else fixed[:n]
    matrix = np.eye(4)
    matrix[:n, :n] = linear
    matrix[:n, 3] = translation + centre - linear @ centre
    return matrix


def _euler_3d(p: np.ndarray, *, zyx: bool = False) -> _Parts:
    x, y, z = (turn(axis, angle) for axis, angle in enumerate(p[:3]))
    return (z @ y @ x if zyx else z @ x @ y), p[3:6], None


def _versor(p: np.ndarray) -> np.ndarray:
    """Rotation of a unit quaternion's vector part; a longer one, which rounding makes, is cut to length 1."""
    length = float(np.linalg.norm(p[:3]))
    x, y, z = p[:3] / max(length, 1.0)
    w = np.sqrt(max(0.0, 1 - x * x - y * y - z * z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _scale_skew(p: np.ndarray) -> np.ndarray:
    """ITK adds scales and skews to the rotation's entries instead of multiplying matrices."""
    linear = _versor(p) + np.diag(p[6:9] - 1)
    if len(p) == 15:
        linear[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] += p[9:15]
    return linear


def _scale_and_skew(p: np.ndarray) -> np.ndarray:
    """The kind that does multiply: rotation, scales, skews."""
    skew = np.eye(3)
    skew[[0, 0, 1], [1, 2, 2]] = p[9:12]
    return _versor(p) @ np.diag(p[6:9]) @ skew


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _affine(n: int) -> Callable[[np.ndarray], _Parts]:
    return lambda p: (p[: n * n].reshape(n, n), p[n * n :], None)


def _centred_affine(n: int) -> Callable[[np.ndarray], _Parts]:
    return lambda p: (p[: n * n].reshape(n, n), p[n * n + n :], p[n * n : n * n + n])


_KINDS: dict[tuple[str, int], tuple[int, Callable[[np.ndarray], _Parts]]] = {
    ("VersorRigid3D", 3): (6, lambda p: (_versor(p), p[3:], None)),
    ("Similarity3D", 3): (7, lambda p: (_versor(p) * p[6], p[3:6], None)),
    ("ScaleVersor3D", 3): (9, lambda p: (_scale_skew(p), p[3:6], None)),
    ("ScaleSkewVersor3D", 3): (15, lambda p: (_scale_skew(p), p[3:6], None)),
    ("ComposeScaleSkewVersor3D", 3): (12, lambda p: (_scale_and_skew(p), p[3:6], None)),
    ("Versor", 3): (3, lambda p: (_versor(p), np.zeros(3), None)),
    ("Euler3D", 3): (6, _euler_3d),
    ("CenteredEuler3D", 3): (9, lambda p: (_euler_3d(p)[0], p[6:], p[3:6])),
    ("Euler2D", 2): (3, lambda p: (_turn(p[0]), p[1:], None)),
    ("Rigid2D", 2): (3, lambda p: (_turn(p[0]), p[1:], None)),
    ("CenteredEuler2D", 2): (5, lambda p: (_turn(p[0]), p[3:], p[1:3])),
    ("CenteredRigid2D", 2): (5, lambda p: (_turn(p[0]), p[3:], p[1:3])),
    ("Similarity2D", 2): (4, lambda p: (p[0] * _turn(p[1]), p[2:], None)),
    ("CenteredSimilarity2D", 2): (6, lambda p: (p[0] * _turn(p[1]), p[4:], p[2:4])),
}
for _n in (2, 3):
    _KINDS |= {
        ("Affine", _n): (_n * _n + _n, _affine(_n)),
        ("MatrixOffset", _n): (_n * _n + _n, _affine(_n)),
        ("CenteredAffine", _n): (_n * _n + 2 * _n, _centred_affine(_n)),
        ("Translation", _n): (_n, lambda p: (np.eye(len(p)), p, None)),
        ("Scale", _n): (_n, lambda p: (np.diag(p), np.zeros(len(p)), None)),
        ("ScaleLogarithmic", _n): (_n, lambda p: (np.diag(np.exp(p)), np.zeros(len(p)), None)),
    }
_KINDS |= {
    ("Identity", 2): (0, lambda p: (np.eye(2), np.zeros(2), None)),
    ("Identity", 3): (0, lambda p: (np.eye(3), np.zeros(3), None)),
}
