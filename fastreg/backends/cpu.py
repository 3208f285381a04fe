"""The compiled backend (csrc/): allocates, checks nothing, fills the argument structs.

Half-precision volumes are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastreg.backends import compiled, reference
from fastreg.backends.compiled import address, cast
from fastreg.types import Flow, LnccForm, Mask, Scalar, Volume

_C = compiled.module


def why_unavailable(*tensors: torch.Tensor) -> str | None:
    """Why the compiled CPU kernels cannot take `tensors`, or None if they can."""
    if compiled.missing is not None:
        return compiled.missing
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, and a tensor is on {tensor.device}"
    return None


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "baseline"."""
    return _C.cpu.isa()


def _work(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Dense copies, where needed, in one of the two dtypes that the CPU computes in."""
    dtype = torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32
    return [cast(tensor, dtype).contiguous() for tensor in tensors]


def warp_forward(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> Volume:
    """See `reference.warp_forward`."""
    dtype = vol.dtype
    vol, flow = _work(vol, flow)
    out = vol.new_empty(compiled.warped_shape(vol, flow, channels_last))
    args = compiled.warp_args(vol, flow, mode, padding, channels_last, align_corners)
    args.out = address(out)
    _C.cpu.warp_forward(args)
    return cast(out, dtype)


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
    """See `reference.warp_backward`. Deterministic: every target voxel is summed by one thread in one order."""
    vol_dtype, flow_dtype = vol.dtype, flow.dtype
    vol, flow, grad = _work(vol, flow, grad)
    grad_vol = torch.empty_like(vol) if need_vol else None
    grad_flow = torch.empty_like(flow) if need_flow else None
    args = compiled.warp_args(vol, flow, mode, padding, channels_last, align_corners)
    args.grad_out = address(grad)
    args.grad_vol = address(grad_vol)
    args.grad_flow = address(grad_flow)
    _C.cpu.warp_backward(args)
    return (
        None if grad_vol is None else cast(grad_vol, vol_dtype),
        None if grad_flow is None else cast(grad_flow, flow_dtype),
    )


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
    """See `reference.lncc`. Sums are float64 from centred values, so CT offsets lose nothing."""
    dtype_a, dtype_b = a.dtype, b.dtype
    a, b = _work(a, b)
    weight, mask = compiled.weights_like(a, weight, mask)
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    cc = torch.empty_like(a) if need_map else None
    value = _C.cpu.lncc(compiled.lncc_args(a, b, weight, mask, form, scale, grad_a, grad_b, cc))
    return (
        torch.tensor(value, dtype=torch.float64),
        None if grad_a is None else cast(grad_a, dtype_a),
        None if grad_b is None else cast(grad_b, dtype_b),
        None if cc is None else cast(cc, torch.promote_types(dtype_a, dtype_b)),
    )


def integrate_saved_like(velocity: Flow, steps: int, need_grad: bool) -> torch.Tensor:
    """What the backward needs: the field before each squaring, in the layout of the kernels."""
    return reference.integrate_saved_like(velocity, steps, need_grad)


def integrate_forward(velocity: Flow, steps: int, padding: str, need_grad: bool) -> tuple[Flow, torch.Tensor]:
    """See `reference.integrate_forward`."""
    dtype = velocity.dtype
    (velocity,) = _work(velocity)
    flow = torch.empty_like(velocity)
    saved = integrate_saved_like(velocity, steps, need_grad)
    args = compiled.integrate_args(velocity, steps, padding)
    args.velocity = address(velocity)
    args.flow = address(flow)
    args.saved = address(saved) if need_grad else 0
    _C.cpu.integrate_forward(args)
    return cast(flow, dtype), saved


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """See `reference.integrate_backward`."""
    dtype = velocity.dtype
    velocity, grad = _work(velocity, grad)
    grad_velocity = torch.empty_like(velocity)
    args = compiled.integrate_args(velocity, steps, padding)
    args.velocity = address(velocity)
    args.saved = address(saved)
    args.grad_flow = address(grad)
    args.grad_velocity = address(grad_velocity)
    _C.cpu.integrate_backward(args)
    return cast(grad_velocity, dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`."""
    dtype = flow.dtype
    (flow,) = _work(flow)
    grad = torch.empty_like(flow) if need_grad else None
    value = _C.cpu.smoothness(compiled.smoothness_args(flow, grad))
    return torch.tensor(value, dtype=torch.float64), None if grad is None else cast(grad, dtype)


def penalty(
    velocity: Flow, known: Mask | None, smoothness_weight: float, volume_weight: float, grad: Flow | None
) -> Scalar:
    """See `reference.penalty`. In one sweep; `velocity` and `grad` are float32 or float64, both alike."""
    velocity = velocity.contiguous()
    known = None if known is None else cast(known, velocity.dtype).contiguous()
    args = compiled.penalty_args(velocity, known, smoothness_weight, volume_weight, grad)
    return torch.tensor(_C.cpu.penalty(args), dtype=torch.float64)


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
    args = compiled.adam_args(velocity, grad, mean, square, count, step, beta1, beta2, eps, passes)
    _C.cpu.adam_step(args)


def determinant(flow: Flow, scheme: str) -> torch.Tensor:
    """See `reference.determinant`."""
    (flow,) = _work(flow)
    out = flow.new_empty((flow.shape[0], *flow.shape[2:]))
    _C.cpu.determinant(compiled.determinant_args(flow, scheme, out))
    return out


def correlate_forward(
    a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None
) -> Volume | Flow:
    """See `reference.correlate_forward`."""
    a, b = a.contiguous(), b.contiguous()
    out = compiled.correlated_like(a, radius, sharpness)
    args = compiled.correlate_args(a, b, radius, measure, padding, sharpness)
    args.out = address(out)
    _C.cpu.correlate_forward(args)
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
    """See `reference.correlate_backward`. Deterministic: every voxel is summed by one thread in one order."""
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    options = radius, measure, padding, sharpness
    args, grad_a, grad_b = compiled.correlate_backward_args(grad, a, b, options, need_a, need_b)
    _C.cpu.correlate_backward(args)
    return grad_a, grad_b


def mind(image: Volume, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.mind`."""
    dtype = image.dtype
    (image,) = _work(image)
    pairs = len(reference.mind_pairs(kind, image.ndim - 2))
    out = image.new_empty((image.shape[0], pairs * image.shape[1], *image.shape[2:]))
    floor = image.new_empty(tuple(image.shape[:2]))
    args = compiled.mind_args(image, floor, kind)
    args.out = address(out)
    _C.cpu.mind_forward(args)
    return cast(out, dtype), floor


def mind_backward(grad: torch.Tensor, image: Volume, floor: torch.Tensor, kind: str) -> Volume:
    """See `reference.mind_backward`. Deterministic: every voxel is summed by one thread in one order."""
    dtype = image.dtype
    grad, image, floor = _work(grad, image, floor)
    grad_image = torch.empty_like(image)
    args = compiled.mind_args(image, floor, kind)
    args.grad_out, args.grad_image = address(grad), address(grad_image)
    _C.cpu.mind_backward(args)
    return cast(grad_image, dtype)


def _pad(ndim: int) -> list[int]:
    """As csrc/api.h wants it around a volume that windows are read from, for `torch.nn.functional.pad`."""
    return [5, 11, *[5] * (2 * ndim - 2)]


def lanczos(vol: Volume, flow: Flow) -> Volume:
    """See `reference_window.lanczos`."""
    vol, flow = vol.float(), flow.float().contiguous()
    padded = F.pad(vol, _pad(vol.ndim - 2), mode="replicate").contiguous()
    out = vol.new_empty((1, 1, *flow.shape[2:]))
    _C.cpu.lanczos(compiled.window_args(padded, tuple(vol.shape[2:]), flow, out))
    return out


def bspline(coefficients: Volume, flow: Flow) -> Volume:
    """The sum of `fastreg.ops.spline.bspline_sum`, float32, at places at most half a voxel outside: others read there.

    Args:
        coefficients: [1, 1, D, H, W] or [1, 1, H, W].
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.
    """
    return bspline_of_mirrored(mirrored(coefficients), tuple(coefficients.shape[2:]), flow)


def mirrored(coefficients: Volume) -> Volume:
    """The coefficients of a spline with those beyond its grid that `bspline_of_mirrored` reads."""
    padded = coefficients.float()
    size = tuple(coefficients.shape[2:])
    for axis, (length, pad) in enumerate(zip(size, [5] * (len(size) - 1) + [11], strict=True), 2):
        period = max(2 * length - 2, 1)
        indices = torch.arange(-5, length + pad).remainder(period)
        padded = padded.index_select(axis, torch.minimum(indices, period - indices).clamp_max(length - 1))
    return padded


def bspline_of_mirrored(padded: Volume, size: tuple[int, ...], flow: Flow) -> Volume:
    """`bspline` of what `mirrored` made of coefficients of `size`, to read one spline time and again."""
    flow = flow.float().contiguous()
    out = padded.new_empty((1, 1, *flow.shape[2:]))
    _C.cpu.bspline(compiled.window_args(padded, size, flow, out))
    return out


def vote(ranks: Volume, flow: Flow) -> Volume:
    """See `reference_window.vote`."""
    flow = flow.float().contiguous()
    padded = F.pad(ranks, _pad(ranks.ndim - 2), value=-1).contiguous()
    out = ranks.new_empty((1, 1, *flow.shape[2:]))
    _C.cpu.vote(compiled.window_args(padded, tuple(ranks.shape[2:]), flow, out))
    return out
