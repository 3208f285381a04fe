"""Deformable registration by optimisation: no training, any two images on one grid.

Coarse to fine. Each stage optimises a stationary velocity field whose exponential is composed with what the stages
before found. Every factor is a diffeomorphism, so the composition is one, and one that no single velocity field could
express; every factor is small, so few squarings integrate it. The moving image is resampled once a stage by what is
known and, within the stage, by the stage's own field: an iteration costs one warp, one LNCC and their adjoints.

What holds a stage back is the roughness of its velocity and the log Jacobian determinant of the whole deformation,
linearised about what is known: a fine stage cannot undo by shrinking what a coarse one stretched.

The same code refines the output of a network (instance optimisation, Balakrishnan et al., TMI 2019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fastreg.geometry import fields
from fastreg.geometry.fill import filled
from fastreg.geometry.folds import sharpened_inverse, unfolded
from fastreg.ops.warp import warp
from fastreg.registration.budget import HASTY, LEAST, Deadline
from fastreg.registration.levels import Level, exponential
from fastreg.registration.optimise import optimise
from fastreg.registration.stages import METRICS, REGULARITIES, SEEN_AS, STAGES, Stage, regularity_of, window_of
from fastreg.registration.terms import Joint, PointTerm, Term, loss_of
from fastreg.types import Flow, Mask, RegistrationOutput, Volume
from fastreg.utils.checks import check_flow, check_same_device, check_volume, shape


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
    regularity: str = "default",
    smoothness: float | None = None,
    volume: float | None = None,
    stiffness: float = 1.0,
    step: float = 0.4,
    tolerance: float = 1e-3,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    inverse: bool = False,
    bidir: bool = False,
    weight: float = 1.0,
    terms: Sequence[Term] = (),
    points: PointTerm | None = None,
    deadline: Deadline | None = None,
    unfold: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RegistrationOutput:
    """Finds the displacement that brings `moving` onto `fixed`.

    Args:
        fixed: [1, channels, D, H, W] or [1, channels, H, W], intensities about [0, 1].
        moving: The same shape.
        flow: Where to start, [1, 3, D, H, W] in voxels, from a network or another registration; zero if None.
        stages: From coarse to fine.
        metric: "lncc" (local correlation), "mse"; between contrasts "mind" (local correlation of descriptors) or "mi"
            (mutual information).
        regularity: "close", "default" or "smooth": how far the field may go for the images' sake.
        smoothness: Weight of the velocity's roughness (mean squared forward difference), in place of the regularity's.
        volume: Likewise of the mean squared log Jacobian determinant of the deformation.
        stiffness: Multiplies both weights of the regularity: for images that say little about the deformation.
        step: Adam's step in voxels of the stage, before its update is smoothed.
        tolerance: A stage ends when the mean loss of the last ten iterations is not better than that of the ten before
            by this fraction of what the stage gained; 0 runs all iterations.
        mask: [1, 1, D, H, W], weights of the fixed image's voxels.
        moving_mask: Likewise of the moving image's; a stage holds it where the stages before put it.
        inverse: Also give the inverse.
        bidir: Compare the images on the moving one's grid too, by the inverse, and average: neither is preferred.
        weight: Of this pair of images among the `terms`.
        terms: Further channels, and label maps, on the same grid.
        points: Landmarks.
        deadline: When to end with what was found so far.
        unfold: Smooth the few places where the composition of the stages, sampled on the grid, folds.
        on_progress: Called after each stage.

    Returns:
        `moved`, `flow` and, with `inverse` or `bidir`, `inverse_flow` and `moved_back`.

    Raises:
        ValueError: shapes, devices, names or weights that do not fit.
    """
    _check(fixed, moving, flow, metric, regularity, smoothness, volume)
    size = tuple(fixed.shape[2:])
    counted = mask if moving_mask is None else moving_mask if mask is None else mask * moving_mask
    share = 1.0 if counted is None else float(counted.mean())
    weights = regularity_of(regularity, metric, smoothness, volume, stiffness, share)
    fixed_seen, moving_seen = filled(fixed, mask), filled(moving, moving_mask)
    back: Flow | None = None
    if inverse or bidir:
        back = torch.zeros_like(fixed[:, :1].expand(-1, fixed.ndim - 2, *size)) if flow is None else fields.invert(flow)
    for stage in stages:
        late = deadline is not None and not deadline.allows(math.prod(size) // stage.factor ** len(size), LEAST)
        if late and (flow is not None or stage is not stages[0]):
            break  # finer ones take longer still
        start = time.perf_counter()
        first = Level.of(
            fixed_seen,
            moving_seen,
            mask,
            moving_mask,
            flow,
            back if bidir else None,
            stage.factor,
            SEEN_AS.get(metric, "intensities"),
        )
        window = window_of(stage, size)
        loss = loss_of(metric, window)
        level: Level | Joint = first
        if terms or points is not None:
            known_back = back if bidir else None
            level = Joint.of(first, metric, terms, points, flow, known_back, stage.factor, window, weight)
        # The coarsest costs little, and nothing is worth less than it.
        most, until = (min(stage.iterations, HASTY), None) if late else (stage.iterations, deadline)
        velocity, value, iterations = optimise(level, most, loss, weights, step, tolerance, until)
        with torch.no_grad():
            if bool((velocity != 0).any()):
                found = fields.refined(exponential(velocity), size, stage.factor)
                flow = found if flow is None else fields.compose(flow, found)
                if back is not None:
                    back = fields.compose(fields.refined(exponential(-velocity), size, stage.factor), back)
        on_progress(Progress(stage.factor, iterations, value, time.perf_counter() - start))
    with torch.no_grad():
        if flow is None:
            flow = torch.zeros_like(fixed[:, :1]).repeat(1, fixed.ndim - 2, *[1] * len(size))
        elif unfold and stages:
            flow = unfolded(flow)
        if back is not None and stages:
            back = sharpened_inverse(flow, back)
            back = unfolded(back) if unfold else back
        moved_back = None if back is None else warp(fixed, back)
        return RegistrationOutput(warp(moving, flow), flow, inverse_flow=back, moved_back=moved_back)


def _check(
    fixed: Volume,
    moving: Volume,
    flow: Flow | None,
    metric: str,
    regularity: str,
    smoothness: float | None,
    volume: float | None,
) -> None:
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
    if regularity not in REGULARITIES:
        raise ValueError(f"regularity must be one of {', '.join(REGULARITIES)}, got {regularity!r}")
    for name, weight in (("smoothness", smoothness), ("volume", volume)):
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {weight}")
