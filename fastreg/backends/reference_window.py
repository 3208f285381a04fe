"""The specification of what reads a window of voxels about each place: `reference` has its names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch

from fastreg.types import Flow, Volume

RADIUS = 5
"""Of Lanczos' window, in voxels."""
REACH = 4
"""Voxels to either side of the nearest one that vote."""
_CHUNK = 1 << 16


def _places(flow: Flow, size: tuple[int, ...], chunk: int) -> Iterator[torch.Tensor]:
    """In turn up to `chunk` of them, [chunk, ndim] float64, at most half a voxel outside of an image; NaN stays."""
    axes = [torch.arange(length, device=flow.device) for length in flow.shape[2:]]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")) + flow[0].double()
    outer = torch.tensor(size, dtype=torch.float64, device=flow.device) - 0.5
    place = torch.minimum(place.flatten(1).T.clamp_min(-0.5), outer)
    for start in range(0, len(place), chunk):
        yield place[start : start + chunk]


def lanczos(vol: Volume, flow: Flow) -> Volume:
    """Windowed sinc interpolation with Lanczos' window of `RADIUS`, the values and ends of ITK's.

    The weights of the ten voxels along each axis are ``sinc(x) sinc(x / 5)`` and not divided by their sum, which is 1
    to within 0.0013. Beyond the image its outermost voxels go on; a place further out than half a voxel reads the value
    there.

    Args:
        vol: [1, 1, D, H, W] or [1, 1, H, W], finite.
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.

    Returns:
        [1, 1, D', H', W'] float32; NaN where the displacement is.

    Source: Meijering et al. 1999, "Quantitative comparison of sinc-approximating kernels"; ITK's
        WindowedSincInterpolateImageFunction.
    """
    size = tuple(vol.shape[2:])
    values = vol.double().flatten()
    found = []
    for place in _places(flow, size, _CHUNK):
        base = place.floor()
        x = (place - base)[..., None] - torch.arange(1 - RADIUS, RADIUS + 1, device=flow.device)
        weights = torch.sinc(x) * torch.sinc(x / RADIUS)
        total = torch.zeros_like(place[:, 0])
        for taps in itertools.product(range(2 * RADIUS), repeat=len(size)):
            flat, weight = torch.zeros_like(base[:, 0], dtype=torch.int64), torch.ones_like(total)
            for axis, tap in enumerate(taps):
                index = base[:, axis].nan_to_num(0.0).long() + tap - RADIUS + 1
                flat = flat * size[axis] + index.clamp(0, size[axis] - 1)
                weight = weight * weights[:, axis, tap]
            total += weight * values[flat]
        found.append(total)
    return torch.cat(found).float().reshape(1, 1, *flow.shape[2:])


def vote(ranks: Volume, flow: Flow) -> Volume:
    """The label whose voxels hold most of a Gaussian about each place, as ANTs' MultiLabel.

    Sigma is 1 voxel; the voxels up to `REACH` from the nearest one vote, with what of the Gaussian falls into them.
    Equal votes go to the smaller label.

    Args:
        ranks: [1, 1, D, H, W] or [1, 1, H, W] int32, from 0 on.
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.

    Returns:
        [1, 1, D', H', W'] int32; 0 where the displacement is NaN.

    Source: Schaerer et al. 2014, "Generic interpolators for multi-label images"; ITK's
        LabelImageGaussianInterpolateImageFunction.
    """
    size, values = tuple(ranks.shape[2:]), ranks.flatten().long()
    labels = int(values.max()) + 1
    found = []
    for place in _places(flow, size, max(1, min(_CHUNK, (1 << 24) // labels))):
        last = torch.tensor(size, device=flow.device) - 1
        nearest = torch.minimum((place + 0.5).floor(), last)
        from_nearest = (place - nearest)[..., None]
        edges = torch.arange(2 * REACH + 2, device=flow.device) - REACH - 0.5
        weights = torch.erf((edges - from_nearest) * math.sqrt(0.5)).diff(dim=-1)
        weights[..., -1] = torch.where(from_nearest[..., 0] == -0.5, 0.0, weights[..., -1])
        votes = torch.zeros(len(place), labels, dtype=torch.float64, device=flow.device)
        for taps in itertools.product(range(2 * REACH + 1), repeat=len(size)):
            flat, weight = torch.zeros(len(place), dtype=torch.int64, device=flow.device), torch.ones_like(votes[:, 0])
            for axis, tap in enumerate(taps):
                index = nearest[:, axis].nan_to_num(0.0).long() + tap - REACH
                weight = weight * weights[:, axis, tap] * ((index >= 0) & (index < size[axis]))
                flat = flat * size[axis] + index.clamp(0, size[axis] - 1)
            votes.scatter_add_(1, values[flat][:, None], weight[:, None])
        most = votes.max(1, keepdim=True).values * (1 - 1e-12)
        winner = (votes >= most).int().argmax(1)  # the first of equal ones
        found.append(torch.where(place.isnan().any(1), 0, winner))
    return torch.cat(found).int().reshape(1, 1, *flow.shape[2:])
