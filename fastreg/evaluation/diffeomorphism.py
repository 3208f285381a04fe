"""Does a field of displacements, with straight lines between its voxels, keep every piece of space right side out?

A cell of the grid (the square or cube between neighbouring voxels) is cut into simplices with voxels as corners, in
both ways that there are, each counting half: in 2-D two triangles, in 3-D four tetrahedra at corners and a fifth in the
middle. A simplex at a corner has the volume of the determinant by one-sided differences there, over 2 or 6. Source: Liu
et al. 2024, "On finite difference Jacobian computation in deformable image registration", IJCV (arXiv 2212.06060).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import factorial

import torch
from torch import Tensor

from fastreg.types import Flow
from fastreg.utils.checks import check_flow, shape

_SLAB = 4
"""Planes of cells at once: what they need stays in the processor's caches."""
_MIDDLES = (((1, 1, 0), (0, 1, 1), (1, 0, 1)), ((-1, -1, 0), (-1, 0, -1), (0, -1, -1)))
"""Edges of the two middle tetrahedra of a cube, from its first and from its last corner."""


@dataclass(frozen=True)
class Simplices:
    """What the simplices at each voxel say; only those inside the grid count. All are [D, H, W] or [H, W]."""

    least: Tensor
    """The smallest determinant of the voxel's corners: not positive where the deformation folds."""
    reversed: Tensor
    """Volume that was turned inside out, in voxels, of the simplices that start at the voxel."""
    volume: Tensor
    """Their volume before the deformation: 1 inside, less at the border."""


def simplices(flow: Flow) -> Simplices:
    """Looks at every simplex of a displacement field, a few planes at a time.

    Args:
        flow: [1, 3, D, H, W] or [1, 2, H, W], voxels.

    Raises:
        ValueError: an axis of one voxel, or more than one field.
    """
    check_flow("flow", flow)
    if flow.shape[0] != 1 or min(flow.shape[2:]) < 2:
        raise ValueError(f"flow must be one field with at least 2 voxels along every axis, got {shape(flow)}")
    size = flow.shape[2:]
    flow = flow.detach().to(torch.promote_types(flow.dtype, torch.float32))
    least = flow.new_full(size, torch.inf)
    reversed_, volume = flow.new_zeros(size), flow.new_zeros(size)
    share = 0.5 / factorial(len(size))
    for start in range(0, size[0] - 1, _SLAB):
        planes = slice(start, min(start + _SLAB, size[0] - 1) + 1)
        here = flow[0, :, planes]
        for corner, determinant in _corners(here):
            place = _cells(corner)
            torch.minimum(least[planes][place], determinant, out=least[planes][place])
            reversed_[planes][place] -= determinant.clamp(max=0).mul_(share)
            volume[planes][place] += share
        for corner, determinant in _middles(here):
            place = _cells(corner)
            reversed_[planes][place] -= determinant.clamp(max=0).mul_(share)
            volume[planes][place] += 2 * share
    return Simplices(least, reversed_, volume)


def _cells(corner: tuple[int, ...]) -> tuple[slice, ...]:
    """Of an array of voxels, those that are this corner (0 or 1 along each axis) of a cell."""
    return tuple(slice(1, None) if end else slice(None, -1) for end in corner)


def _at(field: Tensor, corner: tuple[int, ...]) -> Tensor:
    """[ndim, ...], the displacements of the voxels that are this corner of a cell."""
    place = (slice(None), *_cells(corner))
    return field[place]


def _corners(field: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Each corner of the cells, and the determinant of the cells' edges that meet there."""
    ndim = len(field)
    edges = []
    for axis in range(ndim):
        edge = field.diff(dim=axis + 1)
        edge[axis] += 1
        edges.append(edge)
    for corner in itertools.product((0, 1), repeat=ndim):
        columns = []
        for axis in range(ndim):
            across = edges[axis].movedim(axis + 1, 1)  # along its own axis an edge belongs to both of its ends
            place = (slice(None), slice(None), *_cells(corner[:axis] + corner[axis + 1 :]))
            columns.append(across[place].movedim(1, axis + 1))
        yield corner, _determinant(columns)


def _middles(field: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The corner at which a middle tetrahedron of the cells starts, and the determinant of its edges."""
    if len(field) == 2:
        return  # two triangles fill a square
    for corner, steps in zip(((0, 0, 0), (1, 1, 1)), _MIDDLES, strict=True):
        start = _at(field, corner)
        columns = []
        for step in steps:
            other = tuple(end + along for end, along in zip(corner, step, strict=True))
            edge = _at(field, other) - start
            for axis, along in enumerate(step):
                if along:
                    edge[axis] += along
            columns.append(edge)
        yield corner, _determinant(columns)


def _determinant(columns: list[Tensor]) -> Tensor:
    """Of the matrix with these columns: a list of [ndim, ...] -> [...]."""
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    a, b, c = columns
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])
