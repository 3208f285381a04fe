"""ITK's transforms, linear ones, displacement fields and B-splines, as transforms of RAS mm, and back.

ITK works in LPS mm. A composite's transforms are listed from the last that is applied to the first; here the first of
a list is applied to the fixed places first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreg.geometry.bsplines import BSpline
from fastreg.geometry.image import check_affine, in_plane
from fastreg.geometry.transforms import LPS, Affine, Transform, Warp
from fastreg.io.itk_files import Step
from fastreg.io.itk_kinds import itk_matrix
from fastreg.utils.files import InputError


def transforms_of(path: Path, steps: Sequence[Step]) -> list[Transform]:
    """A file's transforms, the one that is applied to the fixed places first.

    Raises:
        InputError: a kind that is not read here, figures that are not finite or not as many as its grid needs.
    """
    return [_transform_of(path, step) for step in reversed(steps)]


def _transform_of(path: Path, step: Step) -> Transform:
    name = step.kind.split("_")[0]
    if name.endswith("DisplacementFieldTransform"):
        vectors, affine = _on_grid(path, step)
        return Warp.from_displacement_mm(np.moveaxis(vectors, 0, -1), affine)
    if name == "BSplineTransform":
        vectors, affine = _on_grid(path, step, by_component=True)
        return BSpline(np.moveaxis(vectors, 0, -1), affine)
    return Affine(check_affine(LPS @ itk_matrix(path, *step) @ LPS, f"transform {path}"))


def _on_grid(path: Path, step: Step, *, by_component: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [3, X, Y, Z] or [2, X, Y] in RAS mm and the affine of their grid."""
    n = 2 if step.kind.endswith("_2_2") else 3
    if len(step.fixed) != n * (n + 3) or not np.isfinite(step.fixed).all():
        raise InputError(f"transform {path}: expected {n * (n + 3)} fixed parameters of {step.kind}, its grid")
    shape = tuple(int(length) for length in step.fixed[:n])
    origin, spacing = step.fixed[n : 2 * n], step.fixed[2 * n : 3 * n]
    direction = step.fixed[3 * n :].reshape(n, n)
    if min(shape) < 1 or len(step.figures) != n * np.prod(shape, dtype=np.float64):
        raise InputError(f"transform {path}: expected {n} x {shape} parameters of {step.kind}, got {len(step.figures)}")
    if not np.isfinite(step.figures).all():
        raise InputError(f"transform {path}: expected finite parameters of {step.kind}")
    lps = np.eye(4)
    lps[:n, :n], lps[:n, 3] = direction * spacing, origin
    if by_component:
        vectors = step.figures.reshape(n, *shape[::-1]).transpose(0, *range(n, 0, -1))
    else:
        vectors = step.figures.reshape(*shape[::-1], n).T
    signs = np.array([-1.0, -1.0, 1.0])[:n].reshape(n, *[1] * n)
    return vectors * signs, check_affine(LPS @ lps, f"transform {path}")


def steps_of(transforms: Sequence[Transform], name: str, ndim: int = 3) -> list[Step]:
    """The same, as a file of ITK's has them.

    Args:
        transforms: From fixed to moving.
        name: The output, for messages.
        ndim: 2 where a 2-D world is to hold them.

    Raises:
        InputError: 2-D, and a transform that leaves the plane.
    """
    return [_step_of(transform, name, ndim) for transform in reversed(transforms)]


def _step_of(transform: Transform, name: str, n: int) -> Step:
    if isinstance(transform, Affine):
        matrix = LPS @ transform.matrix @ LPS
        if n == 2 and not np.allclose(np.delete(matrix[2], 2), 0, atol=1e-6):
            raise InputError(f"{name}: expected a linear transform that stays in the x-y plane, for 2-D")
        return Step(f"AffineTransform_double_{n}_{n}", np.append(matrix[:n, :n].ravel(), matrix[:n, 3]), np.zeros(n))
    if isinstance(transform, Warp):
        data, affine, shape = transform.displacement_mm(), transform.fixed_affine, transform.fixed_shape
        kind = "DisplacementFieldTransform"
    else:
        data, affine, shape, kind = (
            transform.control,
            transform.affine,
            transform.control.shape[:-1],
            "BSplineTransform",
        )
    if len(shape) < n:  # a plane in a volume's world
        raise InputError(f"{name}: expected transforms of one number of axes, got 2-D ones and others")
    if n == 2 and not in_plane(affine):
        raise InputError(f"{name}: ITK's 2-D transforms are in the x-y plane, and this is not; write .nii.gz")
    vectors = data[..., :n] * np.array([-1.0, -1.0, 1.0])[:n]
    flat = vectors.transpose(*range(n)[::-1], n).ravel() if isinstance(transform, Warp) else _by_component(vectors)
    lps = (LPS @ affine)[:n]
    spacing = np.linalg.norm(lps[:, :n], axis=0)
    fixed = [*shape, *lps[:, 3], *spacing, *(lps[:, :n] / spacing).ravel()]
    return Step(f"{kind}_double_{n}_{n}", np.asarray(flat, np.float64), np.array(fixed, np.float64))


def _by_component(vectors: np.ndarray) -> np.ndarray:
    """All of x, then all of y, ..., each with its first axis fastest."""
    return np.concatenate([vectors[..., k].ravel(order="F") for k in range(vectors.shape[-1])])
