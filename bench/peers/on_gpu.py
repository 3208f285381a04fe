"""What only the benchmark of a GPU asks: VoxelMorph's ops by their formulas, for a machine that lacks the package, and
a package that has nothing for the CPU.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Function, Implementation, Options
from bench.peers.fields import differences
from bench.peers.packages import module

VOXELMORPH = "VoxelMorph (its formula)"
FUSED_LNCC = "fused-lncc"


def identity_grid(size: tuple[int, ...], device: str | torch.device) -> Tensor:
    """[1, 3, D, H, W], voxels."""
    axes = torch.meshgrid(*[torch.arange(n, device=device).float() for n in size], indexing="ij")
    return torch.stack(axes)[None]


def voxelmorph_warp(vol: Tensor, flow: Tensor, grid: Tensor) -> Tensor:
    """VoxelMorph's SpatialTransformer, by its formula."""
    place = grid + flow
    place = torch.stack([2 * (place[:, k] / (n - 1) - 0.5) for k, n in enumerate(vol.shape[2:])], -1)
    return F.grid_sample(vol, place[..., [2, 1, 0]].to(vol.dtype), align_corners=True, mode="bilinear")


def voxelmorph_ncc(a: Tensor, b: Tensor, window: int) -> Tensor:
    """VoxelMorph's NCC, by its formula: five dense convolutions."""
    ones, pad = torch.ones(1, 1, window, window, window, device=a.device, dtype=a.dtype), window // 2

    def total(x: Tensor) -> Tensor:
        return F.conv3d(x, ones, padding=pad)

    a, b = a.flatten(0, 1)[:, None], b.flatten(0, 1)[:, None]
    n = window**3
    sum_a, sum_b = total(a), total(b)
    cross = total(a * b) - sum_a * sum_b / n
    return (cross**2 / ((total(a * a) - sum_a**2 / n) * (total(b * b) - sum_b**2 / n) + 1e-5)).mean()


def _with_grid(*inputs: Tensor) -> tuple[Tensor, ...]:
    """SpatialTransformer keeps its grid: its users have it ready."""
    return *inputs, identity_grid(tuple(inputs[-1].shape[2:]), inputs[-1].device)


def _integrate(options: Options) -> Function:
    def run(velocity: Tensor, grid: Tensor) -> Tensor:
        v = velocity / 2**options.steps
        for _ in range(options.steps):
            v = v + voxelmorph_warp(v, v, grid)
        return v

    return run


def _fused_lncc(options: Options) -> Function:
    """Its gradient goes to its first argument."""
    return partial(module("fused_lncc").fused_lncc_loss, kernel_size=options.window)


ON_GPU = {
    "warp": (Implementation(VOXELMORPH, lambda options: voxelmorph_warp, _with_grid),),
    "lncc": (
        Implementation(VOXELMORPH, lambda o: lambda a, b: voxelmorph_ncc(a, b, o.window), definition="voxelmorph"),
        Implementation(FUSED_LNCC, _fused_lncc),
    ),
    "integrate": (Implementation(VOXELMORPH, _integrate, _with_grid),),
    "smoothness": (Implementation(VOXELMORPH, lambda options: differences),),
    "mind": (),
    "correlate": (),
}
"""Op -> who else does it there."""
