"""Two images at the same places: a coarse grid of the fixed one's voxels, and the moving one wherever a map leads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastreg.geometry.image import Image, to_flow
from fastreg.geometry.masks import inside
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import Affine, Warp

_BINS = 32
POINTS = 150_000
"""About so many voxels of the fixed image are compared."""


@dataclass(frozen=True)
class Seen:
    """What lies on what."""

    ours: np.ndarray
    """The fixed image."""
    theirs: np.ndarray
    """The moving image at the same places, its border going on."""
    where: np.ndarray
    """Boolean: both count there."""
    overlap: float
    """Share of the fixed image's voxels that lie in the moving image."""

    def inside(self) -> Seen:
        """Counts the objects of both images alone."""
        return replace(self, where=self.where & objects(self.ours) & objects(self.theirs))


class Samples:
    """Every so manieth voxel of a fixed image, and a moving image that is looked at there."""

    def __init__(self, fixed: Image, moving: Image, masks: tuple[Image | None, Image | None]) -> None:
        step = max(1, round((np.prod(fixed.shape) / POINTS) ** (1 / fixed.ndim)))
        self.every = (slice(None, None, step),) * fixed.ndim
        self.index = np.stack(np.meshgrid(*[np.arange(0, n, step) for n in fixed.shape], indexing="ij"), -1)
        self.ours = np.nan_to_num(fixed.data[self.every].astype(np.float32))
        affine = fixed.affine @ np.diag([*[float(step)] * fixed.ndim, *[1.0] * (4 - fixed.ndim)])
        self.counted = np.ones(self.ours.shape, bool)
        if masks[0] is not None:
            self.counted = inside(masks[0], self.ours.shape, affine)
        self.fixed_affine = fixed.affine
        self.moving = Image(np.nan_to_num(moving.data.astype(np.float32)), moving.affine)
        self.moving_mask = masks[1]

    def under(self, world: Affine) -> np.ndarray:
        """Where a linear map leads, in voxels of the moving image."""
        ndim = self.index.shape[-1]
        across = np.linalg.inv(self.moving.affine) @ world.matrix @ self.fixed_affine
        return self.index @ across[:ndim, :ndim].T + across[:ndim, 3]

    def along(self, warp: Warp) -> np.ndarray:
        """Where a warp on the fixed image's grid leads."""
        return self.index + warp.flow[self.every]

    def at(self, places: np.ndarray) -> Seen:
        """The images there."""
        met: np.ndarray = np.all((places >= -0.5) & (places <= np.array(self.moving.shape) - 0.5), axis=-1)
        own: np.ndarray = np.stack(np.meshgrid(*map(np.arange, self.counted.shape), indexing="ij"), -1)
        theirs = sample(self.moving, to_flow(places - own), padding="border")
        where = met & self.counted
        if self.moving_mask is not None:
            mask = Image((self.moving_mask.data > 0).astype(np.float32), self.moving_mask.affine)
            across = (np.linalg.inv(mask.affine) @ self.moving.affine)[: mask.ndim]
            there = places @ across[:, : mask.ndim].T + across[:, 3]
            where &= sample(mask, to_flow(there - own)) >= 0.5
        overlap = float(met[self.counted].mean()) if self.counted.any() else 0.0
        return Seen(self.ours, theirs, where, overlap)


def objects(image: np.ndarray) -> np.ndarray:
    """Boolean, where it is not background, which is what lies along its border."""
    border = np.ones(image.shape, bool)
    border[tuple(slice(1, -1) for _ in image.shape)] = False
    low, high = np.percentile(image, (0.5, 99.5))
    return np.asarray(np.abs(image - np.median(image[border])) > 0.15 * (high - low))


def information(seen: Seen) -> float:
    """Normalised mutual information, 0 (nothing in common) to 1: 2 I / (H_a + H_b)."""
    where = seen.where
    if where.sum() < 2:
        return 0.0
    codes = [_ranked(image[where]) for image in (seen.ours, seen.theirs)]
    joint = np.bincount(codes[0] * _BINS + codes[1], minlength=_BINS**2).reshape(_BINS, _BINS) / where.sum()
    return normalised_information(joint)


def normalised_information(joint: np.ndarray) -> float:
    """Of a joint histogram whose sum is 1: 2 I / (H_a + H_b)."""
    apart = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    return 2 * (apart - _entropy(joint.ravel())) / apart if apart > 0 else 0.0


def _ranked(values: np.ndarray) -> np.ndarray:
    """A bin for each value: equal steps between the 0.5th and the 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    return np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny) * _BINS, 0, _BINS - 1).astype(np.int64)


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
