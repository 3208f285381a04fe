"""The images that a registration compares, one pair or several, read and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastreg.geometry.grid import Grid, on_grid
from fastreg.geometry.image import Image, check_same_plane, named
from fastreg.geometry.transforms import Affine
from fastreg.io.images import load_image, load_labels
from fastreg.registration.contrast import WITHIN, candidates
from fastreg.registration.inputs import as_array, check_mask, check_structure, reach_of, seen, weight_of, working_image
from fastreg.registration.stages import METRICS
from fastreg.registration.terms import LABELS, PointTerm, Term
from fastreg.utils.files import InputError

ACROSS = "mind"
"""What is taken for a channel whose images show two contrasts: no trials are made where there are several."""
_MOST = 12 * 2**30
"""Bytes that the label maps' channels may take."""


@dataclass(frozen=True)
class Channel:
    """A fixed and a moving image that show the same, their masks, and how they are compared."""

    fixed: Image
    moving: Image
    masks: tuple[Image | None, Image | None] = (None, None)
    """Of the fixed and of the moving image: where they count."""
    metric: str = "auto"
    weight: float = 1.0

    def chosen(self, world: Affine) -> str:
        """The metric: the one that was named, or what suits the images under a linear alignment."""
        if self.metric != "auto":
            return self.metric
        return WITHIN[0] if candidates(self.fixed, self.moving, world, self.masks) == WITHIN else ACROSS

    def working(self, grid: Grid, scale: str, world: Affine) -> tuple[torch.Tensor, torch.Tensor]:
        """The fixed and the moving image on the working grid, [1, 1, ...], the moving one under a linear map."""
        mask, moving_mask = self.masks
        back = Affine(np.linalg.inv(world.matrix))
        return (
            working_image(self.fixed, grid, scale, (mask, moving_mask), (None, world)),
            working_image(self.moving, grid, scale, (moving_mask, mask), (world, back)),
        )

    def counted(
        self, grid: Grid, world: Affine, device: torch.device
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Where both count on the working grid, [1, 1, ...]; what the moving image does not reach does not."""
        mask, moving_mask = self.masks
        weights = weight_of(mask, grid, "fixed", device), weight_of(moving_mask, grid, "moving", device, world)
        if weights[1] is None:
            weights = weights[0], reach_of(self.moving, grid, world, device)
        if weights[0] is not None and weights[1] is not None and not (weights[0] * weights[1]).any():
            raise InputError("moving mask: where the deformation starts, it does not meet the fixed mask")
        return weights


def several(given: Any) -> list[Any]:
    """What was given for every channel: a list or a tuple is one for each."""
    return list(given) if isinstance(given, list | tuple) else [given]


def read_channels(
    fixed: Any,
    moving: Any,
    fixed_mask: Any,
    moving_mask: Any,
    metric: str | Sequence[str],
    weights: Sequence[float] | None,
    *,
    ndim: int | None = None,
    channel: str | int | None = None,
) -> list[Channel]:
    """The channels of `fastreg.register`; the first has the grids.

    Raises:
        InputError: lists of unequal length, a metric that is none, weights that are not above 0, images that cannot be
            read, have no structure or another number of axes, masks that are none.
    """
    images = several(fixed), several(moving)
    count = len(images[0])
    if not count or len(images[1]) != count:
        raise InputError(f"moving images: expected as many as fixed images, {count}, got {len(images[1])}")
    metrics = several(metric) * (count if len(several(metric)) == 1 else 1)
    for name in metrics:
        if name not in ("auto", *METRICS):
            raise InputError(f"metric: expected one of auto, {', '.join(METRICS)}, got {name}")
    shares = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if not all(0 < share < math.inf for share in shares):
        raise InputError(f"weights: expected numbers above 0, got {shares}")
    masks = [several(mask) if mask is not None else [None] * count for mask in (fixed_mask, moving_mask)]
    for what, given in (
        ("metrics", metrics),
        ("weights", shares),
        ("fixed masks", masks[0]),
        ("moving masks", masks[1]),
    ):
        if len(given) != count:
            raise InputError(f"{what}: expected one for each of {count} pairs of images, got {len(given)}")
    channels: list[Channel] = []
    for k, files in enumerate(zip(*images, *masks, metrics, shares, strict=True)):
        number = f" {k + 1}" if count > 1 else ""
        pair = [
            load_image(as_array(file), what=f"{role} image{number}", ndim=ndim, channel=channel)
            for role, file in zip(("fixed", "moving"), files, strict=False)
        ]
        pair_masks = [
            None if file is None else load_image(as_array(file), what=f"{role} mask{number}", ndim=ndim)
            for role, file in zip(("fixed", "moving"), files[2:], strict=False)
        ]
        first = channels[0].fixed if channels else pair[0]
        _check(pair, pair_masks, first, ndim)
        channels.append(Channel(pair[0], pair[1], (pair_masks[0], pair_masks[1]), files[4], files[5]))
    return channels


def _check(pair: list[Image], masks: list[Image | None], first: Image, ndim: int | None) -> None:
    for image, name in ((pair[1], "moving"), (pair[0], "fixed")):
        if image.ndim != (ndim or first.ndim):
            wanted = f"the network is {ndim}-D" if ndim else f"the fixed image is {first.ndim}-D"
            raise InputError(f"{name} image: {wanted}, the image is {image.ndim}-D")
    if first.ndim == 2:
        check_same_plane(first.affine, pair[1].affine)
    for image, what in zip(pair, ("fixed image", "moving image"), strict=True):
        check_structure(image, what)
    for mask, image, what in zip(masks, pair, ("fixed", "moving"), strict=True):
        if mask is not None:
            check_mask(mask, image, what)


@dataclass(frozen=True)
class Guides:
    """What leads a deformation beside intensities."""

    labels: tuple[Image, Image] | None = None
    """Of the fixed and of the moving image."""
    labels_weight: float = 1.0
    landmarks: tuple[np.ndarray, np.ndarray] | None = None
    """[N, 3] each, RAS mm, the same places in the fixed and in the moving image."""
    landmarks_weight: float = 1.0

    @classmethod
    def read(cls, labels: tuple[Any, Any] | None, landmarks: Any, weights: tuple[float, float], ndim: int) -> Guides:
        """InputError where a weight is negative, label maps cannot be read or have no label in common."""
        for what, weight in zip(("labels_weight", "landmarks_weight"), weights, strict=True):
            if not 0 <= weight < math.inf:
                raise InputError(f"{what}: expected a number of at least 0, got {weight}")
        maps = None
        if labels is not None and weights[0] > 0:
            first, second = (
                load_labels(as_array(one), what=f"{role} labels", ndim=ndim)
                for role, one in zip(("fixed", "moving"), labels, strict=True)
            )
            maps = first, second
            if not len(_common(maps[0], maps[1])):
                raise InputError(f"{named('moving labels', maps[1].path)}: no label in common with the fixed labels")
        return cls(maps, weights[0], landmarks if weights[1] > 0 else None, weights[1])

    def label_term(self, grid: Grid, world: Affine, device: torch.device) -> Term | None:
        """A channel for every label that both maps have, on the working grid."""
        if self.labels is None:
            return None
        fixed, moving = self.labels
        both = _common(fixed, moving)
        if len(both) * math.prod(grid.shape) * 4 * 6 > _MOST:
            raise InputError(f"labels: expected fewer than {len(both)} at {grid.shape} voxels, or --labels-weight 0")
        placed = seen(moving, world)
        rows = [
            torch.from_numpy(np.stack([_share(image, label, grid) for label in both]))[None].to(device)
            for image in (fixed, placed)
        ]
        return Term(rows[0], rows[1], LABELS, self.labels_weight)

    def point_term(self, grid: Grid, world: Affine, ndim: int) -> PointTerm | None:
        """The landmarks in voxels of the working grid, the moving ones where the linear map puts them."""
        if self.landmarks is None:
            return None
        back = np.linalg.inv(grid.affine)
        places = (self.landmarks[0], world.inverse()(self.landmarks[1]))
        voxels = [torch.from_numpy((x @ back[:3, :3].T + back[:3, 3])[:, :ndim]) for x in places]
        return PointTerm(voxels[0], voxels[1], self.landmarks_weight)


def _common(fixed: Image, moving: Image) -> np.ndarray:
    labels = np.intersect1d(fixed.data, moving.data)
    return labels[labels != 0]


def _share(image: Image, label: int, grid: Grid) -> np.ndarray:
    """How much of each voxel is the label's."""
    return np.ascontiguousarray(on_grid(Image((image.data == label).astype(np.float32), image.affine), grid))
