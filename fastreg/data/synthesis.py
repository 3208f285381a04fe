"""Training pairs out of nothing: random shapes, deformed twice, as images of random contrast.

A network that only ever sees these learns to match shapes whatever their contrast (Hoffmann et al. 2021, "SynthMorph:
learning contrast-invariant registration without acquired images"). Everything is a function of a generator, hence of
a seed and an index.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastreg.data.damage import damaged
from fastreg.geometry.fields import compose, integrate, resize
from fastreg.geometry.image import affine_field, to_flow
from fastreg.ops.warp import warp

SLAB = 8_000_000
"""Values of noise that are made at once."""
GUIDES = 2
"""Contrasts of a guide: what borders on its like in one is seen in the other."""
GUIDE_BLUR = 0.7
"""Standard deviation, voxels: a guide that is warped has a gradient at the edges of its shapes."""


@dataclass(frozen=True)
class Recipe:
    """How far chance goes; uniform ranges. Lengths are in voxels."""

    labels: int = 26
    """Shapes of a map, the background among them."""
    shape_scale: tuple[float, float] = (12.0, 40.0)
    """Size of the shapes: distance between the control points of the noise that they come from."""
    shape_warp: float = 6.0
    """Standard deviation, at most, of the velocity that bends the shapes before the pair is made."""
    pair_warp: float = 3.0
    """Likewise of the two velocities that make the pair out of one map."""
    warp_scale: tuple[float, float] = (8.0, 32.0)
    """Distance between the control points of the velocities."""
    noise: tuple[float, float] = (0.01, 0.1)
    """Standard deviation of the intensity inside a shape; its mean is anywhere in 0 to 1."""
    blur: float = 1.0
    """Standard deviation, at most, of the Gaussian blur."""
    bias: float = 0.3
    """Standard deviation, at most, of the logarithm of the bias field."""
    bias_scale: tuple[float, float] = (40.0, 80.0)
    gamma: float = 0.25
    """Standard deviation of the logarithm of the exponent of all intensities."""
    black_background: float = 0.5
    """Part of the images whose background is exactly 0, as after skull-stripping."""
    damage: float = 0.0
    """Part of the images that are spoilt as by `damage.damaged`."""
    alike: float = 0.0
    """Part of the pairs whose two images have one contrast, about: what noise, bias and gamma make of it differs."""
    apart: float = 0.0
    """Part of the pairs whose images are of two maps: their labels, or guides, say what belongs together."""
    outside: tuple[int, ...] = ()
    """Labels that are taken off half of the pairs, as by skull-stripping."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Factor on the size of the maps' shapes, of both images of a pair."""
    invented: float = 0.0
    """Part of the pairs that have random shapes where there are maps."""
    alone: float = 0.5
    """Part of the random maps whose shapes fill a ball of random form, with background around it."""


def smooth_noise(rng: torch.Generator, channels: int, shape: tuple[int, ...], scale: float) -> Tensor:
    """[channels, *shape]: Gaussian noise on control points `scale` voxels apart, linear between them, mean square 1."""
    return _between(_control_points(rng, channels, shape, scale), shape)


def _control_points(rng: torch.Generator, channels: int, shape: tuple[int, ...], scale: float) -> Tensor:
    coarse = tuple(max(2, round(length / scale) + 1) for length in shape)
    # Linear interpolation averages neighbours: per axis the mean square falls to 2/3 between many control points.
    return torch.randn(channels, *coarse, generator=rng) * (1.5 ** (len(shape) / 2))


def _between(points: Tensor, shape: tuple[int, ...], planes: slice = slice(None)) -> Tensor:
    """[channels, *shape], of the first axis `planes` alone: linear between control points, the corners coincide.

    A product with a matrix for each axis, the coarsest last: several times faster than looking up eight corners.
    """
    for axis in reversed(range(len(shape))):
        weights = _linear(points.shape[1 + axis], shape[axis])
        weights = weights[planes] if axis == 0 else weights
        before, after = points.shape[: 1 + axis], points.shape[2 + axis :]
        rows = points.flatten(2 + axis) if after else points[..., None]
        points = (weights @ rows).reshape(*before, len(weights), *after)
    return points


def _linear(points: int, length: int) -> Tensor:
    """[length, points]: the weights of linear interpolation."""
    places = torch.linspace(0, points - 1, length) if length > 1 else torch.zeros(1)
    return (1 - (places[:, None] - torch.arange(points)).abs()).clamp_min(0)


def random_labels(rng: torch.Generator, shape: tuple[int, ...], recipe: Recipe) -> Tensor:
    """[1, *shape], int32 in 0 to recipe.labels - 1: at every voxel the channel of noise that is highest there."""
    points = _control_points(rng, recipe.labels, shape, _uniform(rng, *recipe.shape_scale))
    labels = torch.empty(shape, dtype=torch.int32)
    slab = max(1, SLAB // (recipe.labels * math.prod(shape[1:])))  # never all shapes on all of the grid
    for start in range(0, shape[0], slab):
        planes = slice(start, start + slab)
        highest, *others = _between(points, shape, planes)
        best = torch.zeros(highest.shape, dtype=torch.int32)
        for label, noise in enumerate(others, 1):  # several times faster than argmax over the first axis
            best.masked_fill_(noise > highest, label)
            torch.maximum(highest, noise, out=highest)
        labels[planes] = best
    if _uniform(rng, 0, 1) < recipe.alone:
        labels[_outside(rng, shape)] = 0
    return deformed(labels[None], random_flow(rng, shape, recipe.shape_warp, recipe)[0])


def _outside(rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Where a ball is not whose radius, about 0.45 of each axis, changes with the direction."""
    squares = torch.zeros(shape)
    for axis, length in enumerate(shape):
        places = torch.linspace(-1, 1, length) if length > 1 else torch.zeros(1)
        squares += (places / 0.9).square().view([-1 if k == axis else 1 for k in range(len(shape))])
    return squares + 0.25 * smooth_noise(rng, 1, shape, max(shape) / 4)[0] > 1


def random_flow(
    rng: torch.Generator, shape: tuple[int, ...], most: float, recipe: Recipe
) -> tuple[Tensor, Callable[[], Tensor]]:
    """A deformation [1, ndim, *shape], voxels, and what gives its inverse.

    The integral of smooth noise whose standard deviation is anywhere in 0 to `most`. A quarter of the distance between
    the control points is the most in any case: more would tear the shapes.
    """
    half = tuple(max(2, -(-length // 2)) for length in shape)
    scale = _uniform(rng, *recipe.warp_scale)
    sd = _uniform(rng, 0, min(most, scale / 4))
    velocity = 0.5 * sd * smooth_noise(rng, len(shape), half, scale / 2)[None]

    def along(velocity: Tensor) -> Tensor:
        return resize(integrate(velocity, steps=5), shape)

    return along(velocity), lambda: along(-velocity)


def deformed(labels: Tensor, flow: Tensor) -> Tensor:
    """The map [1, *shape] under `flow`; beyond its border it goes on."""
    return warp(labels[None].to(flow.dtype), flow, mode="nearest", padding="border")[0].to(torch.int32)


def zoomed(labels: Tensor, factor: float) -> Tensor:
    """The map [1, *shape] so many times larger, from its centre."""
    shape = tuple(labels.shape[1:])
    matrix = np.zeros((len(shape), 4))
    for axis, length in enumerate(shape):
        matrix[axis, [axis, 3]] = np.array([1, (1 - length) / 2]) * (1 / factor - 1)
    return deformed(labels, to_flow(affine_field(matrix, shape)))


@dataclass(frozen=True)
class Contrast:
    """How bright each shape is, how noisy, and whether what lies outside is exactly 0."""

    means: Tensor
    deviations: Tensor
    black: bool

    def about(self, rng: torch.Generator) -> Contrast:
        """Nearly the same."""
        means = self.means + ALIKE * torch.randn(self.means.shape, generator=rng)
        return Contrast(means.clamp(0, 1) * (self.means > 0), self.deviations, self.black)


ALIKE = 0.05
"""Standard deviation of the difference in brightness between shapes that are about as bright."""


def random_contrast(rng: torch.Generator, count: int, recipe: Recipe) -> Contrast:
    """Of the labels below `count`."""
    means = torch.rand(count, generator=rng)
    deviations = recipe.noise[0] + (recipe.noise[1] - recipe.noise[0]) * torch.rand(count, generator=rng)
    black = _uniform(rng, 0, 1) < recipe.black_background
    if black:
        means[0] = deviations[0] = 0
    return Contrast(means, deviations, black)


def random_image(rng: torch.Generator, labels: Tensor, recipe: Recipe, contrast: Contrast | None = None) -> Tensor:
    """[1, *shape], float32, 0 to 1: the map [1, *shape] in this contrast, or in a random one."""
    contrast = contrast or random_contrast(rng, int(labels.max()) + 1, recipe)
    index = labels.long()
    image = contrast.means[index] + contrast.deviations[index] * torch.randn(labels.shape, generator=rng)
    image = _blurred(image, _uniform(rng, 0, recipe.blur))
    scale, sd = _uniform(rng, *recipe.bias_scale), _uniform(rng, 0, recipe.bias)
    image = image.clamp_min(0) * torch.exp(sd * smooth_noise(rng, 1, tuple(labels.shape[1:]), scale))
    low, high = image.min(), image.max()
    image = (image - low) / (high - low).clamp_min(torch.finfo(image.dtype).tiny)
    exponent = float(torch.exp(recipe.gamma * torch.randn((), generator=rng)))
    image = image**exponent
    return torch.where(labels == 0, 0.0, image) if contrast.black else image


def guide(rng: torch.Generator, labels: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[GUIDES, *shape] of each of two maps [1, *shape]: every shape as bright in one as in the other, without noise."""
    means = torch.rand(GUIDES, 1 + max(int(each.max()) for each in labels), generator=rng)
    one, two = (_blurred(means[:, each[0].long()], GUIDE_BLUR) for each in labels)
    return one, two


def _blurred(image: Tensor, sd: float) -> Tensor:
    """[channels, *shape] under a Gaussian, axis by axis."""
    if sd < 0.1:
        return image
    reach = max(1, round(3 * sd))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(1, image.ndim):
        length = image.shape[axis]
        ends = image.narrow(axis, 0, 1), image.narrow(axis, length - 1, 1)
        longer = torch.cat([ends[0]] * reach + [image] + [ends[1]] * reach, axis)
        image = torch.zeros_like(image)
        for k, weight in enumerate(kernel.tolist()):  # several times faster than a convolution of one channel
            image.add_(longer.narrow(axis, k, length), alpha=weight)
    return image


def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


class SyntheticPairs(Dataset[dict[str, Tensor]]):
    """An endless, seeded sequence of pairs with their label maps; item k is the same in every process and every run.

    Args:
        shape: Of the volumes, 2-D or 3-D.
        recipe: How they are made.
        seed: Chance.
        maps: Where label maps [1, *shape] come from, consecutive integers from 0 on; random shapes if None. It gets a
            number that chance drew.
        flows: Also give "flow" [ndim, *shape], voxels: the deformation that brings the moving image onto the fixed one,
            and "flow_known" [1, 1, ...]: false for images of two maps, of which there is no such.
        guides: Also give "moving_guide" and "fixed_guide" [GUIDES, *shape]: the pair's shapes in one contrast.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        recipe: Recipe | None = None,
        seed: int = 0,
        maps: Callable[[int], Tensor] | None = None,
        flows: bool = False,
        guides: bool = False,
    ) -> None:
        self.shape, self.recipe, self.seed, self.maps = tuple(shape), recipe or Recipe(), seed, maps
        self.flows, self.guides = flows, guides

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed = int(np.random.SeedSequence([self.seed, 4, index]).generate_state(1)[0])
        rng = torch.Generator().manual_seed(seed)
        labels, other, invented, apart = self._maps(rng)
        if self.recipe.outside and _uniform(rng, 0, 1) < 0.5:
            gone = labels.new_tensor(self.recipe.outside)
            labels, other = (torch.where(torch.isin(each, gone), 0, each) for each in (labels, other))
        if self.recipe.zoom != (1, 1) and not invented:
            factor = _uniform(rng, *self.recipe.zoom)
            labels, other = zoomed(labels, factor), zoomed(other, factor)
        moving, back = random_flow(rng, self.shape, self.recipe.pair_warp, self.recipe)
        fixed, _ = random_flow(rng, self.shape, self.recipe.pair_warp, self.recipe)
        item = {"moving_labels": deformed(labels, moving), "fixed_labels": deformed(other, fixed)}
        contrast = None
        if self.recipe.alike and _uniform(rng, 0, 1) < self.recipe.alike:
            count = 1 + max(int(item[f"{role}_labels"].max()) for role in ("moving", "fixed"))
            contrast = random_contrast(rng, count, self.recipe)
        for role in ("moving", "fixed"):
            own = None if contrast is None else contrast.about(rng)
            item[role] = random_image(rng, item[f"{role}_labels"], self.recipe, own)
        if self.guides:
            both = guide(rng, (item["moving_labels"], item["fixed_labels"]))
            item |= {"moving_guide": both[0], "fixed_guide": both[1]}
        if self.recipe.damage:
            for role in ("moving", "fixed"):
                if _uniform(rng, 0, 1) < self.recipe.damage:
                    item[role] = damaged(rng, item[role])
        if self.flows:  # to the map by the fixed image's deformation, from there to the moving image
            item["flow"] = compose(back(), fixed)[0]
            item["flow_known"] = torch.full((1,) * (1 + len(self.shape)), not apart)
        return item

    def _maps(self, rng: torch.Generator) -> tuple[Tensor, Tensor, bool, bool]:
        """What moving and fixed image are made of, whether that is random shapes, and whether it is two maps."""
        if self.maps is None or (self.recipe.invented and _uniform(rng, 0, 1) < self.recipe.invented):
            labels = random_labels(rng, self.shape, self.recipe)
            return labels, labels, True, False
        labels = other = self._chosen(self.maps, rng)
        apart = bool(self.recipe.apart) and _uniform(rng, 0, 1) < self.recipe.apart
        if apart:
            other = self._chosen(self.maps, rng)
        return labels, other, False, apart

    def _chosen(self, maps: Callable[[int], Tensor], rng: torch.Generator) -> Tensor:
        return maps(int(torch.randint(2**31, (), generator=rng)))
