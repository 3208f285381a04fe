"""Interpolation by a window of voxels about each place: what files are resampled with, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fastreg.backends import cpu, reference_window
from fastreg.ops.spline import bspline_coefficients, bspline_sum, warp_bspline
from fastreg.types import Flow, Volume


def lanczos(vol: Volume, flow: Flow) -> Volume:
    """`vol` at `p + flow(p)` by Lanczos' windowed sinc: see `fastreg.backends.reference_window.lanczos`.

    Args:
        vol: [1, 1, D, H, W] or [1, 1, H, W], finite.
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.

    Returns:
        [1, 1, D', H', W'] float32.
    """
    native = cpu.why_unavailable(vol, flow) is None
    return cpu.lanczos(vol, flow) if native else reference_window.lanczos(vol, flow)


def bspline(vol: Volume, flow: Flow) -> Volume:
    """`vol` at `p + flow(p)` by the cubic B-spline through its voxels: `fastreg.warp` with padding "itk", for files.

    Args:
        vol: [1, 1, D, H, W] or [1, 1, H, W], finite.
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.

    Returns:
        [1, 1, D', H', W'] float32; more than half a voxel outside of the image anything.
    """
    if cpu.why_unavailable(vol, flow) is None:
        return cpu.bspline(bspline_coefficients(vol), flow)
    return warp_bspline(vol.float(), flow, "itk", None)


def bspline_reader(coefficients: Volume) -> Callable[[Flow], Volume]:
    """What reads one spline time and again: `bspline` of coefficients, for one flow after the other.

    Args:
        coefficients: [1, 1, D, H, W] or [1, 1, H, W], float32, as of `fastreg.ops.spline.bspline_coefficients`.
    """
    if cpu.why_unavailable(coefficients) is not None:
        return lambda flow: bspline_sum(coefficients, flow)
    padded, size = cpu.mirrored(coefficients), tuple(coefficients.shape[2:])
    return lambda flow: cpu.bspline_of_mirrored(padded, size, flow)


def vote(ranks: torch.Tensor, flow: Flow) -> torch.Tensor:
    """The label that wins a Gaussian vote about `p + flow(p)`: see `fastreg.backends.reference_window.vote`.

    Args:
        ranks: [1, 1, D, H, W] or [1, 1, H, W] int32, from 0 on.
        flow: [1, 3, D', H', W'] or [1, 2, H', W'], voxels.

    Returns:
        [1, 1, D', H', W'] int32.
    """
    native = cpu.why_unavailable(ranks, flow) is None
    return cpu.vote(ranks, flow) if native else reference_window.vote(ranks, flow)
