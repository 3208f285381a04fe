"""What is true: the value and gradients of every op in float64.

Truth is computed from the very inputs that an implementation gets, rounded to its dtype: warp, integration,
descriptors and cost volume by the specification (fastreg/backends/reference.py) under autograd, the local correlation
window by window about each window's own mean, in its definition. At whole coordinates, where the warp has a slope on
either side, it is one-sided differences into the cell that docs/math.md takes the slope from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DTYPES
from bench.implementations import Implementation, Options
from bench.peers.fields import central_differences, differences
from fastreg.backends import reference

STEP = 2.0**-16
"""Of finite differences in float64: a power of two, so that whole coordinates + STEP are exact."""


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
    if op == "mind":
        return lambda image: reference.mind(image, options.kind)[0]
    if op == "correlate":
        return lambda a, b: reference.correlate(a, b, options.radius, options.measure, options.padding, None)
    return central_differences if definition == "central" else differences


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
    """What tolerances.py found out about it, once."""


def truth(op: str, options: Options, definition: str, inputs: tuple[Tensor, ...], whole: bool) -> Truth:
    """See the top of this file."""
    function = specification(op, options, definition)
    leaves = tuple(x.detach().double().requires_grad_() for x in inputs)
    value = function(*leaves)
    gradients = list(torch.autograd.grad(value, leaves, upstream(value)))
    exact = tuple(x.detach() for x in leaves)
    if whole and op == "warp":
        gradients[1] = one_sided(function, exact[0], exact[1], upstream(value), STEP)
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


def given(
    implementation: Implementation, options: Options, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value and gradients (none where there are none), in its own arithmetic."""
    function = implementation.make(options)
    if not implementation.gradients:
        return implementation.read(function(*implementation.prepare(*inputs))), ()
    leaves = tuple(x.detach().clone().requires_grad_() for x in inputs)
    value = implementation.read(function(*implementation.prepare(*leaves)))
    return value.detach(), torch.autograd.grad(value, leaves, upstream(value))


def in_dtype(op: str, data: tuple[Tensor, ...], dtype: str, device: str) -> tuple[Tensor, ...]:
    """The inputs as an implementation gets them. Displacements of a half-precision image stay float32."""
    wanted = DTYPES[dtype]
    if op == "warp":
        return data[0].to(device, wanted), data[1].to(device, wanted if wanted == torch.float64 else torch.float32)
    return tuple(x.to(device, wanted) for x in data)
