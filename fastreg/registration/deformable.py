"""Deformable registration by optimisation: no training, any two images on one grid.

Coarse to fine. Each stage optimises a stationary velocity field whose exponential is composed with what the stages
before found. Every factor is a diffeomorphism, so the composition is one, and one that no single velocity field could
express; every factor is small, so few squarings integrate it. The moving image is resampled once a stage by what is
known and, within the stage, by the stage's own field: an iteration costs one warp, one LNCC and their adjoints.

The same code refines the output of a network (instance optimisation, Balakrishnan et al., TMI 2019).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastreg import backends
from fastreg.geometry import fields
from fastreg.geometry.fill import filled, pooled_known
from fastreg.geometry.folds import sharpened_inverse, unfolded
from fastreg.nn.losses import LNCC, MI, MSE
from fastreg.ops.warp import warp
from fastreg.registration.noise import differ_by_noise
from fastreg.types import Flow, Mask, RegistrationOutput, Scalar, Volume
from fastreg.utils.checks import check_flow, check_same_device, check_volume, shape
from fastreg.utils.files import InputError

METRICS: dict[str, float] = {"lncc": 1.5, "mse": 0.03, "mi": 10.0}
"""Name -> the smoothness that suits the scale of its values."""


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


def read_stages(text: str) -> tuple[Stage, ...]:
    """The pyramid behind what a user wrote: "3" levels, or every level's "4x60,2x40,1x10" (factor x iterations).

    Raises:
        InputError: anything else.
    """
    if text.strip().isdecimal() and 1 <= int(text) <= 6:
        factors = [2**k for k in reversed(range(int(text)))]
        first, *middle, last = factors if len(factors) > 1 else (factors[0], 0)
        return tuple(
            Stage(factor, iterations, 1)
            for factor, iterations in [(first, 60), *((factor, 40) for factor in middle), (last, 10)]
            if factor
        )
    stages = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)x(\d+)\s*", word)
        if found is None:
            raise InputError(f"levels: expected 1 to 6, or factors and iterations such as 4x60,2x40,1x10, got {text!r}")
        stages.append(Stage(int(found[1]), int(found[2]), 1))
    return tuple(stages)


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
    smoothness: float | None = None,
    step: float = 0.15,
    tolerance: float = 1e-3,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    inverse: bool = False,
    bidir: bool = False,
    unfold: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RegistrationOutput:
    """Finds the displacement that brings `moving` onto `fixed`.

    Args:
        fixed: [1, channels, D, H, W] or [1, channels, H, W], intensities about [0, 1].
        moving: The same shape.
        flow: Where to start, [1, 3, D, H, W] in voxels, from a network or another registration; zero if None.
        stages: From coarse to fine.
        metric: "lncc" or "mse"; "mi" (mutual information) between contrasts.
        window: Edge of the LNCC's window in voxels of each level, odd.
        smoothness: Weight of the velocity's roughness (mean squared forward difference); that of `METRICS` if None.
        step: Adam's step in voxels of the velocity's grid.
        tolerance: A stage ends when the mean loss of the last ten iterations is not better than that of the ten before
            by this fraction of what the stage gained; 0 runs all iterations.
        mask: [1, 1, D, H, W], weights of the fixed image's voxels.
        moving_mask: Likewise of the moving image's; a stage holds it where the stages before put it.
        inverse: Also give the inverse.
        bidir: Compare the images on the moving one's grid too, by the inverse, and average: neither is preferred.
        unfold: Smooth the few places where the composition of the stages, sampled on the grid, folds.
        on_progress: Called after each stage.

    Returns:
        `moved`, `flow` and, with `inverse` or `bidir`, `inverse_flow` and `moved_back`.

    Raises:
        ValueError: shapes, devices or names that do not fit.
    """
    _check(fixed, moving, flow, metric)
    if smoothness is not None and not 0 <= smoothness < math.inf:
        raise ValueError(f"smoothness must be at least 0 and finite, got {smoothness}")
    size = tuple(fixed.shape[2:])
    loss: nn.Module = LNCC(window) if metric == "lncc" else MI() if metric == "mi" else MSE()
    weight = METRICS[metric] if smoothness is None else smoothness
    if mask is not None or moving_mask is not None:
        # The images' loss is a mean over the mask, the roughness one over the grid: the fewer voxels count, the harder
        # each pulls. The root: between pulling as without a mask (1 / share) and not caring; see docs/register.md.
        counted = mask if moving_mask is None else moving_mask if mask is None else mask * moving_mask
        assert counted is not None
        weight /= math.sqrt(max(float(counted.mean()), 1e-3))
    fixed_seen, moving_seen = filled(fixed, mask), filled(moving, moving_mask)
    back: Flow | None = None
    if inverse or bidir:
        back = torch.zeros_like(fixed[:, :1].expand(-1, fixed.ndim - 2, *size)) if flow is None else fields.invert(flow)
    for stage in stages:
        start = time.perf_counter()
        level = _Level.of(fixed_seen, moving_seen, mask, moving_mask, flow, back if bidir else None, stage)
        velocity, value, iterations = _optimise(level, stage, loss, weight, step, tolerance)
        with torch.no_grad():
            if bool((velocity != 0).any()):
                found = fields.resize(_exponential(velocity), size)
                flow = found if flow is None else fields.compose(flow, found)
                if back is not None:
                    back = fields.compose(fields.resize(_exponential(-velocity), size), back)
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


@dataclass(frozen=True)
class _Level:
    """What a stage compares: everything on its grid, and nothing that an iteration would have to make again."""

    fixed: Volume
    moving: Volume
    """As the stages before left it."""
    mask: Mask | None
    backward: tuple[Volume, Mask | None, Flow] | None = None
    """With `bidir`: the moving image in its place, its mask, and the inverse that is known."""

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        mask: Mask | None,
        moving_mask: Mask | None,
        flow: Flow | None,
        back: Flow | None,
        stage: Stage,
    ) -> _Level:
        fixed, mask = pooled_known(fixed, mask, stage.factor)
        moving, seen = pooled_known(moving, moving_mask, stage.factor)
        size = tuple(fixed.shape[2:])
        with torch.no_grad():
            backward = None if back is None else (moving, seen, fields.resize(back, size))
            if flow is not None:
                known = fields.resize(flow, size)
                moving = warp(moving, known, padding="border")
                seen = None if seen is None else _counted(warp(seen, known))
            if seen is not None:
                mask = seen if mask is None else mask * seen
        return cls(fixed, moving, mask, backward)

    def loss(self, velocity: Flow, loss: nn.Module) -> Scalar:
        """Of the images under the exponential of a velocity."""
        size = tuple(self.fixed.shape[2:])
        found = fields.resize(_exponential(velocity), size)
        value: Scalar = loss(warp(self.moving, found, padding="border"), self.fixed, self.mask)
        if self.backward is None:
            return value
        still, weight, known = self.backward
        back = fields.compose(fields.resize(_exponential(-velocity), size), known)
        return (value + loss(warp(self.fixed, back, padding="border"), still, weight)) / 2


def _counted(weight: Mask) -> Mask:
    """The weights of a mask between its voxels: what counts for less than half does not count."""
    return torch.where(weight >= 0.5, weight, 0)


def _optimise(
    level: _Level, stage: Stage, loss: nn.Module, smoothness: float, step: float, tolerance: float
) -> tuple[Tensor, float, int]:
    """The best velocity that the stage met, the start (none) among them, its loss and the number of iterations. Where
    the images differ by noise alone, the start.
    """
    size = tuple(level.fixed.shape[2:])
    coarser = max(1, stage.spacing // stage.factor)
    velocity = level.fixed.new_zeros(
        level.fixed.shape[0], len(size), *[max(1, math.ceil(n / coarser)) for n in size]
    ).requires_grad_()
    if differ_by_noise(level.fixed, level.moving, level.mask):
        return velocity.detach(), level.loss(velocity.detach(), loss).item(), 0
    adam = torch.optim.Adam([velocity], lr=step, betas=(0.9, 0.99), eps=1e-12, fused=True)
    backend = backends.choose(None, velocity)
    best = _Best(velocity, adam)
    for _ in range(stage.iterations):
        similarity = level.loss(velocity, loss)
        (gradient,) = torch.autograd.grad(similarity, velocity)
        with torch.no_grad():  # the roughness brings its own gradient: scaled and added where it lies
            roughness, slope = torch.ops.fastreg.smoothness(velocity, True, backend)
            velocity.grad = gradient.add_(slope.mul_(smoothness))
        best.met(similarity.item() + smoothness * roughness.item())
        if tolerance and _plateau(best.values, tolerance):
            return best.velocity(), best.value, len(best.values)
        adam.step()
    with torch.no_grad():  # where the last step led
        roughness = torch.ops.fastreg.smoothness(velocity, False, backend)[0]
        best.met(level.loss(velocity, loss).item() + smoothness * roughness.item())
    return best.velocity(), best.value, stage.iterations


class _Best:
    """The iterate of least loss. A copy of every one would cost a tenth of an iteration: the one before the last step
    is found again by undoing the step, when the loss says that it was better.
    """

    def __init__(self, velocity: Tensor, adam: torch.optim.Adam) -> None:
        self.now, self.adam = velocity, adam
        self.values: list[float] = []
        self.value, self.index = math.inf, 0
        self.kept: Tensor | None = None

    def met(self, value: float) -> None:
        """The loss of the velocity as it is now, before the next step."""
        self.values.append(value)
        if value < self.value:
            self.value, self.index, self.kept = value, len(self.values) - 1, None
        elif self.kept is None:
            self.kept = self._before_step() if self.index else torch.zeros_like(self.now)

    def velocity(self) -> Tensor:
        """The best of those met."""
        return self.now.detach() if self.kept is None else self.kept

    def _before_step(self) -> Tensor:
        """Where Adam's last step began, to the last bit or two."""
        state, group = self.adam.state[self.now], self.adam.param_groups[0]
        done, (beta1, beta2) = float(state["step"]), group["betas"]
        size = (state["exp_avg_sq"] / (1 - beta2**done)).sqrt_().add_(group["eps"])
        return self.now.detach() + group["lr"] / (1 - beta1**done) * state["exp_avg"] / size


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
