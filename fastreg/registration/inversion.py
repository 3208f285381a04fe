"""Inverses of transforms of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fastreg.geometry.folds import exact_inverse
from fastreg.geometry.grid import Grid
from fastreg.geometry.image import Image, affine_field, to_flow
from fastreg.geometry.linear import linear_part
from fastreg.geometry.transforms import Affine, Transform, Warp, compose, decode, map_places
from fastreg.registration.image_grid import inverse_on_image_grid
from fastreg.types import Flow


def residual(warp: Warp, world: Affine) -> Flow:
    """What is left of a warp before `world`, [1, 3, X, Y, Z] in voxels of its fixed grid: x -> world(x + residual)."""
    places = affine_field(warp.fixed_affine[:3], warp.fixed_shape)
    left = world.inverse()(places + warp.displacement_mm()) - places
    return to_flow(decode(left, warp.fixed_affine, warp.fixed_affine, warp.ndim))


def inverse_warp(warp: Warp, onto: Image) -> Warp:
    """The inverse of a warp on the grid of `onto`, an image of its moving side.

    The linear part is inverted exactly, and what is left by the fixed point and then Newton's method. Beyond the warp's
    own grid what is left goes on unchanged. Where a warp folds there is no inverse; the nearest that was found stands.
    """
    world = linear_part(warp)
    flow = residual(warp, world)
    with torch.no_grad():
        back = exact_inverse(flow)
    fixed = Image.blank(warp.fixed_shape, warp.fixed_affine)
    return inverse_on_image_grid(back, Grid(warp.fixed_shape, warp.fixed_affine), onto, fixed, world)


def inverted(transforms: Sequence[Transform], fixed: Image | None, onto: Image | None) -> list[Transform]:
    """The transforms the other way: linear ones exactly, others as warps.

    Args:
        transforms: From fixed to moving.
        fixed: Gives the grid on which free-form deformations are sampled before they are inverted; without it, `onto`.
        onto: Gives the grid of the inverse of a warp, an image of the moving side; without it the warp's own.
    """
    found: list[Transform] = []
    for transform in reversed(transforms):
        if isinstance(transform, Affine):
            found.append(transform.inverse())
            continue
        if isinstance(transform, Warp):
            own = Image.blank(transform.fixed_shape, transform.fixed_affine)
            found.append(inverse_warp(transform, onto or own))
            continue
        sampled = fixed or onto or _of_control(transform.control.shape[:-1], transform.affine)
        warp = compose([transform], sampled.affine, sampled.shape, sampled.affine, sampled.shape)
        found.append(inverse_warp(warp, onto or sampled))
    return found


def _of_control(shape: tuple[int, ...], affine: np.ndarray) -> Image:
    """Four voxels from control point to control point."""
    finer = affine.copy()
    finer[:3, : len(shape)] /= 4
    return Image.blank(tuple(4 * (length - 1) + 1 for length in shape), finer)


def left_over_mm(transforms: Sequence[Transform], inverse: Sequence[Transform], onto: Image) -> np.ndarray:
    """How far from its start a voxel of `onto` is after the inverse and then the transforms, [N] in mm."""
    step = tuple(slice(None, None, max(1, length // 60)) for length in onto.shape)
    start = affine_field(onto.affine[:3], onto.shape)[step].reshape(-1, 3)
    return np.asarray(np.linalg.norm(map_places([*inverse, *transforms], start) - start, axis=1))
