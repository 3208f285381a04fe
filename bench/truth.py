"""What is true: easy and hard data, and the value and gradients of every op on them in float64.

Truth is computed from the very inputs that a rival gets, rounded to its dtype: the warp and the integration by the
specification (fastreg/backends/reference.py) under autograd, the local correlation window by window about each
window's own mean, in the rival's definition. At whole coordinates, where the warp has a slope on either side, it is
one-sided differences into the cell that docs/math.md takes the slope from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import peers
from bench.cases import DTYPES
from bench.peers import Options, Rival
from fastreg.backends import reference

SIZE = (11, 12, 37)
"""W leaves a tail in 8 and in 16 lanes."""
SMALL = (4, 5, 6)
"""For Triton's interpreter, which takes a second for a few hundred voxels."""
PADDINGS = ("zeros", "border", "reflection")
WINDOWS = (3, 5, 9)
STEP = 2.0**-16
"""Of finite differences in float64: a power of two, so that whole coordinates + STEP are exact."""


# ---------------------------------------------------------------- data


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
DATA = {"warp": WARP_DATA, "lncc": LNCC_DATA, "integrate": INTEGRATE_DATA, "smoothness": SMOOTHNESS_DATA}


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
    return [Options()]


# ---------------------------------------------------------------- truth


def windows(x: Tensor, window: int) -> Tensor:
    """[batch, channels, D, H, W, window^3]: what each window holds; what lies outside reads 0."""
    x = F.pad(x, [window // 2] * 6)
    for axis in (2, 3, 4):
        x = x.unfold(axis, window, 1)
    return x.flatten(-3)


def brute_force_lncc(a: Tensor, b: Tensor, window: int, definition: str = "fastreg", eps: float = 1e-5) -> Tensor:
    """Window by window, each about its own mean; docs/math.md has the formulas."""
    x, y = windows(a, window), windows(b, window)
    inside = windows(torch.ones_like(a), window) if definition == "ants" else torch.ones_like(x)
    n = inside.sum(-1)
    x = (x - x.sum(-1, keepdim=True) / n[..., None]) * inside
    y = (y - y.sum(-1, keepdim=True) / n[..., None]) * inside
    var_x, var_y, c = (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)
    if definition == "ants":
        flat = (var_x * var_y).abs() <= torch.finfo(torch.float64).eps
        return torch.where(flat, 1.0, c * c / torch.where(flat, 1.0, var_x * var_y)).mean()
    if definition == "voxelmorph":
        return (c * c / (var_x * var_y + eps)).mean()
    if definition == "fireants":
        c, var_x, var_y = c / n, var_x / n, var_y / n
        cc = (c * c + eps) / (var_x.clamp_min(eps) * var_y.clamp_min(eps) + eps)
        return cc.clamp_max(1).mean()
    cc = c * c / (var_x.clamp_min(eps) * var_y.clamp_min(eps))
    return (cc if definition == "monai" else cc.clamp_max(1)).mean()


def specification(op: str, options: Options, definition: str) -> Callable[..., Tensor]:
    """The op in plain PyTorch, differentiable by autograd; none of it is code that a backend runs backward."""
    if op == "warp":
        return lambda vol, flow: reference.warp(vol, flow, "linear", options.padding, False)
    if op == "lncc":
        return lambda a, b: brute_force_lncc(a, b, options.window, definition)
    if op == "integrate":
        return lambda v: reference.integrate_forward(v, options.steps, options.padding, False)[0]
    return peers.central_differences if definition == "central" else peers.differences


def upstream(out: Tensor) -> Tensor:
    """Weights of the outputs, so that gradients are of one number."""
    if out.ndim <= 2:
        return torch.ones_like(out)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return weights.bfloat16().to(out)  # few bits: the same numbers in every dtype


def one_sided(function: Callable[..., Tensor], vol: Tensor, flow: Tensor, grad: Tensor, step: float) -> Tensor:
    """Right-hand differences of sum(grad * function(vol, flow)) to the flow.

    The output at a point depends on the displacement of that point alone: an evaluation gives all slopes of an axis.
    """
    base = function(vol, flow)
    slopes = []
    for axis in range(flow.shape[1]):
        moved = flow.clone()
        moved[:, axis] += step
        slopes.append(((function(vol, moved) - base) * grad).sum(1, keepdim=True) / step)
    return torch.cat(slopes, 1)


@dataclass(frozen=True)
class Truth:
    """Value and gradients in float64 of rounded inputs."""

    inputs: tuple[Tensor, ...]
    value: Tensor
    gradients: tuple[Tensor, ...]
    about: dict[str, float] = field(default_factory=dict)
    """What exactness.py found out about it, once."""


def truth(op: str, options: Options, definition: str, inputs: tuple[Tensor, ...], whole: bool) -> Truth:
    """See the top of this file."""
    function = specification(op, options, definition)
    leaves = tuple(x.detach().double().requires_grad_() for x in inputs)
    value = function(*leaves)
    gradients = list(torch.autograd.grad(value, leaves, upstream(value)))
    exact = tuple(x.detach() for x in leaves)
    if whole and op == "warp":
        gradients[1] = one_sided(function, *exact, upstream(value), STEP)
    return Truth(exact, value.detach(), tuple(gradients))


def error(got: Tensor | None, expected: Tensor) -> float:
    """Largest difference over the largest truth, over 1 where that is 0. Infinite where something is not finite."""
    if got is None:
        return math.inf
    difference = (got.detach().double().cpu() - expected).abs()
    if not bool(difference.isfinite().all()):
        return math.inf
    largest = expected.abs().max().item()
    return difference.max().item() / (largest if largest > 0 else 1.0)


# ---------------------------------------------------------------- what a rival gives


def given(rival: Rival, options: Options, inputs: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value and gradients (none for a rival that has none), in the rival's own arithmetic."""
    function = rival.make(options)
    if not rival.gradients:
        return rival.read(function(*rival.prepare(*inputs))), ()
    leaves = tuple(x.detach().clone().requires_grad_() for x in inputs)
    value = rival.read(function(*rival.prepare(*leaves)))
    return value.detach(), torch.autograd.grad(value, leaves, upstream(value))


def in_dtype(op: str, data: tuple[Tensor, ...], dtype: str, device: str) -> tuple[Tensor, ...]:
    """The inputs as a rival gets them. Displacements of a half-precision image stay float32."""
    wanted = DTYPES[dtype]
    if op == "warp":
        return data[0].to(device, wanted), data[1].to(device, wanted if wanted == torch.float64 else torch.float32)
    return tuple(x.to(device, wanted) for x in data)
