"""A second opinion on a deformation: whether the images agree better under it, by measures that it did not optimise.

Neither of the two alone can be trusted. Descriptors of self-similarity (MIND) agree where edges meet, mutual
information where intensities go together; a field that has fitted noise or another contrast's shading gains by its own
metric and loses by their product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastreg.geometry import fields
from fastreg.ops.mind import mind
from fastreg.ops.warp import warp
from fastreg.registration.linear.objective import METRICS
from fastreg.registration.samples import normalised_information
from fastreg.types import Flow, Mask, Volume

VOXELS = 300_000
"""About so many are compared, averages of the images' own."""
BINS = 32


class Opinion:
    """Of one pair, for any number of fields."""

    def __init__(
        self, fixed: Volume, moving: Volume, mask: Mask | None = None, moving_mask: Mask | None = None
    ) -> None:
        """As in `fastreg.registration.deformable.deform`."""
        self.factor = max(1, math.ceil((math.prod(fixed.shape[2:]) / VOXELS) ** (1 / (fixed.ndim - 2)) - 0.25))
        self.moving, self.mask, self.moving_mask = moving, mask, moving_mask
        self.fixed = fields.pooled(fixed, self.factor)
        self.described, self.object = mind(self.fixed), _object(self.fixed)
        self.ours = _binned(self.fixed)

    @torch.no_grad()
    def of(self, flow: Flow | None) -> float:
        """The product of the correlation of descriptors and the normalised mutual information, 0 to 1."""
        moved, weight = self.moving, self._weight(flow)
        if flow is not None:
            moved = warp(moved, flow, padding="border")
        moved = fields.pooled(moved, self.factor)
        weight = weight * (self.object | _object(moved)).to(weight.dtype)  # a noisy background agrees with nothing
        if not bool((weight > 0).any()):
            return 0.0
        alike = float(METRICS["mind"](self.described, weight)(mind(moved)))
        return max(0.0, alike) * _information(self.ours, _binned(moved), weight)

    def _weight(self, flow: Flow | None) -> Mask:
        """Where both images count, and the moving one lies."""
        seen = torch.ones_like(self.moving[:, :1]) if self.moving_mask is None else self.moving_mask
        if flow is not None:
            seen = warp(seen, flow)
        if self.mask is not None:
            seen = seen * self.mask
        return (fields.pooled(seen, self.factor) >= 0.5).to(self.moving.dtype)


def _object(image: Volume) -> Tensor:
    """Boolean, what is not like the border of the grid."""
    border = torch.ones(image.shape[2:], dtype=torch.bool, device=image.device)
    border[tuple(slice(1, -1) for _ in border.shape)] = False
    low, high = _outermost(image)
    return (image[:, :1] - image[0, 0][border].median()).abs() > 0.15 * (high - low)


def _outermost(image: Volume) -> tuple[Tensor, Tensor]:
    """The intensities that half a per cent lies below, and above."""
    sample = image.flatten()[:: max(1, image.numel() // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.005, 0.995], dtype=sample.dtype, device=sample.device))
    return low, high


def _binned(image: Volume) -> Tensor:
    """A bin for each voxel: equal steps between its outermost intensities, the last half per cent apart."""
    low, high = _outermost(image)
    return ((image - low) / (high - low).clamp_min(1e-12) * BINS).clamp(0, BINS - 1).long()


def _information(a: Tensor, b: Tensor, weight: Mask) -> float:
    counts = weight.expand_as(a).flatten() > 0
    joint = torch.bincount((a * BINS + b).flatten()[counts], minlength=BINS * BINS).double().view(BINS, BINS)
    return normalised_information((joint / joint.sum().clamp_min(1)).cpu().numpy())
