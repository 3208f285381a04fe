"""`fastreg.lncc`: the windowed local correlation of two images, with its gradient made in the same sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form
from fastreg.ops._autograd import needs_reference, no_double_backward, times, wants_grad
from fastreg.ops._define import define_op
from fastreg.types import KERNELS, Mask, Scalar, Volume
from fastreg.utils.checks import check_choice, check_floating, check_same_device, check_volume, check_whole, shape

REDUCTIONS = ("mean", "sum", "none")


def lncc(
    a: Volume,
    b: Volume,
    *,
    window: int | Sequence[int] = 9,
    eps: float = 1e-5,
    num_eps: float | None = None,
    squared: bool = True,
    kernel: str = "box",
    sigma: float | Sequence[float] | None = None,
    definition: str = "fastreg",
    reduction: str = "mean",
    mask: Mask | None = None,
    backend: str | None = None,
) -> Scalar | Volume:
    """Squared local correlation of `a` and `b` in a window around every voxel: 1 is identical, 0 unrelated.

    Equal to float64 truth on unnormalised data (CT in Hounsfield units): sums are centred. A constant window counts 0
    under the default definition. As a loss, use its negative (`fastreg.losses.LNCC`).

        similarity = fastreg.lncc(moved, fixed)
        thick = fastreg.lncc(moved, fixed, window=(3, 9, 9))  # thick slices along D
        icon = fastreg.lncc(moved, fixed, window=21, kernel="gaussian", sigma=5, squared=False, definition="icon")

    Args:
        a: [batch, channels, D, H, W] or [batch, channels, H, W], any intensity unit.
        b: Same shape as `a`.
        window: Edge length in voxels, odd, or one for each of (D, H, W); cut to twice the longest axis less 1: wider
            ones hold no more of the image.
        eps: Floor of the variances, in squared intensity units summed over the window (as the definition uses it).
        num_eps: Added to the numerator, in units of it; the definition's if None.
        squared: Otherwise the correlation itself, from -1 to 1.
        kernel: How a window weighs its voxels: "box" (all alike), "triangular" or "gaussian". The latter two are
            computed by the reference backend on every device: tens of times slower, and in float64 memory.
        sigma: Of the kernel "gaussian", in voxels, or one for each axis; a third of the window if None.
        definition: "fastreg", or whose number to reproduce: "voxelmorph", "voxelmorph-tf", "monai", "fused-lncc",
            "ffdp", "fireants", "ants", "icon" (docs/math.md).
        reduction: "mean" over windows, "sum", or "none": [batch, channels, D, H, W].
        mask: [batch, 1 or channels, D, H, W]. Voxels where it is 0 or less enter no window, and no gradient goes to
            them; they may be NaN. Elsewhere it is the weight of the windows around its voxels, of the mean too. No
            gradient goes to the mask. An empty mask gives 0.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        A scalar (float64 for float64 input, otherwise float32), or the map in the wider dtype of `a` and `b`.
        Differentiable in both images; the sum has a fixed order, so it repeats bitwise.

    Raises:
        TypeError: an argument that is no floating-point tensor.
        ValueError: shapes, devices, windows or names that do not fit, naming both sides.

    Source: Avants et al. 2008; Balakrishnan et al. 2018, eq. 5.
    """
    ndim = check_volume("a", a)
    check_floating("b", b)
    if b.shape != a.shape:
        raise ValueError(f"b must have the shape of a, {shape(a)}, got {shape(b)}")
    check_choice("definition", definition, LNCC_DEFINITIONS)
    check_choice("kernel", kernel, KERNELS)
    options = definition, _windows(window, a), eps, num_eps, squared, kernel, _sigmas(sigma, window, kernel, ndim)
    check_choice("reduction", reduction, REDUCTIONS)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if num_eps is not None and not num_eps >= 0:
        raise ValueError(f"num_eps must be at least 0, got {num_eps}")
    if mask is not None:
        mask = _checked_mask(mask, a)
    check_same_device(a=a, b=b, mask=mask)
    plain = needs_reference(a, b, mask)
    name = "reference" if plain or kernel != "box" else backends.choose(backend, a, b, mask)
    if kernel != "box" and backend not in (None, "reference"):
        raise ValueError(f"backend {backend!r} has no kernel {kernel!r}: leave backend out, or 'reference'")
    if reduction == "none" or plain:
        if plain:
            cc = reference.lncc_map(a, b, lncc_form(*options), mask)
        else:
            cc = torch.ops.fastreg.lncc_map(a, b, mask, *options, name)
        if mask is not None:
            cc = torch.where(mask > 0, cc * mask, 0.0).to(cc.dtype)
        if reduction == "none":
            return cc
        weights = cc.new_tensor(float(cc.numel())) if mask is None else mask.expand_as(cc).sum(dtype=cc.dtype)
        return cc.sum() if reduction == "sum" else cc.sum() / weights.clamp_min(torch.finfo(cc.dtype).tiny)
    return torch.ops.fastreg.lncc(a, b, mask, *options, reduction == "mean", wants_grad(a), wants_grad(b), name)[0]


def _windows(window: int | Sequence[int], a: Volume) -> tuple[int, ...]:
    """An edge length for every axis."""
    ndim = a.ndim - 2
    lengths = tuple(window) if isinstance(window, Sequence) else (window,) * ndim
    if len(lengths) != ndim:
        raise ValueError(f"window must be one number or {ndim}, got {lengths}")
    for length in lengths:
        check_whole("window", length, 1)
        if length % 2 == 0:
            raise ValueError(f"window must be odd, got {window}")
    longest = max(2 * max(a.shape[2:]) - 1, 1)  # then every window holds the whole image already
    return tuple(min(length, longest) for length in lengths)


def _sigmas(
    sigma: float | Sequence[float] | None, window: int | Sequence[int], kernel: str, ndim: int
) -> tuple[float, ...]:
    """A standard deviation for every axis; none for kernels that have none."""
    if kernel != "gaussian":
        if sigma is not None:
            raise ValueError(f"sigma is of kernel 'gaussian', got sigma {sigma} and kernel {kernel!r}")
        return ()
    if sigma is None:
        sigma = window / 3 if isinstance(window, int) else [length / 3 for length in window]
    each = (float(sigma),) * ndim if isinstance(sigma, (int, float)) else tuple(float(s) for s in sigma)
    if len(each) != ndim:
        raise ValueError(f"sigma must be one number or {ndim}, got {each}")
    if not all(0 < s < float("inf") for s in each):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return each


def _checked_mask(mask: Mask, a: Volume) -> Mask:
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    fits = mask.ndim == a.ndim and mask.shape[0] in (1, a.shape[0]) and mask.shape[1] in (1, a.shape[1])
    if not fits or mask.shape[2:] != a.shape[2:]:
        raise ValueError(f"mask must be [batch, 1 or channels, ...] to match a {shape(a)}, got {shape(mask)}")
    mask = mask.detach().expand(a.shape[0], *[-1] * (mask.ndim - 1))
    return mask if mask.is_floating_point() else mask.to(torch.float32)


def _scalar_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32


@define_op("lncc")
def _lncc(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    definition: str,
    window: Sequence[int],
    eps: float,
    num_eps: float | None,
    squared: bool,
    kernel: str,
    sigma: Sequence[float],
    mean: bool,
    need_a: bool,
    need_b: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    form = lncc_form(definition, window, eps, num_eps, squared, kernel, sigma)
    scale = 1.0 / a.numel() if mean and a.numel() and not _scales_later(a, b, mask) else 1.0
    value, grad_a, grad_b, _ = backends.get(backend).lncc(a, b, mask, form, scale, need_a, need_b, False, mask)
    factor = value.new_ones(())
    if mean and a.numel() and _scales_later(a, b, mask):
        if mask is None:
            factor = factor / a.numel()
        else:  # stays on the device: asking for the number would wait for it
            weights = _total(mask) * (a.shape[1] / mask.shape[1])
            factor = torch.where(weights > 0, 1 / weights, 0.0)
    return (
        (value * factor * scale).to(_scalar_dtype(a, b)),
        a.new_empty((0,)) if grad_a is None else grad_a,
        b.new_empty((0,)) if grad_b is None else grad_b,
        factor,
    )


def _total(mask: Tensor) -> Tensor:
    """Of all weights, float64. Rows first, so that the order does not depend on the threads; and those in the mask's
    own precision, in which whole numbers are exact: to widen a mask takes torch longer than its local correlation.
    """
    rows = mask.sum(-1, dtype=torch.promote_types(mask.dtype, torch.float32))
    return rows.sum(-1, dtype=torch.float64).sum()


def _scales_later(a: Tensor, b: Tensor, mask: Tensor | None) -> bool:
    """Whether the mean's division waits for the backward: a mask's sum is known on the device alone, and a millionth of
    a gradient is nothing in half precision.
    """
    half = (torch.float16, torch.bfloat16)
    return mask is not None or a.dtype in half or b.dtype in half


@_lncc.register_fake
def _(a: Tensor, b: Tensor, mask: Tensor | None, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    need_a, need_b = options[-3:-1]
    return (
        a.new_empty((), dtype=_scalar_dtype(a, b)),
        a.new_empty(a.shape if need_a else (0,)),
        b.new_empty(b.shape if need_b else (0,)),
        a.new_empty((), dtype=torch.float64),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    a, b, mask = inputs[:3]
    ctx.save_for_backward(*output[1:])
    ctx.needs = inputs[-3:-1]
    ctx.count = len(inputs)
    ctx.scales_later = _scales_later(a, b, mask)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *again: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(tensor is not None for tensor in again):
        no_double_backward("lncc")(ctx)
    grad_a, grad_b, factor = ctx.saved_tensors
    if grad is None:
        return (None,) * ctx.count
    if ctx.scales_later:
        grad = grad.to(factor.dtype) * factor
    scaled = [times(kept, grad) if need else None for kept, need in zip((grad_a, grad_b), ctx.needs, strict=True)]
    return (*scaled, *[None] * (ctx.count - 2))


_lncc.register_autograd(_backward, setup_context=_setup)


@define_op("lncc_map")
def _lncc_map(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    definition: str,
    window: Sequence[int],
    eps: float,
    num_eps: float | None,
    squared: bool,
    kernel: str,
    sigma: Sequence[float],
    backend: str,
) -> Tensor:
    form = lncc_form(definition, window, eps, num_eps, squared, kernel, sigma)
    return backends.get(backend).lncc(a, b, None, form, 1.0, False, False, True, mask)[3]


@_lncc_map.register_fake
def _(a: Tensor, b: Tensor, *options: Any) -> Tensor:
    return a.new_empty(a.shape, dtype=torch.promote_types(a.dtype, b.dtype))


@define_op("lncc_map_backward")
def _lncc_map_backward(
    grad: Tensor,
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    definition: str,
    window: Sequence[int],
    eps: float,
    num_eps: float | None,
    squared: bool,
    kernel: str,
    sigma: Sequence[float],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The weights of the windows are what comes from above."""
    form = lncc_form(definition, window, eps, num_eps, squared, kernel, sigma)
    _, grad_a, grad_b, _ = backends.get(backend).lncc(a, b, grad, form, 1.0, True, True, False, mask)
    return grad_a, grad_b


@_lncc_map_backward.register_fake
def _(grad: Tensor, a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape)


def _map_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _map_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (
        *torch.ops.fastreg.lncc_map_backward(grad, *ctx.saved_tensors, *ctx.options),
        *[None] * (1 + len(ctx.options)),
    )


_lncc_map.register_autograd(_map_backward, setup_context=_map_setup)
_lncc_map_backward.register_autograd(no_double_backward("lncc"))
