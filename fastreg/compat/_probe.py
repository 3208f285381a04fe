"""Which axes a network's flow displaces, found out by letting it register."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg.ops.warp import warp


def measured_indexing(flow: Callable[[Tensor, Tensor], Tensor], ndim: int) -> str | None:
    """ "ij" or "xy", whichever brings images with a known deformation together; None if neither does so clearly.

    A trained network cuts the mean squared difference of such a pair to about a fifth when its flow is read the right
    way, and leaves most of it with channels 0 and 1 exchanged. One that has learnt nothing does neither.

    Args:
        flow: From moving and fixed, [1, 1, D, H, W], to a displacement in voxels.
        ndim: 2 or 3.
    """
    rng = torch.Generator().manual_seed(0)
    votes = []
    for _ in range(3):
        fixed, moving = _pair(rng, ndim)
        found = flow(moving, fixed)
        swapped = found[:, [1, 0, *range(2, ndim)]]
        before, ij, xy = (
            float((image - fixed).square().mean()) for image in (moving, warp(moving, found), warp(moving, swapped))
        )
        votes.append("ij" if 2 * ij < min(before, xy) else "xy" if 2 * xy < min(before, ij) else None)
    return votes[0] if len(set(votes)) == 1 else None


def _pair(rng: torch.Generator, ndim: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """A textured ball in the dark, and the same deformed smoothly by some voxels."""
    mode = "trilinear" if ndim == 3 else "bilinear"

    def smooth(values: Tensor) -> Tensor:
        return F.interpolate(values, [size] * ndim, mode=mode)

    axis = torch.linspace(-1, 1, size)
    radius = torch.stack(torch.meshgrid(*[axis] * ndim, indexing="ij")).norm(dim=0) / 0.8
    texture = smooth(torch.rand(1, 1, *[size // 8] * ndim, generator=rng))
    fixed = (0.2 + 0.6 * texture) * torch.sigmoid(20 * (1 - radius))
    return fixed, warp(fixed, smooth(2.5 * torch.randn(1, ndim, *[size // 16] * ndim, generator=rng)))
