"""How far off an implementation of fastreg's may be, computed from its data, and why."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DTYPES, displacements
from bench.implementations import INPUTS, Options
from bench.peers.mind import pairs_of
from bench.truth import STEP, Truth, upstream, windows

REASONS = {
    "warp": "16 roundings (8 corners, their weights) of the largest intensity",
    "slope": "16 roundings of twice the largest intensity: a slope is a difference of values",
    "scatter": "16 + N roundings of the largest sum that N points leave in one voxel",
    "squarings": "16 roundings for each squaring, or step back",
    "sums": "one rounding of float64 sums, and 16 float64 roundings of a window's squares over the least variance",
    "derivatives": "float32 sums of n: 16 + 2 sqrt(n) roundings of the terms that the gradient is the difference of, "
    "times a window's squares over the least variance (beyond 1e4 the sums are float64)",
    "differences": "16 roundings of the largest term; the sum is float64",
    "patches": "48 roundings (two sums over a patch, an exponential) of the terms that the gradient is the sum of",
    "scores": "16 + N roundings (N channels, for a gradient N displacements) of the largest terms, taken for positive",
    "step": "finite differences in float64, step 2^-24: rounding and curvature",
}
"""Why a tolerance is what it is. Half precision rounds once more (LNCC: twice); float16 has subnormals."""


def tolerance(
    op: str, work: str, backend: str, dtype: str, options: Options, t: Truth, whole: bool
) -> tuple[float, str]:
    """How far a backend may be off, relative to the largest truth, and the key of the reason."""
    u = torch.finfo(torch.float64 if dtype == "float64" else torch.float32).eps / 2
    expected = t.value if work == "value" else t.gradients[INPUTS[op].index(work.removeprefix("gradient to "))]
    largest = expected.abs().max().item() or 1.0
    allowed, reason = _arithmetic(op, work, backend, options, t, u, largest)
    if whole and work == "gradient to flow":  # the truth itself is a difference of float64 values
        allowed += 4 * torch.finfo(torch.float64).eps / STEP * t.inputs[0].abs().max().item() / largest
    in_float32 = (op == "warp" and work == "gradient to flow") or (op in ("lncc", "smoothness") and work == "value")
    if dtype in ("bfloat16", "float16") and not in_float32:
        kind = torch.finfo(DTYPES[dtype])
        roundings = 2 if op == "lncc" else 1  # LNCC's gradient is kept in the image's dtype and then scaled
        allowed += roundings * kind.eps / 2 + kind.tiny * kind.eps / 2 / largest
    return allowed, reason


def _arithmetic(
    op: str, work: str, backend: str, options: Options, t: Truth, u: float, largest: float
) -> tuple[float, str]:
    """Of the backend's own arithmetic with unit roundoff `u`."""
    if op == "warp":
        vol, flow = t.inputs
        if work == "value":
            return 16 * u * vol.abs().max().item() / largest, "warp"
        grad = upstream(t.value)
        if work == "gradient to flow":
            return 16 * u * 2 * (vol.abs().max() * grad.abs().sum(1).max()).item() / largest, "slope"
        together, points = (_scattered(one, vol, flow, options) for one in (grad.abs(), torch.ones_like(grad)))
        return (16 + points) * u * together / largest, "scatter"
    if op == "integrate":
        return 16 * u * options.steps, "squarings"
    if op == "smoothness":
        return 16 * u, "differences"
    if op == "mind":
        if work == "value":
            return 16 * u, "differences"
        return 48 * u * _pushes(t, options) / largest, "patches"
    if op == "correlate":
        return _of_scores(work, options, t) * u / largest, "scores"
    if "kappa" not in t.about:
        t.about["kappa"] = max(_condition(x, options.window) for x in t.inputs)
    kappa = t.about["kappa"]
    exact = 4 * u + 16 * torch.finfo(torch.float64).eps * kappa
    if work == "value" or backend.split(" ")[0] in ("native", "reference") or u < 1e-10:
        return exact, "sums"
    number = INPUTS[op].index(work.removeprefix("gradient to "))
    terms = _terms(t.inputs[number], t.inputs[1 - number], options.window)
    roundings = 16 + 2 * math.sqrt(options.window**3)
    return exact + roundings * u * min(kappa, 1e4) * terms / largest, "derivatives"


def _of_scores(work: str, options: Options, t: Truth) -> float:
    """Roundings times the largest sum of terms, every one taken for positive: scores, or a gradient of them."""
    from fastreg.backends import reference

    (a, b), channels = t.inputs, t.inputs[0].shape[1]
    how = options.radius, options.measure, options.padding, None
    if work == "value":
        return (16 + channels) * reference.correlate(a.abs(), b.abs(), *how).max().item()
    weights, ones = upstream(t.value).abs(), torch.ones_like(a)
    sums = reference.correlate_backward(weights, ones, ones, options.radius, "dot", options.padding, None, True, True)
    number = INPUTS["correlate"].index(work.removeprefix("gradient to "))
    factor = t.inputs[1 - number].abs().max().item()
    if options.measure == "ssd":  # twice a difference, which is at most the root of the channels' sum
        factor = 2 * math.sqrt(channels * t.value.max().item())
    together = sums[number]
    assert together is not None
    return (16 + displacements(options)) * factor * together.max().item()


def _pushes(t: Truth, options: Options) -> float:
    """At most this much is added up in one voxel of the gradient, with every term taken for positive."""
    (image,) = t.inputs
    pairs = pairs_of(options.kind)
    around = F.pad(image, [1] * 6, mode="replicate")
    size = image.shape[2:]
    steps = [(0, 0, 0)] + [tuple(sign * (axis == k) for k in range(3)) for axis in range(3) for sign in (1, -1)]
    places = []
    for step in steps:
        place = around
        for axis, (s, n) in enumerate(zip(step, size, strict=True), 2):
            place = place.narrow(axis, 1 + s, n)
        places.append(place)
    differences = torch.stack([(places[i] - places[j]).abs() for i, j in pairs], 1)

    def averaged(x: Tensor) -> Tensor:
        return F.avg_pool3d(F.pad(x.flatten(1, 2), [1] * 6, mode="replicate"), 3, stride=1).view_as(x)

    distances = averaged(differences.square())
    v = distances.mean(1, keepdim=True)
    scale = torch.maximum(v, 1e-3 * v.mean((3, 4, 5), keepdim=True)).clamp_min(1e-300)
    slope = (upstream(t.value) * t.value).abs().view_as(distances)
    slope = (slope + (slope * distances / scale).mean(1, keepdim=True)) / scale
    return 4 * (averaged(slope) * differences).sum(1).max().item()


def _scattered(grad: Tensor, vol: Tensor, flow: Tensor, options: Options) -> float:
    """The most that comes together in one voxel."""
    from fastreg.backends import reference

    total = reference.warp_backward(grad, vol, flow, "linear", options.padding, False, True, False)[0]
    assert total is not None
    return total.max().item()


def _range(x: Tensor) -> float:
    """Of an image and its padding."""
    return max(x.max().item(), 0.0) - min(x.min().item(), 0.0)


def _deviations(x: Tensor, window: int) -> Tensor:
    """[..., window^3]: what each window holds less its mean."""
    held = windows(x, window)
    return held - held.mean(-1, keepdim=True)


def _condition(x: Tensor, window: int, eps: float = 1e-5) -> float:
    """A window's largest sum of squares about a value of image or padding, over the least variance that counts."""
    variance = _deviations(x, window).square().sum(-1)
    squares = window**3 * _range(x) ** 2
    counted = variance[variance > max(eps, 1e-13 * squares)]
    return squares / counted.min().item() if counted.numel() else 1.0


def _terms(x: Tensor, y: Tensor, window: int, eps: float = 1e-5) -> float:
    """The gradient to x is sums of window derivatives times intensities (docs/math.md): the largest such term."""
    of_x, of_y = _deviations(x, window), _deviations(y, window)
    c, var_x = (of_x * of_y).sum(-1), of_x.square().sum(-1).clamp_min(eps)
    den = var_x * of_y.square().sum(-1).clamp_min(eps)
    big_c, slope = (2 * c / den).abs() / x.numel(), (c * c / den / var_x) / x.numel()
    sums = [windows(part, window).sum(-1).max().item() for part in (big_c, slope)]
    return 2 * (_range(y) * sums[0] + 2 * _range(x) * sums[1])
