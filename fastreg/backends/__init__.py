"""Backends compute the ops. Each is a module with one function per op and `why_unavailable`.

`choose` takes the first of `BACKENDS` that is available. A new backend is a module and one line here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType

import torch

from fastreg.backends import compiled, cpu, cuda, reference, triton

BACKENDS: dict[str, ModuleType] = {
    "cuda": cuda,
    "triton": triton,
    "native": cpu,
    "reference": reference,
}
"""In order of preference."""

# Triton's interpreter is for tests and thousands of times slower: it is taken only where it is asked for by name.
_AUTOMATIC = [name for name in BACKENDS if not (name == "triton" and triton.INTERPRETED)]

_requested: str | None = None  # a plain global: torch.compile can guard on it, a ContextVar it cannot read


def choose(requested: str | None, *tensors: torch.Tensor | None) -> str:
    """The backend's name for an op on `tensors`.

    Args:
        requested: A name from `BACKENDS`, or None: what `use_backend` says, otherwise the fastest that fits.
        tensors: The op's inputs; None for an input that is not there.

    Raises:
        ValueError: no such backend, or it cannot run these tensors; the message says why.
    """
    name = requested or _requested
    present = [tensor for tensor in tensors if tensor is not None]
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
        why = BACKENDS[name].why_unavailable(*present)
        if why is not None:
            raise ValueError(f"backend {name!r} cannot run this: {why}")
        return name
    for name in _AUTOMATIC:
        why = BACKENDS[name].why_unavailable(*present)
        if why is None:
            return name
        if any(tensor.device.type in triton.DEVICES for tensor in present) or (
            name == "native" and why == compiled.missing
        ):
            _log_once(name, why)
    raise AssertionError("the reference backend runs everything")


_logged: set[tuple[str, str]] = set()


def _log_once(name: str, why: str) -> None:
    """Tells once why it could be faster: somebody with a GPU, or without the compiled module, which is a warning."""
    if torch.compiler.is_compiling() or (name, why) in _logged or (name == "native" and why != compiled.missing):
        return
    _logged.add((name, why))
    level = logging.WARNING if name == "native" else logging.INFO
    logging.getLogger("fastreg").log(level, "backend %s is not used: %s", name, why)


def get(name: str) -> ModuleType:
    """The backend module behind a name that `choose` returned."""
    return BACKENDS[name]


def status() -> dict[str, str | None]:
    """For each backend why it cannot run on this machine, or None if it can."""
    return {name: backend.why_unavailable() for name, backend in BACKENDS.items()}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Every fastreg op inside the `with` block runs on this backend, unless its own `backend=` says otherwise.

    It holds for the whole process, like `torch.set_num_threads`, not for one thread.
    """
    global _requested
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before
