"""The specification of what acts on one field at a time: its penalties, its determinant, a step of its optimiser."""

from __future__ import annotations

import itertools

import torch

from fastreg.types import Flow, Mask, Scalar


def smoothness(flow: Flow, need_grad: bool) -> tuple[Scalar, Flow | None]:
    """Mean over the axes of the mean squared forward difference (float64), and its gradient."""
    u = flow.double()
    ndim = flow.ndim - 2
    value = u.new_zeros(())
    grad = torch.zeros_like(u)
    for axis in range(2, flow.ndim):
        difference = u.diff(dim=axis)
        if difference.numel() == 0:
            continue
        value = value + (difference**2).mean() / ndim
        slope = 2 * difference / (difference.numel() * ndim)
        grad.narrow(axis, 1, u.shape[axis] - 1).add_(slope)
        grad.narrow(axis, 0, u.shape[axis] - 1).sub_(slope)
    return value, grad.to(flow.dtype) if need_grad else None


def divergence(velocity: Flow) -> torch.Tensor:
    """[batch, 1, D, H, W]: the sum over the axes of central differences, which the border planes of an axis lack."""
    total = torch.zeros_like(velocity[:, :1])
    for k, axis in enumerate(range(2, velocity.ndim)):
        inside = velocity.shape[axis] - 2
        if inside > 0:
            component = velocity[:, k : k + 1]
            slope = (component.narrow(axis, 2, inside) - component.narrow(axis, 0, inside)) / 2
            zeros = torch.zeros_like(component.narrow(axis, 0, 1))
            total = total + torch.cat([zeros, slope, zeros], axis)
    return total


def volume(velocity: Flow, known: Mask | None) -> Scalar:
    """Mean of (known + div velocity)^2, 0 for an empty batch. Differentiable as it stands."""
    d = divergence(velocity) if known is None else known + divergence(velocity)
    return d.square().sum() / max(d.numel(), 1)


def penalty(
    velocity: Flow, known: Mask | None, smoothness_weight: float, volume_weight: float, grad: Flow | None
) -> Scalar:
    """The regularisation of a registration: smoothness_weight * smoothness + volume_weight * volume (float64).

    A part of weight 0 is not computed.

    Args:
        velocity: [batch, 3, D, H, W], voxels.
        known: [batch, 1, D, H, W], log determinant of the deformation that the velocity comes on top of; None: 0.
        grad: Dense, like `velocity`, or None: the gradient is added to it.
    """
    v = velocity.double()
    value, total = v.new_zeros(()), torch.zeros_like(v)
    if smoothness_weight != 0:
        rough, slope = smoothness(v, True)
        assert slope is not None
        value, total = value + smoothness_weight * rough, total + smoothness_weight * slope
    if volume_weight != 0:
        known = None if known is None else known.double()
        value = value + volume_weight * volume(v, known)
        d = divergence(v) if known is None else known + divergence(v)
        for k, axis in enumerate(range(2, v.ndim)):
            inside = v.shape[axis] - 2
            if inside > 0:  # the adjoint of the difference
                push = volume_weight / max(d.numel(), 1) * d[:, 0].narrow(axis - 1, 1, inside)
                total[:, k].narrow(axis - 1, 2, inside).add_(push)
                total[:, k].narrow(axis - 1, 0, inside).sub_(push)
    if grad is not None:
        grad.add_(total)
    return value


def binomial(x: torch.Tensor, passes: int) -> torch.Tensor:
    """`passes` times the filter (1 2 1) / 4 along every spatial axis, the border voxel repeated."""
    for axis in range(2, x.ndim):
        for _ in range(passes):
            size = x.shape[axis]
            padded = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, size - 1, 1)], axis)
            x = (padded.narrow(axis, 0, size) + 2 * x + padded.narrow(axis, 2, size)) / 4
    return x


def smoothed_update(
    mean: Flow, square: Flow, count: int, beta1: float, beta2: float, eps: float, passes: int
) -> torch.Tensor:
    """What `adam_step` subtracts from the velocity, over its step length, from the moments that it leaves behind."""
    update = mean / (1 - beta1**count) / ((square / (1 - beta2**count)).sqrt() + eps)
    return binomial(update, passes)


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
    """One step of Adam whose update is smoothed before it is added, in place. `grad` may be overwritten with anything.

    m <- beta1 m + (1 - beta1) g, s <- beta2 s + (1 - beta2) g^2, v <- v - step B^passes u with
    u = (m / (1 - beta1^count)) / (sqrt(s / (1 - beta2^count)) + eps) and B the `binomial` filter.
    """
    mean.mul_(beta1).add_(grad, alpha=1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    velocity.sub_(step * smoothed_update(mean, square, count, beta1, beta2, eps, passes))


def determinant_of(columns: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """det(I + grad u): column k [batch, 3, ...] holds the differences of u along axis k."""
    ndim = len(columns)
    j = [[columns[k][:, c] + (1.0 if c == k else 0.0) for k in range(ndim)] for c in range(ndim)]
    if ndim == 2:
        return j[0][0] * j[1][1] - j[0][1] * j[1][0]
    return (
        j[0][0] * (j[1][1] * j[2][2] - j[1][2] * j[2][1])
        - j[0][1] * (j[1][0] * j[2][2] - j[1][2] * j[2][0])
        + j[0][2] * (j[1][0] * j[2][1] - j[1][1] * j[2][0])
    )


def determinant(flow: Flow, scheme: str) -> torch.Tensor:
    """det(I + grad u) at every voxel, [batch, D, H, W] of the flow's dtype (float32 for half precision).

    "central": differences that are one-sided at the border. "least": the smallest of the determinants made of a
    forward or a backward difference along each axis, of those that stay on the grid.
    """
    u = flow.to(torch.promote_types(flow.dtype, torch.float32))
    axes = range(2, flow.ndim)
    if scheme == "central":
        return determinant_of(tuple(torch.gradient(u, dim=list(axes))))
    sides = []
    for axis in axes:
        difference = u.diff(dim=axis)
        first, last = difference.narrow(axis, 0, 1), difference.narrow(axis, difference.shape[axis] - 1, 1)
        # Where one side leaves the grid the other stands in for it.
        sides.append((torch.cat([difference, last], axis), torch.cat([first, difference], axis)))
    return torch.stack([determinant_of(columns) for columns in itertools.product(*sides)]).amin(0)
