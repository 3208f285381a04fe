"""BFGS for the dozen parameters of a linear map.

torch's L-BFGS would do; to make one imports torch's compiler, which takes longer than a small image's registration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The value at a point, and its gradient."""

_DECREASE, _SLOPE = 1e-4, 0.9
"""What a step must reach: this share of the decrease that the slope promises, and no more than this of the slope."""
_MOST_TRIALS = 20


@dataclass(frozen=True)
class _Point:
    x: np.ndarray
    value: float
    gradient: np.ndarray

    @classmethod
    def of(cls, function: Function, x: np.ndarray) -> _Point:
        value, gradient = function(x)
        return cls(x, value if math.isfinite(value) else math.inf, gradient)


def minimised(function: Function, start: np.ndarray, iterations: int, tolerance: float) -> tuple[np.ndarray, float]:
    """Where a smooth function is least, near a start: no point that was met is lower. And how much lower it is there.

    Args:
        function: Its value and gradient; a value that is not finite is a wall.
        start: [N], scaled so that a step of length 1 is a sensible first one.
        iterations: At most this many.
        tolerance: The search ends when a step changes the value by less.

    Source: Nocedal and Wright 2006, "Numerical Optimization", chapter 6; the line search is that of Lewis and Overton
    2013, "Nonsmooth optimization via quasi-Newton methods".
    """
    here = begun = _Point.of(function, start)
    inverse = np.eye(len(start))
    for k in range(iterations):
        direction = -inverse @ here.gradient
        slope = float(direction @ here.gradient)
        if not slope < 0:
            break
        first = 1.0 if k else min(1.0, 1 / float(np.abs(here.gradient).sum()))
        there = _searched(function, here, direction, slope, first)
        if there is None:
            break
        step, change = there.x - here.x, there.gradient - here.gradient
        gained = here.value - there.value
        here = there
        if gained < tolerance:
            break
        curvature = float(step @ change)
        if curvature > 0:
            if k == 0:  # the scale of the function, as far as one step tells it
                inverse *= curvature / float(change @ change)
            left = np.eye(len(step)) - np.outer(step, change) / curvature
            inverse = left @ inverse @ left.T + np.outer(step, step) / curvature
    return here.x, begun.value - here.value


def _searched(function: Function, here: _Point, direction: np.ndarray, slope: float, first: float) -> _Point | None:
    """A point along a direction that decreases the value enough and flattens it (weak Wolfe); None if none is lower."""
    low, high, length = 0.0, math.inf, first
    best = None
    for _ in range(_MOST_TRIALS):
        there = _Point.of(function, here.x + length * direction)
        if there.value > here.value + _DECREASE * length * slope:
            high = length
            # Where the parabola through both values and the slope is least, if that is well inside.
            bend = there.value - here.value - length * slope
            guess = -slope * length**2 / (2 * bend) if math.isfinite(bend) else 0.0
            length = min(max(guess, low + 0.1 * (high - low)), low + 0.5 * (high - low))
            continue
        best = there
        if float(there.gradient @ direction) >= _SLOPE * slope:
            return there
        low = length
        length = 2 * low if high == math.inf else (low + high) / 2
    return best
