"""Modality independent neighbourhood descriptors, written as their users write them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Function, Implementation, Options
from bench.peers.packages import compiled


def pairs_of(kind: str) -> list[tuple[int, int]]:
    """The places that are compared: 0 is the voxel, then come one further along D, one back, and so on."""
    if kind == "mind":
        return [(0, k) for k in range(1, 7)]
    return [(i, j) for i, j in itertools.combinations(range(1, 7), 2) if (i - 1) // 2 != (j - 1) // 2]


def _value(distances: Tensor) -> Tensor:
    """[batch, pairs, channels, D, H, W] -> exp(-d / v), pair by pair."""
    v = distances.mean(1, keepdim=True)
    floor = 1e-3 * v.detach().mean((3, 4, 5), keepdim=True)
    return torch.exp(-distances / torch.maximum(v, floor).clamp_min(torch.finfo(v.dtype).tiny)).flatten(1, 2)


def in_steps(image: Tensor, kind: str) -> Tensor:
    """Shifted copies, squares, and three additions along every axis."""
    places = [image]
    for axis in (2, 3, 4):
        n = image.shape[axis]
        first, last = image.narrow(axis, 0, 1), image.narrow(axis, n - 1, 1)
        places.append(torch.cat([image.narrow(axis, 1, n - 1), last], axis))
        places.append(torch.cat([first, image.narrow(axis, 0, n - 1)], axis))

    def averaged(x: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            n = x.shape[axis]
            x = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, n - 1, 1)], axis)
            x = (x.narrow(axis, 0, n) + x.narrow(axis, 1, n) + x.narrow(axis, 2, n)) / 3
        return x

    return _value(torch.stack([averaged((places[i] - places[j]).square()) for i, j in pairs_of(kind)], 1))


def by_convolutions(image: Tensor, kind: str) -> Tensor:
    """As published for PyTorch: convolutions shift, a pooling averages, both of replicated borders."""
    batch, channels = image.shape[:2]
    offsets = [(1, 1, 1)] + [tuple(1 + sign * (axis == k) for k in range(3)) for axis in range(3) for sign in (1, -1)]
    pairs = pairs_of(kind)
    shifts = image.new_zeros(2, len(pairs), 1, 3, 3, 3)
    for k, pair in enumerate(pairs):
        for side in (0, 1):
            z, y, x = offsets[pair[side]]
            shifts[side, k, 0, z, y, x] = 1
    around = F.pad(image.flatten(0, 1)[:, None], [1] * 6, mode="replicate")
    square = (F.conv3d(around, shifts[0]) - F.conv3d(around, shifts[1])).square()
    distances = F.avg_pool3d(F.pad(square, [1] * 6, mode="replicate"), 3, stride=1)
    return _value(torch.unflatten(distances, 0, (batch, channels)).transpose(1, 2))


def _steps(options: Options) -> Function:
    return lambda image: in_steps(image, options.kind)


def _compiled(options: Options) -> Function:
    return compiled(_steps(options))


def _convolutions(options: Options) -> Function:
    return lambda image: by_convolutions(image, options.kind)


MINDS = (
    Implementation("torch, in steps", _steps),
    Implementation("torch, convolutions", _convolutions),
    Implementation("torch.compile, in steps", _compiled, compiles=True),
)
