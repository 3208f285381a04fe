"""The compiled GPU backend (csrc/cuda): allocates, fills the argument structs, waits for nothing.

Everything goes onto the caller's current stream with memory from torch's allocator, so that the ops can stand in a
CUDA graph. Half-precision volumes are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fastreg.backends import compiled, reference
from fastreg.backends.compiled import address
from fastreg.types import Flow, LnccForm, Mask, Scalar, Volume

_C = compiled.module

LNCC_WORKSPACE = 192 << 20
"""Most bytes that the windows' derivatives may take at a time; larger problems are done in slabs."""


def why_unavailable(*tensors: torch.Tensor) -> str | None:
    """Why the compiled GPU kernels cannot take `tensors`, or None if they can."""
    if compiled.missing is not None:
        return compiled.missing
    if not hasattr(_C, "cuda"):
        return "fastreg was built without nvcc"
    if torch.version.hip:
        return "it runs on NVIDIA's GPUs, and this PyTorch is for AMD's"
    if not torch.cuda.is_available():
        return "no GPU is visible"
    for tensor in tensors:
        if tensor.device.type != "cuda":
            return f"it runs on a GPU, and a tensor is on {tensor.device}"
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"it computes float16, bfloat16, float32 and float64, and a tensor is {tensor.dtype}"
    return _why_not_device(tensors[0].device.index if tensors else None)


def _why_not_device(index: int | None) -> str | None:
    return _why_not_architecture(torch.cuda.get_device_capability(index), _C.cuda.architectures())


# What the decorator `torch.compiler.assume_constant_result` sets, which would import torch._dynamo: seconds.
_why_not_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not_architecture(capability: tuple[int, int], architectures: str) -> str | None:
    """Why a binary with these architectures ("80,90,90-virtual") cannot run there: machine code runs on its own major
    version and later minors, PTX ("virtual") on everything later. Anything else would fail at the first launch.
    """
    device = 10 * capability[0] + capability[1]
    for name in architectures.split(","):
        number = int(name.split("-")[0].rstrip("af"))
        if number <= device and (name.endswith("-virtual") or number // 10 == capability[0]):
            return None
    known = ", ".join("sm_" + name.split("-")[0] for name in architectures.split(",") if not name.endswith("-virtual"))
    return f"this GPU is sm_{device}, the binary has {known}"


@contextlib.contextmanager
def _launching(tensor: torch.Tensor) -> Iterator[int]:
    """Makes the tensor's device current and yields the stream to launch on."""
    with torch.cuda.device(tensor.device):
        yield torch.cuda.current_stream(tensor.device).cuda_stream


def _single(dtype: torch.dtype) -> torch.dtype:
    """What half precision is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _common(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Dense tensors of one dtype: their own where they agree, otherwise the one that the widest is computed in."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return [tensor.contiguous() for tensor in tensors]
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def _volume_and_flow(vol: Volume, flow: Flow) -> tuple[Volume, Flow]:
    """Dense; the flow float32, or both float64."""
    dtype = torch.float64 if torch.float64 in (vol.dtype, flow.dtype) else vol.dtype
    return vol.to(dtype).contiguous(), flow.to(_single(dtype)).contiguous()


def _scratch(like: torch.Tensor, size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def warp_forward(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> Volume:
    """See `reference.warp_forward`."""
    dtype = vol.dtype
    vol, flow = _volume_and_flow(vol, flow)
    out = vol.new_empty(compiled.warped_shape(vol, flow, channels_last))
    args = compiled.warp_args(vol, flow, mode, padding, channels_last, align_corners)
    args.out = address(out)
    with _launching(vol) as args.stream:
        _C.cuda.warp_forward(args)
    return out.to(dtype)


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

    The volume's gradient is summed by atomic additions, whose order varies; under
    `torch.use_deterministic_algorithms(True)` in 64-bit fixed point, where it does not matter. A gradient that is not
    finite then makes all of it NaN.
    """
    vol_dtype, flow_dtype = vol.dtype, flow.dtype
    vol, flow = _volume_and_flow(vol, flow)
    grad = grad.to(vol.dtype).contiguous()
    grad_vol = torch.empty_like(vol) if need_vol else None
    grad_flow = torch.empty_like(flow) if need_flow else None
    args = compiled.warp_args(vol, flow, mode, padding, channels_last, align_corners)
    args.grad_out = address(grad)
    args.grad_vol = address(grad_vol)
    args.grad_flow = address(grad_flow)
    args.deterministic = need_vol and torch.are_deterministic_algorithms_enabled()
    scratch = _scratch(vol, _C.cuda.warp_backward_scratch(args) if need_vol else 0)
    args.scratch = address(scratch)
    with _launching(vol) as args.stream:
        _C.cuda.warp_backward(args)
    return (
        None if grad_vol is None else grad_vol.to(vol_dtype),
        None if grad_flow is None else grad_flow.to(flow_dtype),
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
    """See `reference.lncc`. The value stays on the device.

    Sums are float32 of intensities less the image's first voxel; tiles where that could lose a window's variance are
    done again in float64, and so is everything for float64 images, with a mask, for windows above 9 and for "ants".
    """
    dtype_a, dtype_b = a.dtype, b.dtype
    a, b = _common(a, b)
    weight, mask = compiled.weights_like(a, weight, mask)
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    cc = torch.empty_like(a) if need_map else None
    value = torch.empty((), dtype=torch.float64, device=a.device)
    args = compiled.lncc_args(a, b, weight, mask, form, scale, grad_a, grad_b, cc)
    args.workspace = LNCC_WORKSPACE
    args.value = address(value)
    with _launching(a) as args.stream:
        scratch = _scratch(a, _C.cuda.lncc_scratch(args))
        args.scratch = address(scratch)
        _C.cuda.lncc(args)
    return (
        value,
        None if grad_a is None else grad_a.to(dtype_a),
        None if grad_b is None else grad_b.to(dtype_b),
        None if cc is None else cc.to(torch.promote_types(dtype_a, dtype_b)),
    )


def integrate_saved_like(velocity: Flow, steps: int, need_grad: bool) -> torch.Tensor:
    """What the backward needs: the field before each squaring."""
    return reference.integrate_saved_like(velocity, steps, need_grad)


def integrate_forward(velocity: Flow, steps: int, padding: str, need_grad: bool) -> tuple[Flow, torch.Tensor]:
    """See `reference.integrate_forward`."""
    dtype = velocity.dtype
    velocity = velocity.to(_single(dtype)).contiguous()
    flow = torch.empty_like(velocity)
    saved = integrate_saved_like(velocity, steps, need_grad)
    keeps = saved.numel() > 0
    scratch = None if keeps else torch.empty_like(velocity)
    args = compiled.integrate_args(velocity, steps, padding)
    args.velocity = address(velocity)
    args.flow = address(flow)
    args.saved = address(saved) if keeps else 0
    args.scratch = address(scratch)
    with _launching(velocity) as args.stream:
        _C.cuda.integrate_forward(args)
    return flow.to(dtype), saved


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """See `reference.integrate_backward`. Deterministic where `warp_backward` is."""
    dtype = velocity.dtype
    grad = grad.to(_single(dtype)).contiguous()
    if torch.are_deterministic_algorithms_enabled():
        for v in reversed(list(saved)):
            grad_vol, grad_flow = warp_backward(grad, v, v, "linear", padding, False, True, True)
            assert grad_vol is not None and grad_flow is not None
            grad = grad + grad_vol + grad_flow
        return (grad / 2**steps).to(dtype)
    grad_velocity, scratch = torch.empty_like(grad), torch.empty_like(grad)
    args = compiled.integrate_args(grad, steps, padding)
    args.saved = address(saved)
    args.grad_flow = address(grad)
    args.grad_velocity = address(grad_velocity)
    args.scratch = address(scratch)
    with _launching(grad) as args.stream:
        _C.cuda.integrate_backward(args)
    return grad_velocity.to(dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`. The value stays on the device."""
    dtype = flow.dtype
    flow = flow.to(_single(dtype)).contiguous()
    grad = torch.empty_like(flow) if need_grad else None
    value = torch.empty((), dtype=torch.float64, device=flow.device)
    args = compiled.smoothness_args(flow, grad)
    args.value = address(value)
    scratch = _scratch(flow, _C.cuda.smoothness_scratch(args))
    args.scratch = address(scratch)
    with _launching(flow) as args.stream:
        _C.cuda.smoothness(args)
    return value, None if grad is None else grad.to(dtype)


def penalty(
    velocity: Flow, known: Mask | None, smoothness_weight: float, volume_weight: float, grad: Flow | None
) -> Scalar:
    """See `reference.penalty`. The value stays on the device; fields are float32 or float64."""
    velocity = velocity.contiguous()
    known = None if known is None else known.to(velocity.dtype).contiguous()
    value = torch.empty((), dtype=torch.float64, device=velocity.device)
    args = compiled.penalty_args(velocity, known, smoothness_weight, volume_weight, grad)
    args.value = address(value)
    scratch = _scratch(velocity, _C.cuda.penalty_scratch(args))
    args.scratch = address(scratch)
    with _launching(velocity) as args.stream:
        _C.cuda.penalty(args)
    return value


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
    with _launching(velocity) as args.stream:
        _C.cuda.adam_step(args)


def determinant(flow: Flow, scheme: str) -> torch.Tensor:
    """See `reference.determinant`."""
    flow = flow.to(_single(flow.dtype)).contiguous()
    out = flow.new_empty((flow.shape[0], *flow.shape[2:]))
    args = compiled.determinant_args(flow, scheme, out)
    with _launching(flow) as args.stream:
        _C.cuda.determinant(args)
    return out


def mind(image: Volume, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.mind`."""
    image = image.contiguous()
    pairs = len(reference.mind_pairs(kind, image.ndim - 2))
    out = image.new_empty((image.shape[0], pairs * image.shape[1], *image.shape[2:]))
    floor = image.new_empty(tuple(image.shape[:2]), dtype=_single(image.dtype))
    args = compiled.mind_args(image, floor, kind)
    args.out = address(out)
    scratch = _scratch(image, _C.cuda.mind_scratch(args))
    args.scratch = address(scratch)
    with _launching(image) as args.stream:
        _C.cuda.mind_forward(args)
    return out, floor


def mind_backward(grad: torch.Tensor, image: Volume, floor: torch.Tensor, kind: str) -> Volume:
    """See `reference.mind_backward`. Deterministic; workspace: two numbers for each pair and voxel of one image."""
    image, grad, floor = image.contiguous(), grad.to(image.dtype).contiguous(), floor.contiguous()
    grad_image = torch.empty_like(image)
    args = compiled.mind_args(image, floor, kind)
    args.grad_out, args.grad_image = address(grad), address(grad_image)
    if grad_image.numel():
        scratch = _scratch(image, _C.cuda.mind_scratch(args))
        args.scratch = address(scratch)
        with _launching(image) as args.stream:
            _C.cuda.mind_backward(args)
    return grad_image


def correlate_forward(
    a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None
) -> Volume | Flow:
    """See `reference.correlate_forward`."""
    a, b = a.contiguous(), b.contiguous()
    out = compiled.correlated_like(a, radius, sharpness)
    args = compiled.correlate_args(a, b, radius, measure, padding, sharpness)
    args.out = address(out)
    with _launching(a) as args.stream:
        _C.cuda.correlate_forward(args)
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
    """See `reference.correlate_backward`. Deterministic: every voxel is summed by one thread in one order.

    With a sharpness the gradient to the scores is written for the time of the backward.
    """
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    options = radius, measure, padding, sharpness
    args, grad_a, grad_b = compiled.correlate_backward_args(grad, a, b, options, need_a, need_b)
    with _launching(a) as args.stream:
        scratch = _scratch(a, _C.cuda.correlate_scratch(args))
        args.scratch = address(scratch)
        _C.cuda.correlate_backward(args)
    return grad_a, grad_b
