"""What the local cost volume costs, how near it is to float64, and the same of what torch alone can do, in one run.

python -m bench correlate                     # 16 channels of 80x96x112, radius 1
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fastreg
from bench.clock import Thunk, take_turns
from bench.implementations import said
from fastreg.backends import reference

Function = Callable[[Tensor, Tensor], Tensor]


def shift_loop(a: Tensor, b: Tensor) -> Tensor:
    """As it is written in torch: pad, and a product with every shift."""
    around = F.pad(b, (1,) * 6)
    size = a.shape[2:]
    scores = [
        (a * around[:, :, z : z + size[0], y : y + size[1], x : x + size[2]]).mean(1)
        for z, y, x in itertools.product(range(3), repeat=3)
    ]
    return torch.stack(scores, 1)


def unfolded(a: Tensor, b: Tensor) -> Tensor:
    """All neighbourhoods as a view of the padded image, and one product."""
    around = F.pad(b, (1,) * 6)
    for axis in (2, 3, 4):
        around = around.unfold(axis, 3, 1)
    return torch.einsum("bcdhw,bcdhwijk->bijkdhw", a, around).flatten(1, 3) / a.shape[1]


def functions() -> dict[str, Function]:
    """Name -> who does it; the others are torch's, for there is no 3-D package to compare with."""
    compiled: Function = torch.compile(shift_loop)
    return {
        "fastreg": fastreg.correlate,
        "torch, shift loop": shift_loop,
        "torch, unfold and einsum": unfolded,
        "torch, shift loop compiled": compiled,
    }


def errors(function: Function) -> tuple[float, ...]:
    """Of the value and both gradients, float32 against float64, relative to the largest."""
    a, b = torch.randn(2, 1, 16, 11, 12, 37, generator=torch.Generator().manual_seed(0)).unbind()
    options = 1, "dot", "zeros", None
    truth = reference.correlate(a.double(), b.double(), *options)
    slope = torch.cos(truth)
    gradients = reference.correlate_backward(slope, a.double(), b.double(), *options, True, True)
    a, b = a.requires_grad_(), b.requires_grad_()
    out = function(a, b)
    ours = out, *torch.autograd.grad(out, (a, b), slope.float())
    return tuple(
        ((x.double() - y).abs().max() / y.abs().max()).item()
        for x, y in zip(ours, (truth, *gradients), strict=True)
        if y is not None
    )


def thunks(function: Function, a: Tensor, b: Tensor, slope: Tensor) -> dict[str, Thunk]:
    """Forward alone, and forward with both gradients."""

    def forward() -> Tensor:
        with torch.no_grad():
            return function(a, b)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(a, b), (a, b), slope)

    return {"forward": forward, "forward + backward": both}


def main(words: Sequence[str] | None = None) -> None:
    """Prints a table of milliseconds, the least of all rounds, and errors."""
    parser = argparse.ArgumentParser(prog="python -m bench correlate", description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(80, 96, 112), metavar=("D", "H", "W"))
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    a, b = (torch.randn(1, options.channels, *options.size).requires_grad_() for _ in range(2))
    slope = torch.randn(1, 27, *options.size)
    found = functions()
    if options.no_compile:
        del found["torch, shift loop compiled"]
    turns = {
        f"{name}, {work}": thunk
        for name, function in found.items()
        for work, thunk in thunks(function, a, b, slope).items()
    }
    voxels = a[0, 0].numel()
    for work, numbers in (("forward", 59), ("forward + backward", 59 + 91 * options.channels // 16)):
        bytes_ = torch.zeros(voxels * numbers // 2)
        turns[f"copy of the bytes, {work}"] = partial(torch.clone, bytes_)
    times, failed = take_turns(turns, options.seconds)
    for name, taken in times.items():
        print(f"{name:48s} {min(taken):9.1f} ms, {len(taken)} runs")
    for name, error in failed.items():
        print(f"{name:48s} {said(error)}")
    for name, function in found.items():
        print(f"{name:48s} errors of value and gradients " + " ".join(f"{e:.1e}" for e in errors(function)))


if __name__ == "__main__":
    main()
