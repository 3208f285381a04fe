"""How an op enters PyTorch's dispatcher: as by `torch.library.custom_op`, whose first call imports torch._dynamo."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd.graph import increment_version

_library: Any = torch.library.Library  # untyped
_LIBRARY = _library("fastreg", "FRAGMENT")


class Op:
    """A function of tensors as `torch.ops.fastreg.<name>`, for every device. `define_op` makes it."""

    def __init__(self, name: str, function: Callable[..., Any], mutates_args: Iterable[str]) -> None:
        self.name = f"fastreg::{name}"
        changed = list(mutates_args)
        schema = torch.library.infer_schema(function, mutates_args=changed)
        _LIBRARY.define(f"{name}{schema}", tags=[torch.Tag.pt2_compliant_tag])
        run = _outside_dynamo(_telling_autograd(function, changed) if changed else function)
        torch.library.impl(self.name, "CompositeExplicitAutograd", run, lib=_LIBRARY)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` says the shapes and dtypes of the results without looking at data."""
        torch.library.register_fake(self.name, function, lib=_LIBRARY)
        return function

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., Any] | None = None
    ) -> None:
        """As of `torch.library.register_autograd`."""
        torch.library.register_autograd(self.name, backward, setup_context=setup_context, lib=_LIBRARY)


def define_op(name: str, mutates_args: Iterable[str] = ()) -> Callable[[Callable[..., Any]], Op]:
    """Decorates the implementation, whose annotations are the schema.

    Args:
        name: As in `torch.ops.fastreg.<name>`.
        mutates_args: Names of the tensors that it changes.
    """
    return lambda function: Op(name, function, mutates_args)


def _outside_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, into which torch.compile does not look where it is called from a frame that is not compiled."""
    disabled: Any = None

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import would take seconds
            return function(*args)
        if disabled is None:
            disable: Any = torch.compiler.disable  # untyped
            disabled = disable(function)
        return disabled(*args)

    return run


def _telling_autograd(function: Callable[..., Any], changed: list[str]) -> Callable[..., Any]:
    """`function`, after which autograd refuses a backward that had saved what is changed."""
    places = [list(inspect.signature(function).parameters).index(name) for name in changed]

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        for place in places:
            if not args[place].is_inference():
                increment_version(args[place])
        return function(*args)

    return run
