"""What the ops require of their arguments, said once. Messages name the argument, what was expected, what came."""

from __future__ import annotations

import torch

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def spatial(ndim: int) -> str:
    """The names of the spatial axes."""
    return "D, H, W" if ndim == 3 else "H, W"


def check_floating(name: str, value: object) -> None:
    """Raises TypeError unless `value` is a real floating-point tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")


def check_volume(name: str, value: object, labels: bool = False) -> int:
    """Raises unless `value` is [batch, channels, (D,) H, W]; returns the number of spatial axes. With `labels` it is
    known to be a tensor of whole numbers.
    """
    if not labels:
        check_floating(name, value)
    assert isinstance(value, torch.Tensor)
    if value.ndim not in (4, 5):
        raise ValueError(f"{name} must be [batch, channels, D, H, W] or [batch, channels, H, W], got {shape(value)}")
    if 0 in value.shape[1:]:
        raise ValueError(f"{name} must not have empty axes (batch may be 0), got {shape(value)}")
    return value.ndim - 2


def check_flow(name: str, value: object) -> int:
    """Raises unless `value` is [batch, 3, D, H, W] or [batch, 2, H, W]; returns the number of spatial axes."""
    check_floating(name, value)
    assert isinstance(value, torch.Tensor)
    if value.ndim not in (4, 5) or value.shape[1] != value.ndim - 2:
        raise ValueError(f"{name} must be [batch, 3, D, H, W] or [batch, 2, H, W], got {shape(value)}")
    if 0 in value.shape[1:]:
        raise ValueError(f"{name} must not have empty axes (batch may be 0), got {shape(value)}")
    return value.ndim - 2


def check_same_device(**tensors: torch.Tensor | None) -> None:
    """Raises ValueError unless all tensors are on one device."""
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    (first, tensor), *others = present.items()
    for name, other in others:
        if other.device != tensor.device:
            raise ValueError(f"{name} must be on the device of {first}, {tensor.device}, got {other.device}")


def check_in_place(**fields: torch.Tensor) -> None:
    """Raises unless all are dense fields of one shape, one dtype, float32 or float64, and one device."""
    (first, model), *others = fields.items()
    for name, field in fields.items():
        check_flow(name, field)
        if field.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {field.dtype}")
        if not field.is_contiguous():
            raise ValueError(f"{name} must be contiguous: it is changed in place")
    for name, field in others:
        if field.shape != model.shape or field.dtype != model.dtype:
            wanted, got = (f"{shape(x)} {x.dtype}" for x in (model, field))
            raise ValueError(f"{name} must be like {first}, {wanted}, got {got}")
    check_same_device(**fields)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises unless `value` is an integer >= `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises ValueError unless `value` is a finite number >= `least`."""
    if not least <= value < float("inf"):
        raise ValueError(f"{name} must be at least {least:g} and finite, got {value}")


def shape(tensor: torch.Tensor) -> str:
    """The shape as a user writes it: [1, 3, 8, 8, 8]."""
    return str(list(tensor.shape))
