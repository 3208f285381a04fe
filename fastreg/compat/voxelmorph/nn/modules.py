"""`voxelmorph.nn.modules`, and the losses of `neurite.nn.modules`, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastreg.compat.voxelmorph.nn import functional
from fastreg.types import Flow, Volume
from fastreg.utils.typed import call_of

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class SpatialTransformer(nn.Module):
    """An image moved by a field on its own grid, zero outside.

        moved = SpatialTransformer()(moving, field)

    Args:
        interpolation_mode: "linear" or "nearest".
        align_corners: As in `torch.nn.functional.grid_sample`; VoxelMorph's coordinates are those of True either way.
        device: No longer used, there as here.
    """

    def __init__(self, interpolation_mode: str = "linear", align_corners: bool = True, device: Any = None) -> None:
        super().__init__()
        self.interpolation_mode, self.align_corners = interpolation_mode, align_corners

    @property
    def moves_as_warp(self) -> bool:
        """Whether it is `fastreg.warp` and nobody watches: then integration need not call it."""
        return (
            type(self) is SpatialTransformer
            and self.interpolation_mode in _LINEAR.values()
            and self.align_corners
            and not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)
            and "forward" not in vars(self)
        )

    def forward(self, moving_image: Volume, deformation_field: Flow) -> Volume:
        """`moving_image`: [batch, channels, D, H, W]; `deformation_field`: [batch, 3, D, H, W], voxels."""
        assert moving_image.ndim >= 4, f"moving_image must be [batch, channels, ...], got {list(moving_image.shape)}"
        assert deformation_field.ndim == moving_image.ndim, (
            f"deformation_field must have as many axes as moving_image, {moving_image.ndim}, "
            f"got {deformation_field.ndim}"
        )
        return functional.spatial_transform(
            moving_image, deformation_field, self.interpolation_mode, align_corners=self.align_corners
        )

    __call__ = call_of(forward)


class IntegrateVelocityField(nn.Module):
    """The displacement of a stationary velocity field, by scaling and squaring.

        field = IntegrateVelocityField(steps=7)(velocity)

    Args:
        shape: No longer used, there as here.
        steps: Number of squarings.
        interpolation_mode: As in `SpatialTransformer`.
        align_corners: As in `SpatialTransformer`.
        device: No longer used.
    """

    def __init__(
        self,
        shape: Any = None,
        steps: int = 1,
        interpolation_mode: str = "linear",
        align_corners: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__()
        assert steps >= 0, f"steps must be >= 0, got {steps}"
        self.steps, self.scale = steps, 1.0 / 2**steps
        self.transformer = SpatialTransformer(interpolation_mode, align_corners)

    def forward(self, velocity_field: Flow) -> Flow:
        """`velocity_field`: [batch, 3, D, H, W], voxels per unit time."""
        return functional.integrate_vec(
            velocity_field, steps=self.steps, scale=self.scale, transformer=self.transformer
        )

    __call__ = call_of(forward)


class ResizeDisplacementField(nn.Module):
    """A field on another grid, its values with it.

    Args:
        scale_factor: Of the grid and of the values.
        interpolation_mode: "linear", or a mode of `torch.nn.functional.interpolate`.
        align_corners: As there.
    """

    def __init__(
        self, scale_factor: float = 1.0, interpolation_mode: str = "linear", align_corners: bool = True
    ) -> None:
        super().__init__()
        self.scale_factor, self.interpolation_mode = scale_factor, interpolation_mode
        self.align_corners = align_corners

    def forward(self, disp: Flow) -> Flow:
        """`disp`: [batch, axes, D, H, W], voxels."""
        mode = _LINEAR[disp.ndim - 2] if self.interpolation_mode == "linear" else self.interpolation_mode
        disp = disp * self.scale_factor
        return F.interpolate(disp, scale_factor=self.scale_factor, mode=mode, align_corners=self.align_corners)

    __call__ = call_of(forward)


class NCC(nn.Module):
    """`neurite.nn.modules.NCC`; arguments as in `functional.ncc`."""

    def __init__(
        self,
        window_size: int | Sequence[int] = 9,
        eps: float = 1e-5,
        reduction: str | None = "mean",
        reduction_dim: int | tuple[int, ...] = (0, 1),
        keepdims: bool = True,
    ) -> None:
        super().__init__()
        self.window_size, self.eps, self.reduction = window_size, eps, reduction
        self.reduction_dim, self.keepdims = reduction_dim, keepdims

    def forward(self, tensor1: Volume, tensor2: Volume) -> torch.Tensor:
        """`tensor1`, `tensor2`: [batch, channels, D, H, W]."""
        options = self.window_size, self.eps, self.reduction, self.reduction_dim, self.keepdims
        return functional.ncc(tensor1, tensor2, *options)

    __call__ = call_of(forward)


class SpatialGradient(nn.Module):
    """`neurite.nn.modules.SpatialGradient`; arguments as in `functional.spatial_gradient`."""

    def __init__(
        self,
        penalty: str = "l2",
        reduction: str | None = "mean",
        reduction_dim: int | tuple[int, ...] | None = None,
        keepdims: bool = False,
    ) -> None:
        super().__init__()
        self.penalty, self.reduction = penalty, reduction
        self.reduction_dim, self.keepdims = reduction_dim, keepdims

    def forward(self, input_tensor: Flow) -> Any:
        """`input_tensor`: [batch, channels, D, H, W]."""
        options = self.penalty, self.reduction, self.reduction_dim, self.keepdims
        return functional.spatial_gradient(input_tensor, *options)

    __call__ = call_of(forward)
