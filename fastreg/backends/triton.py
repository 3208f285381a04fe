"""The Triton backend (kernels/): allocates, checks nothing, launches on the current stream.

For GPUs without the compiled CUDA kernels: NVIDIA's, AMD's (ROCm) and Intel's (XPU). `import fastreg` does not import
triton: the functions that run do. Under TRITON_INTERPRET=1 the same kernels run on the CPU, thousands of times slower,
for tests.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from fastreg.backends import reference
from fastreg.backends.compiled import correlated_like, warped_shape
from fastreg.types import Flow, LnccForm, Mask, Scalar, Volume

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ("cuda", "xpu")
"""Types of PyTorch's devices that Triton knows; "cuda" are AMD's too, where PyTorch is built for ROCm."""
_SPEC = importlib.util.find_spec("triton")
_INSTALLED = _SPEC is not None
_FOLDERS = [] if _SPEC is None else [Path(folder) for folder in _SPEC.submodule_search_locations or ()]
_COMPILERS = frozenset(path.name for folder in _FOLDERS for path in folder.glob("backends/*"))


def why_unavailable(*tensors: torch.Tensor) -> str | None:
    """Why Triton cannot take `tensors`, or None if it can."""
    if not _INSTALLED:
        return "triton is not installed"
    if INTERPRETED:
        return None
    for tensor in tensors:
        if tensor.device.type not in DEVICES:
            return f"it runs on a GPU, and a tensor is on {tensor.device}"
    reasons = [_why_not_device(kind) for kind in ((tensors[0].device.type,) if tensors else DEVICES)]
    return reasons[0] if all(reasons) else None


def _why_not_device(kind: str) -> str | None:
    """Why there is nothing to run on among PyTorch's devices of this type."""
    if not getattr(torch, kind).is_available():
        return "no GPU is visible"
    maker = "intel" if kind == "xpu" else "amd" if torch.version.hip else "nvidia"
    if maker not in _COMPILERS:
        return f"this triton does not compile for {_MAKERS[maker]}'s GPUs"
    if kind == "xpu":
        about: Any = torch.xpu.get_device_capability()
        if not about.get("has_fp64", True):
            return "this GPU has no float64, in which sums are kept"
    return None


_MAKERS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
# What the decorator `torch.compiler.assume_constant_result` sets, which would import torch._dynamo: seconds.
_why_not_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _work_dtype(*tensors: torch.Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _on_device(tensor: torch.Tensor) -> Any:
    """Triton launches on the current device; inside this context that is the tensor's."""
    module: Any = torch.xpu if tensor.device.type == "xpu" else torch.cuda  # of the CPU, interpreted: no device at all
    return module.device_of(tensor)


def warp_forward(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> Volume:
    """See `reference.warp_forward`."""
    from fastreg.kernels import warp

    vol, flow = vol.contiguous(), flow.contiguous()
    out = vol.new_empty(warped_shape(vol, flow, channels_last))
    if out.numel():
        with _on_device(vol):
            warp.warp_forward(vol, flow, out, mode, padding, channels_last, align_corners)
    return out


def warp_backward(
    grad: Volume,
    vol: Volume,
    flow: Flow,
    mode: str,
    padding: str,
    channels_last: bool,
    need_vol: bool,
    need_flow: bool,
    align_corners: bool | None = None,
) -> tuple[Volume | None, Flow | None]:
    """See `reference.warp_backward`.

    The volume's gradient is a race of float additions; under `torch.use_deterministic_algorithms(True)` it is counted
    in integers instead, with at least 2^-39 of the largest upstream value a step for images up to 2^23 voxels, and is
    NaN throughout if an upstream value is not finite.
    """
    from fastreg.kernels import warp

    vol, flow, grad = vol.contiguous(), flow.contiguous(), grad.contiguous()
    work = _work_dtype(vol, flow)
    slopes = need_flow and mode == "linear"
    grad_flow = (torch.empty_like if slopes else torch.zeros_like)(flow) if need_flow else None
    terms = grad.shape[2:].numel() * (1 if vol.shape[0] == grad.shape[0] else grad.shape[0])  # that a voxel may get
    unit = _fixed_point_unit(grad, terms) if need_vol and torch.are_deterministic_algorithms_enabled() else None
    grad_vol = torch.zeros_like(vol, dtype=work if unit is None else torch.int64) if need_vol else None
    if grad.numel() and (need_vol or slopes):
        with _on_device(vol):
            warp.warp_backward(
                grad,
                vol,
                flow,
                grad_vol,
                grad_flow if slopes else None,
                unit,
                mode,
                padding,
                channels_last,
                align_corners,
            )
    if grad_vol is not None and unit is not None:
        grad_vol = grad_vol.double() / unit
    return None if grad_vol is None else grad_vol.to(vol.dtype), grad_flow


def _fixed_point_unit(grad: Volume, terms: int) -> torch.Tensor:
    """[1] float64, a power of two: no sum of `terms` values of `grad` leaves 62 bits. NaN if `grad` is not finite."""
    if grad.numel() == 0:
        return grad.new_ones((1,), dtype=torch.float64)
    largest = grad.abs().amax().double().clamp_min(torch.finfo(torch.float64).tiny)
    bits = torch.floor(61 - torch.log2(largest)) - terms.bit_length()
    return torch.where(largest.isfinite(), torch.exp2(bits.clamp_max(1000)), float("nan")).reshape(1)


def lncc(
    a: Volume,
    b: Volume,
    weight: Mask | None,
    form: LnccForm,
    scale: float,
    need_a: bool,
    need_b: bool,
    need_map: bool,
    mask: Mask | None = None,
) -> tuple[Scalar, Volume | None, Volume | None, Volume | None]:
    """See `reference.lncc`. The value stays on the device, and its sum has a fixed order."""
    from fastreg.kernels import lncc

    a, b = a.contiguous(), b.contiguous()
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    cc = torch.empty_like(a, dtype=torch.promote_types(a.dtype, b.dtype)) if need_map else None
    if a.numel() == 0:
        return a.new_zeros((), dtype=torch.float64), grad_a, grad_b, cc
    with _on_device(a):
        weight, mask = (None if x is None else x.contiguous() for x in (weight, mask))
        value = lncc.lncc(a, b, weight, mask, form, scale, grad_a, grad_b, cc)
    return value, grad_a, grad_b, cc


def integrate_saved_like(velocity: Flow, steps: int, need_grad: bool) -> torch.Tensor:
    """See `reference.integrate_saved_like`."""
    return reference.integrate_saved_like(velocity, steps, need_grad)


def integrate_forward(velocity: Flow, steps: int, padding: str, need_grad: bool) -> tuple[Flow, torch.Tensor]:
    """See `reference.integrate_forward`."""
    from fastreg.kernels import integrate

    saved = integrate_saved_like(velocity, steps, need_grad)
    v = velocity.to(_work_dtype(velocity)).contiguous() / 2**steps
    with _on_device(velocity):
        for step in range(steps):
            if need_grad:
                saved[step] = v
            if v.numel():
                out = torch.empty_like(v)
                integrate.square(v, out, padding)
                v = out
    return v.to(velocity.dtype), saved


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """See `reference.integrate_backward`. Deterministic where PyTorch is asked to be, as `warp_backward` is."""
    from fastreg.kernels import integrate

    total = grad.to(_work_dtype(velocity)).contiguous()
    with _on_device(velocity):
        for step in reversed(range(steps if total.numel() else 0)):
            if torch.are_deterministic_algorithms_enabled():
                parts = warp_backward(total, saved[step], saved[step], "linear", padding, False, True, True)
                total = torch.stack([total, *(part for part in parts if part is not None)]).sum(0)
            else:
                grad_v = torch.zeros_like(total)
                integrate.square_adjoint(total, saved[step], grad_v, padding)
                total = grad_v
    return (total / 2**steps).to(velocity.dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`. The value stays on the device, and its sum has a fixed order."""
    from fastreg.kernels import smoothness

    flow = flow.contiguous()
    grad = torch.empty_like(flow) if need_grad else None
    if flow.numel() == 0:
        return flow.new_zeros((), dtype=torch.float64), grad
    with _on_device(flow):
        return smoothness.smoothness(flow, grad), grad


def penalty(
    velocity: Flow, known: Mask | None, smoothness_weight: float, volume_weight: float, grad: Flow | None
) -> Scalar:
    """See `reference.penalty`. The value stays on the device, and its sum has a fixed order."""
    from fastreg.kernels import penalty

    if velocity.numel() == 0:
        return velocity.new_zeros((), dtype=torch.float64)
    with _on_device(velocity):
        known = None if known is None else known.contiguous()
        return penalty.penalty(velocity.contiguous(), known, smoothness_weight, volume_weight, grad)


def adam_step(
    velocity: Flow,
    grad: Flow,
    mean: Flow,
    square: Flow,
    count: int,
    step: float,
    beta1: float,
    beta2: float,
    eps: float,
    passes: int,
) -> None:
    """See `reference.adam_step`. All dense and of one dtype, float32 or float64."""
    from fastreg.kernels import adam

    if velocity.numel():
        with _on_device(velocity):
            adam.adam_step(velocity, grad, mean, square, count, step, beta1, beta2, eps, passes)


def determinant(flow: Flow, scheme: str) -> torch.Tensor:
    """See `reference.determinant`."""
    from fastreg.kernels import determinant

    flow = flow.contiguous()
    out = flow.new_empty((flow.shape[0], *flow.shape[2:]), dtype=_work_dtype(flow))
    if out.numel():
        with _on_device(flow):
            determinant.determinant(flow, out, scheme)
    return out


def correlate_forward(
    a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None
) -> Volume | Flow:
    """See `reference.correlate_forward`."""
    from fastreg.kernels import correlate

    a, b = a.contiguous(), b.contiguous()
    out = correlated_like(a, radius, sharpness)
    if out.numel():
        with _on_device(a):
            correlate.correlate_forward(a, b, out, radius, measure, padding, sharpness)
    return out


def correlate_backward(
    grad: Volume | Flow,
    a: Volume,
    b: Volume,
    radius: int,
    measure: str,
    padding: str,
    sharpness: float | None,
    need_a: bool,
    need_b: bool,
) -> tuple[Volume | None, Volume | None]:
    """See `reference.correlate_backward`. Every voxel is gathered in one order.

    With a sharpness the gradient to the scores is written for the time of the backward.
    """
    from fastreg.kernels import correlate

    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    if grad.numel():
        with _on_device(a):
            slopes = grad
            if sharpness is not None:
                slopes = correlated_like(grad[:, :1], radius, None)
                correlate.correlate_forward(a, b, slopes, radius, measure, padding, sharpness, grad)
            for found, to_b in ((grad_a, False), (grad_b, True)):
                if found is not None:
                    correlate.correlate_backward(slopes, a, b, found, radius, measure, padding, to_b)
    return grad_a, grad_b


def mind(image: Volume, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.mind`."""
    from fastreg.kernels import mind

    image, pairs = image.contiguous(), _mind_pairs(kind, image.ndim - 2)
    out = image.new_empty((image.shape[0], len(pairs) * image.shape[1], *image.shape[2:]))
    if out.numel() == 0:
        return out, image.new_empty(tuple(image.shape[:2]), dtype=_work_dtype(image))
    with _on_device(image):
        return out, mind.mind(image, out, pairs)


def mind_backward(grad: torch.Tensor, image: Volume, floor: torch.Tensor, kind: str) -> Volume:
    """See `reference.mind_backward`. Deterministic; workspace: two numbers for each pair and voxel."""
    from fastreg.kernels import mind

    image, out = image.contiguous(), torch.empty(image.shape, dtype=image.dtype, device=image.device)
    if out.numel():
        with _on_device(image):
            mind.mind_backward(grad.contiguous(), image, floor.contiguous(), out, _mind_pairs(kind, image.ndim - 2))
    return out


def _mind_pairs(kind: str, ndim: int) -> list[tuple[int, int]]:
    """Places along D, H, W: without D they begin behind its two."""
    behind = 2 * (3 - ndim)
    return [(a and a + behind, b and b + behind) for a, b in reference.mind_pairs(kind, ndim)]
