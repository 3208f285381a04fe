"""The compiled backend (csrc/): allocates, checks nothing, passes addresses.

Half-precision volumes are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import torch

from fastreg.backends import reference
from fastreg.types import MODES, PADDINGS, Flow, LnccForm, Mask, Scalar, Volume

try:
    from fastreg import _C
except ImportError as error:  # pragma: no cover - only a broken installation
    _C = None  # type: ignore[assignment]
    _missing: str | None = f"the compiled module fastreg._C cannot be imported: {error}"
else:
    _missing = None

_DTYPES = {torch.float32: 0, torch.float64: 1}
_FLOORS = {"none": 0, "max": 1, "add": 2}


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


def _size(shape: torch.Size | tuple[int, ...]) -> list[int]:
    """D, H, W; a 2-D image has one plane."""
    return [1] * (3 - len(shape)) + list(shape)


def _work(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Dense copies, where needed, in one of the two dtypes that the CPU computes in."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return [tensor.to(torch.float64 if double else torch.float32).contiguous() for tensor in tensors]


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _warp_arguments(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> tuple:
    grid = flow.shape[1:-1] if channels_last else flow.shape[2:]
    return (
        vol.ndim - 2,
        vol.shape[0],
        vol.shape[1],
        _size(vol.shape[2:]),
        _size(grid),
        _DTYPES[vol.dtype],
        MODES.index(mode),
        PADDINGS.index(padding),
        channels_last,
        torch.get_num_threads(),
        _address(vol),
        _address(flow),
    )


def warp_forward(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> Volume:
    """See `reference.warp_forward`."""
    dtype = vol.dtype
    vol, flow = _work(vol, flow)
    grid = flow.shape[1:-1] if channels_last else flow.shape[2:]
    out = vol.new_empty(*vol.shape[:2], *grid)
    _C.cpu.warp_forward(*_warp_arguments(vol, flow, mode, padding, channels_last), _address(out))
    return out.to(dtype)


def warp_backward(
    grad: Volume, vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, need_vol: bool, need_flow: bool
) -> tuple[Volume | None, Flow | None]:
    """See `reference.warp_backward`. Deterministic: every target voxel is summed by one thread in one order."""
    vol_dtype, flow_dtype = vol.dtype, flow.dtype
    vol, flow, grad = _work(vol, flow, grad)
    grad_vol = torch.empty_like(vol) if need_vol else None
    grad_flow = torch.empty_like(flow) if need_flow else None
    arguments = _warp_arguments(vol, flow, mode, padding, channels_last)
    _C.cpu.warp_backward(*arguments, _address(grad), _address(grad_vol), _address(grad_flow))
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
        a.ndim - 2,
        a.shape[0],
        a.shape[1],
        _size(a.shape[2:]),
        _DTYPES[a.dtype],
        torch.get_num_threads(),
        form.window,
        _FLOORS[form.floor],
        form.floor_eps,
        form.den_eps,
        form.num_eps,
        form.cross_floor,
        form.mean,
        form.count,
        form.flat_eps,
        form.flat,
        form.clamp,
        _address(a),
        _address(b),
        _address(weight),
        1 if weight is None else weight.shape[1],
        scale,
        _address(grad_a),
        _address(grad_b),
        _address(cc),
    )
    return (
        torch.tensor(value, dtype=torch.float64),
        None if grad_a is None else grad_a.to(dtype_a),
        None if grad_b is None else grad_b.to(dtype_b),
        None if cc is None else cc.to(torch.promote_types(dtype_a, dtype_b)),
    )


def _integrate_arguments(velocity: Flow, steps: int, padding: str) -> tuple:
    return (
        velocity.ndim - 2,
        velocity.shape[0],
        _size(velocity.shape[2:]),
        _DTYPES[velocity.dtype],
        steps,
        PADDINGS.index(padding),
        torch.get_num_threads(),
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
    arguments = _integrate_arguments(velocity, steps, padding)
    _C.cpu.integrate_forward(*arguments, _address(velocity), _address(flow), _address(saved) if need_grad else 0)
    return flow.to(dtype), saved


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """See `reference.integrate_backward`."""
    dtype = velocity.dtype
    velocity, grad = _work(velocity, grad)
    grad_velocity = torch.empty_like(velocity)
    _C.cpu.integrate_backward(
        *_integrate_arguments(velocity, steps, padding),
        _address(velocity),
        _address(saved),
        _address(grad),
        _address(grad_velocity),
    )
    return grad_velocity.to(dtype)


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """See `reference.smoothness`."""
    dtype = flow.dtype
    (flow,) = _work(flow)
    grad = torch.empty_like(flow) if need_grad else None
    value = _C.cpu.smoothness(
        flow.ndim - 2,
        flow.shape[0],
        _size(flow.shape[2:]),
        _DTYPES[flow.dtype],
        torch.get_num_threads(),
        _address(flow),
        _address(grad),
    )
    return torch.tensor(value, dtype=torch.float64), None if grad is None else grad.to(dtype)
