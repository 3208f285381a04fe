"""What a deformation brings together beside its pair of images: further channels, label maps, landmarks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastreg.geometry import fields
from fastreg.nn.losses import LNCC, MI, MSE, Dice
from fastreg.ops.warp import warp
from fastreg.registration.levels import Level, exponential
from fastreg.registration.stages import METRICS, SEEN_AS
from fastreg.types import Flow, Mask, Scalar, Volume

LABELS = "dice"
"""The metric of label maps: soft Dice, averaged over the labels."""


@dataclass(frozen=True)
class Term:
    """Another pair of images, or of label maps, on the grid of the first."""

    fixed: Volume
    """[1, channels, D, H, W]: intensities about [0, 1], or a channel for each label."""
    moving: Volume
    """The same shape."""
    metric: str
    """Of `METRICS`, or "dice"."""
    weight: float = 1.0
    """Against that of the first pair."""
    mask: Mask | None = None
    """[1, 1, D, H, W], weights of the fixed voxels."""
    moving_mask: Mask | None = None
    """Likewise of the moving ones."""


@dataclass(frozen=True)
class PointTerm:
    """Landmarks: the same places in both images."""

    fixed: Tensor
    """[N, 3] (2-D: [N, 2]), voxels of the grid."""
    moving: Tensor
    """Likewise, where the deformation starts."""
    weight: float = 1.0


def loss_of(metric: str, window: int) -> nn.Module:
    """The loss of a metric at a stage whose window has this edge."""
    if metric in ("lncc", "mind", "remap"):
        return LNCC(window)
    if metric == LABELS:
        return Dice()
    return MI() if metric == "mi" else MSE()


@dataclass(frozen=True)
class Joint:
    """A level of several terms: what `optimise` asks of a `Level`."""

    first: Level
    others: tuple[tuple[Level, nn.Module, float], ...]
    """Level, loss, and its share beside the first's."""
    first_share: float
    points: _PointsHere | None

    @classmethod
    def of(
        cls,
        first: Level,
        metric: str,
        terms: Sequence[Term],
        points: PointTerm | None,
        flow: Flow | None,
        back: Flow | None,
        factor: int,
        window: int,
        weight: float,
    ) -> Joint:
        """All terms at the level of a factor.

        Args:
            first: The level of the first pair.
            metric: Of the first pair; the others are brought to its scale.
            terms: The other pairs.
            points: Landmarks.
            flow: What is known, as in `Level.of`.
            back: Likewise.
            factor: Edge of the level's cubes in voxels.
            window: Of local correlation.
            weight: Of the first pair.
        """
        images = weight + sum(term.weight for term in terms if term.metric != LABELS)
        others = []
        for term in terms:
            seen_as = SEEN_AS.get(term.metric, "intensities")
            level = Level.of(term.fixed, term.moving, term.mask, term.moving_mask, flow, back, factor, seen_as)
            scale = METRICS[metric] / METRICS.get(term.metric, 1.0)
            share = term.weight * scale / (1 if term.metric == LABELS else images)
            others.append((level, loss_of(term.metric, window), share))
        here = None if points is None else _PointsHere.of(points, flow, factor, METRICS[metric], first.fixed)
        return cls(first, tuple(others), weight / images, here)

    @property
    def fixed(self) -> Volume:
        """Of the first pair."""
        return self.first.fixed

    @property
    def known_volume(self) -> Mask | None:
        """As `Level.known_volume`."""
        return self.first.known_volume

    @property
    def nothing_to_do(self) -> bool:
        """Nothing is to be brought together."""
        still = all(level.nothing_to_do for level, _, _ in self.others)
        return self.first.nothing_to_do and still and self.points is None

    def loss(self, velocity: Flow, loss: nn.Module) -> Scalar:
        """The weighted mean of the images' losses, and the labels' and the landmarks' beside it."""
        found = exponential(velocity)
        back = None if self.first.backward is None else exponential(-velocity)
        value = self.first_share * self.first.compare(found, back, loss)
        for level, other, share in self.others:
            value = value + share * level.compare(found, back, other)
        return value if self.points is None else value + self.points.loss(found)


_SPREAD = (-2.0, 0.0, 2.0)
"""Voxels of the level: a landmark stands for what is about it, too, or one voxel would follow it alone."""
_REACH = 9
"""Edge in voxels of what a landmark counts for: as much as the images do there."""


@dataclass(frozen=True)
class _PointsHere:
    """Landmarks on a level's grid."""

    start: Flow
    """[1, ndim, N, 1, 1], the fixed places in voxels of the level."""
    target: Flow
    index: Flow
    """Of the row of landmarks, to be taken from the places."""
    known: Flow | None
    scale: float
    factor: int

    @classmethod
    def of(cls, points: PointTerm, flow: Flow | None, factor: int, unit: float, image: Volume) -> _PointsHere:
        ndim, count = points.fixed.shape[1], len(points.fixed)
        around = torch.tensor(list(itertools.product(_SPREAD, repeat=ndim)), dtype=image.dtype)
        rows = []
        for places in (points.fixed, points.moving):
            on_level = (places.to(image.dtype) + 0.5) / factor - 0.5
            rows.append((on_level[:, None] + around).reshape(-1, ndim).T.to(image.device))
        shape = (1, ndim, rows[0].shape[1], *[1] * (ndim - 1))
        index = torch.zeros(shape, dtype=image.dtype, device=image.device)
        index[0, 0] = torch.arange(shape[2], device=image.device).view(shape[2:])
        share = min(1.0, count * _REACH**ndim / image[0, 0].numel())
        known = None if flow is None else fields.coarsened(flow, factor)
        return cls(rows[0].view(shape), rows[1].view(shape), index, known, points.weight * share * unit, factor)

    def loss(self, found: Flow) -> Scalar:
        """Mean distance between the landmarks in voxels of the image, quadratic within about two."""
        places = self.start + self._at(found, self.start)
        if self.known is not None:
            places = places + self._at(self.known, places)
        squared = ((places - self.target) * self.factor).square().sum(1)
        return self.scale * ((1 + squared / 4).sqrt() - 1).mean()

    def _at(self, field: Flow, places: Flow) -> Flow:
        return warp(field, places - self.index, padding="border")
