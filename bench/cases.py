"""The cases: an op, a size, and a thunk for fastreg and for each peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import peers
import torch
import torch.nn.functional as F
from torch import Tensor

FULL = (160, 192, 224)


@dataclass(frozen=True)
class Case:
    """One row of a comparison."""

    name: str
    rivals: tuple[str, ...]
    make: Callable[[str], peers.Thunk]
    """Rival -> thunk; raises peers.Absent."""


def smooth(channels: int, size: tuple[int, ...], amplitude: float, seed: int) -> Tensor:
    """[1, channels, *size], random and smooth: control points every twelve voxels, linear between them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, *[max(2, n // 12) for n in size], generator=generator)
    return (amplitude * F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)).contiguous()


def images(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two images in about [0, 1] with some structure in common, [1, 1, *size]."""
    generator = torch.Generator().manual_seed(1)
    a = 0.5 + smooth(1, size, 0.2, seed=2)
    return a, a + 0.1 * torch.randn(a.shape, generator=generator)


def cases(size: tuple[int, ...] = FULL, window: int = 9, displacement: float = 2.0) -> list[Case]:
    """All cases at a size; displacements have a standard deviation of `displacement` voxels."""
    a, b = images(size)
    flow = smooth(3, size, displacement, seed=3)
    return [
        Case("warp forward", peers.WARPS, partial(peers.warp_forward, vol=a, flow=flow)),
        Case("warp forward + backward to the flow", peers.WARPS, partial(peers.warp_to_flow, vol=a, flow=flow)),
        Case("warp forward + backward to both", peers.WARPS, partial(peers.warp_to_both, vol=a, flow=flow)),
        Case("LNCC forward", peers.LNCCS, partial(peers.lncc_forward, a=a, b=b, window=window)),
        Case("LNCC forward + backward to one", peers.LNCCS, partial(peers.lncc_to_one, a=a, b=b, window=window)),
        Case("smoothness forward + backward", peers.PENALTIES, partial(peers.smoothness_both_ways, flow=flow)),
        Case(
            "integrate, 7 steps, forward + backward",
            peers.INTEGRATIONS,
            partial(peers.integrate_both_ways, velocity=flow, steps=7),
        ),
    ]
