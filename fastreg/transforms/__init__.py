"""Warps and affine transforms on disk, and what they do to images and points.

A transform maps a place in the fixed image to the place in the moving image that looks like it, in RAS mm. Several are
given as to antsApplyTransforms: the first maps the fixed places, the last leads into the moving image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreg.files import InputError
from fastreg.images import Image, affine_field, sample
from fastreg.transforms.affine_files import AFFINE_ENDINGS, load_affine, save_affine
from fastreg.transforms.spaces import Affine, Transform, Warp, decode
from fastreg.transforms.warp_files import FORMATS, detect_format, load_warp, save_warp

__all__ = [
    "AFFINE_ENDINGS",
    "FORMATS",
    "Affine",
    "Transform",
    "Warp",
    "apply",
    "compose",
    "detect_format",
    "load_affine",
    "load_transform",
    "load_warp",
    "map_places",
    "save_affine",
    "save_warp",
]


def load_transform(path: str | Path, *, moving: Image | None = None, format: str | None = None) -> Transform:
    """An affine for .mat, .tfm and .txt, a warp otherwise; see `load_affine` and `load_warp`."""
    if str(path).endswith(AFFINE_ENDINGS):
        return load_affine(path)
    if str(path).endswith((".h5", ".xfm", ".lta")):
        raise InputError(f"transform {path}: expected one of .nii, .nii.gz, .npz, {', '.join(AFFINE_ENDINGS)}")
    return load_warp(path, moving=moving, format=format)


def map_places(transforms: Sequence[Transform], places: np.ndarray) -> np.ndarray:
    """Fixed places [N, 3] in RAS mm -> the moving places that look like them."""
    for transform in transforms:
        places = transform(places)
    return places


def compose(
    transforms: Sequence[Transform],
    affine: np.ndarray,
    shape: Sequence[int],
    moving_affine: np.ndarray,
    moving_shape: Sequence[int] | None = None,
) -> Warp:
    """All `transforms` as one warp on the grid of `affine` and `shape`."""
    rest = list(transforms)
    places = affine_field(affine[:3], shape)
    if rest and isinstance(rest[0], Warp) and rest[0].fixed_shape == tuple(shape):
        first = rest[0]
        if np.allclose(first.fixed_affine, affine, atol=1e-6):  # on its own grid there is nothing to interpolate
            places = places + first.displacement_mm()
            rest = rest[1:]
    places = map_places(rest, places)
    flow = decode(places - affine_field(affine[:3], shape), affine, moving_affine, len(shape))
    return Warp(flow, affine, moving_affine, None if moving_shape is None else tuple(moving_shape))


def apply(
    transforms: Sequence[Transform],
    moving: Image,
    affine: np.ndarray,
    shape: Sequence[int],
    *,
    mode: str = "linear",
    padding: str = "zeros",
) -> Image:
    """The moving image on the fixed grid of `affine` and `shape`, interpolated once.

    Args:
        transforms: From fixed to moving, as given to antsApplyTransforms.
        moving: Intensities or labels.
        affine: [4, 4], voxel -> RAS mm.
        shape: Of the fixed grid.
        mode: One of `fastreg.images.INTERPOLATIONS`.
        padding: What lies outside the moving image, as in `fastreg.warp`.
    """
    if moving.ndim != len(shape):
        raise InputError(f"moving image: {moving.ndim}-D, but the fixed grid is {len(shape)}-D")
    warp = compose(transforms, affine, shape, moving.affine, moving.shape)
    return Image(sample(moving, warp.tensor(), mode, padding), affine)
