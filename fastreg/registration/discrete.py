"""A discrete start for large motion: every displacement of a cube is looked at, so no local minimum is in the way.

Coupled convex optimisation, Heinrich et al. 2014, "Non-parametric discrete registration with convex optimisation", with
descriptors and inverse consistency as in Siebert, Hansen and Heinrich 2021, "Fast 3D registration with accurate
optimisation and little learning for Learn2Reg 2021". The cost of every displacement at every voxel of a coarse grid is
made once. The field is then found by turns: at each voxel the displacement of least cost that is not far from the
smooth field, and the field smoothed. The further this goes, the harder the two are held together.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg.geometry import fields
from fastreg.geometry.fill import filled, pooled_known
from fastreg.nn.cost_volume import costs
from fastreg.ops.correlate import MOST
from fastreg.ops.lncc import lncc
from fastreg.ops.mind import mind
from fastreg.ops.warp import warp
from fastreg.registration.deformable import deform
from fastreg.registration.stages import Stage
from fastreg.types import Flow, Mask, Volume
from fastreg.utils.checks import check_same_device, check_volume, check_whole, shape

COUPLINGS = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.3, 1.0)
"""Weights of the squared distance to the smooth field, in voxels of the coarse grid, against the mean cost."""
LARGEST = 240_000_000
"""Costs that are held at once, about 1 GB; larger images get a coarser grid."""
CONSISTENCY = 10
"""Passes that bring the fields of both directions together."""
SMOOTHINGS = 10
"""Of a field that folds, before it is made shorter."""
LEAST_DETERMINANT = 0.05
"""Of the result's one-sided differences."""
FAR = 2.0
"""Voxels that a start moves on average: what moves less, the pyramid bridges."""
WINDOW = 5
"""Of the local correlation that compares a start with none, in voxels of the coarse grid."""
SURE = 2.0
"""Standard errors, of as many windows as fit beside each other, by which it must be better from a start."""


def discrete_start(
    fixed: Volume,
    moving: Volume,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    *,
    factor: int = 4,
    radius: int = 4,
) -> Flow:
    """A coarse displacement field by exhaustive search, from which a deformable registration may start.

    Args:
        fixed: [1, 1, D, H, W] or [1, 1, H, W], intensities about [0, 1], of any contrast.
        moving: The same shape, aligned linearly.
        mask: [1, 1, D, H, W], weights of the fixed image's voxels; without weight they follow their neighbours.
        moving_mask: Likewise of the moving image's; what leads to voxels without weight costs about the mean.
        factor: Edge of the cubes over which descriptors are averaged, in voxels. It is doubled, and `radius` halved,
            until the costs fit into about 1 GB and `radius` is 15 at most.
        radius: Largest displacement along each axis, in voxels of the coarse grid: `factor * radius` of the image.

    Returns:
        [1, 3, D, H, W] or [1, 2, H, W] in voxels: moved(p) = moving(p + flow(p)). It does not fold (`fields.
        jacobian_determinant` with the scheme "least" is above 0), and is 0 where the images are the same.

    Raises:
        ValueError: shapes, devices or numbers that do not fit.
    """
    _check(fixed, moving, mask, moving_mask)
    check_whole("factor", factor, 1)
    check_whole("radius", radius, 1)
    size = tuple(fixed.shape[2:])
    while radius > 1 and (radius > MOST or math.prod(math.ceil(n / factor) * (2 * radius + 1) for n in size) > LARGEST):
        factor, radius = 2 * factor, math.ceil(radius / 2)
    with torch.no_grad():
        ours, weight = _described(fixed, mask, factor)
        theirs, seen = _described(moving, moving_mask, factor)
        cost = costs(_neutral(theirs, seen), _neutral(ours, weight), radius)[0]
        cost /= cost.mean().clamp_min(1e-12)
        steps = cost.new_tensor(list(itertools.product(range(-radius, radius + 1), repeat=len(size))))
        forward = _matched(cost, steps, weight)
        _turn_round(cost, steps)
        backward = _matched(cost, steps, seen)
        del cost
        extended = forward.new_tensor([float(n > 1) for n in forward.shape[2:]]).view(1, -1, *[1] * len(size))
        forward, backward = forward * extended, backward * extended  # along one voxel there is nothing to match
        for _ in range(CONSISTENCY):
            forward, backward = (
                (one - warp(other, one, padding="border")) / 2
                for one, other in ((forward, backward), (backward, forward))
            )
        return _without_folds(forward, size, factor).to(fixed.dtype)


def start_if_worth_it(
    fixed: Volume,
    moving: Volume,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    *,
    metric: str = "lncc",
) -> Flow | None:
    """`discrete_start` where `worth_it` approves of it, else None; arguments as there."""
    flow = discrete_start(fixed, moving, mask, moving_mask)
    return flow if worth_it(fixed, moving, flow, mask, moving_mask, metric=metric) else None


def worth_it(
    fixed: Volume,
    moving: Volume,
    flow: Flow,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    *,
    metric: str = "lncc",
    factor: int = 4,
) -> bool:
    """Whether a start is better than none: whether it leads where the pyramid alone does not come.

    Few pairs need a start, and where none is needed one may do harm. So a start must move the image far, and when the
    pyramid's coarsest stage has gone on from it, the images must correlate better than after the same stage from zero,
    by more than chance. That the images show the same thing at all is taken for granted.

    Args:
        fixed: [1, 1, D, H, W] or [1, 1, H, W].
        moving: The same shape.
        flow: The start, [1, 3, D, H, W] in voxels.
        mask: [1, 1, D, H, W], weights of the fixed image's voxels.
        moving_mask: Likewise of the moving image's.
        metric: Of the registration to come, see `fastreg.registration.deformable.deform`.
        factor: Of the stage.

    Raises:
        ValueError: shapes, devices or names that do not fit.
    """
    _check(fixed, moving, mask, moving_mask)
    with torch.no_grad():
        length = flow.norm(dim=1, keepdim=True)
        counted = torch.ones_like(length) if mask is None else mask
        if float((length * counted).sum()) < FAR * float(counted.sum()):
            return False
        ours, weight = pooled_known(filled(fixed, mask), mask, factor)
        theirs, seen = pooled_known(filled(moving, moving_mask), moving_mask, factor)
        start = fields.coarsened(flow, factor)
    found = [
        deform(
            ours, theirs, flow=known, stages=(Stage(1, 60, 9),), metric=metric, mask=weight, moving_mask=seen,
            unfold=False,
        ).flow
        for known in (None, start)
    ]  # fmt: skip
    (none, counted), (some, there) = (_correlation(ours, theirs, known, weight, seen) for known in found)
    counted = counted * there
    total = counted.sum().clamp_min(1e-12)
    gain = some - none
    better = float((gain * counted).sum() / total)
    spread = float(((gain - better).square() * counted).sum() / total) ** 0.5
    independent = float(total) / WINDOW ** (ours.ndim - 2)
    return better > SURE * spread / max(independent, 1.0) ** 0.5


def _correlation(
    fixed: Volume, moving: Volume, flow: Flow, mask: Mask | None, moving_mask: Mask | None
) -> tuple[Tensor, Tensor]:
    """The squared correlation in windows of `WINDOW` voxels, and what counts."""
    counted = torch.ones_like(fixed) if mask is None else (mask > 0).to(fixed.dtype)
    if moving_mask is not None:
        counted = counted * (warp(moving_mask, flow) >= 0.5)
    there = warp(moving, flow, padding="border")
    return lncc(fixed, there, window=WINDOW, eps=1e-2, mask=counted, reduction="none"), counted


def _described(image: Volume, mask: Mask | None, factor: int) -> tuple[Tensor, Mask | None]:
    """Descriptors on the coarse grid and the weights there. An even factor leaves half of the averaging until after
    the descriptors, which so see edges that the coarse grid does not have.
    """
    fine = factor // 2 if factor % 2 == 0 else factor
    work = image.to(torch.promote_types(image.dtype, torch.float32))
    image, weight = pooled_known(filled(work, mask), None if mask is None else mask.to(work.dtype), fine)
    return pooled_known(mind(image), weight, factor // fine)


def _neutral(described: Tensor, weight: Mask | None) -> Tensor:
    """The mean descriptors where nothing counts: they fit everything about equally."""
    if weight is None:
        return described
    axes = tuple(range(2, described.ndim))
    mean = (described * weight).sum(axes, keepdim=True) / weight.sum().clamp_min(1e-12)
    return torch.where(weight > 0, described, mean)


def _matched(cost: Tensor, steps: Tensor, weight: Mask | None) -> Flow:
    """The smooth field of low cost: [displacements, D, H, W], [displacements, 3] -> [1, 3, D, H, W]."""
    size = cost.shape[1:]
    weight = cost.new_ones(1, 1, *size) if weight is None else weight.clamp_min(1e-3)
    field = cost.new_zeros(1, len(size), *size)
    for coupling in COUPLINGS:
        field = _smoothed(_nearest(cost.flatten(1), steps, field, coupling), weight)
    return field


def _nearest(cost: Tensor, steps: Tensor, field: Flow, coupling: float) -> Flow:
    """At every voxel the d of least cost(d) + coupling |d - field|^2; of equals no displacement, or the first."""
    where = field[0].flatten(1).T
    pull, lengths = -2 * coupling * steps, (coupling * steps.square().sum(1)).tolist()
    middle = len(steps) // 2
    least = torch.addmv(cost[middle], where, pull[middle])
    chosen = torch.full_like(least, middle, dtype=torch.int16)
    value, lower = torch.empty_like(least), torch.empty_like(least, dtype=torch.bool)
    for k in range(len(steps)):  # the least so far is in the cache; all sums at once would not be
        torch.addmv(cost[k], where, pull[k], out=value).add_(lengths[k])
        chosen.masked_fill_(torch.lt(value, least, out=lower), k)
        torch.minimum(least, value, out=least)
    return steps[chosen.long()].T.reshape(field.shape)


def _turn_round(cost: Tensor, steps: Tensor) -> None:
    """Makes the costs of p -> p + d those of the way back, p + d -> p, in place.

    What comes from beyond the image costs 1, the mean.
    """
    last = len(cost) - 1
    for k, step in enumerate(steps[: last // 2].int().tolist()):
        ahead, back = cost[k].clone(), cost[last - k].clone()
        for source, target, way in ((ahead, cost[last - k], step), (back, cost[k], [-d for d in step])):
            target.fill_(1.0)
            for axis, (d, length) in enumerate(zip(way, source.shape, strict=True)):
                kept = max(length - abs(d), 0)
                target = target.narrow(axis, min(max(d, 0), length - kept), kept)
                source = source.narrow(axis, min(max(-d, 0), length - kept), kept)
            target.copy_(source)


def _smoothed(field: Flow, weight: Mask) -> Flow:
    """Weighted averages over 3 voxels along each axis."""
    pool = F.avg_pool3d if field.ndim == 5 else F.avg_pool2d
    both = pool(F.pad(torch.cat([field * weight, weight], 1), (1,) * (2 * field.ndim - 4)), 3, 1)
    return both[:, :-1] / both[:, -1:]


def _without_folds(field: Flow, size: tuple[int, ...], factor: int) -> Flow:
    """On the grid of `size`, smoothed until it does not fold there, or else made shorter."""
    ones = torch.ones_like(field[:, :1])
    for attempt in itertools.count():
        found = fields.refined(field, size, factor)
        if _least_determinant(found) > LEAST_DETERMINANT:
            return found
        field = _smoothed(field, ones) if attempt < SMOOTHINGS else 0.8 * field
    raise AssertionError  # for the type checker


def _least_determinant(flow: Flow) -> float:
    for axis in range(2, flow.ndim):
        if flow.shape[axis] == 1:
            flow = flow.repeat_interleave(2, axis)
    return float(fields.jacobian_determinant(flow, scheme="least").min())


def _check(fixed: Volume, moving: Volume, mask: Mask | None, moving_mask: Mask | None) -> None:
    check_volume("fixed", fixed)
    if fixed.shape[:2] != (1, 1):
        raise ValueError(f"fixed must be one image of one channel, [1, 1, ...], got {shape(fixed)}")
    for name, other in (("moving", moving), ("mask", mask), ("moving_mask", moving_mask)):
        if other is not None and other.shape != fixed.shape:
            raise ValueError(f"{name} must lie on the grid of fixed {shape(fixed)}, got {shape(other)}")
    check_same_device(fixed=fixed, moving=moving, mask=mask, moving_mask=moving_mask)
