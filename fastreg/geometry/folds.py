"""Repair of displacement fields: folds smoothed where they are, an inverse made exact.

A composition of diffeomorphisms does not fold, but its samples on a grid, with straight lines between them, now and
then do. Both repairs touch few voxels: they work on lists of those and leave the rest as it is, bit for bit.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fastreg.geometry.fields import invert
from fastreg.ops.determinant import determinant
from fastreg.ops.warp import warp
from fastreg.types import Flow
from fastreg.utils.checks import check_flow

_CHUNK = 4096
"""Folded voxels that are repaired at once."""


def unfolded(flow: Flow, *, passes: int = 60, floor: float = 0.01) -> Flow:
    """The field without folds, where that takes few changes: every one of the determinants of one-sided differences
    (`fields.jacobian_determinant(scheme="least")`) is above `floor`, so that no corner of a voxel folds either.

    Each pass averages the displacements within two voxels of a fold with their neighbours', the nearer the more.
    A field that folds in more than one voxel of a hundred comes back as it is: smoothing would not mend it.

    Args:
        flow: [1, 3, D, H, W] or [1, 2, H, W], voxels.
        passes: At most this many.
        floor: Of the determinants; above 0, so that rounding folds nothing again.
    """
    ndim = check_flow("flow", flow)
    size = flow.shape[2:]
    if flow.shape[0] != 1 or min(size) < 2:
        return flow
    bad = (determinant(flow, "least") <= floor).flatten().nonzero()[:, 0]
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
        bad = touched[_least_determinant_at(values, touched, size) <= floor]
        if not len(bad):
            break
    return repaired


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


def _least_determinant_at(values: Tensor, index: Tensor, size: torch.Size) -> Tensor:
    """`determinant(scheme="least")` at some voxels: values [ndim, N], index [K] -> [K]."""
    ndim = len(size)
    places, here = _places(index, size), values[:, index]
    eye = torch.eye(ndim, device=values.device, dtype=values.dtype)
    columns = []  # of the Jacobian, forward and backward along each axis
    for axis in range(ndim):
        sides = []
        for step in (1, -1):
            there = [place + step if a == axis else place for a, place in enumerate(places)]
            inside = (there[axis] >= 0) & (there[axis] < size[axis])
            sides.append((step * (values[:, _index(there, size)] - here) + eye[:, axis, None], inside))
        (ahead, has_ahead), (behind, has_behind) = sides  # beyond the border the other side stands in
        columns.append((torch.where(has_ahead, ahead, behind), torch.where(has_behind, behind, ahead)))
    least = torch.full_like(here[0], math.inf)
    for chosen in itertools.product(*columns):
        least = torch.minimum(least, torch.linalg.det(torch.stack(chosen, -1).movedim(0, 1)))
    return least


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


def exact_inverse(flow: Flow) -> Flow:
    """The field v with compose(flow, v) = 0: by the fixed point of `fields.invert`, then by `sharpened_inverse`.

    Args:
        flow: [1, 3, D, H, W] or [1, 2, H, W], voxels.
    """
    return sharpened_inverse(flow, invert(flow))


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
