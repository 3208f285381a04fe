"""TransMorph's layers and losses by their names and arguments, computed by fastreg.

    from fastreg.compat.transmorph import Grad3d, NCC_vxm, SpatialTransformer  # was: models.TransMorph, losses

Its checkpoints load as they are; no layer here holds a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastreg.compat._parzen import Gaussians, Smoothing, information
from fastreg.geometry.fields import smoothness
from fastreg.ops.integrate import integrate
from fastreg.ops.lncc import lncc
from fastreg.ops.warp import warp
from fastreg.types import Flow, Scalar, Volume
from fastreg.utils.checks import check_choice, check_whole, shape
from fastreg.utils.typed import call_of

_MODES = {"bilinear": "linear", "nearest": "nearest"}


class SpatialTransformer(nn.Module):
    """`models.TransMorph.SpatialTransformer`: an image moved by a field on its own grid, zero outside.

        moved = SpatialTransformer((160, 192, 224))(moving, flow)

    Args:
        size: D, H, W. Of no matter here.
        mode: "bilinear" or "nearest".
    """

    def __init__(self, size: Sequence[int], mode: str = "bilinear") -> None:
        super().__init__()
        check_choice("mode", mode, tuple(_MODES))
        self.size, self.mode = tuple(size), mode

    def forward(self, src: Volume, flow: Flow) -> Volume:
        """`src`: [batch, channels, D, H, W]; `flow`: [batch, 3, D, H, W], voxels.

        Raises:
            ValueError: a field on another grid, which TransMorph would stretch over the image.
        """
        if src.shape[2:] != flow.shape[2:]:
            raise ValueError(f"flow must lie on the grid of src {shape(src)}, got {shape(flow)}")
        return warp(src, flow, mode=_MODES[self.mode])

    __call__ = call_of(forward)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}grid", None)  # TransMorph keeps the identity here
        super()._load_from_state_dict(state_dict, prefix, *rest)


class VecInt(nn.Module):
    """Velocity to displacement by scaling and squaring, both in voxels.

        flow = VecInt((80, 96, 112), 7)(velocity)

    Args:
        inshape: D, H, W. Of no matter here.
        nsteps: Number of squarings.
    """

    def __init__(self, inshape: Sequence[int], nsteps: int) -> None:
        super().__init__()
        check_whole("nsteps", nsteps, 0)
        self.nsteps, self.scale = nsteps, 1.0 / 2**nsteps
        self.transformer = SpatialTransformer(inshape)

    def forward(self, vec: Flow) -> Flow:
        """`vec`: [batch, 3, D, H, W], voxels per unit time."""
        return integrate(vec, steps=self.nsteps)

    __call__ = call_of(forward)


class register_model(nn.Module):
    """`utils.register_model`: a `SpatialTransformer` that takes its two arguments as one list.

    Args:
        img_size: D, H, W. Of no matter here.
        mode: As in `SpatialTransformer`.
    """

    def __init__(self, img_size: Sequence[int] = (64, 256, 256), mode: str = "bilinear") -> None:
        super().__init__()
        self.spatial_trans = SpatialTransformer(img_size, mode)

    def forward(self, x: Sequence[torch.Tensor]) -> Volume:
        """`x`: image and flow, on the device where they are to be computed."""
        return self.spatial_trans(x[0], x[1])

    __call__ = call_of(forward)


class NCC_vxm(nn.Module):
    """`losses.NCC_vxm`: minus the mean squared local correlation, VoxelMorph's number.

        loss = NCC_vxm()(fixed, moved)

    Args:
        win: Edge lengths of the window in voxels, all alike and odd; 9 if None.

    Raises:
        ValueError: edges that differ, whose windows TransMorph pads on the wrong axes.
    """

    def __init__(self, win: Sequence[int] | None = None) -> None:
        super().__init__()
        if win is not None and len(set(win)) != 1:
            raise ValueError(f"win must be one length for all axes, got {list(win)}")
        self.win = win

    def forward(self, y_true: Volume, y_pred: Volume) -> Scalar:
        """`y_true`, `y_pred`: [batch, 1, D, H, W], or one axis fewer."""
        window = 9 if self.win is None else self.win[0]
        return -lncc(y_true, y_pred, window=window, eps=1e-5, definition="voxelmorph").to(y_pred.dtype)

    __call__ = call_of(forward)


NCC = NCC_vxm
"""`losses.NCC`: the same number, for arguments in either order."""


class Grad3d(nn.Module):
    """`losses.Grad3d`: the mean absolute or squared forward difference of a field.

        loss = Grad3d(penalty="l2")(flow, None)

    Args:
        penalty: "l1" or "l2".
        loss_mult: A factor.
    """

    def __init__(self, penalty: str = "l1", loss_mult: float | None = None) -> None:
        super().__init__()
        check_choice("penalty", penalty, ("l1", "l2"))
        self.penalty, self.loss_mult = penalty, loss_mult

    def forward(self, y_pred: Flow, y_true: torch.Tensor | None = None) -> Scalar:
        """`y_pred`: [batch, 3, D, H, W]; `y_true` is not looked at."""
        loss = smoothness(y_pred, penalty=self.penalty)
        return loss if self.loss_mult is None else loss * self.loss_mult

    __call__ = call_of(forward)


Grad = Grad3d
"""`losses.Grad`: of fields [batch, 2, H, W]."""


class MutualInformation(nn.Module):
    """`losses.MutualInformation`: minus the mutual information of Gaussian windows, in nats.

        loss = MutualInformation()(fixed, moved)

    Args:
        sigma_ratio: Of the Gaussians' sigma to the bins' distance.
        minval: The first bin.
        maxval: The last bin; intensities count from 0 to here.
        num_bin: Number of bins.
    """

    def __init__(self, sigma_ratio: float = 1, minval: float = 0.0, maxval: float = 1.0, num_bin: int = 32) -> None:
        super().__init__()
        check_whole("num_bin", num_bin, 2)
        self.maxval = maxval
        self.centres = torch.linspace(minval, maxval, num_bin, dtype=torch.float64)
        self.sigma = (maxval - minval) / (num_bin - 1) * sigma_ratio

    def forward(self, y_true: Volume, y_pred: Volume) -> Scalar:
        """`y_true`, `y_pred`: [batch, channels, D, H, W]; channels count as voxels."""
        weights = Gaussians(self.centres, self.sigma)
        true, pred = (image.clamp(0, self.maxval).flatten(1) for image in (y_true, y_pred))
        return -information(true, pred, (weights, weights), Smoothing(0.0, 1e-6, 1e-6)).mean()

    __call__ = call_of(forward)
