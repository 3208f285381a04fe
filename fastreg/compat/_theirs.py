"""The other library's own class, for arguments of which fastreg has no equal."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn


def theirs(module: str, name: str, argument: str, equal: str, got: object) -> type[nn.Module]:
    """`module.name` where that library is installed.

    Args:
        module: Its module, as "monai.networks.blocks".
        name: The class there.
        argument: What fastreg cannot do equally, as its user calls it.
        equal: The values that it does equally.
        got: The value that came.

    Raises:
        ValueError: the library is missing, which the one line says with the rest.
    """
    library = module.partition(".")[0]
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{argument} must be {equal} where {library} is not installed, got {got!r}") from error
    return found  # type: ignore[no-any-return]


def names_of(module: str, library: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: what it lacks is that of the other library's module of the same names."""

    def found(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as error:
            missing = module.partition(".")[0]
            raise AttributeError(f"{name} is {library}'s own, and {missing} is not installed") from error

    return found


def plain(value: Any) -> Any:
    """An option of a string enumeration as its string."""
    return getattr(value, "value", value)
