"""The specification of the modality independent neighbourhood descriptors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fastreg.types import Volume


def mind_pairs(kind: str, ndim: int) -> list[tuple[int, int]]:
    """The places whose patches are compared, in the order of the channels.

    0 is the voxel itself, then come its neighbours: one further along the first axis, one back, and so on. "mind"
    compares the voxel with each, "ssc" every two that are not opposite each other.
    """
    around = range(1, 2 * ndim + 1)
    if kind == "mind":
        return [(0, k) for k in around]
    return [(i, j) for i, j in itertools.combinations(around, 2) if (i - 1) // 2 != (j - 1) // 2]


def mind(image: Volume, kind: str) -> tuple[Tensor, Tensor]:
    """See `fastreg.mind`, and [batch, channels], float32 or float64: the least that v counts as.

    Differentiable as it stands; the floor counts as a constant.
    """
    values = image.to(torch.promote_types(image.dtype, torch.float32))
    places = _places(values)
    pairs = mind_pairs(kind, image.ndim - 2)
    if torch.compiler.is_exporting():  # in few steps; else one by one, in little memory
        distances = _averaged(torch.stack([(places[i] - places[j]).square() for i, j in pairs], 1).flatten(1, 2))
        distances = torch.unflatten(distances, 1, (len(pairs), image.shape[1]))
    else:
        distances = torch.stack([_averaged((places[i] - places[j]).square()) for i, j in pairs], 1)
    mean = distances.mean(1, keepdim=True)  # [batch, 1, channels, ...]
    tiny = torch.finfo(mean.dtype).tiny
    floor = (1e-3 * mean.detach().mean(tuple(range(3, mean.ndim)), keepdim=True)).clamp_min(tiny)
    out = torch.exp(-distances / _scale(mean, floor)).flatten(1, 2)
    return out.to(image.dtype), floor.flatten(1)


def mind_backward(grad: Tensor, image: Volume, floor: Tensor, kind: str) -> Volume:
    """The gradient to the image, `floor` being what `mind` returned."""
    values = image.to(floor.dtype)
    places = _places(values)
    pairs = mind_pairs(kind, image.ndim - 2)
    differences = [places[i] - places[j] for i, j in pairs]
    distances = torch.stack([_averaged(difference.square()) for difference in differences], 1)
    mean = distances.mean(1, keepdim=True)
    floor = floor.reshape(*floor.shape[:1], 1, *floor.shape[1:], *[1] * (image.ndim - 2))
    scale = _scale(mean, floor)
    slope = torch.unflatten(grad.to(values.dtype), 1, (len(pairs), image.shape[1])) * torch.exp(-distances / scale)
    shared = torch.where(mean > floor, (slope * (distances / scale)).mean(1, keepdim=True), 0.0)
    slope = (shared - slope) / scale
    totals = [torch.zeros_like(values) for _ in places]
    for k, (i, j) in enumerate(pairs):
        push = 2 * _averaged(slope[:, k]) * differences[k]  # the average is its own adjoint
        totals[i] += push
        totals[j] -= push
    for k, total in enumerate(totals[1:]):
        axis, length = 2 + k // 2, image.shape[2 + k // 2]
        inside, border = (1, length - 1) if k % 2 == 0 else (0, 0)
        totals[0].narrow(axis, inside, length - 1).add_(total.narrow(axis, 1 - inside, length - 1))
        totals[0].narrow(axis, border, 1).add_(total.narrow(axis, border, 1))  # which stood for what lies outside
    return totals[0].to(image.dtype)


def _places(image: Volume) -> list[Volume]:
    """The image, and as seen one voxel further along each axis and one back, the border's values going on."""
    places = [image]
    for axis in range(2, image.ndim):
        inner = image.shape[axis] - 1
        first, last = image.narrow(axis, 0, 1), image.narrow(axis, inner, 1)
        places.append(torch.cat([image.narrow(axis, 1, inner), last], axis))
        places.append(torch.cat([first, image.narrow(axis, 0, inner)], axis))
    return places


def _scale(mean: Tensor, floor: Tensor) -> Tensor:
    """v, infinite where nothing changes."""
    scale = torch.maximum(mean, floor)
    return scale.masked_fill(scale <= torch.finfo(scale.dtype).tiny, float("inf"))


def _averaged(image: Volume) -> Volume:
    """Over 3 voxels along each axis, the border's values going on."""
    for axis in range(2, image.ndim):
        length = image.shape[axis]
        ends = image.narrow(axis, 0, 1), image.narrow(axis, length - 1, 1)
        longer = torch.cat([ends[0], image, ends[1]], axis)
        image = sum((longer.narrow(axis, k, length) for k in range(3)), torch.zeros(())) / 3
    return image
