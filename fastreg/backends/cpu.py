"""The compiled backend (csrc/): allocates, checks nothing, passes addresses.

Half-precision volumes are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

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
    _missing = None


def refuse(*tensors: torch.Tensor) -> str | None:
    """Why the compiled CPU kernels cannot take `tensors`, or None if they can."""
    if _missing is not None:
        return _missing
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, and a tensor is on {tensor.device}"
    return None


def isa() -> str:
    """The instruction set in use: "avx512", "avx2" or "baseline"."""
    return _C.cpu.isa()


def _work(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Dense copies, where needed, in one of the two dtypes that the CPU computes in."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return [tensor.to(torch.float64 if double else torch.float32).contiguous() for tensor in tensors]


def warp_forward(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> Volume:
    """See `reference.warp_forward`."""
    dtype = vol.dtype
    vol, flow = _work(vol, flow)
    out = vol.new_empty(*vol.shape[:2], *arguments.field_grid(flow, channels_last))
    problem = arguments.warp(vol, flow, mode, padding, channels_last)
    _C.cpu.warp_forward(*problem, torch.get_num_threads(), address(vol), address(flow), address(out))
    return out.to(dtype)


def warp_backward(
    grad: Volume, vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, need_vol: bool, need_flow: bool
) -> tuple[Volume | None, Flow | None]:
    """See `reference.warp_backward`. Deterministic: every target voxel is summed by one thread in one order."""
    vol_dtype, flow_dtype = vol.dtype, flow.dtype
    vol, flow, grad = _work(vol, flow, grad)
    grad_vol = torch.empty_like(vol) if need_vol else None
    grad_flow = torch.empty_like(flow) if need_flow else None
    problem = arguments.warp(vol, flow, mode, padding, channels_last)
    addresses = [address(tensor) for tensor in (vol, flow, grad, grad_vol, grad_flow)]
    _C.cpu.warp_backward(*problem, torch.get_num_threads(), *addresses)
    return (
        None if grad_vol is None else grad_vol.to(vol_dtype),
        None if grad_flow is None else grad_flow.to(flow_dtype),
    )


def lncc(
    a: Volume, b: Volume, weight: Mask | None, form: LnccForm, scale: float, need_a: bool, need_b: bool, need_map: bool
) -> tuple[Scalar, Volume | None, Volume | None, Volume | None]:
    """See `reference.lncc`. Sums are float64 from centred values, so CT offsets lose nothing."""
    dtype_a, dtype_b = a.dtype, b.dtype
    if weight is None:
        a, b = _work(a, b)
    else:
        a, b, weight = _work(a, b, weight)
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    cc = torch.empty_like(a) if need_map else None
    value = _C.cpu.lncc(
        *arguments.images(a),
        torch.get_num_threads(),
        *arguments.lncc(form),
        address(a),
        address(b),
        address(weight),
        1 if weight is None else weight.shape[1],
        scale,
        address(grad_a),
        address(grad_b),
        address(cc),
    )
    return (
        torch.tensor(value, dtype=torch.float64),
        None if grad_a is None else grad_a.to(dtype_a),
        None if grad_b is None else grad_b.to(dtype_b),
        None if cc is None else cc.to(torch.promote_types(dtype_a, dtype_b)),
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
    problem = *arguments.integrate(velocity, steps, padding), torch.get_num_threads()
    _C.cpu.integrate_forward(*problem, address(velocity), address(flow), address(saved) if need_grad else 0)
    return flow.to(dtype), saved


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """See `reference.integrate_backward`."""
    dtype = velocity.dtype
    velocity, grad = _work(velocity, grad)
    grad_velocity = torch.empty_like(velocity)
    _C.cpu.integrate_backward(
        *arguments.integrate(velocity, steps, padding),
        torch.get_num_threads(),
        address(velocity),
        address(saved),
        address(grad),
        address(grad_velocity),
    )
    return grad_velocity.to(dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`."""
    dtype = flow.dtype
    (flow,) = _work(flow)
    grad = torch.empty_like(flow) if need_grad else None
    value = _C.cpu.smoothness(
        *arguments.field(flow),
        torch.get_num_threads(),
        address(flow),
        address(grad),
    )
    return torch.tensor(value, dtype=torch.float64), None if grad is None else grad.to(dtype)
