"""Cubic B-splines: the coefficients of an image, and their sum at any place, by the linear kernels of `fastreg.warp`.

Beyond the grid everything is mirrored about the centres of the outermost voxels, as in ITK and SciPy.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fastreg.backends.reference import FAR
from fastreg.ops._autograd import needs_reference, wants_grad
from fastreg.ops._resampled import resampled
from fastreg.types import Flow, Volume

_POLE = math.sqrt(3) - 2


def bspline_coefficients(vol: Volume) -> Volume:
    """The coefficients whose cubic B-spline passes through every voxel of `vol`.

    Unser's recursive filter, written as the matrix of each axis that it is: its ends are exact for axes of any length,
    and it is differentiable as it stands. In float64, which neither autocast nor TensorFloat-32 rounds.

    Args:
        vol: [batch, channels, D, H, W] or [batch, channels, H, W].

    Returns:
        Like `vol`, float32 (float64 for float64 input). Axes of one voxel stay.

    Source: Unser et al. 1993, "B-spline signal processing: part II".
    """
    found = vol.double()
    for axis in range(2, vol.ndim):
        matrix = _inverse(vol.shape[axis], vol.device)
        last = axis == vol.ndim - 1
        found = found @ matrix.T if last else (matrix @ found.flatten(axis + 1)).reshape(vol.shape)
    return found.to(torch.promote_types(vol.dtype, torch.float32))


def _inverse(length: int, device: torch.device) -> torch.Tensor:
    """[length, length] float64: of the matrix that takes coefficients to voxels, (1, 4, 1) / 6 with mirrored ends."""
    if length == 1:
        return torch.ones(1, 1, dtype=torch.float64, device=device)
    at = torch.arange(length, dtype=torch.float64, device=device)
    period = 2 * at[-1]
    steps = torch.stack([(at[:, None] - at).abs(), at[:, None] + at])  # from a voxel, and from its mirror image
    repeated = (_POLE**steps + _POLE ** (period - steps)) / (1 - _POLE**period)
    matrix = math.sqrt(3) * repeated.sum(0)
    matrix[:, [0, -1]] *= 0.5  # the outermost voxels are their own mirror images
    return matrix


def bspline_sum(coefficients: Volume, flow: Flow, *, backend: str | None = None) -> Volume:
    """The sum of cubic B-splines, one at every voxel of `coefficients`, at `p + flow(p)` for every p of the flow.

    Two of the four splines along an axis are one linear interpolation between their voxels: four (2-D) or eight (3-D)
    calls of the linear kernel do it.

    Args:
        coefficients: [batch, channels, D, H, W] or [batch, channels, H, W], any unit.
        flow: [batch, 3, D', H', W'] or [batch, 2, H', W'], in voxels of `coefficients`.
        backend: As in `fastreg.warp`.

    Returns:
        [batch, channels, D', H', W'] in the wider of the two dtypes. Differentiable in both arguments. NaN where the
        displacement is NaN.

    Source: Sigg and Hadwiger 2005, "Fast third-order texture filtering"; Ruijters et al. 2008.
    """
    axes = [_halves(flow[:, [axis]]) for axis in range(flow.shape[1])]
    # Who wants no gradient has one field that is overwritten: new memory costs more than the interpolation.
    differentiated = needs_reference(coefficients, flow) or wants_grad(coefficients) or wants_grad(flow)
    shared = None if differentiated else torch.empty_like(flow, memory_format=torch.contiguous_format)

    def summed(known: list[torch.Tensor]) -> Volume:
        """Over the splines of all axes but those whose displacements are known."""
        axis = len(known)
        if axis == len(axes):
            moved = torch.cat(known, 1) if shared is None else shared
            return resampled(coefficients, moved, "linear", "reflection", False, backend, None)
        *halves, share = axes[axis]
        sums = []
        for half in halves:
            if shared is not None:
                shared[:, [axis]] = half
            sums.append(summed([*known, half]))
        return torch.lerp(sums[0], sums[1], share.to(sums[0].dtype))

    return summed([])


def _halves(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a displacement along one axis: those of a place between the lower two of the four voxels about it and between
    the upper two, and the weight of the upper ones; the lower ones have the rest.

    The floor is taken of the displacement, as in the linear kernels, which add the point itself.
    """
    u = u.clamp(-FAR, FAR)
    floor = u.detach().floor()
    t = u - floor
    upper = ((1 / 2 - t / 3) * t + 1 / 2) * t + 1 / 6
    second, last = (t / 2 - 1) * t**2 + 2 / 3, t**3 / 6
    return floor - 1 + second / (1 - upper), floor + 1 + last / upper, upper


def warp_bspline(vol: Volume, flow: Flow, padding: str, backend: str | None) -> Volume:
    """`fastreg.warp` of checked arguments, channels first, with the mode "bspline"."""
    dtype = torch.promote_types(torch.promote_types(vol.dtype, flow.dtype), torch.float32)
    moved, share = [], torch.ones((), dtype=dtype, device=flow.device)
    for axis in range(flow.shape[1]):
        u, left = _led_inside(flow[:, [axis]].to(dtype), axis, vol.shape[2 + axis], padding)
        moved.append(u)
        share = share * left
    total = bspline_sum(bspline_coefficients(vol.to(dtype)), torch.cat(moved, 1), backend=backend)
    return (total * share).to(vol.dtype)


def _led_inside(u: torch.Tensor, axis: int, length: int, padding: str) -> tuple[torch.Tensor, torch.Tensor | float]:
    """What lies outside, as for linear: the displacement [batch, 1, *grid] that leads inside, and a factor.

    "reflection" needs neither, and "itk" reads the mirrored spline in the half voxel outside.
    """
    if padding == "reflection":
        return u, 1.0
    u = u.clamp(-FAR, FAR)
    points = torch.arange(u.shape[2 + axis], dtype=u.dtype, device=u.device)
    points = points.view([-1 if k == 2 + axis else 1 for k in range(u.ndim)])
    place = points + u
    if padding == "itk":
        near = (place >= -0.5) & (place < length - 0.5) | place.isnan()
        return torch.where(near, u, -points), near.to(u.dtype)
    if padding == "symmetric":
        turned = (place + 0.5).remainder(2 * length)
        inner = torch.minimum(turned, 2 * length - turned) - 0.5
    else:
        inner = place
    inner = inner.clamp(0, length - 1)
    # A place inside keeps its displacement: the sum with the point has rounded it.
    led = torch.where((place >= 0) & (place <= length - 1), u, inner - points)
    return led, (1 - (place - inner).abs()).clamp_min(0) if padding == "zeros" else 1.0


def bspline_at(coefficients: Volume, places: np.ndarray) -> np.ndarray:
    """The sum of cubic B-splines at single places, in float64: of an image, or of the control points of a transform.

    Beyond the grid the coefficients are mirrored; who wants another rule there puts it over the result.

    Args:
        coefficients: [1, channels, D, H, W] or [1, channels, H, W], not filtered.
        places: [N, 3] or [N, 2], in voxels of the coefficients; [D', H', W', 3] ([H', W', 2]) is faster.

    Returns:
        [N, channels] or [D', H', W', channels], float64.
    """
    ndim = coefficients.ndim - 2
    grid = places.shape[:-1] if places.ndim == ndim + 1 else (len(places), *[1] * (ndim - 1))
    flow = torch.from_numpy(np.moveaxis(places.reshape(*grid, ndim), -1, 0).astype(np.float64, order="C"))[None]
    for axis, length in enumerate(grid):
        flow[0, axis] -= torch.arange(length, dtype=torch.float64).view([-1 if k == axis else 1 for k in range(ndim)])
    total = bspline_sum(coefficients.double(), flow)
    return np.moveaxis(total[0].numpy(), 0, -1).reshape(*places.shape[:-1], coefficients.shape[1])
