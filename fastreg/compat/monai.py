"""MONAI's registration layers by their names and arguments, computed by fastreg.

    from fastreg.compat.monai import DVF2DDF, LocalNormalizedCrossCorrelationLoss, Warp

What fastreg has no equal of (bicubic interpolation, jitter, MONAI's gaussian windows) is computed by MONAI's own class
where MONAI is installed, and otherwise refused. No number differs from MONAI's by more than rounding. `Register` and
`Registerd` are `fastreg.register` as transforms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastreg.compat._lncc import KERNELS, REDUCTIONS, check_alike, check_images, loss
from fastreg.compat._monai_register import Register as Register
from fastreg.compat._monai_register import Registerd as Registerd
from fastreg.compat._monai_register import Registered as Registered
from fastreg.compat._parzen import Boxes, Gaussians, Smoothing, Splines, Weights, information, spline_places
from fastreg.compat._theirs import plain, theirs
from fastreg.ops.integrate import integrate
from fastreg.ops.warp import warp
from fastreg.types import Flow, Scalar, Volume
from fastreg.utils.checks import check_choice, check_volume, check_whole, shape
from fastreg.utils.typed import call_of

_MODES = {"bilinear": "linear", "nearest": "nearest"}
_PADDINGS = ("zeros", "border", "reflection")


class Warp(nn.Module):
    """`monai.networks.blocks.Warp`: an image moved by a displacement field on its own grid.

        moved = Warp()(image, ddf)

    Args:
        mode: "bilinear" or "nearest"; "bicubic" and spline orders are MONAI's own.
        padding_mode: "border", "zeros" or "reflection"; bounds by number are MONAI's own.
        jitter: True is MONAI's own.

    Raises:
        ValueError: what only MONAI can do, where it is not installed.
    """

    def __init__(self, mode: Any = "bilinear", padding_mode: Any = "border", jitter: bool = False) -> None:
        super().__init__()
        mode, padding_mode = plain(mode), plain(padding_mode)
        self.mode, self.padding_mode, self.jitter = mode, padding_mode, jitter
        self.theirs: nn.Module | None = None
        for argument, value, equal in (
            ("mode", mode, tuple(_MODES)),
            ("padding_mode", padding_mode, _PADDINGS),
            ("jitter", jitter, (False,)),
        ):
            if value not in equal or type(value) is not type(equal[0]):
                own = theirs("monai.networks.blocks", "Warp", argument, " or ".join(map(str, equal)), value)
                self.theirs = own(mode, padding_mode, jitter)
                return

    def forward(self, image: Volume, ddf: Flow) -> Volume:
        """`image`: [batch, channels, H, W, D] or [batch, channels, H, W]; `ddf`: [batch, axes, ...], its grid, voxels.

        Raises:
            ValueError: a field of another shape.
        """
        if self.theirs is not None:
            moved: Volume = self.theirs(image, ddf)
            return moved
        ndim = check_volume("image", image)
        wanted = [image.shape[0], ndim, *image.shape[2:]]
        if list(ddf.shape) != wanted:
            raise ValueError(f"ddf must be {wanted} to match image {shape(image)}, got {shape(ddf)}")
        return warp(image, ddf, mode=_MODES[self.mode], padding=self.padding_mode)

    __call__ = call_of(forward)


class DVF2DDF(nn.Module):
    """`monai.networks.blocks.DVF2DDF`: the displacement of a stationary velocity field, by scaling and squaring.

        ddf = DVF2DDF()(velocity)

    Args:
        num_steps: Number of squarings, at least 1.
        mode: "bilinear"; others are steps of `Warp`.
        padding_mode: As in `Warp`.

    Raises:
        ValueError: no steps, or as `Warp`.
    """

    def __init__(self, num_steps: int = 7, mode: Any = "bilinear", padding_mode: Any = "zeros") -> None:
        super().__init__()
        check_whole("num_steps", num_steps, 1)
        self.num_steps = num_steps
        self.warp_layer = Warp(mode, padding_mode)

    def forward(self, dvf: Flow) -> Flow:
        """`dvf`: [batch, axes, H, W, D] or [batch, axes, H, W], voxels per unit time."""
        layer = self.warp_layer
        if layer.theirs is None and layer.mode == "bilinear":
            return integrate(dvf, steps=self.num_steps, padding=layer.padding_mode)
        ddf = dvf / 2**self.num_steps
        for _ in range(self.num_steps):
            ddf = ddf + layer(ddf, ddf)
        return ddf

    __call__ = call_of(forward)


class LocalNormalizedCrossCorrelationLoss(nn.Module):
    """`monai.losses.LocalNormalizedCrossCorrelationLoss`: minus the squared local correlation.

        loss = LocalNormalizedCrossCorrelationLoss(kernel_size=9)(moved, fixed)

    Args:
        spatial_dims: 1, 2 or 3.
        kernel_size: Edge of the window, odd.
        kernel_type: "rectangular", "triangular" or "gaussian". Beyond size 3 MONAI's gaussian windows are cut out of a
            longer one off its centre; those are MONAI's own.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the numerator.
        smooth_dr: Floor of the variances, summed over the window.

    Raises:
        ValueError: an option that does not exist, or that only MONAI has where it is not installed.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        kernel_size: int = 3,
        kernel_type: str = "rectangular",
        reduction: Any = "mean",
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
    ) -> None:
        super().__init__()
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
        reduction = plain(reduction)
        check_choice("kernel_type", kernel_type, tuple(KERNELS))
        check_choice("reduction", reduction, REDUCTIONS)
        check_whole("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.ndim, self.kernel_size, self.kernel_type = spatial_dims, kernel_size, kernel_type
        self.reduction, self.smooth_nr, self.smooth_dr = reduction, float(smooth_nr), float(smooth_dr)
        self.theirs: nn.Module | None = None
        if kernel_type == "gaussian" and kernel_size > 3:
            name = "LocalNormalizedCrossCorrelationLoss"
            own = theirs("monai.losses", name, "kernel_size of kernel_type 'gaussian'", "at most 3", kernel_size)
            self.theirs = own(spatial_dims, kernel_size, kernel_type, reduction, smooth_nr, smooth_dr)

    def forward(self, pred: Volume, target: Volume) -> Scalar | Volume:
        """`pred`, `target`: [batch, channels, H, W, D], or as many axes as `spatial_dims` says.

        Raises:
            ValueError: other shapes.
        """
        check_images(pred, target, self.ndim)
        if self.theirs is not None:
            found: Scalar = self.theirs(pred, target)
            return found
        return loss(
            pred, target, self.kernel_size, self.kernel_type, self.reduction,
            definition="monai", eps=self.smooth_dr, num_eps=self.smooth_nr,
        )  # fmt: skip

    __call__ = call_of(forward)


class GlobalMutualInformationLoss(nn.Module):
    """`monai.losses.GlobalMutualInformationLoss`: minus the mutual information, in nats.

        loss = GlobalMutualInformationLoss(num_bins=32)(moved, fixed)

    The same number in less memory: MONAI holds the weights of all bins for all voxels, here they pass by slices.

    Args:
        kernel_type: "gaussian" (both images; intensities from 0 to 1, what lies outside counts as 0 or 1), or
            "b-spline" (cubic for `pred`, boxes for `target`, which has no gradient; any intensities).
        num_bins: Number of bins.
        sigma_ratio: Of the Gaussians' sigma to the bins' width.
        reduction: "mean" over the batch, "sum" or "none".
        smooth_nr: Added to the joint histogram.
        smooth_dr: Added to the product of the margins, and to their ratio.

    Raises:
        ValueError: an option that does not exist.
    """

    def __init__(
        self,
        kernel_type: str = "gaussian",
        num_bins: int = 23,
        sigma_ratio: float = 0.5,
        reduction: Any = "mean",
        smooth_nr: float = 1e-7,
        smooth_dr: float = 1e-7,
    ) -> None:
        super().__init__()
        reduction = plain(reduction)
        check_choice("kernel_type", kernel_type, ("gaussian", "b-spline"))
        check_choice("reduction", reduction, REDUCTIONS)
        check_whole("num_bins", num_bins, 1)
        self.kernel_type, self.num_bins, self.sigma_ratio = kernel_type, num_bins, sigma_ratio
        self.reduction, self.smooth_nr, self.smooth_dr = reduction, float(smooth_nr), float(smooth_dr)

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`pred`, `target`: [batch, ...] of one shape; channels count as voxels. A scalar, or [batch] unreduced.

        Raises:
            ValueError: shapes that differ.
        """
        check_alike(pred, target)
        smoothing = Smoothing(self.smooth_nr, self.smooth_dr, self.smooth_dr)
        if self.kernel_type == "b-spline":
            weights: tuple[Weights, Weights] = Splines(self.num_bins), Boxes(self.num_bins)
            places = spline_places(pred, self.num_bins), spline_places(target, self.num_bins)
        else:
            centres = torch.linspace(0, 1, self.num_bins, dtype=torch.float64)
            one = Gaussians(centres, self.sigma_ratio / (self.num_bins - 1))
            weights, places = (one, one), (pred.clamp(0, 1), target.clamp(0, 1))
        value = -information(places[0].flatten(1), places[1].flatten(1), weights, smoothing)
        return value.mean() if self.reduction == "mean" else value.sum() if self.reduction == "sum" else value

    __call__ = call_of(forward)
