"""What is measured on a GPU: larger images, many channels, bfloat16. Inputs are made there: large ones take minutes on
a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DTYPES, Case
from bench.cuda.networks import Network
from bench.implementations import Options
from bench.peers.on_gpu import FUSED_LNCC, VOXELMORPH

SIZES = {
    "160x192x224": (1, 1, 160, 192, 224),
    "2x16x128^3": (2, 16, 128, 128, 128),
    "256^3": (1, 1, 256, 256, 256),
    "512^3": (1, 1, 512, 512, 512),
}
"""Group -> [batch, channels, D, H, W]."""


def everything(quick: bool) -> Iterator[Case | Network]:
    """In order of importance: the last are left out when the time is up. Quick: the first size alone."""
    for group in SIZES:
        for dtype in ("float32", "bfloat16"):
            yield from warps(group, dtype)
            yield from lnccs(group, dtype)
        yield from fields(group)
        if group == "160x192x224":
            for work in ("training step", "inference"):
                yield from (Network(work, dtype, SIZES[group]) for dtype in ("float32", "bfloat16"))
        if quick:
            return


def warps(group: str, dtype: str) -> Iterator[Case]:
    """The forward; the backward to the field, and to both, as it comes and deterministic."""
    batch, channels, *size = SIZES[group]
    about: dict[str, Any] = {"batch": batch, "channels": channels, "dtype": dtype}
    yield Case(group, "warp", (), tuple(size), peers=(VOXELMORPH,), **about)
    for wanted in ((1,), (0, 1)):
        yield Case(group, "warp", wanted, tuple(size), peers=(VOXELMORPH,), backward_alone=True, **about)
    yield Case(group, "warp", (0, 1), tuple(size), backward_alone=True, deterministic=True, **about)


def lnccs(group: str, dtype: str) -> Iterator[Case]:
    """Windows 9, 7 and 5: the loss; with the gradient to one image; to both, which fused-lncc does not have."""
    batch, channels, *size = SIZES[group]
    for window in (9, 7, 5):
        for wanted in ((), (0,), (0, 1)):
            fused = () if len(wanted) == 2 else (FUSED_LNCC,)
            peers = (VOXELMORPH, "MONAI LNCC", *fused, "FireANTs LNCC")
            options = Options(window=window)
            yield Case(group, "lncc", wanted, tuple(size), batch, channels, dtype, options, peers)


def fields(group: str) -> Iterator[Case]:
    """Seven squarings of a velocity at half resolution, and back; the diffusion penalty; descriptors; a cost volume."""
    batch, _, *size = SIZES[group]
    half = tuple(n // 2 for n in size)
    to_one: tuple[tuple[int, ...], ...] = ((), (0,))
    for wanted in to_one:
        yield Case(group, "integrate", wanted, half, batch, peers=(VOXELMORPH,))
    yield Case(group, "smoothness", (0,), tuple(size), batch, peers=(VOXELMORPH,))
    for wanted in to_one:
        yield Case(group, "mind", wanted, tuple(size), batch, peers=("torch, in steps", "torch, convolutions"))
    both: tuple[tuple[int, ...], ...] = ((), (0, 1))
    for wanted in both:
        yield Case(group, "correlate", wanted, half, batch, 16, peers=("torch, shift loop",))


def inputs(case: Case, device: str) -> tuple[Tensor, ...]:
    """What fastreg's op takes."""
    dtype, shape = DTYPES[case.dtype], (case.batch, case.channels, *case.size)

    def smooth(amplitude: float) -> Tensor:
        coarse = amplitude * torch.randn(case.batch, 3, 8, 8, 8, device=device)
        return F.interpolate(coarse, case.size, mode="trilinear")

    if case.op == "warp":
        return torch.rand(shape, device=device).to(dtype), smooth(4)
    if case.op in ("lncc", "correlate"):
        a = torch.rand(shape, device=device).to(dtype)
        return a, ((a + torch.rand(shape, device=device)) / 2).to(dtype)
    if case.op == "mind":
        return (torch.rand(shape, device=device).to(dtype),)
    if case.op == "integrate":
        return (smooth(1),)
    return (torch.randn(case.batch, 3, *case.size, device=device),)
