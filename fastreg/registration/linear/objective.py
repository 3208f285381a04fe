"""What the linear alignment maximises: a similarity over points of the fixed image, and its gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fastreg.nn.losses import MI
from fastreg.ops.lncc import lncc
from fastreg.ops.mind import mind
from fastreg.ops.warp import warp
from fastreg.registration.linear.scans import Scan
from fastreg.types import Flow, Mask, Scalar, Volume

Similarity = Callable[[Volume], Scalar]
"""Of the moved image to the fixed one, more is better, about 0 where they have nothing in common."""


def _lncc(fixed: Volume, weight: Mask) -> Similarity:
    floor = _NOISE**2 * _WINDOW ** (fixed.ndim - 2)
    return lambda moved: lncc(moved, fixed, window=_WINDOW, eps=floor, mask=weight)


_WINDOW = 7


_NOISE = 0.0005
"""Of the range of intensities: a window that varies less has no structure."""


def _mse(fixed: Volume, weight: Mask) -> Similarity:
    share = weight / weight.sum()
    variance = (share * (fixed - (share * fixed).sum()).square()).sum()
    return lambda moved: 1 / (1 + (share * (moved - fixed).square()).sum() / variance)


def _mi(fixed: Volume, weight: Mask) -> Similarity:
    information = MI()
    return lambda moved: -information(moved, fixed, weight)


def _mind(fixed: Volume, weight: Mask) -> Similarity:
    """The correlation of descriptors, all channels together."""
    axes = tuple(range(2, fixed.ndim))
    share = weight / weight.sum()

    def centred(channels: Volume) -> Volume:
        return channels - (share * channels).sum(axes, keepdim=True)

    ours = centred(fixed)
    spread = (share * ours * ours).sum()

    def similarity(moved: Volume) -> Scalar:
        theirs = centred(moved)
        both = (spread * (share * theirs * theirs).sum()).clamp_min(1e-12).sqrt()
        return (share * ours * theirs).sum() / both

    return similarity


def _grid(shape: Sequence[int], device: torch.device) -> list[Tensor]:
    """The index of a grid along each axis, shaped to broadcast."""
    ndim = len(shape)
    return [
        torch.arange(n, dtype=torch.float32, device=device).view(*[-1 if a == axis else 1 for a in range(ndim)])
        for axis, n in enumerate(shape)
    ]


METRICS: dict[str, Callable[[Volume, Mask], Similarity]] = {"lncc": _lncc, "mi": _mi, "mse": _mse, "mind": _mind}


_POINTS = {2: (100, 180), 3: (20, 32)}
"""Along each axis of the cube of points: as the grid has them, but no fewer and no more."""


class Objective:
    """The similarity of two scans under a map of the world, with gradient.

    The part of the moving image that lies in the fixed one is weighed once, in `weigh`, and then held: a metric whose
    domain moved along would gain by pushing the images apart.
    """

    def __init__(self, fixed: Scan, moving: Scan, metric: str, seed: int) -> None:
        if metric == "mind":
            fixed, moving = (replace(scan, values=mind(scan.values)) for scan in (fixed, moving))
        self.fixed, self.moving, self.metric = fixed, moving, METRICS[metric]
        self.looked_along, self.seen = list(range(moving.values.shape[1])), moving.values
        if metric == "lncc":
            self._compare_everywhere()
        else:
            self._compare_at_points(seed)

    def _compare_everywhere(self) -> None:
        self.index = self.places = _grid(self.fixed.values.shape[2:], self.fixed.values.device)
        self.target, self.weight = self.fixed.values, self.fixed.weight

    def _compare_at_points(self, seed: int) -> None:
        """Random places of positive weight, between the voxels: on the grid the metric would have ridges."""
        rng = torch.Generator().manual_seed(seed)
        weight = self.fixed.weight[0, 0].cpu()
        inside = weight.nonzero()
        # The points are a cube of places: in one long row their index, and so the flow, would lose digits.
        fewest, most = _POINTS[weight.ndim]
        edge = round(weight.numel() ** (1 / weight.ndim))
        shape = (min(max(edge, fewest), most),) * weight.ndim
        chosen = inside[torch.randint(len(inside), shape, generator=rng)]
        places = chosen + torch.rand(chosen.shape, generator=rng) - 0.5
        last = torch.tensor(weight.shape) - 1
        places = torch.minimum(places.clamp_min(0), last).to(self.fixed.values.device)
        self.places, self.index = list(places.unbind(-1)), _grid(shape, places.device)
        flow = self._flow(torch.eye(4)[: weight.ndim])
        self.target = warp(self.fixed.values, flow, padding="border")
        self.weight = warp(self.fixed.weight, flow, padding="border")

    def weigh(self, world: np.ndarray) -> float:
        """Hold the weights as they are under `world`; returns the share of the fixed weight that is met, 0 to 1."""
        self._look_along(world)
        met = self.weight * warp(self.moving.weight, self.flow(torch.from_numpy(world)))
        share = float(met.sum() / self.weight.sum())
        if share > 0:
            self.similarity = self.metric(self.target, met)
        return share

    def _look_along(self, world: np.ndarray) -> None:
        """Bring the moving image's descriptors into the order of the fixed one's: each looks along its own grid."""
        if self.moving.values.shape[1] == 1:
            return
        order = aligned_channels(self.fixed.affine, self.moving.affine, world, self.moving.ndim)
        if order != self.looked_along:
            self.looked_along, self.seen = order, self.moving.values[:, order]

    def flow(self, world: Tensor) -> Flow:
        """From the places that are compared into the moving grid, under a map of the world [4, 4], float64."""
        across = torch.from_numpy(np.linalg.inv(self.moving.affine)) @ world @ torch.from_numpy(self.fixed.affine)
        return self._flow(across[: len(self.index)])

    def _flow(self, across: Tensor) -> Flow:
        """``across @ (place, 1) - index``, [1, ndim, *shape] float32.

        Axis by axis, each along itself alone: only the last sum, and the backward's first, is as large as the flow.
        """
        ndim = len(self.index)
        own = torch.eye(ndim, dtype=across.dtype)
        if self.places is self.index:
            terms = list(zip((across[:, :ndim] - own).unbind(1), self.places, strict=True))
        else:
            terms = [*zip((-own).unbind(1), self.index, strict=True), *zip(across.unbind(1), self.places, strict=False)]
        flow = across[:, 3].to(self.places[0]).view(ndim, *[1] * ndim)
        for column, place in terms:
            flow = flow + column.to(place).view(ndim, *[1] * ndim) * place
        return flow[None]

    def __call__(self, world: Tensor) -> Scalar:
        """The similarity under a map of the world [4, 4], float64, differentiable."""
        return self.similarity(warp(self.seen, self.flow(world), padding="border"))

    def score(self, world: np.ndarray) -> float:
        """Similarity times overlap."""
        share = self.weigh(world)
        with torch.no_grad():
            return share * float(self(torch.from_numpy(world))) if share > 0 else 0.0


class Objectives:
    """The weighted mean of several objectives, of pairs of images in the same two worlds."""

    def __init__(self, parts: Sequence[Objective], weights: Sequence[float]) -> None:
        self.parts, total = parts, sum(weights)
        self.shares = [weight / total for weight in weights]

    def weigh(self, world: np.ndarray) -> float:
        """As of one: the least share of a fixed weight that is met, so that no pair leaves the other."""
        return min(part.weigh(world) for part in self.parts)

    def __call__(self, world: Tensor) -> Scalar:
        """The mean similarity under a map of the world [4, 4], float64, differentiable."""
        return torch.stack([s * part(world) for s, part in zip(self.shares, self.parts, strict=True)]).sum()

    def score(self, world: np.ndarray) -> float:
        """Similarity times overlap."""
        return sum(share * part.score(world) for share, part in zip(self.shares, self.parts, strict=True))


def aligned_channels(fixed: np.ndarray, moving: np.ndarray, world: np.ndarray, ndim: int) -> list[int]:
    """For each neighbour that a descriptor of the fixed image looks at, the moving image's in about that direction.

    Args:
        fixed: [4, 4], voxel -> RAS mm.
        moving: Likewise.
        world: Fixed RAS mm -> moving RAS mm.
        ndim: Number of axes; each has two neighbours, the one ahead and the one behind.
    """
    ours, theirs = (affine[:3, :ndim] / np.linalg.norm(affine[:3, :ndim], axis=0) for affine in (fixed, moving))
    along = theirs.T @ world[:3, :3] @ ours
    axes = max(itertools.permutations(range(ndim)), key=lambda order: np.abs(along[order, range(ndim)]).sum())
    back = [int(along[axis, own] < 0) for own, axis in enumerate(axes)]
    return [2 * axis + (side ^ turned) for axis, turned in zip(axes, back, strict=True) for side in (0, 1)]


def generators(kind: str, ndim: int) -> np.ndarray:
    """[K, ndim, ndim]: turns, then the scale, then strains that keep the volume; the norm of each is sqrt(ndim)."""
    pairs = list(itertools.combinations(range(ndim), 2))
    units = np.eye(ndim * ndim).reshape(ndim, ndim, ndim, ndim)
    found = []
    if kind != "translation":
        found += [units[b, a] - units[a, b] for a, b in pairs]
    if kind in ("similarity", "affine"):
        found += [np.eye(ndim)]
    if kind == "affine":
        found += [units[a, b] + units[b, a] for a, b in pairs]
        found += [np.diag([1.0] * k + [-float(k)] + [0.0] * (ndim - 1 - k)) for k in range(1, ndim)]
    stacked = np.array(found).reshape(-1, ndim, ndim)
    return stacked * np.sqrt(ndim) / np.linalg.norm(stacked, axis=(1, 2), keepdims=True)


LOSS_SCALE = 1000.0
"""Of the loss: BFGS' first step is one voxel, and it stops when a step gains a hundred-thousandth of similarity."""
