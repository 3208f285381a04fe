"""What can do an op: an `Implementation`. fastreg's own are here, those of others in bench/peers/.

`make(options)` gives its function, `prepare` brings fastreg's inputs into the form that the function takes (which its
users have ready, so it is not timed), `definition` says which float64 truth it should give.
Inputs as in fastreg: vol [batch, channels, D, H, W], flow [batch, 3, D, H, W] in voxels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import fastreg
from fastreg import _C, backends
from fastreg.backends import cpu

Function = Callable[..., Any]
INPUTS = {"warp": ("vol", "flow"), "lncc": ("a", "b"), "integrate": ("velocity",), "smoothness": ("flow",)}
INPUTS |= {"mind": ("image",), "correlate": ("a", "b")}
"""Op -> its inputs, in the order in which every implementation takes them."""


class Absent(Exception):
    """The peer cannot run here, or not this; the message says why."""


@dataclass(frozen=True)
class Options:
    """What an op is asked for; each op looks at its own."""

    padding: str = "zeros"
    window: int = 9
    steps: int = 7
    kind: str = "mind"
    radius: int = 1
    measure: str = "dot"

    def named(self, op: str) -> str:
        """In words, for a row."""
        return {
            "warp": self.padding,
            "lncc": f"window {self.window}",
            "integrate": f"{self.steps} steps, {self.padding}",
            "smoothness": "",
            "mind": self.kind,
            "correlate": f"radius {self.radius}, {self.measure}, {self.padding}",
        }[op]


def _as_it_is(*inputs: Tensor) -> tuple[Any, ...]:
    return inputs


@dataclass(frozen=True)
class Implementation:
    """One way to do an op."""

    name: str
    make: Callable[[Options], Function]
    """Raises Absent."""
    prepare: Callable[..., tuple[Any, ...]] = _as_it_is
    read: Callable[[Any], Tensor] = lambda out: out
    """The result as fastreg would give it."""
    definition: str = "fastreg"
    gradients: bool = True
    interior: bool = False
    """It agrees only where all corners lie inside the image."""
    compiles: bool = False
    """Making it takes a compiler and many seconds."""


def said(error: Exception) -> str:
    """One line of an error, for a row."""
    if isinstance(error, Absent):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:160]


def ours(op: str, backend: str | None = None, isa: str | None = None) -> Implementation:
    """fastreg; by default as a user calls it, or one backend, or one instruction set of the native one."""

    def make(options: Options) -> Function:
        functions: dict[str, Function] = {
            "warp": lambda vol, flow: fastreg.warp(vol, flow, padding=options.padding, backend=backend),
            "lncc": lambda a, b: fastreg.lncc(a, b, window=options.window, backend=backend),
            "integrate": lambda v: fastreg.integrate(v, steps=options.steps, padding=options.padding, backend=backend),
            "smoothness": lambda flow: fastreg.smoothness(flow, backend=backend),
            "mind": lambda image: fastreg.mind(image, options.kind, backend),
            "correlate": lambda a, b: fastreg.correlate(
                a, b, options.radius, options.measure, options.padding, backend=backend
            ),
        }
        return functions[op]

    return Implementation("fastreg" if backend is None else backend if isa is None else f"{backend} {isa}", make)


@contextlib.contextmanager
def instructions(isa: str | None) -> Iterator[None]:
    """The native backend with another instruction set; None leaves it."""
    before = cpu.isa()
    if isa is not None:
        _C.cpu.set_isa(isa)
    try:
        yield
    finally:
        _C.cpu.set_isa(before)


def instruction_sets() -> list[str]:
    """Those of this processor, from the oldest."""
    levels = ["baseline", "avx2", "avx512"]
    return levels[: levels.index(cpu.isa()) + 1]


def gpu_backends() -> list[str]:
    """Those of fastreg's that run on a GPU here."""
    return [name for name in ("cuda", "triton") if backends.status()[name] is None]


def ours_here(tensor: Tensor) -> str:
    """The backend that fastreg chooses for a tensor, as rows call it."""
    chosen = backends.choose(None, tensor)
    return f"native {cpu.isa()}" if chosen == "native" else chosen


def is_ours(backend: str) -> bool:
    """Whether a row's backend is one of fastreg's."""
    return backend.split(" ")[0].rstrip(",") in backends.BACKENDS
