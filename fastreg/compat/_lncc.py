"""The local correlation of MONAI, FireANTs and neurite, who have it along one axis, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastreg.ops.lncc import lncc
from fastreg.types import Scalar, Volume
from fastreg.utils.checks import shape

KERNELS = {"rectangular": "box", "triangular": "triangular", "gaussian": "gaussian"}
"""MONAI's and FireANTs' names of windows -> fastreg's."""
REDUCTIONS = ("none", "mean", "sum")


def check_alike(pred: Volume, target: Volume) -> None:
    """ValueError for images of two shapes."""
    if target.shape != pred.shape:
        raise ValueError(f"target must have the shape of pred, {shape(pred)}, got {shape(target)}")


def check_images(pred: Volume, target: Volume, ndim: int) -> None:
    """ValueError for images of two shapes, or of another number of axes."""
    if pred.ndim - 2 != ndim:
        raise ValueError(f"pred must have {ndim} spatial axes, got {shape(pred)}")
    check_alike(pred, target)


def correlation(a: Volume, b: Volume, windows: Sequence[int], reduction: str, **options: Any) -> Scalar | Volume:
    """`fastreg.lncc` of images of one, two or three axes."""
    line = a.ndim == 3  # a plane of one row, in which windows are one row high
    if line:
        a, b, windows = a.unsqueeze(2), b.unsqueeze(2), (1, *windows)
    value = lncc(a, b, window=tuple(windows), reduction=reduction, **options)
    return value.squeeze(2) if line and reduction == "none" else value


def loss(pred: Volume, target: Volume, size: int, kernel_type: str, reduction: str, **options: Any) -> Scalar | Volume:
    """Minus the correlation in windows of one size, in the dtype of `pred`; `kernel_type` is of `KERNELS`."""
    sigma = size / 3 if kernel_type == "gaussian" else None
    windows = (size,) * (pred.ndim - 2)
    value = correlation(pred, target, windows, reduction, kernel=KERNELS[kernel_type], sigma=sigma, **options)
    return -value.to(pred.dtype)
