"""What the compiled backends share: the module, and ops as its argument structs.

The structs are those of csrc/api.h. They hold addresses: who makes one keeps its tensors alive until the call is over.
"""

from __future__ import annotations

import functools
import importlib.util

import torch

from fastreg.types import Flow, LnccForm, Mask, Volume

try:
    from fastreg import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    missing: str | None = (
        "fastreg was installed without its compiled module; installing it with FASTREG_NATIVE=ON says what that lacks"
        if importlib.util.find_spec("fastreg._C") is None
        else f"the compiled module fastreg._C cannot be imported: {error}"
    )
    """Why there is no compiled module, or None."""
else:
    missing = None
    _DTYPES = {
        torch.float32: _C.DType.f32,
        torch.float64: _C.DType.f64,
        torch.float16: _C.DType.f16,
        torch.bfloat16: _C.DType.bf16,
    }
    _MODES = _C.Mode.__members__
    _PADDINGS = _C.Padding.__members__
    _SCHEMES = _C.Scheme.__members__
    _MIND_KINDS = _C.MindKind.__members__
    _MEASURES = _C.Measure.__members__

module = _C


def address(tensor: torch.Tensor | None) -> int:
    """Where it lies; 0, which is null, for none."""
    return 0 if tensor is None else tensor.data_ptr()


def field_grid(flow: Flow, channels_last: bool) -> torch.Size:
    """The axes of a displacement field's grid."""
    return flow.shape[1:-1] if channels_last else flow.shape[2:]


def warped_shape(vol: Volume, flow: Flow, channels_last: bool) -> tuple[int, ...]:
    """Of the volume on the field's grid. The volume's batch is the field's, or 1: one volume for all fields."""
    return (flow.shape[0], vol.shape[1], *field_grid(flow, channels_last))


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`tensor.to(dtype)`, a call that takes most of a microsecond even where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def weights_like(image: Volume, weight: Mask | None, mask: Mask | None) -> tuple[Mask | None, Mask | None]:
    """Dense, in the image's dtype. A mask that is the weight stays so: one copy, and the CPU is faster for it."""

    def like(weights: Mask | None) -> Mask | None:
        return None if weights is None else cast(weights, image.dtype).contiguous()

    found = like(weight)
    return found, found if mask is weight else like(mask)


def _size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """D, H, W; a 2-D image has one plane."""
    return (1, *shape) if len(shape) == 2 else shape


def warp_args(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> _C.WarpArgs:
    """The part that forward and backward share."""
    shape = vol.shape
    return _C.WarpArgs(
        ndim=len(shape) - 2,
        batch=flow.shape[0],
        channels=shape[1],
        size=_size(shape[2:]),
        grid=_size(field_grid(flow, channels_last)),
        dtype=_DTYPES[vol.dtype],
        mode=_MODES[mode],
        padding=_PADDINGS[padding],
        channels_last=channels_last,
        normalised=align_corners is not None,
        align_corners=align_corners is True,
        vol_shared=shape[0] != flow.shape[0],
        threads=torch.get_num_threads(),
        vol=vol.data_ptr(),
        flow=flow.data_ptr(),
    )


@functools.lru_cache
def _form(form: LnccForm) -> _C.LnccForm:
    assert form.kernel == "box"
    fields = {**vars(form), "window": _size(form.window), "floor": _C.Floor.__members__[form.floor]}
    del fields["kernel"], fields["sigma"]
    return _C.LnccForm(**fields)


def lncc_args(
    a: Volume,
    b: Volume,
    weight: Mask | None,
    mask: Mask | None,
    form: LnccForm,
    scale: float,
    grad_a: Volume | None,
    grad_b: Volume | None,
    cc: Volume | None,
) -> _C.LnccArgs:
    """Everything but what the GPU alone needs."""
    shape = a.shape
    return _C.LnccArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        channels=shape[1],
        size=_size(shape[2:]),
        dtype=_DTYPES[a.dtype],
        form=_form(form),
        threads=torch.get_num_threads(),
        a=a.data_ptr(),
        b=b.data_ptr(),
        weight=address(weight),
        weight_channels=1 if weight is None else weight.shape[1],
        mask=address(mask),
        mask_channels=1 if mask is None else mask.shape[1],
        scale=scale,
        grad_a=address(grad_a),
        grad_b=address(grad_b),
        map=address(cc),
    )


def integrate_args(velocity: Flow, steps: int, padding: str) -> _C.IntegrateArgs:
    """The part that forward and backward share. `velocity` gives shape and dtype; its address is not taken."""
    shape = velocity.shape
    return _C.IntegrateArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        size=_size(shape[2:]),
        dtype=_DTYPES[velocity.dtype],
        steps=steps,
        padding=_PADDINGS[padding],
        threads=torch.get_num_threads(),
    )


def smoothness_args(flow: Flow, grad: Flow | None) -> _C.SmoothnessArgs:
    """Everything but what the GPU alone needs."""
    shape = flow.shape
    return _C.SmoothnessArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        size=_size(shape[2:]),
        dtype=_DTYPES[flow.dtype],
        threads=torch.get_num_threads(),
        flow=flow.data_ptr(),
        grad=address(grad),
    )


def penalty_args(
    velocity: Flow, known: Mask | None, smoothness_weight: float, volume_weight: float, grad: Flow | None
) -> _C.PenaltyArgs:
    """Everything but what the GPU alone needs."""
    shape = velocity.shape
    return _C.PenaltyArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        size=_size(shape[2:]),
        dtype=_DTYPES[velocity.dtype],
        smoothness=smoothness_weight,
        volume=volume_weight,
        threads=torch.get_num_threads(),
        velocity=velocity.data_ptr(),
        known=address(known),
        grad=address(grad),
    )


def adam_args(
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
) -> _C.AdamArgs:
    """Everything but what the GPU alone needs."""
    shape = velocity.shape
    return _C.AdamArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        size=_size(shape[2:]),
        dtype=_DTYPES[velocity.dtype],
        count=count,
        step=step,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        passes=passes,
        threads=torch.get_num_threads(),
        velocity=velocity.data_ptr(),
        grad=grad.data_ptr(),
        mean=mean.data_ptr(),
        square=square.data_ptr(),
    )


def determinant_args(flow: Flow, scheme: str, out: torch.Tensor) -> _C.DeterminantArgs:
    """Everything but what the GPU alone needs."""
    shape = flow.shape
    return _C.DeterminantArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        size=_size(shape[2:]),
        dtype=_DTYPES[flow.dtype],
        scheme=_SCHEMES[scheme],
        threads=torch.get_num_threads(),
        flow=flow.data_ptr(),
        out=out.data_ptr(),
    )


def correlate_args(
    a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None
) -> _C.CorrelateArgs:
    """The part that forward and backward share."""
    shape = a.shape
    return _C.CorrelateArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        channels=shape[1],
        size=_size(shape[2:]),
        dtype=_DTYPES[a.dtype],
        radius=radius,
        measure=_MEASURES[measure],
        padding=_PADDINGS[padding],
        sharpness=sharpness or 0.0,
        threads=torch.get_num_threads(),
        a=a.data_ptr(),
        b=b.data_ptr(),
    )


def correlate_backward_args(
    grad: torch.Tensor, a: Volume, b: Volume, options: tuple[int, str, str, float | None], need_a: bool, need_b: bool
) -> tuple[_C.CorrelateArgs, Volume | None, Volume | None]:
    """The arguments, and the gradients that they are to fill; all dense. `options`: radius to sharpness."""
    grad_a = torch.empty_like(a) if need_a else None
    grad_b = torch.empty_like(b) if need_b else None
    args = correlate_args(a, b, *options)
    args.grad, args.grad_a, args.grad_b = address(grad), address(grad_a), address(grad_b)
    return args, grad_a, grad_b


def correlated_like(a: Volume, radius: int, sharpness: float | None) -> torch.Tensor:
    """An empty tensor for the scores or, with `sharpness`, for the field, which is not in half precision."""
    ndim, grid = a.ndim - 2, a.shape[2:]
    if sharpness is None:
        return a.new_empty((a.shape[0], (2 * radius + 1) ** ndim, *grid))
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    return a.new_empty((a.shape[0], ndim, *grid), dtype=dtype)


def mind_args(image: Volume, floor: torch.Tensor, kind: str) -> _C.MindArgs:
    """The part that forward and backward share."""
    shape = image.shape
    return _C.MindArgs(
        ndim=len(shape) - 2,
        batch=shape[0],
        channels=shape[1],
        size=_size(shape[2:]),
        dtype=_DTYPES[image.dtype],
        kind=_MIND_KINDS[kind],
        threads=torch.get_num_threads(),
        image=image.data_ptr(),
        floor=floor.data_ptr(),
    )


def window_args(padded: Volume, size: tuple[int, ...], flow: Flow, out: Volume) -> _C.WindowArgs:
    """`size`: of the image inside its pad."""
    return _C.WindowArgs(
        ndim=len(size),
        size=_size(size),
        grid=_size(flow.shape[2:]),
        threads=torch.get_num_threads(),
        vol=padded.data_ptr(),
        flow=flow.data_ptr(),
        out=out.data_ptr(),
    )
