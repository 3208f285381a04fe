"""How the compiled backends put an op into numbers: sizes, codes and addresses, in the order of csrc/api.h."""

from __future__ import annotations

import torch

from fastreg.backends.lncc_form import LnccForm
from fastreg.types import MODES, PADDINGS, Flow, Volume

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_FLOORS = {"none": 0, "max": 1, "add": 2}


def size(shape: torch.Size | tuple[int, ...]) -> list[int]:
    """D, H, W; a 2-D image has one plane."""
    return [1] * (3 - len(shape)) + list(shape)


def address(tensor: torch.Tensor | None) -> int:
    """Where it lies; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def field_grid(flow: Flow, channels_last: bool) -> torch.Size:
    """The axes of a displacement field's grid."""
    return flow.shape[1:-1] if channels_last else flow.shape[2:]


def warp(vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool) -> tuple:
    """`WarpArgs` up to channels_last."""
    return (
        vol.ndim - 2,
        vol.shape[0],
        vol.shape[1],
        size(vol.shape[2:]),
        size(field_grid(flow, channels_last)),
        DTYPES[vol.dtype],
        MODES.index(mode),
        PADDINGS.index(padding),
        channels_last,
    )


def images(a: Volume) -> tuple:
    """`LnccArgs` up to the dtype."""
    return a.ndim - 2, a.shape[0], a.shape[1], size(a.shape[2:]), DTYPES[a.dtype]


def lncc(form: LnccForm) -> tuple:
    """`LnccForm` of csrc/api.h."""
    return (
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
    )


def field(flow: Flow) -> tuple:
    """`SmoothnessArgs` up to the dtype, and the beginning of `IntegrateArgs`."""
    return flow.ndim - 2, flow.shape[0], size(flow.shape[2:]), DTYPES[flow.dtype]


def integrate(velocity: Flow, steps: int, padding: str) -> tuple:
    """`IntegrateArgs` up to the padding."""
    return *field(velocity), steps, PADDINGS.index(padding)
