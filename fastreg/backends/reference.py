"""The specification: every op in plain PyTorch, any dtype, any device. Slow, and right.

The other backends are tested against this module in float64. `warp` and `lncc` here are differentiable as they
stand; the `*_backward` functions are the same derivatives written out, so that the two check each other.
"""

from __future__ import annotations

import itertools

import torch

from fastreg.backends.reference_correlate import correlate as correlate
from fastreg.backends.reference_correlate import correlate_backward as correlate_backward
from fastreg.backends.reference_correlate import correlate_forward as correlate_forward
from fastreg.backends.reference_fields import adam_step as adam_step
from fastreg.backends.reference_fields import determinant as determinant
from fastreg.backends.reference_fields import determinant_of as determinant_of
from fastreg.backends.reference_fields import penalty as penalty
from fastreg.backends.reference_fields import smoothed_update as smoothed_update
from fastreg.backends.reference_fields import smoothness as smoothness
from fastreg.backends.reference_fields import volume as volume
from fastreg.backends.reference_lncc import lncc as lncc
from fastreg.backends.reference_lncc import lncc_map as lncc_map
from fastreg.backends.reference_mind import mind as mind
from fastreg.backends.reference_mind import mind_backward as mind_backward
from fastreg.backends.reference_mind import mind_pairs as mind_pairs
from fastreg.types import Flow, Volume

# Displacements beyond this are outside every image; the clamp keeps them, and infinities, integers.
FAR = 2.0**30


def why_unavailable(*tensors: torch.Tensor) -> str | None:
    """None: it runs everything."""
    return None


# ---------------------------------------------------------------- warp


def _work_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Coordinates and weights: float64 for float64 input, float32 for everything else."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _source(index: torch.Tensor, size: int, padding: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The voxel that `index` reads on an axis of `size` voxels, and where it is inside (None: everywhere)."""
    if padding == "zeros":
        return index.clamp(0, size - 1), (index >= 0) & (index < size)
    if padding in ("border", "itk"):
        return index.clamp(0, size - 1), None
    if padding == "symmetric":  # about the edges of the first and last voxel
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index), None
    period = max(2 * (size - 1), 1)  # reflection about the centres of the first and last voxel
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index), None


def _points(u: torch.Tensor, axis: int, absolute: bool) -> torch.Tensor:
    """The grid's points on one axis of a component [batch, *grid] that displaces them; 0 if it says where they go."""
    shape = [1] * u.ndim
    shape[1 + axis] = -1
    points = torch.arange(u.shape[1 + axis], device=u.device).view(shape)
    return torch.zeros_like(points) if absolute else points


def whole_and_fraction(flow: Flow, axis: int, absolute: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel index and fraction of grid point + displacement on one axis, or, if `absolute`, of the place that is given.

    The floor is taken of the displacement alone: the sum with a large index would round the fraction.
    """
    u = flow[:, axis]
    grid = _points(u, axis, absolute)
    floor = torch.floor(u.detach()).nan_to_num(0.0).clamp(-FAR, FAR)
    fraction = torch.where(u.detach().abs() < FAR, u - floor, 0.0 * u.detach().nan_to_num(0.0, 0.0, 0.0))
    return grid + floor.long(), fraction


def _nearest(flow: Flow, axis: int, size: int, padding: str, absolute: bool) -> torch.Tensor:
    """Index of the nearest voxel, ties to even; outside of the image where `padding` reads zero."""
    u = flow[:, axis]
    place = _points(u, axis, absolute).to(u.dtype) + u
    if padding == "itk":
        place = torch.where((place >= -0.5) & (place < size - 0.5), place.round().clamp(0, size - 1), -1.0)
    if padding == "symmetric":  # before it is rounded: a tie is the same voxel on either side of an edge
        turned = (place + 0.5).remainder(2 * size)
        turned = torch.minimum(turned, 2 * size - turned) - 0.5
        place = torch.where(place.abs() < FAR, turned.round().clamp(0, size - 1), place)
    return torch.round(place).nan_to_num(0.0).clamp(-FAR, FAR).long()


def _half_a_voxel(split: list[tuple[torch.Tensor, torch.Tensor]], size: tuple[int, ...]) -> torch.Tensor:
    """[batch, points], where no coordinate is more than half a voxel outside."""
    inside = torch.ones_like(split[0][0], dtype=torch.bool)
    for (index, t), length in zip(split, size, strict=True):
        inside = inside & ((index >= 0) | ((index == -1) & (t >= 0.5)))
        inside = inside & ((index < length - 1) | ((index == length - 1) & (t < 0.5)))
    return inside.flatten(1)


def linear_index(corner: list[torch.Tensor], size: tuple[int, ...], padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index of a corner in the volume, and 1 where it is inside, else 0. Both [batch, points]."""
    flat = torch.zeros_like(corner[0])
    inside = torch.ones_like(corner[0], dtype=torch.bool)
    for index, length in zip(corner, size, strict=True):
        index, ok = _source(index, length, padding)
        flat = flat * length + index
        if ok is not None:
            inside = inside & ok
    return flat.flatten(1), inside.flatten(1)


def _gather(vol: Volume, flat: torch.Tensor) -> torch.Tensor:
    """[batch, channels, points]"""
    return vol.flatten(2).gather(2, flat[:, None].expand(-1, vol.shape[1], -1))


def _prepare(vol: Volume, flow: Flow, channels_last: bool, align_corners: bool | None) -> tuple[Volume, Flow]:
    """Both in the dtype of the computation; the flow's channels first, in voxels."""
    dtype = _work_dtype(vol, flow)
    vol, flow = vol.to(dtype), (flow.movedim(-1, 1) if channels_last else flow).to(dtype)
    if align_corners is not None:
        half = half_extents(vol, align_corners)
        centre = half_extents(vol, True)
        flow = torch.stack([flow[:, -1 - k] * half[k] + centre[k] for k in range(len(half))], 1)
    return vol, flow


def half_extents(vol: Volume, align_corners: bool) -> list[float]:
    """Half of what the coordinates of `fastreg.grid_sample` from -1 to 1 span on each axis, in voxels."""
    return [(length - align_corners) / 2 for length in vol.shape[2:]]


def warp(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> Volume:
    """See `fastreg.warp`. Differentiable by autograd, forward-mode and torch.func. A batch of 1 goes with any other.

    Unless `align_corners` is None the flow is the grid of `fastreg.grid_sample`.
    """
    dtype, absolute = vol.dtype, align_corners is not None
    vol, flow = _prepare(vol, flow, channels_last, align_corners)
    batch = flow.shape[0] if vol.shape[0] == 1 else vol.shape[0]
    vol, flow = vol.expand(batch, *vol.shape[1:]), flow.expand(batch, *flow.shape[1:])
    size, grid = tuple(vol.shape[2:]), tuple(flow.shape[2:])
    ndim = len(size)
    is_nan = flow.detach().isnan().any(1).flatten(1)[:, None]  # NaN coordinate -> NaN there and only there
    if mode == "nearest":
        voxels = [_nearest(flow, axis, size[axis], padding, absolute) for axis in range(ndim)]
        flat, inside = linear_index(voxels, size, "zeros" if padding == "itk" else padding)
        out = torch.where(inside[:, None], _gather(vol, flat), 0.0)
    else:
        split = [whole_and_fraction(flow, axis, absolute) for axis in range(ndim)]
        near = _half_a_voxel(split, size) if padding == "itk" else True
        out = vol.new_zeros(())
        for corner in itertools.product((0, 1), repeat=ndim):
            flat, inside = linear_index([split[k][0] + corner[k] for k in range(ndim)], size, padding)
            weight = torch.ones_like(split[0][1])
            for k in range(ndim):
                weight = weight * (split[k][1] if corner[k] else 1 - split[k][1])
            weight = weight.flatten(1)[:, None]
            inside = inside & near
            value = _gather(vol, flat)
            # A NaN voxel must not reach a neighbour whose weight for it is 0.
            value = torch.where(inside[:, None] & ((weight.detach() != 0) | value.isfinite()), value, 0.0)
            out = out + weight * value
    out = torch.where(is_nan, torch.full_like(out, float("nan")), out)
    return out.reshape(*vol.shape[:2], *grid).to(dtype)


def warp_forward(
    vol: Volume, flow: Flow, mode: str, padding: str, channels_last: bool, align_corners: bool | None = None
) -> Volume:
    """`warp`, as the ops call it."""
    return warp(vol, flow, mode, padding, channels_last, align_corners)


def warp_backward(
    grad: Volume,
    vol: Volume,
    flow: Flow,
    mode: str,
    padding: str,
    channels_last: bool,
    need_vol: bool,
    need_flow: bool,
    align_corners: bool | None = None,
) -> tuple[Volume | None, Flow | None]:
    """Gradients of sum(grad * warp(vol, flow)). At integer coordinates the slope is the right-hand difference."""
    vol_dtype, flow_dtype, shared = vol.dtype, flow.dtype, vol.shape[0] != flow.shape[0]
    vol, flow = _prepare(vol, flow, channels_last, align_corners)
    absolute = align_corners is not None
    vol = vol.expand(flow.shape[0], *vol.shape[1:])
    size, ndim = tuple(vol.shape[2:]), vol.ndim - 2
    is_nan = flow.isnan().any(1).flatten(1)[:, None]
    upstream = grad.to(vol.dtype).flatten(2)
    scattered = torch.where(is_nan, 0.0, upstream)
    grad_vol = torch.zeros_like(vol).flatten(2)
    grad_flow = torch.zeros_like(flow).flatten(2)
    if mode == "nearest":
        voxels = [_nearest(flow, axis, size[axis], padding, absolute) for axis in range(ndim)]
        flat, inside = linear_index(voxels, size, "zeros" if padding == "itk" else padding)
        grad_vol.scatter_add_(2, flat[:, None].expand_as(upstream), torch.where(inside[:, None], scattered, 0.0))
    else:
        split = [whole_and_fraction(flow, axis, absolute) for axis in range(ndim)]
        near = _half_a_voxel(split, size) if padding == "itk" else True
        for corner in itertools.product((0, 1), repeat=ndim):
            flat, inside = linear_index([split[k][0] + corner[k] for k in range(ndim)], size, padding)
            inside = inside & near
            factors = [(split[k][1] if corner[k] else 1 - split[k][1]).flatten(1)[:, None] for k in range(ndim)]
            weight = torch.stack(factors).prod(0) * inside[:, None]
            if need_vol:
                grad_vol.scatter_add_(2, flat[:, None].expand_as(upstream), weight * scattered)
            if need_flow:
                value = torch.where(inside[:, None], _gather(vol, flat), 0.0) * upstream
                for k in range(ndim):
                    slope = torch.ones_like(weight) if corner[k] else -torch.ones_like(weight)
                    for other in range(ndim):
                        if other != k:
                            slope = slope * factors[other]
                    grad_flow[:, k] += (slope * value).sum(1)
        grad_flow = torch.where(is_nan, float("nan"), grad_flow)
    grad_flow = grad_flow.reshape(flow.shape)
    if align_corners is not None:
        half = half_extents(vol, align_corners)
        grad_flow = torch.stack([grad_flow[:, k] * half[k] for k in reversed(range(ndim))], 1)
    if channels_last:
        grad_flow = grad_flow.movedim(1, -1).contiguous()
    grad_vol = grad_vol.reshape(vol.shape)
    if shared:
        grad_vol = grad_vol.sum(0, keepdim=True)
    return (
        grad_vol.to(vol_dtype) if need_vol else None,
        grad_flow.to(flow_dtype) if need_flow else None,
    )


# ---------------------------------------------------------------- integration


def integrate_forward(velocity: Flow, steps: int, padding: str, need_grad: bool) -> tuple[Flow, torch.Tensor]:
    """Scaling and squaring: v / 2^steps, then `steps` times v <- v + v o (id + v). Also every v on the way."""
    v = velocity.to(_work_dtype(velocity)) / 2**steps
    saved = []
    for _ in range(steps):
        saved.append(v)
        v = v + warp(v, v, "linear", padding, False)
    kept = torch.stack(saved) if saved and need_grad else velocity.new_empty((0,))
    return v.to(velocity.dtype), kept


def integrate_saved_like(velocity: Flow, steps: int, need_grad: bool) -> torch.Tensor:
    """An empty tensor like the second result of `integrate_forward`."""
    if not need_grad or steps == 0:
        return velocity.new_empty((0,))
    return velocity.new_empty((steps, *velocity.shape), dtype=_work_dtype(velocity))


def integrate_backward(grad: Flow, velocity: Flow, saved: torch.Tensor, steps: int, padding: str) -> Flow:
    """Gradient to the velocity, through the fields that the forward kept."""
    total = grad.to(_work_dtype(velocity))
    for v in reversed(list(saved)):
        grad_vol, grad_flow = warp_backward(total, v, v, "linear", padding, False, True, True)
        assert grad_vol is not None and grad_flow is not None
        total = total + grad_vol + grad_flow
    return (total / 2**steps).to(velocity.dtype)
