"""Where an alignment may begin: headers, centres, turns, and the best shift of every turn, found by correlation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg.ops.mind import mind
from fastreg.registration.linear.objective import generators
from fastreg.registration.linear.scans import Body, Scan, centre_of, mass_of

LEAST_OVERLAP = 0.4
"""Of the largest overlap that a shift can reach: with less, chance correlates well."""


def shifts(body: Body, fixed: Scan, moving: Scan) -> dict[str, np.ndarray]:
    """Translations by name, fixed RAS mm -> moving RAS mm."""
    across = {
        "header": np.zeros(3),
        "mass": centre_of(moving, mass_of(moving)) - body.centre,
        "centre": centre_of(moving, np.ones(moving.shape)) - centre_of(fixed, np.ones(fixed.shape)),
    }
    found = {}
    for name, shift in across.items():
        found[name] = np.eye(4)
        found[name][:3, 3] = body.axes @ body.axes.T @ shift
    return found


def turns(body: Body, degrees: tuple[float, ...]) -> list[np.ndarray]:
    """Rotations about the centre of the body by all combinations of these angles about the axes."""
    ndim = body.axes.shape[1]
    basis = generators("rigid", ndim) / np.sqrt(ndim / 2)
    found = []
    for amounts in itertools.product(np.deg2rad(degrees), repeat=len(basis)):
        tangent = torch.from_numpy(body.axes @ np.einsum("k,kij->ij", amounts, basis) @ body.axes.T)
        found.append(_about(body, torch.linalg.matrix_exp(tangent).numpy()))
    return found


def everywhere(body: Body) -> list[np.ndarray]:
    """Turns to every side and a third of a right angle from there, each at three scales."""
    ndim = body.axes.shape[1]
    if ndim == 2:
        around = turns(body, tuple(range(-180, 180, 15)))
    else:
        near = [turn for turn in turns(body, (0, -30, 30)) if np.trace(turn[:3, :3]) > 2.7]  # about one axis, or none
        around = [_about(body, side) @ turn for side in _sides() for turn in near]
    return [_about(body, scale * np.eye(3)) @ turn for scale in _SCALES for turn in around]


_SCALES = (1.0, 0.75, 1.33)


def _sides() -> list[np.ndarray]:
    """The 24 rotations of a cube."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            side = np.eye(3)[list(order)] * signs
            if np.linalg.det(side) > 0:
                found.append(side)
    return found


def _about(body: Body, linear: np.ndarray) -> np.ndarray:
    """A linear map that leaves the centre of the body in its place and moves along the body's axes alone."""
    across = body.axes @ body.axes.T
    world = np.eye(4)
    world[:3, :3] = across @ linear @ across + np.eye(3) - across
    world[:3, 3] = body.centre - world[:3, :3] @ body.centre
    return world


@dataclass(frozen=True)
class Found:
    """A map and how well its images correlate, 0 to 1, times the root of their overlap."""

    world: np.ndarray
    score: float


def correlated(fixed: Scan, moving: Scan, turns: list[np.ndarray]) -> list[Found]:
    """For every turn the shift at which descriptors of the images correlate best, the best turn first.

    All shifts at once, by Fourier transforms; each is judged by the voxels that count in both images there.

    Source: Padfield 2012, "Masked object registration in the Fourier domain".
    """
    middle = centre_of(fixed, np.ones(fixed.shape)), centre_of(moving, np.ones(moving.shape))
    while _transformed(fixed, moving) > _MOST_VOXELS:
        fixed, moving = fixed.halved(), moving.halved()
    ours = _Channels.of(fixed)
    found = []
    for turn in turns:
        world = turn.copy()
        world[:3, 3] = middle[1] - turn[:3, :3] @ middle[0]
        turned, first = _turned(fixed, moving, world)
        score, shift = _best_shift(ours, _Channels.of(turned))
        back = np.eye(4)
        back[: fixed.ndim, 3] = first - shift
        found.append(Found(world @ fixed.affine @ back @ np.linalg.inv(fixed.affine), score))
    return sorted(found, key=lambda f: f.score, reverse=True)


def _transformed(fixed: Scan, moving: Scan) -> float:
    """About how many voxels a transform has."""
    ndim = fixed.ndim
    spacing = [np.linalg.norm(scan.affine[:3, :ndim], axis=0) for scan in (fixed, moving)]
    extent = np.max(spacing[1] * moving.shape)
    return float(np.prod(fixed.shape + extent / spacing[0]))


_MOST_VOXELS = 400_000


def _turned(fixed: Scan, moving: Scan, world: np.ndarray) -> tuple[Scan, np.ndarray]:
    """The moving image under a map, on the fixed image's voxels continued over all of it, and its first voxel there."""
    ndim = fixed.ndim
    across = np.linalg.inv(world @ fixed.affine) @ moving.affine
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in moving.shape])), float)
    places = corners @ across[:ndim, :ndim].T + across[:ndim, 3]
    first, last = np.floor(places.min(0)).astype(int), np.ceil(places.max(0)).astype(int)
    size = last - first + 1
    back = np.linalg.inv(across)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1) + first
    at = index @ back[:ndim, :ndim].T + back[:ndim, 3]
    scale = 2 / np.maximum(np.array(moving.shape) - 1, 1)
    sampled = torch.from_numpy(np.ascontiguousarray((at * scale - 1)[..., ::-1], np.float32)).to(moving.values.device)
    values = F.grid_sample(moving.values, sampled[None], align_corners=True, padding_mode="border")
    weight = F.grid_sample(moving.weight, sampled[None], align_corners=True, padding_mode="zeros")
    change = np.eye(4)
    change[:ndim, 3] = first
    return Scan(values, weight, fixed.affine @ change), first


@dataclass(frozen=True)
class _Channels:
    """Descriptors less their mean, where the image counts, and the sums over channels that a correlation needs."""

    parts: Tensor
    """[1, channels + 3, X, Y, Z]: the channels, then weight, sum and sum of squares."""
    transforms: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    """By padded size, for one image that is compared with many."""

    @classmethod
    def of(cls, scan: Scan) -> _Channels:
        weight = (scan.weight > 0.5).to(scan.values.dtype)
        seen = mind(scan.values)[:, ::2]  # a neighbour behind tells what the one in front of another told
        axes = tuple(range(2, seen.ndim))
        seen = (seen - (weight * seen).sum(axes, keepdim=True) / weight.sum().clamp_min(1)) * weight
        return cls(torch.cat([seen, weight, seen.sum(1, keepdim=True), seen.square().sum(1, keepdim=True)], 1))

    def transformed(self, size: tuple[int, ...]) -> Tensor:
        """The Fourier transforms of the parts, padded to a size."""
        if size not in self.transforms:
            self.transforms[size] = torch.fft.rfftn(self.parts, s=size, dim=tuple(range(2, self.parts.ndim)))
        return self.transforms[size]


def _best_shift(fixed: _Channels, moving: _Channels) -> tuple[float, np.ndarray]:
    """The score, and the voxel of the fixed image on which the moving one's first falls."""
    sizes = [tuple(x.parts.shape[2:]) for x in (fixed, moving)]
    padded = tuple(_good_length(a + b - 1) for a, b in zip(*sizes, strict=True))
    axes = tuple(range(2, fixed.parts.ndim))
    ours, theirs = fixed.transformed(padded), moving.transformed(padded).conj()
    count = ours.shape[1] - 3
    w, s, q = count, count + 1, count + 2
    products = [
        (ours[:, :count] * theirs[:, :count]).sum(1),
        *(ours[:, a] * theirs[:, b] for a, b in ((w, w), (s, w), (w, s), (q, w), (w, q))),
    ]
    cross, overlap, sum_a, sum_b, squares_a, squares_b = torch.fft.irfftn(torch.stack(products, 1), s=padded, dim=axes)[
        0
    ]
    voxels = (overlap * count).clamp_min(1e-3)
    spread_a = (squares_a - sum_a.square() / voxels).clamp_min(0)
    spread_b = (squares_b - sum_b.square() / voxels).clamp_min(0)
    spread = (spread_a * spread_b).sqrt()
    share = (overlap / overlap.max().clamp_min(1e-3)).clamp(0, 1)
    usable = (share > LEAST_OVERLAP) & (spread > 1e-3 * spread.max())
    score = torch.where(usable, (cross - sum_a * sum_b / voxels) / spread.clamp_min(1e-9), -1) * share.sqrt()
    best = int(score.argmax())
    shift = np.array(np.unravel_index(best, score.shape))
    shift = np.where(shift >= np.array(sizes[0]), shift - np.array(padded), shift)
    return float(score.flatten()[best]), shift


def _good_length(n: int) -> int:
    """The next length whose only factors are 2, 3 and 5: its transform is fast."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1
