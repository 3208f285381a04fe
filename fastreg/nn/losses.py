"""Losses as modules: `loss(moved, fixed)`, a scalar, lower is better. A new loss is a class and a line in `LOSSES`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.geometry import fields
from fastreg.ops.lncc import lncc
from fastreg.types import Flow, Mask, Scalar, Volume
from fastreg.utils.checks import check_volume, shape
from fastreg.utils.typed import call_of


class LNCC(nn.Module):
    """Minus the mean squared local correlation: -1 for identical images. Arguments as in `fastreg.lncc`."""

    def __init__(
        self,
        window: int | Sequence[int] = 9,
        eps: float = 1e-5,
        definition: str = "fastreg",
        backend: str | None = None,
        *,
        num_eps: float | None = None,
        squared: bool = True,
        kernel: str = "box",
        sigma: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.window, self.eps, self.definition, self.backend = window, eps, definition, backend
        self.num_eps, self.squared, self.kernel, self.sigma = num_eps, squared, kernel, sigma

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, channels, D, H, W]; `mask` weights the windows."""
        return -lncc(
            moved,
            fixed,
            window=self.window,
            eps=self.eps,
            num_eps=self.num_eps,
            squared=self.squared,
            kernel=self.kernel,
            sigma=self.sigma,
            definition=self.definition,
            mask=mask,
            backend=self.backend,
        )

    __call__ = call_of(forward)


class MSE(nn.Module):
    """Mean squared difference of intensities, for images of one contrast and scale."""

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, channels, D, H, W]; `mask` weights the voxels."""
        square = (moved - fixed).square()
        if mask is None:
            return square.mean()
        weight = mask.to(square.dtype).expand_as(square)
        return (weight * square).sum() / weight.sum().clamp_min(torch.finfo(square.dtype).tiny)

    __call__ = call_of(forward)


class MI(nn.Module):
    """Minus the mutual information of the intensities, in nats, for images of different contrast (Mattes et al. 2003).

    The fixed image's intensities fall into whole bins, the moved one's spread over four by a cubic B-spline, so that
    the histogram changes smoothly with them. Intensities are about 0 to 1; what lies outside counts as 0 or 1.
    """

    def __init__(self, bins: int = 32) -> None:
        super().__init__()
        if bins < 6:
            raise ValueError(f"bins must be at least 6, got {bins}")
        self.bins = bins

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, channels, D, H, W], one histogram for each channel of each pair, averaged.

        `mask` weights the voxels. Float64, whatever the dtype of the images; the gradient goes to `moved` alone.
        """
        check_volume("moved", moved)
        if moved.shape != fixed.shape:
            raise ValueError(f"fixed must have the shape of moved, {shape(moved)}, got {shape(fixed)}")
        weights = [None] * len(moved) if mask is None else mask.detach().expand_as(moved).unbind()
        terms = [
            _Information.apply(m, f, None if weight is None else weight[k], self.bins)  # type: ignore[no-untyped-call]
            for item, other, weight in zip(moved, fixed.detach(), weights, strict=True)
            for k, (m, f) in enumerate(zip(item, other, strict=True))
        ]
        return -torch.stack(terms).mean()

    __call__ = call_of(forward)


class _Information(torch.autograd.Function):
    """Mutual information of two images under weights. By slices: the memory does not grow with the image."""

    @staticmethod
    def forward(ctx: Any, moved: Tensor, fixed: Tensor, weight: Tensor | None, bins: int) -> Tensor:
        joint = torch.zeros(bins * bins, dtype=torch.float64, device=moved.device)
        for values, rows, share in _slices(moved, fixed, weight, bins):
            cells, t = _cells(values, rows, bins)
            part = values.new_zeros((bins * bins,))
            for k, parts in enumerate(_spline(t)):
                part.scatter_add_(0, cells + k, parts if share is None else parts * share)
            joint += part  # in float64: a slice is too short for float32 to lose anything
        joint = (joint / joint.sum().clamp_min(torch.finfo(joint.dtype).tiny)).view(bins, bins)
        tiny = torch.finfo(joint.dtype).tiny
        apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        gain = ((joint + tiny) / (apart + tiny)).log()
        ctx.save_for_backward(moved, fixed, weight, gain)
        return (joint * gain).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With `create_graph` a result that raises where somebody asks for its derivative."""
        with torch.no_grad():
            slope = _Information._slope(ctx, grad)
        if torch.is_grad_enabled():
            slope = torch._C._functions.DelayedError("losses.MI has no second derivative", 1)(slope.requires_grad_())
        return slope, None, None, None

    @staticmethod
    def _slope(ctx: Any, grad: Tensor) -> Tensor:
        """The slope of a voxel is that of its four parts, each times what its bin gains: the margins cancel."""
        moved, fixed, weight, gain = ctx.saved_tensors
        bins = len(gain)
        total = moved.numel() if weight is None else float(weight.double().sum())
        scale = (grad * (bins - 5) / max(total, torch.finfo(gain.dtype).tiny)).to(moved.dtype)
        table = gain.flatten().to(moved.dtype)
        slope = torch.empty_like(moved, memory_format=torch.contiguous_format)
        into = slope.view(-1)
        start = 0
        for values, rows, share in _slices(moved, fixed, weight, bins):
            cells, t = _cells(values, rows, bins)
            found = into[start : start + len(values)].zero_()
            for k, parts in enumerate(_spline_slope(t)):
                found.addcmul_(parts, table.index_select(0, cells + k))
            found.mul_(scale).mul_((values >= 0) & (values <= 1))
            if share is not None:
                found.mul_(share)
            start += len(values)
        return slope


_SLICE = 2**17


def _slices(
    moved: Tensor, fixed: Tensor, weight: Tensor | None, bins: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Values of the moved image, bins of the fixed one, weights; a slice of voxels at a time."""
    flat = moved.flatten(), fixed.flatten(), None if weight is None else weight.flatten()
    for start in range(0, moved.numel(), _SLICE):
        values, other, share = (None if x is None else x[start : start + _SLICE] for x in flat)
        assert values is not None and other is not None
        rows = (other.clamp(0, 1) * (bins - 1)).round().long()
        yield values, rows, None if share is None else share.to(values.dtype)


def _cells(values: Tensor, rows: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The first of the four cells of the joint histogram over which each value spreads, and its place from 0 to 1."""
    place = values.clamp(0, 1) * (bins - 5) + 2
    first = place.floor()
    return rows * bins + first.long() - 1, place - first


def _spline(t: Tensor) -> list[Tensor]:
    """The parts of a value that fall into the bins -1, 0, 1 and 2 from its own: a cubic B-spline."""
    cubes = [(1 - t) ** 3, (3 * t - 6) * t * t + 4, ((3 - 3 * t) * t + 3) * t + 1, t**3]
    return [cube / 6 for cube in cubes]


def _spline_slope(t: Tensor) -> list[Tensor]:
    """The derivative of `_spline`."""
    return [-((1 - t) ** 2) / 2, (1.5 * t - 2) * t, (1 - 1.5 * t) * t + 0.5, t * t / 2]


class Dice(nn.Module):
    """Minus the mean soft Dice over label channels: -1 for identical segmentations (TMI 2019, eq. 6).

    Channels that are empty in both images do not count.
    """

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, labels, D, H, W], probabilities or one-hot labels."""
        check_volume("moved", moved)
        if moved.shape != fixed.shape:
            raise ValueError(f"fixed must have the shape of moved, {shape(moved)}, got {shape(fixed)}")
        if mask is not None:
            moved, fixed = moved * mask, fixed * mask
        axes = tuple(range(2, moved.ndim))
        overlap, total = (moved * fixed).sum(axes), moved.sum(axes) + fixed.sum(axes)
        present = total > 0
        dice = torch.where(present, 2 * overlap / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        return -dice.sum() / present.sum().clamp_min(1)

    __call__ = call_of(forward)


class Smoothness(nn.Module):
    """Roughness of a displacement field; `penalty` as in `fastreg.smoothness`."""

    def __init__(self, penalty: str = "l2", backend: str | None = None) -> None:
        super().__init__()
        self.penalty, self.backend = penalty, backend

    def forward(self, flow: Flow, image: Volume | None = None) -> Scalar:
        """`flow`: [batch, 3, D, H, W], voxels; `image` only for "edge_aware"."""
        return fields.smoothness(flow, penalty=self.penalty, image=image, backend=self.backend)

    __call__ = call_of(forward)


LOSSES: dict[str, type[nn.Module]] = {"lncc": LNCC, "mse": MSE}
"""Image losses by the names that `fastreg train --loss` takes."""


def mean_endpoint_error(flow: Flow, truth: Flow, where: Mask) -> Scalar:
    """Mean distance between two fields in voxels, over the voxels of `where` [batch, 1, D, H, W].

    Not its square, which few pairs with large deformations would rule. Of the background nothing says where it went.
    """
    length = ((flow - truth).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (length * where).sum() / where.sum().clamp_min(1)


def cross_entropy(region: Volume, mask: Mask, known: Tensor) -> Scalar:
    """Of the masks that are known under the log odds of a network, in nats, mean over their voxels; 0 without any.

    Args:
        region: [batch, 1, D, H, W], log odds.
        mask: The same shape, 0 to 1.
        known: [batch, 1, 1, 1, 1], bool.
    """
    weight = known.to(region.dtype).expand_as(region)
    value = F.binary_cross_entropy_with_logits(region, mask.to(region.dtype), weight=weight, reduction="sum")
    return value / weight.sum().clamp_min(1)


class NoImage(nn.Module):
    """No image term: 0, whatever the images."""

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """0 on the device of `moved`."""
        return moved.new_zeros(())

    __call__ = call_of(forward)


def kl_divergence(mean: Flow, log_variance: Flow, prior_lambda: float) -> Scalar:
    """KL of N(mean, diag exp(log_variance)) from the prior N(0, (prior_lambda L)^-1), per voxel, without constants.

    L is the Laplacian of the grid's graph of neighbours, D its degrees: with sums over components and voxels,
    ``1/2 [sum(prior_lambda D exp(s) - s) + prior_lambda sum over edges (mean_p - mean_q)^2]``, divided by the voxels.

    Args:
        mean: [batch, 3, D, H, W], voxels.
        log_variance: The same shape.
        prior_lambda: Precision of the prior.

    Source: Dalca et al. 2018, "Unsupervised Learning for Fast Probabilistic Diffeomorphic Registration", eq. 6.
    """
    if mean.shape != log_variance.shape:
        raise ValueError(f"log_variance must have the shape of mean {shape(mean)}, got {shape(log_variance)}")
    degree, edges = mean.new_zeros(mean.shape[2:]), mean.new_zeros(())
    for axis in range(2, mean.ndim):
        line = torch.full((mean.shape[axis],), 2.0, dtype=mean.dtype, device=mean.device)
        line[0] -= 1
        line[-1] -= 1
        degree = degree + line.view([-1 if k == axis else 1 for k in range(2, mean.ndim)])
        edges = edges + mean.diff(dim=axis).square().sum()
    spread = (prior_lambda * degree * log_variance.exp() - log_variance).sum()
    return 0.5 * (spread + prior_lambda * edges) / (mean.numel() / mean.shape[1])
