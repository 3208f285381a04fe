"""Mutual information with Parzen windows over all bins, as MONAI, FireANTs and TransMorph define it.

Both images' intensities spread over bins with weights w_k(x) that add up to 1; P is the mean over the voxels of the
products of the two images' weights, p and q its margins:
``sum over bins of P log((P + nr) / (p q + dr) + floor)``.
Their own code holds the weights of all voxels at once, bins times the image several times over; here they pass by
slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_SLICE = 2**15


class Weights(Protocol):
    """How intensities spread over bins."""

    def __call__(self, places: Tensor) -> Tensor:
        """Places [voxels] -> [voxels, bins]."""

    def slope(self, places: Tensor, weights: Tensor, gains: Tensor) -> Tensor | None:
        """[voxels], the derivative of ``sum over bins of weights * gains``; None where it is 0 everywhere."""


@dataclass(frozen=True)
class Smoothing:
    """What keeps the logarithm finite."""

    nr: float
    dr: float
    floor: float


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Gaussians around the bins' centres, normalised over the bins."""

    centres: Tensor
    sigma: float

    def __call__(self, places: Tensor) -> Tensor:
        return torch.softmax(((places[:, None] - self.centres.to(places)) / self.sigma).square_().mul_(-0.5), dim=1)

    def slope(self, places: Tensor, weights: Tensor, gains: Tensor) -> Tensor:
        """The place itself is in all bins' exponents, and cancels."""
        better = gains.sub_((weights * gains).sum(1, keepdim=True)).mul_(weights)
        return better @ (self.centres.to(places) / self.sigma**2)


@dataclass(frozen=True)
class Splines:
    """Cubic B-splines around the bins 0, 1, ...; places are in bins, from 2 to the third from the end."""

    bins: int

    def __call__(self, places: Tensor) -> Tensor:
        first = places.floor()
        t = places - first
        cubes = [(1 - t) ** 3, (3 * t - 6) * t * t + 4, ((3 - 3 * t) * t + 3) * t + 1, t**3]
        weights = places.new_zeros((len(places), self.bins))
        return weights.scatter_(1, self._cells(first), torch.stack(cubes, 1).div_(6))

    def slope(self, places: Tensor, weights: Tensor, gains: Tensor) -> Tensor:
        """Of the four bins that have a part."""
        first = places.floor()
        t = places - first
        slopes = [-((1 - t) ** 2) / 2, (1.5 * t - 2) * t, (1 - 1.5 * t) * t + 0.5, t * t / 2]
        return (gains.gather(1, self._cells(first)) * torch.stack(slopes, 1)).sum(1)

    def _cells(self, first: Tensor) -> Tensor:
        return first.long()[:, None] + torch.arange(-1, 3, device=first.device)


@dataclass(frozen=True)
class Boxes:
    """The nearest of the bins 0, 1, ..., or half of each of the two nearest."""

    bins: int

    def __call__(self, places: Tensor) -> Tensor:
        nearest = torch.stack([(places - 0.5).ceil(), (places + 0.5).floor()], 1).long()
        weights = places.new_zeros((len(places), self.bins))
        return weights.scatter_add_(1, nearest, places.new_full((1, 1), 0.5).expand(len(places), 2))

    def slope(self, places: Tensor, weights: Tensor, gains: Tensor) -> None:
        """None: steps."""
        return


def spline_places(image: Tensor, bins: int) -> Tensor:
    """Intensities in bins: the least of the whole tensor falls on bin 2, the greatest on the third from the end."""
    low, high = image.min(), image.max()
    return ((image - low) * ((bins - 4) / (high - low)) + 2).clamp(2, bins - 3)


def information(pred: Tensor, target: Tensor, weights: tuple[Weights, Weights], smoothing: Smoothing) -> Tensor:
    """[batch], in nats, in the dtype of `pred`; places [batch, voxels]. Differentiable once, in both."""
    found: Tensor = _Information.apply(pred, target, weights, smoothing)  # type: ignore[no-untyped-call]
    return found


class _Information(torch.autograd.Function):
    """By slices that are added up in float64: neither the memory nor the rounding grows with the image."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, weights: tuple[Weights, Weights], how: Smoothing) -> Tensor:
        values, slopes = [], []
        for a, b in zip(pred, target, strict=True):
            joint, rows, columns = (sum(parts) for parts in zip(*_histograms(a, b, weights), strict=True))
            with torch.enable_grad():
                parts = [(part / a.numel()).requires_grad_() for part in (joint, rows, columns)]
                ratio = (parts[0] + how.nr) / (parts[1][:, None] * parts[2] + how.dr)
                value = (parts[0] * (ratio + how.floor).log()).sum()
                slopes.append(torch.autograd.grad(value, parts))
            values.append(value.detach())
        ctx.save_for_backward(pred, target)
        ctx.weights, ctx.slopes = weights, slopes
        return torch.stack(values).to(pred.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With `create_graph` a result that raises where somebody asks for its derivative."""
        with torch.no_grad():
            found = _Information._slopes(ctx, grad)
        if torch.is_grad_enabled():
            error = torch._C._functions.DelayedError("mutual information has no second derivative", 1)
            found = [None if slope is None else error(slope.requires_grad_()) for slope in found]
        return *found, None, None

    @staticmethod
    def _slopes(ctx: Any, grad: Tensor) -> list[Tensor | None]:
        pred, target = ctx.saved_tensors
        pair = zip((pred, target), ctx.needs_input_grad[:2], strict=True)
        found = [torch.zeros_like(x) if need else None for x, need in pair]
        for item, slopes in enumerate(ctx.slopes):
            scale = grad[item].double() / pred.shape[1]
            for start in range(0, pred.shape[1], _SLICE):
                part = slice(start, start + _SLICE)
                a, b = (_wide(x[item, part]) for x in (pred, target))
                wa, wb = (weights(x) for weights, x in zip(ctx.weights, (a, b), strict=True))
                joint, rows, columns = ((scale * slope).to(wa.dtype) for slope in slopes)
                gains = (wb, joint.T, rows), (wa, joint, columns)
                for into, weights, x, w, (other, table, edge) in zip(
                    found, ctx.weights, (a, b), (wa, wb), gains, strict=True
                ):
                    slope = None if into is None else weights.slope(x, w, torch.addmm(edge, other, table))
                    if into is not None and slope is not None:
                        into[item, part] = slope
        return found


def _wide(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _histograms(a: Tensor, b: Tensor, weights: tuple[Weights, Weights]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of every slice the sums over its voxels: joint, of `a`, of `b`."""
    for start in range(0, a.numel(), _SLICE):
        wa, wb = (w(_wide(x[start : start + _SLICE])) for w, x in zip(weights, (a, b), strict=True))
        yield (wa.T @ wb).double(), wa.sum(0).double(), wb.sum(0).double()
