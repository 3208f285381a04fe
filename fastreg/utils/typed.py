"""The type of a module's call."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn

Forward = TypeVar("Forward")


def call_of(forward: Forward) -> Forward:
    """`nn.Module.__call__`, hooks and all, with the signature of the `forward` that it calls."""
    call: Any = nn.Module.__call__
    return cast("Forward", call)
