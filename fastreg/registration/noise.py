"""Whether there is anything to register.

A rescan differs from a scan by noise, and noise can be fitted: where all else agrees, a field that follows it lowers
every loss. What is left of one image when it is explained by the other tells the two apart: a displacement of a tenth
of a voxel leaves edges, whose neighbouring voxels agree; noise leaves voxels that know nothing of each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastreg.types import Mask, Volume

WHITE = 0.05
"""Neighbours that correlate less than this pass for noise. White noise of 0.5 to 3 % of the intensities of a brain left
0.01 at most, a shift of 0.1 voxels in noise of 1 % 0.14 to 0.36, two scans of one person 0.47 to 0.70."""

VOXELS = 1_000_000
"""About so many are looked at."""
EDGE = 8
"""Edge in voxels of the cubes in which one image is a linear function of the other."""


def differ_by_noise(fixed: Volume, moving: Volume, mask: Mask | None = None) -> bool:
    """Whether the images differ by white noise alone, up to a linear change of intensities that may vary slowly.

    Args:
        fixed: [batch, channels, D, H, W] or [batch, channels, H, W].
        moving: The same shape.
        mask: [batch, 1, D, H, W]: where it is 0, voxels do not count.
    """
    edges = [min(EDGE, n) for n in fixed.shape[2:]]
    a, b = (_cubes(image, edges) for image in (fixed, moving))
    counts = torch.ones_like(a[:, :1]) if mask is None else (_cubes(mask, edges) > 0).double()
    a, b = (torch.where(counts > 0, image, 0.0) for image in (a, b))
    return any(_correlation(*pair, counts) < WHITE for pair in ((a, b), (b, a)))  # the noise may be in one alone


def _cubes(volume: Volume, edges: list[int]) -> Tensor:
    """[batch, channels, cubes, edge, cubes, edge, ...] in float64; what does not fill a cube is left out, and of large
    images every second cube along each axis is taken, every third, ...: as many as tell noise from edges.
    """
    step = max(1, round((math.prod(volume.shape[2:]) / VOXELS) ** (1 / len(edges))))
    for axis, edge in enumerate(edges):
        volume = volume.unfold(2 + 2 * axis, edge, edge * step).movedim(-1, 3 + 2 * axis)
    return volume.double()


def _correlation(explains: Tensor, explained: Tensor, counts: Tensor) -> float:
    """Of neighbouring voxels, in what a regression in every cube leaves; 0 where it leaves rounding only."""
    within = tuple(range(3, explains.ndim, 2))
    n = counts.sum(within, keepdim=True).clamp_min(1)
    x, y = (counts * (image - image.sum(within, keepdim=True) / n) for image in (explains, explained))
    varies = (x * x).sum(within, keepdim=True)
    slope = torch.where(varies > 0, (x * y).sum(within, keepdim=True) / varies.clamp_min(1e-300), 0.0)
    left = y - counts * slope * x
    if left.square().sum() <= 1e-10 * y.square().sum():
        return 0.0
    alike, alone = left.new_zeros(()), left.new_zeros(())
    for axis in within:
        size = left.shape[axis]
        one, other = left.narrow(axis, 0, size - 1), left.narrow(axis, 1, size - 1)
        both = counts.narrow(axis, 0, size - 1) * counts.narrow(axis, 1, size - 1)
        alike += (one * other).sum()
        alone += (both * (one.square() + other.square())).sum() / 2
    return float(alike / alone.clamp_min(1e-300))
