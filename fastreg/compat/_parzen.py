"""Mutual information with Parzen windows over all bins, as MONAI, FireANTs and TransMorph define it.

Both images' intensities spread over bins with weights w_k(x) that add up to 1; P is the mean over the voxels of the
products of the two images' weights, p and q its margins:
``sum over bins of P log((P + nr) / (p q + dr) + floor)``.
Their own code holds the weights of all voxels at once, bins times the image several times over; here they pass by
slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SLICE = 2**15

Weights = Callable[[Tensor], Tensor]
"""From places [voxels] to the weights of the bins, [voxels, bins]."""


@dataclass(frozen=True)
class Smoothing:
    """What keeps the logarithm finite."""

    nr: float
    dr: float
    floor: float


def gaussian_weights(centres: Tensor, sigma: float) -> Weights:
    """Gaussians around the bins' centres, normalised over the bins."""

    def weights(places: Tensor) -> Tensor:
        return torch.softmax(-0.5 * ((places[:, None] - centres.to(places)) / sigma).square(), dim=1)

    return weights


def spline_weights(bins: int, order: int) -> Weights:
    """Cubic B-splines (order 3) or boxes (order 0) around the bins 0, 1, ...; places are in bins."""

    def weights(places: Tensor) -> Tensor:
        d = (torch.arange(bins, device=places.device, dtype=places.dtype) - places[:, None]).abs()
        if order == 0:
            found = (d < 0.5).to(d.dtype) + 0.5 * (d == 0.5)
        else:
            found = torch.where(d < 1, (3 * d - 6) * d.square() + 4, (2 - d.clamp(max=2)) ** 3) / 6
        return found / found.sum(1, keepdim=True)

    return weights


def spline_places(image: Tensor, bins: int) -> Tensor:
    """Intensities in bins: the least of the whole tensor falls on bin 2, the greatest on the third from the end."""
    low, high = image.min(), image.max()
    return ((image - low) * ((bins - 4) / (high - low)) + 2).clamp(2, bins - 3)


def information(pred: Tensor, target: Tensor, weights: tuple[Weights, Weights], smoothing: Smoothing) -> Tensor:
    """[batch], in nats, in the dtype of `pred`; places [batch, voxels]. Differentiable once, in both."""
    found: Tensor = _Information.apply(pred, target, weights, smoothing)  # type: ignore[no-untyped-call]
    return found


class _Information(torch.autograd.Function):
    """By slices, in float64: neither the memory nor the rounding grows with the image."""

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
        for item, (joint, rows, columns) in enumerate(ctx.slopes):
            scale = grad[item].double() / pred.shape[1]
            for start in range(0, pred.shape[1], _SLICE):
                part = slice(start, start + _SLICE)
                a, b = (x[item, part].detach().double().requires_grad_() for x in (pred, target))
                with torch.enable_grad():
                    wa, wb = (weights(x) for weights, x in zip(ctx.weights, (a, b), strict=True))
                gains = scale * (wb @ joint.T + rows), scale * (wa @ joint + columns)
                for into, x, w, gain in zip(found, (a, b), (wa, wb), gains, strict=True):
                    if into is not None and w.requires_grad:  # boxes have no slope
                        into[item, part] = torch.autograd.grad(w, x, gain)[0]
        return found


def _histograms(a: Tensor, b: Tensor, weights: tuple[Weights, Weights]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of every slice the sums over its voxels: joint, of `a`, of `b`."""
    for start in range(0, a.numel(), _SLICE):
        wa, wb = (w(x[start : start + _SLICE].double()) for w, x in zip(weights, (a, b), strict=True))
        yield wa.T @ wb, wa.sum(0), wb.sum(0)
