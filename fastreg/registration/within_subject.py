"""Visits of one person: their common space, halfway between all of them, and how volumes changed from visit to visit.

Nothing here knows a first visit: rigid maps are found in both directions and averaged, every image is resampled once
into the space in the middle of all, and what is registered to is the mean image, brought to the mean shape. A method
that keeps one visit as it is and resamples the others finds change where there is none (Thompson and Holland 2011;
Reuter and Fischl 2011, "Avoiding asymmetry-induced bias in longitudinal image processing").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastreg.data.intensity import normalised
from fastreg.geometry.folds import exact_inverse
from fastreg.geometry.image import Image
from fastreg.geometry.jacobian import jacobian_map
from fastreg.geometry.masks import dilated
from fastreg.geometry.resample import sample
from fastreg.geometry.rigid import exponential, logarithm
from fastreg.geometry.transforms import Affine, Warp, compose
from fastreg.io.images import load_image
from fastreg.registration.inputs import as_array, check_structure, differ_by_noise_alone
from fastreg.registration.inversion import residual
from fastreg.registration.linear.align import find_alignment
from fastreg.registration.pairwise import register
from fastreg.registration.samples import objects
from fastreg.utils.files import InputError


@dataclass(frozen=True)
class Visit:
    """One of the images, seen from the middle."""

    image: Image
    rigid: Affine
    """Mid-space -> the visit's own space, RAS mm."""
    warp: Warp
    """The same with the deformation, on the mid-space's grid."""
    log_jacobian: Image
    """Natural logarithm of the visit's local volume over the mid-space's; over all visits the mean is about 0."""

    def in_middle(self, mode: str = "linear") -> Image:
        """The visit at the common shape, interpolated once."""
        data = sample(self.image, self.warp.onto(self.image.affine, self.image.shape).tensor(), mode, "itk")
        return Image(data, self.warp.fixed_affine)


@dataclass(frozen=True)
class WithinSubject:
    """The result."""

    mean: Image
    """The mean of all visits at the mean shape, float32, about 0 to 1."""
    visits: tuple[Visit, ...]

    def change(self, first: int, then: int) -> Image:
        """Log of the local volume at one visit over that at another, on the grid of the mid-space; counted from 0."""
        a, b = (self.visits[k].log_jacobian for k in (first, then))
        return Image(b.data - a.data, a.affine)


def register_within_subject(
    visits: Sequence[Any],
    *,
    rounds: int = 2,
    masks: Sequence[Any] | None = None,
    on_progress: Callable[[str], None] = lambda what: None,
    **options: Any,
) -> WithinSubject:
    """Brings two or more visits of one person into their common space.

    Args:
        visits: Images of one contrast, as `fastreg.register` takes them, in any order.
        rounds: How often all are registered to their mean.
        masks: Where each counts, for the rigid and the deformable part: one for each visit, or none.
        on_progress: Called with what was done.
        options: Of the deformation, as in `fastreg.register`: stages, regularity ("smooth" if not given), smoothness,
            volume, metric ("lncc" if not given), device.

    Raises:
        InputError: fewer than two visits, images that cannot be read or have no structure, or another number of axes.
    """
    images = [load_image(as_array(visit), what=f"visit {k}") for k, visit in enumerate(visits, 1)]
    if len(images) < 2:
        raise InputError(f"visits: expected at least 2, got {len(images)}")
    for k, image in enumerate(images, 1):
        check_structure(image, f"visit {k}")
        if image.ndim != images[0].ndim:
            raise InputError(f"visit {k}: expected {images[0].ndim}-D like the first, got {image.ndim}-D")
    given = [None] * len(images) if masks is None else list(masks)
    if len(given) != len(images):
        raise InputError(f"masks: expected one for each of {len(images)} visits, got {len(given)}")
    loaded = [None if m is None else load_image(as_array(m), what=f"mask {k}") for k, m in enumerate(given, 1)]
    worlds = _halfway([np.eye(4), *(_rigid(images, loaded, k, options) for k in range(1, len(images)))])
    on_progress("rigid")
    affine, shape = _middle_grid(images, worlds)
    scaled = [Image(normalised(image.data, "percentile"), image.affine, image.path) for image in images]
    warps = [
        compose([world], affine, shape, image.affine, image.shape) for world, image in zip(worlds, images, strict=True)
    ]
    mean = _mean(scaled, warps)
    how = {"metric": "lncc", "regularity": "smooth", **options}
    for number in range(rounds):
        about = _about_the_object(mean)
        warps = [
            register(mean, image, init=world, affine=False, fixed_mask=about, moving_mask=mask, **how).warp
            for image, world, mask in zip(scaled, worlds, loaded, strict=True)
        ]
        warps = _about_their_mean(warps, worlds)
        mean = _mean(scaled, warps)
        on_progress(f"round {number + 1}")
    seen = []
    for image, world, warp in zip(images, worlds, warps, strict=True):
        change = Image(jacobian_map(warp, log=True), affine)
        seen.append(Visit(image, world, warp, change))
    return WithinSubject(mean, tuple(seen))


def _rigid(images: list[Image], masks: list[Image | None], k: int, options: dict[str, Any]) -> np.ndarray:
    """[4, 4], the first visit's world -> that of visit k: the mean of what is found in both directions."""
    first, other = images[0], images[k]
    if differ_by_noise_alone(first, other):
        return np.eye(4)
    found = []
    for one, two, masked in ((first, other, (masks[0], masks[k])), (other, first, (masks[k], masks[0]))):
        alignment = find_alignment(
            one, two, kind="rigid", fixed_mask=masked[0], moving_mask=masked[1], device=options.get("device")
        )
        found.append(alignment.world.matrix)
    there, back = found
    return np.asarray(there @ exponential(0.5 * logarithm(np.linalg.inv(there) @ np.linalg.inv(back))))


def _halfway(from_first: list[np.ndarray]) -> list[Affine]:
    """From the middle to every visit: the mean of the maps from the first, on their own curved space, is taken away."""
    mean = np.mean([logarithm(matrix) for matrix in from_first], 0)
    return [Affine(matrix @ exponential(-mean)) for matrix in from_first]


def _middle_grid(images: list[Image], worlds: list[Affine]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of a grid that is no visit's own: the mean of their axes, spacings and centres, and their size.

    Visits on one grid that lie on each other keep it.
    """
    ndim = images[0].ndim
    placed = [np.linalg.inv(world.matrix) @ image.affine for world, image in zip(worlds, images, strict=True)]
    orders = [_like_the_first(affine, placed[0], ndim) for affine in placed]
    axes, lengths, extents, centres = [], [], [], []
    for affine, image, order in zip(placed, images, orders, strict=True):
        columns = np.stack([affine[:3, axis] * sign for axis, sign in order], 1)
        length = np.linalg.norm(columns, axis=0)
        axes.append(columns / length)
        lengths.append(length)
        extents.append(length * np.array([image.shape[axis] for axis, _ in order]))
        centres.append(affine[:3, :ndim] @ ((np.array(image.shape) - 1) / 2) + affine[:3, 3])
    left, _, right = np.linalg.svd(np.mean(axes, 0), full_matrices=False)
    spacing = np.exp(np.mean(np.log(lengths), 0))
    shape = tuple(int(n) for n in np.rint(np.max(extents, 0) / spacing))
    affine = placed[0].copy()
    affine[:3, :ndim] = left @ right * spacing
    affine[:3, 3] = np.mean(centres, 0) - affine[:3, :ndim] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def _like_the_first(affine: np.ndarray, first: np.ndarray, ndim: int) -> list[tuple[int, int]]:
    """For each axis of the first grid the other's that runs along it, and in which sense."""
    units = [a[:3, :ndim] / np.linalg.norm(a[:3, :ndim], axis=0) for a in (first, affine)]
    along = units[0].T @ units[1]
    order: list[tuple[int, int]] = []
    for row in along:
        free = [k for k in range(ndim) if k not in [axis for axis, _ in order]]
        axis = max(free, key=lambda k: abs(row[k]))
        order.append((axis, 1 if row[axis] >= 0 else -1))
    return order


def _mean(images: list[Image], warps: list[Warp]) -> Image:
    """The mean of all visits on the middle grid, each interpolated once by a cubic B-spline."""
    total = np.zeros(warps[0].fixed_shape)
    for image, warp in zip(images, warps, strict=True):
        total += sample(image, warp.onto(image.affine, image.shape).tensor(), "bspline", "itk")
    return Image((total / len(images)).astype(np.float32), warps[0].fixed_affine)


def _about_the_object(mean: Image) -> Image:
    """A mask of what is not background, and a rim: the noise of air is not to bend anything."""
    return Image(dilated(objects(mean.data), _RIM), mean.affine)


_RIM = 3
"""Voxels."""


def _about_their_mean(warps: list[Warp], worlds: list[Affine]) -> list[Warp]:
    """The same maps between visits, from the middle of all of them: the mean deformation is taken away."""
    grid = warps[0].fixed_affine
    mean = torch.stack([residual(warp, world) for warp, world in zip(warps, worlds, strict=True)]).mean(0)
    if not bool((mean != 0).any()):
        return warps
    with torch.no_grad():
        back = exact_inverse(mean)
    field = np.moveaxis(back[0].numpy(), 0, -1)
    centred = Warp.from_displacement_mm(field @ grid[:3, : field.shape[-1]].T, grid)
    return [compose([centred, warp], grid, warp.fixed_shape, warp.moving_affine, warp.moving_shape) for warp in warps]
