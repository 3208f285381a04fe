"""A stage of the optimisation: Adam on a velocity field, its updates smoothed, the best iterate kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastreg.backends.reference import smoothed_update
from fastreg.ops.adam import adam_step
from fastreg.ops.penalty import penalty_
from fastreg.registration.budget import Deadline
from fastreg.registration.levels import Level
from fastreg.registration.stages import Regularity
from fastreg.registration.terms import Joint
from fastreg.types import Flow

BETAS = (0.9, 0.99)
EPS = 1e-12
PASSES = 3
"""How often an update goes through the filter (1 2 1) / 4: a step in a smoother space, after Sobolev."""


def optimise(
    level: Level | Joint,
    iterations: int,
    loss: nn.Module,
    regularity: Regularity,
    step: float,
    tolerance: float,
    deadline: Deadline | None = None,
) -> tuple[Tensor, float, int]:
    """The best velocity that the stage met, the start (none) among them, its loss and the number of iterations.

    Args:
        level: What is compared.
        iterations: At most this many.
        loss: Of moved image, fixed image and mask.
        regularity: Weights of the penalties.
        step: Of Adam, in voxels.
        tolerance: See `fastreg.registration.deformable.deform`.
        deadline: No iteration is begun that would end after it.
    """
    size = level.fixed.shape[2:]
    voxels = math.prod(size)
    velocity = level.fixed.new_zeros(len(level.fixed), len(size), *size).requires_grad_()
    if level.nothing_to_do or not iterations:
        with torch.no_grad():
            return velocity.detach(), level.loss(velocity, loss).item(), 0
    adam = _Adam.at(velocity, step)
    best = _Best(adam)
    for _ in range(iterations):
        if deadline is not None and not deadline.allows(voxels, 2):  # the one that follows, and a last look
            break
        began = time.monotonic()
        similarity = level.loss(velocity, loss)
        (gradient,) = torch.autograd.grad(similarity, velocity)
        best.met(similarity.item() + _penalty(velocity, gradient, level, regularity))
        if tolerance and _plateau(best.values, tolerance):
            return best.velocity(), best.value, len(best.values)
        adam.descend(gradient)
        if deadline is not None:
            deadline.took(voxels, time.monotonic() - began)
    if not best.values:
        return velocity.detach(), math.nan, 0
    with torch.no_grad():  # where the last step led
        best.met(level.loss(velocity, loss).item() + _penalty(velocity, gradient, level, regularity))
    return best.velocity(), best.value, len(best.values) - 1


def _penalty(velocity: Flow, gradient: Flow, level: Level | Joint, regularity: Regularity) -> float:
    """The penalties' value; their gradient is added to the images'."""
    return penalty_(velocity, gradient, level.known_volume, **vars(regularity)).item()


@dataclass
class _Adam:
    """The state of the descent."""

    velocity: Tensor
    mean: Tensor
    square: Tensor
    step: float
    count: int = 0

    @classmethod
    def at(cls, velocity: Tensor, step: float) -> _Adam:
        return cls(velocity.detach(), torch.zeros_like(velocity), torch.zeros_like(velocity), step)

    def descend(self, gradient: Flow) -> None:
        """One step; the gradient's memory is used up."""
        self.count += 1
        moments = (self.mean, self.square)
        beta1, beta2 = BETAS
        adam_step(
            self.velocity, gradient, *moments, self.count, step=self.step, beta1=beta1, beta2=beta2, eps=EPS,
            passes=PASSES,
        )  # fmt: skip

    def before(self) -> Tensor:
        """Where the last step began, to the last bit or two."""
        return self.velocity + self.step * smoothed_update(self.mean, self.square, self.count, *BETAS, EPS, PASSES)


class _Best:
    """The iterate of least loss. A copy of every one would cost a tenth of an iteration: the one before the last step
    is found again by undoing the step, when the loss says that it was better.
    """

    def __init__(self, adam: _Adam) -> None:
        self.adam = adam
        self.values: list[float] = []
        self.value, self.index = math.inf, 0
        self.kept: Tensor | None = None

    def met(self, value: float) -> None:
        """The loss of the velocity as it is now, before the next step."""
        self.values.append(value)
        if value < self.value:
            self.value, self.index, self.kept = value, len(self.values) - 1, None
        elif self.kept is None:
            self.kept = self.adam.before() if self.index else torch.zeros_like(self.adam.velocity)

    def velocity(self) -> Tensor:
        """The best of those met."""
        return self.adam.velocity if self.kept is None else self.kept


def _plateau(values: list[float], tolerance: float, span: int = 10) -> bool:
    if len(values) < 2 * span:
        return False
    recent, before = sum(values[-span:]) / span, sum(values[-2 * span : -span]) / span
    return before - recent <= tolerance * max(values[0] - recent, 0.0)
