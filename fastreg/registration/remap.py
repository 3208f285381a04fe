"""One image in the other's contrast: what it shows where the other has this intensity, on average.

Where one image's intensity is about a function of the other's, as between many contrasts of one anatomy, the function
can be read off images that lie roughly on each other; local correlation then sees one contrast. The function need not
have an inverse: the image is mapped whose intensities explain more of the other's (their correlation ratio).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg.types import Mask, Volume

BINS = 64
VOXELS = 500_000
"""About so many give the curve."""
_SMOOTHER = 2
"""Passes of a 1-2-1 filter over the histogram's bins."""


@dataclass(frozen=True)
class Curve:
    """What one image shows on average where another has an intensity."""

    low: Tensor
    high: Tensor
    values: Tensor
    """[BINS], at equal steps from `low` to `high`."""
    ratio: float
    """Correlation ratio: the share of the one's variance that the curve explains, 0 to 1."""

    @classmethod
    def of(cls, source: Volume, target: Volume, mask: Mask | None = None) -> Curve:
        """The mean of `target` by the intensity of `source`; what counts for less than half in `mask` does not."""
        step = max(1, round((math.prod(source.shape[2:]) / VOXELS) ** (1 / (source.ndim - 2))))
        every = (slice(None), slice(None), *[slice(None, None, step)] * (source.ndim - 2))
        given, found = source[every], target[every].double()
        if mask is not None:
            counts = (mask[every] >= 0.5).expand_as(given)
            given, found = given[counts], found[counts]
        given, found = given.flatten(), found.flatten()
        if not len(given):
            return cls(source.new_zeros(()), source.new_ones(()), source.new_zeros(BINS), 0.0)
        low, high = torch.aminmax(given)
        index, share = _bins(given, low, high)
        mass, sums = (torch.zeros(BINS, dtype=torch.float64, device=source.device) for _ in range(2))
        for bins, part in ((index, 1 - share.double()), (index + 1, share.double())):
            mass.index_add_(0, bins, part)
            sums.index_add_(0, bins, part * found)
        for _ in range(_SMOOTHER):
            mass, sums = _smoothed(mass), _smoothed(sums)
        values = torch.where(mass > 0, sums / mass.clamp_min(1e-12), found.mean()).to(source.dtype)
        curve = cls(low, high, values, 0.0)
        explained, spread = curve(given).double().var(correction=0), found.var(correction=0)
        return cls(low, high, values, min(1.0, float(explained / spread.clamp_min(1e-12))))

    def __call__(self, image: Tensor) -> Tensor:
        """The image in the other's contrast, linear between the bins."""
        index, share = _bins(image, self.low, self.high)
        return torch.lerp(self.values[index], self.values[index + 1], share)


def curves(fixed: Volume, moving: Volume, mask: Mask | None = None) -> tuple[Curve | None, Curve | None]:
    """What brings both images into one contrast: a curve for the one of them that explains more of the other.

    Args:
        fixed: [1, 1, D, H, W] or [1, 1, H, W].
        moving: The same shape, roughly in its place.
        mask: Where the images count.

    Source: Roche et al. 1998, "The correlation ratio as a new similarity measure for multimodal image registration";
    Guimond et al. 2001, "Three-dimensional multimodal brain warping using the demons algorithm and adaptive intensity
    corrections".
    """
    of_fixed, of_moving = Curve.of(fixed, moving, mask), Curve.of(moving, fixed, mask)
    return (of_fixed, None) if of_fixed.ratio >= of_moving.ratio else (None, of_moving)


def _bins(image: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bin below each voxel's intensity, and how far it is on the way to the next."""
    place = ((image - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) * (BINS - 1)
    index = place.floor().long().clamp_max(BINS - 2)
    return index, place - index


def _smoothed(row: Tensor) -> Tensor:
    ends = F.pad(row[None, None], (1, 1), mode="replicate")[0, 0]
    return (ends[:-2] + 2 * ends[1:-1] + ends[2:]) / 4
