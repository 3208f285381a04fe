"""Displacement and velocity fields: integrate, compose, invert, resize, smoothness, Jacobian.

A field u is [batch, 3, D, H, W] (2-D: [batch, 2, H, W]) in voxels of its own grid; it maps p to p + u(p).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from fastreg.backends import reference
from fastreg.geometry.padding import along, crop, pad_to_multiple, symbolic
from fastreg.ops.determinant import check_determinant, determinant
from fastreg.ops.integrate import integrate
from fastreg.ops.smoothness import smoothness_l2
from fastreg.ops.warp import warp
from fastreg.types import Flow, Scalar, Volume
from fastreg.utils.checks import check_choice, check_flow, check_same_device, check_volume, shape

__all__ = ["compose", "integrate", "invert", "jacobian_determinant", "resize", "smoothness"]

PENALTIES = ("l2", "l1", "bending", "edge_aware")
SCHEMES = ("central", "forward", "least")


def compose(outer: Flow, inner: Flow, *, padding: str = "border", backend: str | None = None) -> Flow:
    """The field of: first `inner`, then `outer`: inner(p) + outer(p + inner(p)).

    Args:
        outer: [batch, 3, D, H, W], voxels.
        inner: Like `outer`.
        padding: `outer` beyond its grid, as in `fastreg.warp`.
        backend: As in `fastreg.warp`.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_flow("outer", outer)
    check_flow("inner", inner)
    if outer.shape != inner.shape:
        raise ValueError(f"inner must have the shape of outer, {shape(outer)}, got {shape(inner)}")
    return inner + warp(outer, inner, padding=padding, backend=backend)


def invert(flow: Flow, *, iterations: int = 50, tolerance: float = 1e-3, backend: str | None = None) -> Flow:
    """The field v with compose(flow, v) = 0, by the fixed point v(p) = -flow(p + v(p)).

    It converges where the field does not fold (Lipschitz constant of `flow` below 1); for the output of `integrate`
    the exact inverse is `integrate(-velocity)`.

    Args:
        flow: [batch, 3, D, H, W], voxels.
        iterations: At most this many.
        tolerance: Stop when no component of v changes by more than this, in voxels.
        backend: As in `fastreg.warp`.

    Source: Chen et al. 2008, "A simple fixed-point approach to invert a deformation field".
    """
    check_flow("flow", flow)
    inverse = -flow
    for _ in range(iterations):
        update = -warp(flow, inverse, padding="border", backend=backend)
        change = (update - inverse).detach().abs().max() if update.numel() else update.new_zeros(())
        inverse = update
        if change < tolerance:
            break
    return inverse


def resize(flow: Flow, size: tuple[int, ...]) -> Flow:
    """The same deformation on a grid of `size` voxels whose corner voxels coincide: linear, values scaled.

    Args:
        flow: [batch, 3, D, H, W], voxels of its own grid.
        size: D', H', W' of the new grid.

    Returns:
        [batch, 3, D', H', W'] in voxels of the new grid.
    """
    ndim = check_flow("flow", flow)
    if len(size) != ndim:
        raise ValueError(f"size must name {ndim} axes, got {tuple(size)}")
    any_size = symbolic(flow.shape[2:], size)
    if not any_size and tuple(flow.shape[2:]) == tuple(size):
        return flow
    mode = "trilinear" if ndim == 3 else "bilinear"
    if any_size:
        scale = torch.stack([_ratio(new, old, flow) for new, old in zip(size, flow.shape[2:], strict=True)])
    else:
        scale = flow.new_tensor([(new - 1) / max(old - 1, 1) for new, old in zip(size, flow.shape[2:], strict=True)])
    # Scaled before it is interpolated: the smaller grid is the cheaper one when a field is refined.
    return F.interpolate(along(scale, 1, flow.ndim) * flow, size=tuple(size), mode=mode, align_corners=True)


def _ratio(new: int, old: int, like: Flow) -> torch.Tensor:
    """As a tensor, which a graph computes anew for every size."""
    new_steps, old_steps = (torch.scalar_tensor(n - 1, dtype=like.dtype, device=like.device) for n in (new, old))
    return new_steps / old_steps.clamp_min(1)


def coarsened(flow: Flow, factor: int) -> Flow:
    """The same deformation on the grid of `pooled`: averages over cubes, in voxels of the coarser grid.

    Args:
        flow: [batch, 3, D, H, W], voxels of its own grid.
        factor: Edge of the cubes.
    """
    if factor == 1:
        return flow
    return pooled(flow, factor) / _edges(flow, flow.shape[2:], factor)


def refined(flow: Flow, size: tuple[int, ...], factor: int) -> Flow:
    """The way back: a field on the grid that `pooled` makes of `size` voxels, on those voxels.

    The voxels of the coarser grid are centred in their cubes. A power of two is interpolated by halves, which rounds
    the corners that a single linear interpolation would leave: near to a quadratic B-spline.

    Args:
        flow: [batch, 3, ceil(D / factor), ...], voxels of its own grid.
        size: D, H, W.
        factor: Edge of the cubes.
    """
    if factor == 1:
        return flow
    ndim = len(size)
    found = flow * _edges(flow, size, factor)
    while factor > 1:
        part = 2 if factor % 2 == 0 else factor
        factor //= part
        wanted = [math.ceil(n / min(factor, n)) for n in size]
        found = F.interpolate(
            found, scale_factor=part, mode="trilinear" if ndim == 3 else "bilinear", align_corners=False
        )
        found = crop(found, wanted)
    return found.contiguous()


def _edges(flow: Flow, size: Sequence[int], factor: int) -> Flow:
    """Edge of the cubes along each axis, [1, 3, 1, 1, 1]."""
    edges = [float(min(factor, length)) for length in size]
    return flow.new_tensor(edges).view(1, -1, *[1] * len(edges))


def pooled(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Averaged over cubes of this edge: [batch, channels, D, H, W] -> [..., ceil(D / factor), ...].

    Axes shorter than the cube stay whole.
    """
    if factor == 1:
        return image
    average = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d
    kernel = [min(factor, length) for length in image.shape[2:]]
    if not symbolic(image.shape[2:]):
        return average(image, kernel, ceil_mode=True)
    found = average(pad_to_multiple(image, factor), kernel)
    for axis in range(2, image.ndim):  # the last cube may hold less
        first = torch.arange(found.shape[axis], device=image.device) * factor
        held = (image.shape[axis] - first).clamp_max(factor)
        found = found * along((factor / held).to(found.dtype), axis, found.ndim)
    return found


def smoothness(flow: Flow, *, penalty: str = "l2", image: Volume | None = None, backend: str | None = None) -> Scalar:
    """How rough a field is; lower is smoother.

    Args:
        flow: [batch, 3, D, H, W], voxels.
        penalty: "l2" (mean squared forward difference, averaged over the axes: VoxelMorph's), "l1" (absolute
            differences), "bending" (mean squared second derivatives, mixed ones twice: Rueckert et al. 1999), or
            "edge_aware" (|grad u| exp(-|grad image|): Shan et al. 2017).
        image: [batch, channels, D, H, W], only for "edge_aware"; its gradient is averaged over channels.
        backend: As in `fastreg.warp`, for "l2".

    Returns:
        A scalar (float64 for float64 input, otherwise float32). Axes of one voxel contribute 0.
    """
    ndim = check_flow("flow", flow)
    check_choice("penalty", penalty, PENALTIES)
    if (image is not None) != (penalty == "edge_aware"):
        raise ValueError(f"image is {'missing for' if image is None else 'not used by'} penalty {penalty!r}")
    if penalty == "l2":
        return smoothness_l2(flow, backend)
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
    if penalty == "bending":
        return _bending(flow)
    terms = []
    if image is not None:
        check_volume("image", image)
        check_same_device(flow=flow, image=image)
        if image.shape[0] != flow.shape[0] or image.shape[2:] != flow.shape[2:]:
            raise ValueError(f"image must lie on the grid of flow {shape(flow)}, got {shape(image)}")
    for axis in range(2, flow.ndim):
        difference = flow.diff(dim=axis).abs()
        if image is not None:
            difference = difference * torch.exp(-image.diff(dim=axis).abs().mean(1, keepdim=True))
        if difference.numel():
            terms.append(difference.mean())
    return sum(terms, flow.new_zeros(())) / ndim


def _bending(flow: Flow) -> Scalar:
    axes = range(2, flow.ndim)
    total = flow.new_zeros(())
    for first, second in itertools.combinations_with_replacement(axes, 2):
        derivative = flow.diff(n=2, dim=first) if first == second else flow.diff(dim=first).diff(dim=second)
        if derivative.numel():
            total = total + (1 if first == second else 2) * derivative.square().mean()
    return total


def jacobian_determinant(flow: Flow, *, scheme: str = "central", backend: str | None = None) -> torch.Tensor:
    """det(I + grad u) at every voxel: the local change of volume; <= 0 where the deformation folds.

    Args:
        flow: [batch, 3, D, H, W] or [batch, 2, H, W], voxels.
        scheme: "central" differences (one-sided at the border; [batch, D, H, W]), "forward" ([batch, D-1, H-1, W-1]),
            or "least": the smallest of the determinants of one-sided differences, forward or backward along each axis
            ([batch, D, H, W]); it has no gradient.
        backend: As in `fastreg.warp`, where no gradient is asked for.

    Raises:
        ValueError: an axis of one voxel, which has no derivative; a gradient of "least".
    """
    ndim = check_determinant(flow)
    check_choice("scheme", scheme, SCHEMES)
    if scheme == "forward":
        inside = [flow.shape[0], ndim, *[length - 1 for length in flow.shape[2:]]]
        return reference.determinant_of(tuple(_crop(flow.diff(dim=axis), inside) for axis in range(2, flow.ndim)))
    return determinant(flow, scheme, backend)


def _crop(field: torch.Tensor, size: list[int]) -> torch.Tensor:
    for axis, length in enumerate(size):
        field = field.narrow(axis, 0, length)
    return field
