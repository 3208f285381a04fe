"""What is timed: a case's whole job as a function without arguments, gradients included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from bench.clock import Thunk
from bench.implementations import Absent, Function, Implementation


def thunk(implementation: Implementation, case: Case, inputs: tuple[Tensor, ...]) -> Thunk:
    """Does the whole job once: the value, and the gradients to the inputs of `case.wanted`, from a fixed upstream.

    Raises:
        Absent: it is not installed, has no gradients or not this option.
    """
    if case.wanted and not implementation.gradients:
        raise Absent("it gives no gradients")
    run = job(implementation.make(case.options), implementation.prepare(*inputs), case)
    if implementation.compiles:
        run()
    return run


def job(function: Function, prepared: tuple[Any, ...], case: Case) -> Thunk:
    """The same for a function and its inputs in its own form."""
    if not case.wanted:
        return forward(function, prepared)
    if not case.backward_alone:
        return both(function, prepared, case.wanted)
    run = backward(function, prepared, case.wanted)
    return deterministic(run) if case.deterministic else run


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


def backward(function: Function, inputs: tuple[Any, ...], wanted: tuple[int, ...]) -> Thunk:
    """The backward alone, of a forward done once."""
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
    out = function(*leaves)
    upstream = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, [leaves[k] for k in wanted], upstream, retain_graph=True)


def deterministic(thunk: Thunk) -> Thunk:
    """The same under torch.use_deterministic_algorithms."""

    def run() -> Any:
        torch.use_deterministic_algorithms(True)
        try:
            return thunk()
        finally:
            torch.use_deterministic_algorithms(False)

    return run
