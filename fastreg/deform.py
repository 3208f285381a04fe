"""Deformable registration by optimisation: no training, any two images on one grid.

Coarse to fine. Each stage optimises a stationary velocity field whose exponential is composed with what the stages
before found. Every factor is a diffeomorphism, so the composition is one, and one that no single velocity field could
express; every factor is small, so few squarings integrate it. The moving image is resampled once a stage by what is
known and, within the stage, by the stage's own field: an iteration costs one warp, one LNCC and their adjoints.

The same code refines the output of a network (instance optimisation, Balakrishnan et al., TMI 2019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg import fields
from fastreg.losses import LNCC, MSE
from fastreg.ops._checks import check_flow, check_same_device, check_volume, shape
from fastreg.ops.warp import warp
from fastreg.types import Flow, Mask, Registration, Volume

METRICS = ("lncc", "mse")


@dataclass(frozen=True)
class Stage:
    """One level of the pyramid."""

    factor: int
    """Images are averaged over cubes of this edge, in voxels."""
    iterations: int
    """At most this many."""
    spacing: int = 2
    """Edge of the velocity's voxels in voxels of the images, but at least `factor`."""


STAGES = (Stage(4, 60), Stage(2, 40), Stage(1, 10, 1))
"""Chosen on real brains, docs/register.md."""


@dataclass(frozen=True)
class Progress:
    """What a stage did."""

    factor: int
    iterations: int
    loss: float
    seconds: float


def deform(
    fixed: Volume,
    moving: Volume,
    *,
    flow: Flow | None = None,
    stages: Sequence[Stage] = STAGES,
    metric: str = "lncc",
    window: int = 7,
    smoothness: float = 1.5,
    step: float = 0.15,
    tolerance: float = 1e-3,
    mask: Mask | None = None,
    inverse: bool = False,
    told: Callable[[Progress], None] = lambda progress: None,
) -> Registration:
    """Finds the displacement that brings `moving` onto `fixed`.

    Args:
        fixed: [1, channels, D, H, W] or [1, channels, H, W], intensities about [0, 1].
        moving: The same shape.
        flow: Where to start, [1, 3, D, H, W] in voxels, from a network or another registration; zero if None.
        stages: From coarse to fine.
        metric: "lncc" or "mse".
        window: Edge of the LNCC's window in voxels of each level, odd.
        smoothness: Weight of the velocity's roughness (mean squared forward difference).
        step: Adam's step in voxels of the velocity's grid.
        tolerance: A stage ends when the mean loss of the last ten iterations is not better than that of the ten before
            by this fraction of what the stage gained; 0 runs all iterations.
        mask: [1, 1, D, H, W], weights of the fixed image's voxels.
        inverse: Also give the inverse.
        told: Called after each stage.

    Returns:
        `moved`, `flow` and, if wanted, `inverse_flow` and `moved_back`.

    Raises:
        ValueError: shapes, devices or names that do not fit.
    """
    _check(fixed, moving, flow, metric)
    size = tuple(fixed.shape[2:])
    loss = LNCC(window) if metric == "lncc" else MSE()
    back: Flow | None = None
    if inverse:
        back = torch.zeros_like(fixed[:, :1].expand(-1, fixed.ndim - 2, *size)) if flow is None else fields.invert(flow)
    for stage in stages:
        start = time.perf_counter()
        velocity, value, iterations = _optimise(
            _level(fixed, stage.factor), _level(moving, stage.factor), _level(mask, stage.factor), flow, stage, loss,
            smoothness, step, tolerance,
        )  # fmt: skip
        with torch.no_grad():
            found = fields.resize(_exponential(velocity), size)
            flow = found if flow is None else fields.compose(flow, found)
            if back is not None:
                back = fields.compose(fields.resize(_exponential(-velocity), size), back)
        told(Progress(stage.factor, iterations, value, time.perf_counter() - start))
    with torch.no_grad():
        flow = torch.zeros_like(fixed[:, :1]).repeat(1, fixed.ndim - 2, *[1] * len(size)) if flow is None else flow
        moved_back = None if back is None else warp(fixed, back)
        return Registration(warp(moving, flow), flow, inverse_flow=back, moved_back=moved_back)


def _check(fixed: Volume, moving: Volume, flow: Flow | None, metric: str) -> None:
    ndim = check_volume("fixed", fixed)
    if moving.shape != fixed.shape:
        raise ValueError(f"moving must lie on the grid of fixed {shape(fixed)}, got {shape(moving)}")
    if flow is not None:
        check_flow("flow", flow)
        if flow.shape != (fixed.shape[0], ndim, *fixed.shape[2:]):
            raise ValueError(f"flow must lie on the grid of fixed {shape(fixed)}, got {shape(flow)}")
    check_same_device(fixed=fixed, moving=moving, flow=flow)
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def _level(image: Tensor | None, factor: int) -> Tensor | None:
    """Averaged over cubes; axes shorter than the cube stay whole."""
    if image is None or factor == 1:
        return image
    kernel = [min(factor, length) for length in image.shape[2:]]
    return (F.avg_pool3d if image.ndim == 5 else F.avg_pool2d)(image, kernel, ceil_mode=True)


def _optimise(
    fixed: Tensor | None,
    moving: Tensor | None,
    mask: Tensor | None,
    flow: Flow | None,
    stage: Stage,
    loss: LNCC | MSE,
    smoothness: float,
    step: float,
    tolerance: float,
) -> tuple[Tensor, float, int]:
    """The stage's velocity, the last loss and the number of iterations."""
    assert fixed is not None and moving is not None
    size = tuple(fixed.shape[2:])
    if flow is not None:
        with torch.no_grad():
            moving = warp(moving, fields.resize(flow, size), padding="border")
    coarser = max(1, stage.spacing // stage.factor)
    velocity = fixed.new_zeros(fixed.shape[0], len(size), *[max(1, math.ceil(n / coarser)) for n in size])
    velocity.requires_grad_()
    adam = torch.optim.Adam([velocity], lr=step, betas=(0.9, 0.99), eps=1e-12, fused=True)
    values: list[float] = []
    for _ in range(stage.iterations):
        found = fields.resize(_exponential(velocity), size)
        similarity = loss(warp(moving, found, padding="border"), fixed, mask)
        total = similarity + smoothness * fields.smoothness(velocity)
        (velocity.grad,) = torch.autograd.grad(total, velocity)
        adam.step()
        values.append(total.item())
        if tolerance and _plateau(values, tolerance):
            break
    return velocity.detach(), values[-1] if values else math.nan, len(values)


def _plateau(values: list[float], tolerance: float, span: int = 10) -> bool:
    if len(values) < 2 * span:
        return False
    recent, before = sum(values[-span:]) / span, sum(values[-2 * span : -span]) / span
    return before - recent < tolerance * max(values[0] - recent, 0.0)


def _exponential(velocity: Tensor) -> Flow:
    """As many squarings as bring the first step below half a voxel, at least two."""
    low, high = torch.aminmax(velocity.detach())  # abs().max() would write the field once more
    longest = max(-float(low), float(high))
    squarings = min(10, math.ceil(math.log2(max(2 * longest, 4.0)))) if math.isfinite(longest) else 2
    return fields.integrate(velocity, steps=squarings, padding="border")
