"""What is timed: a case's whole job as a function without arguments, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from bench.implementations import Absent, Function, Implementation

Thunk = Callable[[], Any]


def thunk(implementation: Implementation, case: Case, inputs: tuple[Tensor, ...]) -> Thunk:
    """Does the whole job once: the value, and the gradients to the inputs of `case.wanted`, from a fixed upstream.

    Raises:
        Absent: it is not installed, has no gradients or not this option.
    """
    if case.wanted and not implementation.gradients:
        raise Absent("it gives no gradients")
    function, prepared = implementation.make(case.options), implementation.prepare(*inputs)
    run = forward(function, prepared) if not case.wanted else both(function, prepared, case.wanted)
    if implementation.compiles:
        run()
    return run


def forward(function: Function, inputs: tuple[Any, ...]) -> Thunk:
    """The value alone."""

    def run() -> Any:
        with torch.no_grad():
            return function(*inputs)

    return run


def both(function: Function, inputs: tuple[Any, ...], wanted: tuple[int, ...]) -> Thunk:
    """Forward and backward."""
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
    upstream: list[Tensor] = []

    def run() -> Any:
        out = function(*leaves)
        if not upstream:  # made at the first call, by which nobody is judged
            upstream.append(torch.randn_like(out) if out.ndim > 2 else torch.ones_like(out))
        return torch.autograd.grad(out, [leaves[k] for k in wanted], upstream[0])

    return run
