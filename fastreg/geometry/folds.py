"""Repair of displacement fields: folds smoothed where they are, an inverse made exact.

A composition of diffeomorphisms does not fold, but its samples on a grid, with straight lines between them, now and
then do. Both repairs touch few voxels: they work on lists of those and leave the rest as it is, bit for bit.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fastreg.geometry.fields import jacobian_determinant
from fastreg.ops.warp import warp
from fastreg.types import Flow
from fastreg.utils.checks import check_flow

_SLAB = 16
"""Planes that are worked on at once."""
_CHUNK = 4096
"""Folded voxels that are repaired at once."""


def unfolded(flow: Flow, *, passes: int = 60) -> Flow:
    """The field without folds: det(I + grad u) by central differences above 0, where that takes few changes.

    Each pass averages the displacements within two voxels of a fold with their neighbours', the nearer the more.
    A field that folds in more than one voxel of a hundred comes back as it is: smoothing would not mend it.

    Args:
        flow: [1, 3, D, H, W] or [1, 2, H, W], voxels.
        passes: At most this many.
    """
    ndim = check_flow("flow", flow)
    size = flow.shape[2:]
    if flow.shape[0] != 1 or min(size) < 2:
        return flow
    bad = _folded(flow)
    if not len(bad) or len(bad) > flow[0, 0].numel() // 100:
        return flow
    repaired = flow.clone(memory_format=torch.contiguous_format)
    values = repaired.view(ndim, -1)
    near = torch.zeros(values.shape[1], dtype=torch.bool, device=flow.device)
    for _ in range(passes):
        changed = []
        for start in range(0, len(bad), _CHUNK):
            some = bad[start : start + _CHUNK]
            core = _around(some, size, 1).flatten()
            near[core] = True
            reach = torch.unique(_around(some, size, 2))
            neighbours = _around(reach, size, 1)
            share = near[neighbours].to(values.dtype).mean(1)
            values[:, reach] += share * (values[:, neighbours].mean(2) - values[:, reach])
            near[core] = False
            changed.append(torch.unique(_around(reach, size, 1)))
        touched = torch.unique(torch.cat(changed))
        bad = touched[_determinant_at(values, touched, size) <= 0]
        if not len(bad):
            break
    return repaired


def _folded(flow: Flow) -> Tensor:
    """Indices of the voxels whose determinant is not positive, a slab at a time."""
    length, plane = flow.shape[2], flow[0, 0, 0].numel()
    found = []
    for start in range(0, length, _SLAB):
        stop = min(start + _SLAB, length)
        low, high = max(start - 1, 0), min(stop + 1, length)
        if high - low < 2:
            low = max(low - 1, 0)
        determinant = jacobian_determinant(flow[:, :, low:high])[0, start - low : stop - low]
        found.append((determinant <= 0).flatten().nonzero()[:, 0] + start * plane)
    return torch.cat(found)


def _places(index: Tensor, size: torch.Size) -> list[Tensor]:
    """Flat indices -> the coordinate along each axis."""
    places = []
    for length in reversed(size):
        places.append(index % length)
        index = index // length
    return places[::-1]


def _index(places: list[Tensor], size: torch.Size) -> Tensor:
    """Coordinates, which are brought into the grid, -> flat indices."""
    index = torch.zeros_like(places[0])
    for place, length in zip(places, size, strict=True):
        index = index * length + place.clamp(0, length - 1)
    return index


def _around(index: Tensor, size: torch.Size, reach: int) -> Tensor:
    """[K] -> [K, (2 reach + 1) ** ndim], the cube about each voxel; beyond the border the border voxel."""
    places = _places(index, size)
    steps = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=len(size))), device=index.device)
    return _index([place[:, None] + step for place, step in zip(places, steps.unbind(1), strict=True)], size)


def _determinant_at(values: Tensor, index: Tensor, size: torch.Size) -> Tensor:
    """`fields.jacobian_determinant` by central differences at some voxels: values [3, N], index [K] -> [K]."""
    places = _places(index, size)
    columns = []
    for axis in range(len(size)):
        ends = []
        for step in (1, -1):
            moved = list(places)
            moved[axis] = (places[axis] + step).clamp(0, size[axis] - 1)
            ends.append((moved[axis], values[:, _index(moved, size)]))
        (upper, above), (lower, below) = ends
        columns.append((above - below) / (upper - lower))
    jacobian = torch.stack(columns, -1).movedim(0, 1) + torch.eye(len(size), device=values.device, dtype=values.dtype)
    return torch.linalg.det(jacobian)


def sharpened_inverse(flow: Flow, inverse: Flow, *, passes: int = 12, tolerance: float = 0.02) -> Flow:
    """An approximate inverse brought closer to compose(flow, inverse) = 0: Newton's method, voxel by voxel.

    A step counts only where less is left after it, so nothing gets worse; after a whole step a quarter is tried.

    Args:
        flow: [1, 3, D, H, W] or [1, 2, H, W], voxels.
        inverse: The same shape.
        passes: At most this many.
        tolerance: Voxels with less left than this, in voxels, are left alone.
    """
    if flow.shape[0] != 1:
        return inverse
    found = inverse.clone(memory_format=torch.contiguous_format)
    values = found.view(flow.shape[1], -1)
    left = (found + warp(flow, found, padding="border")).view_as(values)
    index = (left.square().sum(0) > tolerance**2).nonzero()[:, 0]
    rest = left[:, index]
    del left
    size = flow.shape[2:]
    for _ in range(passes):
        if not len(index):
            break
        start = torch.stack(_places(index, size)).to(values.dtype)
        places = start + values[:, index]
        step = _newton_step(flow, places, rest)
        for share in (1.0, 0.25):
            trial = places + share * step
            remaining = trial - start + _displacement_at(flow, trial)
            better = remaining.square().sum(0) < rest.square().sum(0)
            values[:, index] = torch.where(better, trial - start, values[:, index])
            rest = torch.where(better, remaining, rest)
        open_ = rest.square().sum(0) > tolerance**2
        index, rest = index[open_], rest[:, open_]
    return found


def _newton_step(flow: Flow, places: Tensor, rest: Tensor) -> Tensor:
    """[ndim, K]: -(I + grad u)^-1 rest, at most two voxels long; half of -rest where the field is about to fold."""
    ndim = len(places)
    half = 0.5 * torch.eye(ndim, device=places.device, dtype=places.dtype)
    columns = [
        _displacement_at(flow, places + end[:, None]) - _displacement_at(flow, places - end[:, None]) for end in half
    ]
    jacobian = torch.stack(columns, -1).movedim(0, 1) + torch.eye(ndim, device=places.device, dtype=places.dtype)
    steps, failed = torch.linalg.solve_ex(jacobian, -rest.T)
    usable = (failed == 0) & (torch.linalg.det(jacobian) > 0.01)
    steps = torch.where(usable[:, None], steps, -0.5 * rest.T).T
    return steps * (2 / steps.norm(dim=0).clamp_min(2))


def _displacement_at(flow: Flow, places: Tensor) -> Tensor:
    """[ndim, K] coordinates -> [ndim, K]. As a cube of places: in one long row their index would lose digits."""
    ndim, count = places.shape
    edge = math.ceil(count ** (1 / ndim))
    cube = torch.zeros(ndim, edge**ndim, dtype=places.dtype, device=places.device)
    cube[:, :count] = places
    index = torch.meshgrid(*[torch.arange(edge, device=places.device)] * ndim, indexing="ij")
    at = warp(flow, (cube.view(ndim, *[edge] * ndim) - torch.stack(index))[None], padding="border")
    return at.reshape(ndim, -1)[:, :count]
