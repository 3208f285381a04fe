"""Easy and hard data, and the options that every implementation is asked for on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Options

SIZE = (11, 12, 37)
"""W leaves a tail in 8 and in 16 lanes."""
SMALL = (4, 5, 6)
"""For Triton's interpreter, which takes a second for a few hundred voxels."""
PADDINGS = ("zeros", "border", "reflection")
WINDOWS = (3, 5, 9)


def _noise(size: tuple[int, ...], channels: int, seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _half(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n // 2 + 1 for n in size)


def _body(size: tuple[int, ...]) -> Tensor:
    """1 inside a block in the middle, 0 outside."""
    body = torch.zeros(1, 1, *size, dtype=torch.float64)
    body[0, 0][tuple(slice(n // 4, n - n // 4) for n in size)] = 1
    return body


def _ct(size: tuple[int, ...], air: float, seed: int) -> Tensor:
    """Hounsfield units: tissue of 40 with a noise of 10 in air of -1000 with a noise of `air`."""
    noise = _noise(size, 1, seed)
    return -1000 + _body(size) * (1040 + 10 * noise) + (1 - _body(size)) * air * noise


@dataclass(frozen=True)
class Data:
    """Inputs of an op, in float64."""

    name: str
    make: Callable[[tuple[int, ...]], tuple[Tensor, ...]]
    hard: bool = True
    whole: bool = False
    """Coordinates are whole numbers: slopes are one-sided there."""
    one_image: bool = True


WARP_DATA = (
    Data("noise, 2 voxels", lambda s: (_noise(s, 2, 1, 2), 2 * _noise(s, 3, 2, 2)), hard=False, one_image=False),
    Data("noise, 0.4 voxel", lambda s: (_noise(s, 1, 1), 0.4 * _noise(s, 3, 2)), hard=False),
    Data("CT", lambda s: (_ct(s, 20, 1), 2 * _noise(s, 3, 2))),
    Data("CT, 1e5 added", lambda s: (_ct(s, 20, 1) + 1e5, 2 * _noise(s, 3, 2))),
    Data("flat, one step", lambda s: (_body(s), 2 * _noise(s, 3, 2))),
    Data("whole coordinates", lambda s: (_noise(s, 1, 1), (2 * _noise(s, 3, 2)).round()), whole=True),
    Data("identity", lambda s: (_noise(s, 1, 1), torch.zeros(1, 3, *s, dtype=torch.float64)), whole=True),
    Data("far outside", lambda s: (_noise(s, 1, 1), 30 * _noise(s, 3, 2))),
)
LNCC_DATA = (
    Data("noise in [0, 1]", lambda s: _pair(0.5 + 0.1 * _noise(s, 1, 1), 0.1, 2), hard=False),
    Data("channels and batch", lambda s: _pair(_noise(_half(s), 2, 1, 2), 1.0, 2), hard=False, one_image=False),
    Data("CT, air with noise", lambda s: (_ct(s, 20, 1), _ct(s, 20, 1) + 5 * _noise(s, 1, 3))),
    Data("CT, flat air", lambda s: (_ct(s, 0, 1), _ct(s, 0, 2))),
    Data("CT, faint noise in air", lambda s: (_ct(s, 0.01, 1), _ct(s, 0.01, 2))),
    Data("mean 3000, deviation 5", lambda s: _pair(3000 + 5 * _noise(s, 1, 1), 5.0, 2)),
    Data("unrelated, 1e4 added", lambda s: (1e4 + _noise(s, 1, 1), 1e4 + _noise(s, 1, 2))),
    Data("half flat", lambda s: (100 + _body(s) * _noise(s, 1, 1), 100 + _body(s) * _noise(s, 1, 2))),
    Data("one image flat", lambda s: (0.7 + 0 * _body(s), _noise(s, 1, 2))),
)
INTEGRATE_DATA = (
    Data("noise, 1 voxel", lambda s: (_smooth(s, 1.0),), hard=False),
    Data("across the border", lambda s: (_smooth(s, 8.0),)),
    Data("rough", lambda s: (3 * _noise(s, 3, 2),)),
    Data("whole coordinates", lambda s: (_shift(s),), whole=True),
)
SMOOTHNESS_DATA = (
    Data("noise", lambda s: (_noise(s, 3, 2, 2),), hard=False, one_image=False),
    Data("smooth, 1000 added", lambda s: (_smooth(s, 1.0) + 1000,)),
    Data("constant", lambda s: (0 * _noise(s, 3, 2) + 3,)),
)
MIND_DATA = (
    Data("noise", lambda s: (_noise(s, 1, 1),), hard=False),
    Data("channels and batch", lambda s: (_noise(_half(s), 2, 1, 2),), hard=False, one_image=False),
    Data("CT", lambda s: (_ct(s, 20, 1),)),
    Data("CT, faint noise in air", lambda s: (_ct(s, 0.01, 1),)),
    Data("half flat", lambda s: (100 + _body(s) * _noise(s, 1, 1),)),
    Data("constant", lambda s: (0 * _noise(s, 1, 1) + 3,)),
)
CORRELATE_DATA = (
    Data("noise", lambda s: _pair(_noise(s, 3, 1), 1.0, 2), hard=False),
    Data("16 channels and batch", lambda s: _pair(_noise(_half(s), 16, 1, 2), 1.0, 2), hard=False, one_image=False),
    Data("nearly the same, 100 added", lambda s: _pair(100 + _noise(s, 3, 1), 0.1, 2)),
    Data("unrelated, 1e4 added", lambda s: (1e4 + _noise(s, 3, 1), 1e4 + _noise(s, 3, 2))),
    Data("one image flat", lambda s: (0.7 + 0 * _noise(s, 3, 1), _noise(s, 3, 2))),
)
DATA = {
    "warp": WARP_DATA,
    "lncc": LNCC_DATA,
    "integrate": INTEGRATE_DATA,
    "smoothness": SMOOTHNESS_DATA,
    "mind": MIND_DATA,
    "correlate": CORRELATE_DATA,
}


def _pair(a: Tensor, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    return a, a + noise * _noise(tuple(a.shape[2:]), a.shape[1], seed, a.shape[0])


def _smooth(size: tuple[int, ...], amplitude: float) -> Tensor:
    coarse = _noise((3, 3, 4), 3, 2)
    return amplitude * F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


STEPS = 3


def _shift(size: tuple[int, ...]) -> Tensor:
    """A whole number of voxels at every squaring of `STEPS`."""
    return torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, *size) * 2**STEPS


def options_of(op: str, small: bool = False) -> list[Options]:
    """What every backend is asked for."""
    if op == "warp":
        return [Options(padding=padding) for padding in PADDINGS]
    if op == "integrate":
        return [Options(padding=padding, steps=STEPS) for padding in PADDINGS]
    if op == "lncc":
        return [Options(window=window) for window in (WINDOWS[:1] if small else WINDOWS)]
    if op == "mind":
        return [Options(kind=kind) for kind in (("mind",) if small else ("mind", "ssc"))]
    if op == "correlate":
        every = [Options(), Options(measure="ssd", padding="border")]
        return every[:1] if small else every
    return [Options()]
