"""What a transform is, a linear map of the world, a displacement field or a free-form deformation, and what it does.

A transform maps a place in the fixed image to the place in the moving image that looks like it, in RAS mm. Several are
given as to antsApplyTransforms: the first maps the fixed places, the last leads into the moving image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from fastreg.geometry import fields
from fastreg.geometry.bsplines import BSpline
from fastreg.geometry.image import Image, affine_field, check_same_plane, to_flow
from fastreg.geometry.resample import sample_filled
from fastreg.ops.warp import warp as warp_op
from fastreg.utils.files import InputError
from fastreg.utils.threads import in_threads

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS mm -> LPS mm, the world of ITK and DICOM, and back."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear transform of the world."""

    matrix: np.ndarray
    """[4, 4], fixed RAS mm -> moving RAS mm."""

    def inverse(self) -> Affine:
        """Moving -> fixed."""
        return Affine(np.linalg.inv(self.matrix))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Fixed places [..., 3] in RAS mm -> moving places."""
        return places @ self.matrix[:3, :3].T + self.matrix[:3, 3]


@dataclass(frozen=True, eq=False)
class Warp:
    """A displacement field: fixed voxel p looks like moving voxel p + flow[p].

    The moving grid is only the coordinates in which the field is written: `onto` writes it in those of another.
    """

    flow: np.ndarray
    """[X, Y, Z, 3] or [X, Y, 2], in moving voxels, float32."""
    fixed_affine: np.ndarray
    """[4, 4], fixed voxel -> RAS mm."""
    moving_affine: np.ndarray
    """[4, 4], moving voxel -> RAS mm."""
    moving_shape: tuple[int, ...] | None = None
    """None where the file does not say it, as ITK's do not."""

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """Voxels along each axis of the fixed grid."""
        return self.flow.shape[:-1]

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.flow.shape[-1]

    @classmethod
    def from_displacement_mm(cls, displacement: np.ndarray, affine: np.ndarray) -> Warp:
        """Of moving place minus fixed place, [X, Y, Z, 3] or [X, Y, 2 or 3] in RAS mm, on the grid of `affine`."""
        return cls(decode(displacement, affine, affine, displacement.ndim - 1), affine, affine)

    def tensor(self) -> torch.Tensor:
        """The flow as `fastreg.warp` takes it, [1, 3, X, Y, Z] float32."""
        return to_flow(self.flow)

    def displacement_mm(self) -> np.ndarray:
        """Moving place minus fixed place, [X, Y, Z, 3] (2-D: [X, Y, 3]) in RAS mm, float64."""
        return encode(self.flow, self.fixed_affine, self.moving_affine)

    def onto(self, moving_affine: np.ndarray, moving_shape: Sequence[int] | None = None) -> Warp:
        """The same map of the world, in voxels of another moving image."""
        shape = None if moving_shape is None else tuple(moving_shape)
        if shape == self.moving_shape and np.array_equal(moving_affine, self.moving_affine):
            return self
        flow = decode(self.displacement_mm(), self.fixed_affine, moving_affine, self.ndim)
        return Warp(flow, self.fixed_affine, moving_affine, shape)

    def jacobian(self) -> np.ndarray:
        """Local change of volume (2-D: area), moving over fixed, [X, Y, Z]; <= 0 where the warp folds."""
        determinant = fields.jacobian_determinant(self.tensor())[0].numpy()
        fixed, moving = self.fixed_affine[:3, : self.ndim], self.moving_affine[:3, : self.ndim]
        size = np.sqrt(np.linalg.det(moving.T @ moving) / np.linalg.det(fixed.T @ fixed))
        handed = np.sign(np.linalg.det(self.moving_affine[:3, :3]) * np.linalg.det(self.fixed_affine[:3, :3]))
        return (determinant * size * handed).astype(np.float32)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Fixed places [..., 3] in RAS mm -> moving places.

        The displacement is interpolated linearly; beyond half a voxel outside the fixed grid it is 0, as in ITK.
        """
        grid = places.shape[:-1] if places.ndim == self.ndim + 1 else (-1, *[1] * (self.ndim - 1))
        back = np.linalg.inv(self.fixed_affine)
        voxels = (places @ back[:3, :3].T + back[:3, 3])[..., : self.ndim].reshape(*grid, self.ndim)
        flow = voxels - affine_field(np.eye(4)[: self.ndim], voxels.shape[:-1])
        moved = warp_op(_channels_first(self.displacement_mm()), _channels_first(flow), padding="itk")
        return places + np.moveaxis(moved[0].numpy(), 0, -1).reshape(places.shape)


Transform: TypeAlias = "Affine | Warp | BSpline"


def fixed_grid(transforms: Sequence[Transform], fixed: Image | None) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """Affine and shape of the grid that transforms start from: of the fixed image, or of the first warp, or None."""
    if fixed is not None:
        return fixed.affine, fixed.shape
    first = transforms[0] if transforms else None
    return (first.fixed_affine, first.fixed_shape) if isinstance(first, Warp) else None


def encode(
    flow: np.ndarray,
    frame_fixed: np.ndarray,
    frame_moving: np.ndarray,
    dtype: type[np.floating[Any]] = np.float64,
) -> np.ndarray:
    """``frame_moving (p + flow) - frame_fixed p``: the displacement [..., 3] in the coordinates of a format."""
    linear, shape = frame_moving[:3, : flow.shape[-1]], flow.shape[:-1]
    return affine_field((frame_moving - frame_fixed)[:3], shape, field=flow, linear=linear, dtype=dtype)


def decode(displacement: np.ndarray, frame_fixed: np.ndarray, frame_moving: np.ndarray, ndim: int) -> np.ndarray:
    """The inverse of `encode`: the flow in moving voxels, float32."""
    back = np.linalg.inv(frame_moving)
    linear, shape = back[:ndim, : displacement.shape[-1]], displacement.shape[:-1]
    start = (back @ frame_fixed - np.eye(4))[:ndim]
    return affine_field(start, shape, field=displacement, linear=linear, dtype=np.float32)


def _channels_first(field: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(field, -1, 0).copy())[None]


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
    if len(shape) == 2:
        check_same_plane(affine, moving_affine)
    displacement = places_after(transforms, affine, shape) - affine_field(affine[:3], shape)
    flow = decode(displacement, affine, moving_affine, len(shape))
    return Warp(flow, affine, moving_affine, None if moving_shape is None else tuple(moving_shape))


def places_after(transforms: Sequence[Transform], affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Where `transforms` lead the voxels of the grid of `affine` and `shape`: [*shape, 3], RAS mm, float64."""
    rest = list(transforms)
    places = affine_field(affine[:3], shape)
    if rest and isinstance(rest[0], Warp) and rest[0].fixed_shape == tuple(shape):
        first = rest[0]
        if np.allclose(first.fixed_affine, affine, atol=1e-6):  # on its own grid there is nothing to interpolate
            places = places + first.displacement_mm()
            rest = rest[1:]
    return map_places(rest, places)


def apply(
    transforms: Sequence[Transform],
    moving: Image,
    affine: np.ndarray,
    shape: Sequence[int],
    *,
    mode: str = "linear",
    background: float | None = None,
) -> Image:
    """The moving image on the fixed grid of `affine` and `shape`, interpolated once.

    Args:
        transforms: From fixed to moving, as given to antsApplyTransforms.
        moving: Intensities or labels.
        affine: [4, 4], voxel -> RAS mm.
        shape: Of the fixed grid.
        mode: One of `fastreg.geometry.resample.INTERPOLATIONS`.
        background: What lies outside the moving image, as in `fastreg.geometry.resample.sample_filled`.
    """
    if moving.ndim != len(shape):
        raise InputError(f"moving image: {moving.ndim}-D, but the fixed grid is {len(shape)}-D")
    warp = compose(transforms, affine, shape, moving.affine, moving.shape)
    return Image(sample_filled(moving, warp.tensor(), mode, background), affine)


def apply_each(
    transforms: Sequence[Transform],
    volumes: Iterable[Image],
    moving_affine: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    *,
    each: Iterable[Sequence[Transform]] | None = None,
    mode: str = "linear",
    background: float | None = None,
) -> Iterator[np.ndarray]:
    """`apply` to the volumes of a series, each interpolated once; the way that they share is followed once.

    Args:
        transforms: From fixed to the volumes or, with `each`, to the reference that they have in common.
        volumes: On one grid, of as many axes as `shape`. No more of them are held than there are threads.
        moving_affine: [4, 4], voxel -> RAS mm, of that grid.
        affine: [4, 4], voxel -> RAS mm, of the fixed grid.
        shape: Of the fixed grid.
        each: For every volume the way from the reference to it.
        mode: See `apply`.
        background: See `apply`.

    Returns:
        [*shape] for every volume, in order.
    """
    start, shared = affine_field(affine[:3], shape), places_after(transforms, affine, shape)

    def flow_after(more: Sequence[Transform]) -> torch.Tensor:
        return to_flow(decode(map_places(more, shared) - start, affine, moving_affine, len(shape)))

    if each is None:
        flow = flow_after(())
        return in_threads(lambda volume: sample_filled(volume, flow, mode, background), volumes)

    def moved(pair: tuple[Image, Sequence[Transform]]) -> np.ndarray:
        return sample_filled(pair[0], flow_after(pair[1]), mode, background)

    return in_threads(moved, zip(volumes, each, strict=True))
