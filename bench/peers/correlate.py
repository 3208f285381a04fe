"""The local cost volume, written in torch: no package of others computes it in 3-D (docs/ops/correlate.md)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Absent, Function, Implementation, Options
from bench.peers.packages import compiled


def _around(b: Tensor, options: Options) -> Tensor:
    return F.pad(b, [options.radius] * 6, mode="replicate" if options.padding == "border" else "constant")


def _shift_loop(options: Options) -> Function:
    """As it is mostly written: pad, and a product with every shift."""

    def run(a: Tensor, b: Tensor) -> Tensor:
        around, (d, h, w) = _around(b, options), a.shape[2:]
        scores = []
        for z, y, x in itertools.product(range(2 * options.radius + 1), repeat=3):
            there = around[:, :, z : z + d, y : y + h, x : x + w]
            scores.append((a * there if options.measure == "dot" else (a - there).square()).mean(1))
        return torch.stack(scores, 1)

    return run


def _unfolded(options: Options) -> Function:
    """All neighbourhoods as a view of the padded image, and one product."""
    if options.measure != "dot":
        raise Absent("a product has no differences")

    def run(a: Tensor, b: Tensor) -> Tensor:
        around = _around(b, options)
        for axis in (2, 3, 4):
            around = around.unfold(axis, 2 * options.radius + 1, 1)
        return torch.einsum("bcdhw,bcdhwijk->bijkdhw", a, around).flatten(1, 3) / a.shape[1]

    return run


def _compiled(options: Options) -> Function:
    return compiled(_shift_loop(options))


CORRELATES = (
    Implementation("torch, shift loop", _shift_loop),
    Implementation("torch, unfold and einsum", _unfolded),
    Implementation("torch.compile, shift loop", _compiled, compiles=True),
)
