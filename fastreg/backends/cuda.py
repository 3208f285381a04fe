"""The compiled GPU backend (csrc/cuda): allocates, passes addresses, waits for nothing.

Everything goes onto the caller's current stream with memory from torch's allocator, so that the ops can stand in a
CUDA graph. Half-precision volumes are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fastreg.backends import _arguments as arguments
from fastreg.backends import reference
from fastreg.backends._arguments import address
from fastreg.backends.lncc_form import LnccForm
from fastreg.types import Flow, Mask, Scalar, Volume

try:
    from fastreg import _C
except ImportError as error:  # pragma: no cover - only a broken installation
    _C = None  # type: ignore[assignment]
    _missing: str | None = f"the compiled module fastreg._C cannot be imported: {error}"
else:
    _missing = None if hasattr(_C, "cuda") else "fastreg was built without nvcc"


LNCC_WORKSPACE = 192 << 20
"""Most bytes that the windows' derivatives may take at a time; larger problems are done in slabs."""


def refuse(*tensors: torch.Tensor) -> str | None:
    """Why the compiled GPU kernels cannot take `tensors`, or None if they can."""
    if _missing is not None:
        return _missing
    if not torch.cuda.is_available():
        return "no GPU is visible"
    for tensor in tensors:
        if tensor.device.type != "cuda":
            return f"it runs on a GPU, and a tensor is on {tensor.device}"
        if tensor.dtype not in arguments.DTYPES:
            return f"it computes float16, bfloat16, float32 and float64, and a tensor is {tensor.dtype}"
    return _refuse_device(tensors[0].device.index if tensors else None)


@torch.compiler.assume_constant_result
def _refuse_device(index: int | None) -> str | None:
    return _refuse_architecture(torch.cuda.get_device_capability(index), _C.cuda.architectures())


def _refuse_architecture(capability: tuple[int, int], architectures: str) -> str | None:
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


def warp_forward(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> Volume:
    """See `reference.warp_forward`."""
    dtype = vol.dtype
    vol, flow = _volume_and_flow(vol, flow)
    out = vol.new_empty(*vol.shape[:2], *arguments.field_grid(flow, channels_last))
    problem = arguments.warp(vol, flow, mode, padding, channels_last)
    with _launching(vol) as stream:
        _C.cuda.warp_forward(*problem, address(vol), address(flow), address(out), stream)
    return out.to(dtype)


def warp_backward(
    grad: Volume, vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, need_vol: bool, need_flow: bool
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
    fixed = need_vol and torch.are_deterministic_algorithms_enabled()
    problem = arguments.warp(vol, flow, mode, padding, channels_last)
    batch, channels, size, _, dtype = problem[1:6]
    scratch = _scratch(vol, _C.cuda.warp_backward_scratch(batch, channels, size, dtype, fixed) if need_vol else 0)
    addresses = [address(tensor) for tensor in (vol, flow, grad, grad_vol, grad_flow)]
    with _launching(vol) as stream:
        _C.cuda.warp_backward(*problem, *addresses, fixed, address(scratch), stream)
    return (
        None if grad_vol is None else grad_vol.to(vol_dtype),
        None if grad_flow is None else grad_flow.to(flow_dtype),
    )


def lncc(
    a: Volume, b: Volume, weight: Mask | None, form: LnccForm, scale: float, need_a: bool, need_b: bool, need_map: bool
) -> tuple[Scalar, Volume | None, Volume | None, Volume | None]:
    """See `reference.lncc`. The value stays on the device.

    Sums are float32 of intensities less the image's first voxel; tiles where that could lose a window's variance are
    done again in float64, and so is everything for float64 images, for windows above 9 and for "ants".
    """
    dtype_a, dtype_b = a.dtype, b.dtype
    a, b, *weights = _common(a, b) if weight is None else _common(a, b, weight)
    weight = weights[0] if weights else None
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    cc = torch.empty_like(a) if need_map else None
    value = torch.empty((), dtype=torch.float64, device=a.device)
    problem = (
        *arguments.images(a),
        *arguments.lncc(form),
        address(a),
        address(b),
        address(weight),
        1 if weight is None else weight.shape[1],
        scale,
        address(grad_a),
        address(grad_b),
        address(cc),
        LNCC_WORKSPACE,
    )
    with _launching(a) as stream:
        scratch = _scratch(a, _C.cuda.lncc(*problem, 0, 0, 0))
        _C.cuda.lncc(*problem, address(value), address(scratch), stream)
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
    addresses = [address(velocity), address(flow), address(saved) if keeps else 0, address(scratch)]
    with _launching(velocity) as stream:
        _C.cuda.integrate_forward(*arguments.integrate(velocity, steps, padding), *addresses, stream)
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
    addresses = [address(tensor) for tensor in (saved, grad, grad_velocity, scratch)]
    with _launching(grad) as stream:
        _C.cuda.integrate_backward(*arguments.integrate(grad, steps, padding), *addresses, stream)
    return grad_velocity.to(dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`. The value stays on the device."""
    dtype = flow.dtype
    flow = flow.to(_single(dtype)).contiguous()
    grad = torch.empty_like(flow) if need_grad else None
    value = torch.empty((), dtype=torch.float64, device=flow.device)
    scratch = _scratch(flow, _C.cuda.smoothness_scratch())
    addresses = [address(tensor) for tensor in (flow, grad, value, scratch)]
    with _launching(flow) as stream:
        _C.cuda.smoothness(*arguments.field(flow), *addresses, stream)
    return value, None if grad is None else grad.to(dtype)
