"""A discrete start for large motion: every displacement of a cube is looked at, so no local minimum is in the way."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fastreg.geometry import fields
from fastreg.geometry.fill import filled, pooled_known
from fastreg.nn.cost_volume import costs
from fastreg.nn.descriptors import descriptors
from fastreg.ops.warp import warp
from fastreg.types import Flow, Mask, Volume

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ENTRIES = 200_000_000


def discrete_start(
    fixed: Volume,
    moving: Volume,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    *,
    factor: int = 4,
    radius: int = 4,
    couplings=COUPLINGS,
    smooth=1,
    aggregate=0,
    half=True,
    tol=None,
    fill=3,
) -> Flow:
    size = tuple(fixed.shape[2:])
    if half:
        sides = []
        for image, weight in ((fixed, mask), (moving, moving_mask)):
            image, weight = pooled_known(filled(image, weight), weight, factor // 2)
            sides.append(pooled_known(descriptors(image), weight, 2))
        (ours, weight), (theirs, seen) = sides
    else:
        sides = [pooled_known(filled(image, weight), weight, factor) for image, weight in ((fixed, mask), (moving, moving_mask))]
        (ours, weight), (theirs, seen) = ((descriptors(image), w) for image, w in sides)
    forward = _matched(ours, theirs, weight, seen, radius, couplings, smooth, aggregate)
    backward = _matched(theirs, ours, seen, weight, radius, couplings, smooth, aggregate)
    if tol is not None:
        forward, backward = (_confirmed(a, b, w, tol, fill) for a, b, w in ((forward, backward, weight), (backward, forward, seen)))
    flow = _consistent(forward, backward)
    return _without_folds(flow, size, factor)


def _matched(ours, theirs, weight, seen, radius, couplings, smooth, aggregate):
    size, ndim = tuple(ours.shape[2:]), ours.ndim - 2
    if seen is not None:
        total = seen.sum().clamp_min(1e-12)
        mean = (theirs * seen).sum(tuple(range(2, theirs.ndim)), keepdim=True) / total
        theirs = torch.where(seen > 0, theirs, mean)
    cost = costs(theirs, ours, radius)
    for _ in range(aggregate):
        cost = (torch.nn.functional.avg_pool3d if ndim==3 else torch.nn.functional.avg_pool2d)(cost, 3, 1, 1, count_include_pad=False)
    cost = cost[0].flatten(1)
    w = torch.ones(1, 1, *size) if weight is None else weight.clamp_min(1e-3)
    if weight is not None:
        cost *= (weight > 0).to(cost.dtype).view(1, -1) * weight.view(1,-1)
    cost /= (cost.mean() / w.mean()).clamp_min(1e-12)
    steps = torch.tensor(list(itertools.product(range(-radius, radius + 1), repeat=ndim)), dtype=cost.dtype)
    field = torch.zeros(1, ndim, *size)
    for coupling in couplings:
        field = _smoothed(_nearest(cost, steps, field, coupling), w, smooth)
    return field


def _nearest(cost, steps, field, coupling, chunk=4096):
    flat = field[0].flatten(1)
    found = torch.empty_like(flat)
    lengths = coupling * steps.square().sum(1, keepdim=True)
    pull = -2 * coupling * steps
    for s in range(0, cost.shape[1], chunk):
        part = torch.addmm(cost[:, s:s+chunk], pull, flat[:, s:s+chunk]).add_(lengths)
        found[:, s:s+chunk] = steps[part.argmin(0)].T
    return found.view_as(field)


def _smoothed(field, weight, passes):
    pool = torch.nn.functional.avg_pool3d if field.ndim == 5 else torch.nn.functional.avg_pool2d
    both = torch.cat([field * weight, weight], 1)
    for _ in range(passes):
        both = pool(both, 3, 1, 1, count_include_pad=False)
    return both[:, :-1] / both[:, -1:]


def _consistent(forward, backward, passes=10):
    for _ in range(passes):
        forward, backward = (
            0.5 * (forward - warp(backward, forward, padding="border")),
            0.5 * (backward - warp(forward, backward, padding="border")),
        )
    return forward


def _confirmed(field, back, weight, tol, passes):
    apart = (field + warp(back, field, padding="border")).square().sum(1, keepdim=True)
    trust = torch.exp(-apart / tol**2) + 1e-3
    if weight is not None: trust = trust * weight.clamp_min(1e-3)
    return _smoothed(field, trust, passes)


def _without_folds(flow, size, factor, floor=0.05):
    one = torch.ones_like(flow[:, :1])
    for k in range(100):
        found = fields.refined(flow, size, factor)
        if min(size) < 2 or float(fields.jacobian_determinant(found, scheme="least").min()) > floor: return found
        flow = _smoothed(flow, one, 1) if k < 10 else 0.8 * flow
    return torch.zeros_like(found)
