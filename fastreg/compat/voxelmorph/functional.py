"""VoxelMorph's functions of tensors without batch, `voxelmorph.spatial_transform` and so on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from fastreg.compat._theirs import names_of
from fastreg.compat.voxelmorph.nn import functional as batched
from fastreg.compat.voxelmorph.nn.functional import compose as compose

__getattr__ = names_of("voxelmorph.functional", "VoxelMorph")


def spatial_transform(
    image: Tensor,
    trf: Tensor | None,
    mode: str = "linear",
    isdisp: bool = True,
    meshgrid: Tensor | None = None,
    origin_at_center: bool = True,
    non_spatial_dims: Sequence[int] | None = None,
    align_corners: bool = True,
    padding_mode: str = "zeros",
) -> Tensor:
    """`nn.functional.spatial_transform` of an image [D, H, W]; `non_spatial_dims` (0,) for [channels, D, H, W]."""
    rest = isdisp, meshgrid, origin_at_center, non_spatial_dims, align_corners, padding_mode
    return batched.spatial_transform(image, trf, mode, *rest)


def integrate_vec(
    vec: Tensor,
    steps: int,
    meshgrid: Tensor | None = None,
    non_spatial_dims: Sequence[int] | None = None,
    scale: float | None = None,
    transformer: batched.Transformer | None = None,
) -> Tensor:
    """`nn.functional.integrate_vec` of a field [axes, D, H, W]."""
    return batched.integrate_vec(vec, steps, meshgrid, non_spatial_dims, scale, transformer)


def integrate_disp(
    disp: Tensor, steps: int, meshgrid: Tensor | None = None, non_spatial_dims: Sequence[int] | None = None
) -> Tensor:
    """The former name of `integrate_vec`."""
    warnings.warn("integrate_disp() is deprecated. Use integrate_vec() instead.", DeprecationWarning, stacklevel=2)
    return integrate_vec(disp, steps, meshgrid, non_spatial_dims)
