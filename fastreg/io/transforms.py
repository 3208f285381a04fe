"""Transforms of any kind that is read here, from one file, and to one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.linear import product_of
from fastreg.geometry.transforms import Affine, Transform, Warp, compose, fixed_grid
from fastreg.io.affines import AFFINE_ENDINGS, itk_steps, load_affine, save_affine
from fastreg.io.elastix import is_elastix, read_elastix
from fastreg.io.foreign import foreign_transform
from fastreg.io.images import check_ending
from fastreg.io.itk_files import HDF5_MAGIC, TEXT_MAGIC, text_of, write_hdf5
from fastreg.io.itk_transforms import steps_of, transforms_of
from fastreg.io.warps import WARP_ENDINGS, load_warp, save_warp
from fastreg.utils.files import InputError, atomic, check_exists, save_bytes

TRANSFORM_ENDINGS = (*WARP_ENDINGS, ".h5", *AFFINE_ENDINGS)
"""Of what is written here."""


def load_transforms(
    path: str | Path,
    *,
    fixed: Image | None = None,
    moving: Image | None = None,
    format: str | None = None,
    matrix: str | None = None,
) -> list[Transform]:
    """The transforms of a file, the one that is applied to the fixed places first.

    Args:
        path: ITK's .h5, .tfm, .txt and .mat, composites, displacement fields and B-splines among them; elastix's
            TransformParameters.N.txt with those before it; what `load_affine` and `load_warp` read.
        fixed: See `load_affine`.
        moving: See `load_affine` and `load_warp`.
        format: See `load_warp`.
        matrix: See `load_affine`.

    Raises:
        InputError: no file, none of these, damaged or cut short, an image or option that is missing.
    """
    path = check_exists(path, "transform")
    known = foreign_transform(path)
    if known is not None:
        raise InputError(f"transform {path}: expected one of {', '.join(TRANSFORM_ENDINGS)}; this {known}")
    head = _head(path)
    if head.startswith(HDF5_MAGIC) or head.startswith(TEXT_MAGIC):
        return transforms_of(path, itk_steps(path))
    if is_elastix(head.decode("utf-8", "ignore")):
        return read_elastix(path)
    bare = not path.suffix and b"\0" not in head  # as mcflirt -mats calls its matrices
    if bare or path.name.lower().endswith(AFFINE_ENDINGS):
        return [load_affine(path, matrix=matrix, fixed=fixed, moving=moving)]
    return [load_warp(path, moving=moving, format=format)]


def holds_transforms(path: Path) -> bool:
    """Whether a file is one of transforms by its first bytes or its ending; a warp that is an image is not told."""
    head = _head(path)
    if head.startswith(HDF5_MAGIC) or head.startswith(TEXT_MAGIC) or is_elastix(head.decode("utf-8", "ignore")):
        return True
    return path.name.lower().endswith(AFFINE_ENDINGS) or foreign_transform(path) is not None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def save_transforms(
    path: str | Path,
    transforms: Sequence[Transform],
    *,
    fixed: Image | None = None,
    moving: Image | None = None,
    format: str | None = None,
    matrix: str | None = None,
) -> None:
    """Write transforms as one file: as they are in .h5 and .tfm, multiplied in a linear format, else as one warp.

    Args:
        path: A name that ends as one of `TRANSFORM_ENDINGS`.
        transforms: From fixed to moving, as for antsApplyTransforms.
        fixed: Gives the grid of a warp; without it that of the first warp.
        moving: Gives the grid that FSL's, FreeSurfer's and Learn2Reg's warps lead to, and see `save_affine`.
        format: See `save_warp`.
        matrix: See `save_affine`.

    Raises:
        InputError: another ending, a format that cannot hold these transforms, an image that is missing.
    """
    path, name = Path(path), f"output {path}"
    check_ending(path, TRANSFORM_ENDINGS)
    ending = path.suffix.lower()
    grids = [t.ndim for t in transforms if not isinstance(t, Affine)] + [i.ndim for i in (fixed, moving) if i]
    ndim = 2 if grids and set(grids) == {2} else 3
    if ending == ".h5" or (ending == ".tfm" and not any(isinstance(t, Warp) for t in transforms)):
        steps = steps_of(transforms, name, ndim)
        if ending == ".tfm":
            save_bytes(path, text_of(steps))
            return
        with atomic(path) as partial:
            write_hdf5(partial, steps, name)
    elif ending in AFFINE_ENDINGS:
        if not all(isinstance(t, Affine) for t in transforms):
            raise InputError(f"{name}: a linear format, and these transforms are not: write .nii.gz or .h5")
        total = product_of(transforms) or Affine(np.eye(4))
        save_affine(path, total, matrix=matrix, fixed=fixed, moving=moving, ndim=ndim)
    else:
        save_warp(path, as_warp(transforms, fixed, moving), format=format)


def as_warp(transforms: Sequence[Transform], fixed: Image | None, moving: Image | None) -> Warp:
    """Transforms as one warp on the fixed image's grid, or the first warp's; InputError where there is neither."""
    grid = fixed_grid(transforms, fixed)
    if grid is None:
        raise InputError("the fixed grid is not known: give the fixed image, or a warp as the first transform")
    (affine, shape), first = grid, transforms[0] if transforms else None
    into = (affine, shape) if moving is None else (moving.affine, moving.shape)
    if len(transforms) == 1 and isinstance(first, Warp) and _same_grid(first, affine, shape):
        known = moving is None or (
            first.moving_shape == moving.shape and np.allclose(first.moving_affine, moving.affine)
        )
        return first if known else first.onto(*into)
    return compose(transforms, affine, shape, *into)


def _same_grid(warp: Warp, affine: np.ndarray, shape: Sequence[int]) -> bool:
    return warp.fixed_shape == tuple(shape) and np.allclose(warp.fixed_affine, affine, atol=1e-6)
