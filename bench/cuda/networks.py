"""A training step and an inference of vm2 on a GPU, with fastreg's ops and with VoxelMorph's formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import fastreg
from bench.clock import Thunk
from bench.jobs import WINDOW, Ops, inference, our_ops, step
from bench.peers.fields import differences
from bench.peers.on_gpu import identity_grid, voxelmorph_ncc, voxelmorph_warp

MODEL = "vm2"


@dataclass(frozen=True)
class Network:
    """One comparison."""

    work: str
    """"training step" or "inference"."""
    dtype: str
    """bfloat16: mixed precision."""
    shape: tuple[int, ...]
    """[batch, 1, D, H, W]"""

    @property
    def name(self) -> str:
        """For a line of output."""
        return f"{MODEL}, {self.work}, {self.dtype}"


def formula_ops(size: tuple[int, ...], device: str) -> Ops:
    """VoxelMorph's."""
    grid = identity_grid(size, device)
    return partial(voxelmorph_warp, grid=grid), partial(voxelmorph_ncc, window=WINDOW), differences


def implementations(network: Network, device: str) -> dict[str, Callable[[], Thunk]]:
    """Name -> what makes its network and optimiser, and then its thunk."""
    moving, fixed = (torch.rand(network.shape, device=device) for _ in range(2))

    def made(compiled: bool, ops: Ops) -> Thunk:
        half = network.dtype == "bfloat16"
        net: Any = fastreg.RegistrationNet(MODEL, amp=half, channels_last=half).to(device)
        if compiled:
            net.unet = torch.compile(net.unet)
        if network.work == "inference":
            return inference(net, ops, moving, fixed)
        return step(net, ops, moving, fixed, fused=True)

    return {
        "fastreg": partial(made, False, our_ops()),
        "fastreg, compiled": partial(made, True, our_ops()),
        "VoxelMorph's ops (their formulas)": partial(made, False, formula_ops(network.shape[2:], device)),
    }
