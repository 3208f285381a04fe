"""The cost volume in plain PyTorch: part of `fastreg.backends.reference`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from fastreg.types import Flow, Volume


def correlate(a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None) -> Volume | Flow:
    """See `fastreg.correlate`. Differentiable by autograd, forward-mode and torch.func."""
    dtype = a.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = a.to(work), b.to(work)
    around = _around(b, radius, padding)
    scores = torch.stack([_score(a, there, measure) for _, there in _windows(around, a, radius)], 1)
    if sharpness is None:
        return scores.to(dtype)
    return _mean_displacement(_shares(scores, measure, sharpness), radius)


def correlate_forward(
    a: Volume, b: Volume, radius: int, measure: str, padding: str, sharpness: float | None
) -> Volume | Flow:
    """`correlate`, as the ops call it."""
    return correlate(a, b, radius, measure, padding, sharpness)


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
    """Gradients of sum(grad * correlate(a, b)), written out."""
    dtype = a.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    a, b, grad = a.to(work), b.to(work), grad.to(work)
    around = _around(b, radius, padding)
    if sharpness is not None:
        scores = torch.stack([_score(a, there, measure) for _, there in _windows(around, a, radius)], 1)
        shares, slope = _shares(scores, measure, sharpness), sharpness if measure == "dot" else -sharpness
        along = torch.stack([_along(d, grad) for d in _displacements(radius, a.ndim - 2)], 1)
        grad = slope * shares * (along - (shares * along).sum(1, keepdim=True))
    grad_a, grad_around = torch.zeros_like(a), torch.zeros_like(around)
    pairs = zip(_windows(around, a, radius), _windows(grad_around, a, radius), strict=True)
    for (k, there), (_, grad_there) in pairs:
        upstream = grad[:, k, None] / a.shape[1]
        if measure == "dot":
            grad_a += upstream * there
            grad_there += upstream * a
        else:
            step = 2 * upstream * (a - there)
            grad_a += step
            grad_there -= step
    grad_b = _folded(grad_around, b, radius, padding)
    return grad_a.to(dtype) if need_a else None, grad_b.to(dtype) if need_b else None


def _displacements(radius: int, ndim: int) -> Iterator[tuple[int, ...]]:
    """All d, the last component running fastest."""
    return itertools.product(range(-radius, radius + 1), repeat=ndim)


def _around(b: Volume, radius: int, padding: str) -> Volume:
    """`b` and `radius` voxels on every side of it."""
    for axis, length in enumerate(b.shape[2:], 2):
        if padding == "border":
            b = b.index_select(axis, _places(b, length, radius))
        else:
            edge = b.new_zeros((*b.shape[:axis], radius, *b.shape[axis + 1 :]))
            b = torch.cat([edge, b, edge], axis)
    return b


def _places(b: Volume, length: int, radius: int) -> torch.Tensor:
    """The voxel that each voxel of a padded axis reads."""
    return torch.arange(-radius, length + radius, device=b.device).clamp(0, length - 1)


def _folded(grad_around: Volume, b: Volume, radius: int, padding: str) -> Volume:
    """The adjoint of `_around`."""
    for axis, length in enumerate(b.shape[2:], 2):
        if padding == "border":
            shape = (*grad_around.shape[:axis], length, *grad_around.shape[axis + 1 :])
            grad_around = grad_around.new_zeros(shape).index_add_(axis, _places(b, length, radius), grad_around)
        else:
            grad_around = grad_around.narrow(axis, radius, length)
    return grad_around


def _windows(around: Volume, a: Volume, radius: int) -> Iterator[tuple[int, Volume]]:
    """The number of every displacement d, and `around` at p + d for all p of a's grid, a view."""
    for k, start in enumerate(itertools.product(range(2 * radius + 1), repeat=a.ndim - 2)):
        there = around
        for axis, first in enumerate(start, 2):
            there = there.narrow(axis, first, a.shape[axis])
        yield k, there


def _score(a: Volume, there: Volume, measure: str) -> torch.Tensor:
    return (a * there if measure == "dot" else (a - there).square()).mean(1)


def _shares(scores: torch.Tensor, measure: str, sharpness: float) -> torch.Tensor:
    """The softmax over the displacements."""
    return torch.softmax(scores * (sharpness if measure == "dot" else -sharpness), 1)


def _along(d: tuple[int, ...], grad: Flow) -> torch.Tensor:
    """The product of a displacement and the field `grad`."""
    return torch.stack([component * grad[:, axis] for axis, component in enumerate(d)]).sum(0)


def _mean_displacement(shares: torch.Tensor, radius: int) -> Flow:
    d = shares.new_tensor(list(_displacements(radius, shares.ndim - 2)))
    return torch.einsum("kc,bk...->bc...", d, shares)
