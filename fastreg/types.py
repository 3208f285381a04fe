"""Names for the arrays that pass through fastreg, and the choices that ops, losses and kernels share.

Shapes are written for 3-D; a 2-D problem drops D. Displacements are in voxels, in array order (D, H, W):
``moved(p) = moving(p + flow(p))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch

Volume: TypeAlias = torch.Tensor
"""[batch, channels, D, H, W], any intensity unit."""
Flow: TypeAlias = torch.Tensor
"""[batch, 3, D, H, W], displacement in voxels, channel c along array axis c."""
Mask: TypeAlias = torch.Tensor
"""[batch, 1 or channels, D, H, W], weights, usually 0 and 1."""
Scalar: TypeAlias = torch.Tensor
"""A tensor without axes."""

MODES = ("linear", "nearest")
"""Of the kernels."""
WARP_MODES = (*MODES, "bspline")
"""Of `fastreg.warp`."""
PADDINGS = ("zeros", "border", "reflection", "symmetric", "itk")
MEASURES = ("dot", "ssd")
"""Of `fastreg.correlate`."""
KERNELS = ("box", "triangular", "gaussian")


class RegistrationOutput(NamedTuple):
    """What a network or an optimisation found. Tensors are [batch, ...] on the fixed image's grid."""

    moved: Volume
    """The moving image resampled by `flow`."""
    flow: Flow
    """Displacement in voxels: moved(p) = moving(p + flow(p))."""
    velocity: Flow | None = None
    """The stationary velocity field behind `flow`, on its own, coarser grid."""
    inverse_flow: Flow | None = None
    moved_back: Volume | None = None
    """The fixed image resampled by `inverse_flow`."""
    log_variance: Flow | None = None
    """Logarithm of the variance of every component of `velocity`, from networks that say how sure they are; `velocity`
    is then the mean."""
    region: Volume | None = None
    """[batch, 1, ...], log odds that a voxel of the fixed image lies in the region of interest, from networks that say
    so."""


@dataclass(frozen=True)
class LnccForm:
    """The one form that covers every published local correlation (docs/math.md).

    With window sums S, n voxels a window, c = S_ab - S_a S_b / n and v_a = S_aa - S_a^2 / n:
    ``cc = (c^2 + num_eps) / (a b + den_eps)`` where a, b are the floored variances.
    """

    window: tuple[int, ...]
    """Edge lengths in voxels along (D, H, W)."""
    floor: str = "none"
    """Variances: "none" as they are, "max" max(v, floor_eps), "add" max(v, 0) + floor_eps."""
    floor_eps: float = 0.0
    den_eps: float = 0.0
    num_eps: float = 0.0
    cross_floor: bool = False
    """c <- max(c, floor_eps), as VoxelMorph's TensorFlow code has it."""
    mean: bool = False
    """c, v_a and v_b are divided by n."""
    count: bool = False
    """n counts the voxels of the window inside the image; otherwise n = window^ndim and the outside reads zero."""
    flat_eps: float = -1.0
    """Where |v_a v_b| <= flat_eps the value is `flat`; negative: no such rule."""
    flat: float = 0.0
    clamp: bool = False
    """cc <- min(cc, 1)."""
    squared: bool = True
    """Otherwise ``cc = (c + num_eps) / (sqrt(a b) + den_eps)``."""
    kernel: str = "box"
    """How the window weighs its voxels: one of `KERNELS`; n is the sum of the weights. Others than "box" are the
    reference backend's alone."""
    sigma: tuple[float, ...] = ()
    """Of the kernel "gaussian", in voxels along (D, H, W)."""
