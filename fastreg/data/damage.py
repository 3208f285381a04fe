"""What spoils real images, on made ones: a field of view that ends early, thick slices, lesions.

A network that has never seen these takes their edges for anatomy. Everything is a function of a generator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_CUT = 0.3
"""Of an axis, at most, that the field of view may leave out at one end."""
THICKEST = 5
"""Voxels of a thick slice, at most."""
LESIONS = 4
"""Of an image, at most."""


def damaged(rng: torch.Generator, image: Tensor) -> Tensor:
    """[1, *shape], of which chance took nothing, or any of: a part of the view, the resolution along an axis, a place.

    Args:
        rng: Chance.
        image: [1, *shape], 0 to 1.
    """
    for spoil in (with_lesions, in_thick_slices, cut_short):
        if _number(rng) < 1 / 3:
            image = spoil(rng, image)
    return image


def cut_short(rng: torch.Generator, image: Tensor) -> Tensor:
    """0 beyond a plane near one end of an axis."""
    axis = 1 + _below(rng, image.ndim - 1)
    length = image.shape[axis]
    kept = length - max(1, round(MOST_CUT * _number(rng) * length))
    at_the_end = _number(rng) < 0.5
    inside = torch.zeros_like(image)
    inside.narrow(axis, 0 if at_the_end else length - kept, kept).fill_(1)
    return image * inside


def in_thick_slices(rng: torch.Generator, image: Tensor) -> Tensor:
    """Averaged over several voxels of an axis, and interpolated back."""
    axis = 1 + _below(rng, image.ndim - 1)
    thick = 2 + _below(rng, THICKEST - 1)
    length = image.shape[axis]
    if length < 2 * thick:
        return image
    rows = image.movedim(axis, -1)
    flat = rows.reshape(1, -1, length)
    slices = F.avg_pool1d(flat, thick, ceil_mode=True)
    fine = F.interpolate(slices, scale_factor=float(thick), mode="linear", align_corners=False)[..., :length]
    return fine.reshape(rows.shape).movedim(-1, axis).contiguous()


def with_lesions(rng: torch.Generator, image: Tensor) -> Tensor:
    """Ellipsoids of one intensity each, with soft edges, where the image is not empty."""
    shape = image.shape[1:]
    for _ in range(1 + _below(rng, LESIONS)):
        value, squares = _number(rng), torch.zeros(shape)
        for axis, length in enumerate(shape):
            middle, radius = _number(rng) * length, 1 + _number(rng) * length / 12
            away = ((torch.arange(length) - middle) / radius).square()
            squares = squares + away.view([-1 if k == axis else 1 for k in range(len(shape))])
        weight = (2 * (1 - squares)).clamp(0, 1) * (image > 0)
        image = image + weight * (value - image)
    return image


def _number(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _below(rng: torch.Generator, most: int) -> int:
    return int(torch.randint(most, (), generator=rng))
