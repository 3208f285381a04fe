"""FireANTs' losses by their names and arguments, computed by fastreg.

    from fastreg.compat.fireants import LocalNormalizedCrossCorrelationLoss  # was: from fireants.losses.cc

With `masked` the last channel of both images is their mask, as FireANTs has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from fastreg.backends.lncc_form import lncc_form, window_weights
from fastreg.compat._lncc import KERNELS, REDUCTIONS, check_alike, check_images, loss
from fastreg.compat._parzen import Gaussians, Smoothing, Splines, Weights, information, spline_places
from fastreg.compat._theirs import theirs
from fastreg.types import Mask, Scalar, Volume
from fastreg.utils.checks import check_choice, check_whole, shape
from fastreg.utils.typed import call_of

_MASK_MODES = ("mult", "max")


class LocalNormalizedCrossCorrelationLoss(nn.Module):
    """`fireants.losses.cc.LocalNormalizedCrossCorrelationLoss`: minus the local correlation.

        loss = LocalNormalizedCrossCorrelationLoss(kernel_size=5)(moved, fixed)

    Args:
        spatial_dims: 1, 2 or 3.
        kernel_size: Edge of the window, odd; or one for each scale (`set_scales`).
        kernel_type: "rectangular", "triangular" or "gaussian". Beyond size 3 FireANTs' gaussian windows are cut out of
            a longer one off its centre; those are FireANTs' own.
        reduction: "mean", "sum" or "none".
        smooth_nr: Added to the numerator.
        smooth_dr: Floor of the variances, averaged over the window, and added to the denominator.
        unsigned: The square of the correlation, otherwise the correlation.
        use_separable_override: No matter here.
        checkpointing: No matter here: the gradient is made in the same sweep.
        masked: The last channel is a mask.
        mask_mode: "mult" (the product of the two masks) or "max".

    Raises:
        ValueError: an option that does not exist, or that only FireANTs has where it is not installed.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        kernel_size: int | Sequence[int] = 3,
        kernel_type: str = "rectangular",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        unsigned: bool = True,
        use_separable_override: bool = True,
        checkpointing: bool = False,
        masked: bool = False,
        mask_mode: str = "mult",
    ) -> None:
        super().__init__()
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
        check_choice("kernel_type", kernel_type, tuple(KERNELS))
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("mask_mode", mask_mode, _MASK_MODES)
        self.ndim, self.kernel_type, self.unsigned = spatial_dims, kernel_type, unsigned
        self.reduction, self.masked, self.mask_mode = reduction, masked, mask_mode
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)
        self.kernel_size_list = None if isinstance(kernel_size, int) else kernel_size
        self.scales: Sequence[float] | None = None
        self.iterations: Sequence[int] | None = None
        for size in (kernel_size,) if isinstance(kernel_size, int) else reversed(kernel_size):
            self._update_kernel(size)

    def _update_kernel(self, size: int) -> None:
        """The window of `size` voxels, and its weights as FireANTs' attributes have them: they add up to 1."""
        check_whole("kernel_size", size, 1)
        if size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {size}")
        self.kernel_size = size
        self.theirs: nn.Module | None = None
        if self.kernel_type == "gaussian" and size > 3:
            name = "LocalNormalizedCrossCorrelationLoss"
            own = theirs("fireants.losses.cc", name, "kernel_size of kernel_type 'gaussian'", "at most 3", size)
            options = self.ndim, size, self.kernel_type, "none" if self.masked else self.reduction
            self.theirs = own(*options, self.smooth_nr, self.smooth_dr, self.unsigned)
        form = lncc_form("fireants", (size,), self.smooth_dr, kernel=KERNELS[self.kernel_type])
        weights = torch.tensor(window_weights(form)[0])
        self.kernel = weights / weights.sum()
        self.kernel_nd = self.kernel
        for _ in range(self.ndim - 1):
            self.kernel_nd = self.kernel_nd[..., None] * self.kernel
        self.kernel_vol = self.kernel_nd.sum()

    def set_scales(self, scales: Sequence[float]) -> None:
        """The factors of a pyramid, one for each of `kernel_size`'s.

        Raises:
            AssertionError: another number of them, FireANTs' kind of error.
        """
        if self.kernel_size_list and len(self.kernel_size_list) != len(scales):
            raise AssertionError(
                f"kernel_size_list must have the same length as scales, {len(scales)}, got {len(self.kernel_size_list)}"
            )
        self.scales = scales

    def set_iterations(self, iterations: Sequence[int]) -> None:
        """The iterations of each scale, which only stand here."""
        self.iterations = iterations

    def set_current_scale_and_iterations(self, scale: float, iters: int) -> None:
        """Takes the window of this scale."""
        if self.kernel_size_list and self.scales is not None:
            self._update_kernel(self.kernel_size_list[list(self.scales).index(scale)])

    def get_image_padding(self) -> int:
        """Voxels that a window reaches beyond its centre."""
        return (self.kernel_size - 1) // 2

    def forward(self, pred: Volume, target: Volume) -> Scalar | Volume:
        """`pred`, `target`: [batch, channels, D, H, W], or as many axes as `spatial_dims` says.

        Raises:
            ValueError: other shapes.
        """
        check_images(pred, target, self.ndim)
        if not self.masked:
            return self._loss(pred, target, self.reduction)
        pred, target, mask = _without_mask(pred, target, self.mask_mode)
        return _over_mask(self._loss(pred, target, "none"), mask, self.reduction)

    __call__ = call_of(forward)

    def _loss(self, pred: Volume, target: Volume, reduction: str) -> Scalar | Volume:
        if self.theirs is not None:
            found: Scalar = self.theirs(pred, target)
            return found
        return loss(
            pred, target, self.kernel_size, self.kernel_type, reduction,
            definition="fireants", eps=self.smooth_dr, num_eps=self.smooth_nr, squared=self.unsigned,
        )  # fmt: skip


class GlobalMutualInformationLoss(nn.Module):
    """`fireants.losses.mi.GlobalMutualInformationLoss`: minus the mutual information, in nats, channel by channel.

        loss = GlobalMutualInformationLoss("b-spline", num_bins=32)(moved, fixed)

    The same number in less memory: the weights of the bins pass by slices. Intensities above 1 are divided by the
    greatest of both images.

    Args:
        kernel_type: "gaussian" (intensities from 0 to 1) or "b-spline" (cubic for both images).
        num_bins: Number of bins.
        sigma_ratio: Of the Gaussians' sigma to half the bins' width.
        reduction: "mean" over batch and channels, "sum", or "none": [batch, channels].
        smooth_nr: Added to the joint histogram.
        smooth_dr: Added to the product of the margins, and to their ratio.
        masked: The last channel is a mask; voxels where it is at least a half count.
        mask_mode: "mult" (the product of the two masks) or "max".

    Raises:
        ValueError: an option that does not exist.
    """

    def __init__(
        self,
        kernel_type: str = "gaussian",
        num_bins: int = 32,
        sigma_ratio: float = 1.0,
        reduction: str = "mean",
        smooth_nr: float = 1e-7,
        smooth_dr: float = 1e-7,
        masked: bool = False,
        mask_mode: str = "mult",
    ) -> None:
        super().__init__()
        check_choice("kernel_type", kernel_type, ("gaussian", "b-spline"))
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("mask_mode", mask_mode, _MASK_MODES)
        check_whole("num_bins", num_bins, 1)
        self.kernel_type, self.num_bins, self.sigma_ratio, self.reduction = (
            kernel_type,
            num_bins,
            sigma_ratio,
            reduction,
        )
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)
        self.masked, self.mask_mode = masked, mask_mode

    def get_image_padding(self) -> int:
        """0: no window reaches beyond a voxel."""
        return 0

    def forward(self, pred: Volume, target: Volume) -> torch.Tensor:
        """`pred`, `target`: [batch, channels, ...] of one shape.

        Raises:
            ValueError: shapes that differ, or a mask without a voxel.
            NotImplementedError: in FireANTs' grid of processes, each of which has a part of the image.
        """
        check_alike(pred, target)
        _refuse_split_images()
        if not self.masked:
            return self._reduced(self._each(pred, target))
        pred, target, mask = _without_mask(pred, target, self.mask_mode)
        items = []
        for a, b, where in zip(pred.flatten(2), target.flatten(2), mask.flatten(1) >= 0.5, strict=True):
            if not where.any():
                raise ValueError("mask must hold a voxel of at least 0.5 in every item of the batch, got none")
            items.append(self._each(a[None, :, where], b[None, :, where]))
        return self._reduced(torch.cat(items))

    __call__ = call_of(forward)

    def _reduced(self, each: torch.Tensor) -> torch.Tensor:
        return each.mean() if self.reduction == "mean" else each.sum() if self.reduction == "sum" else each

    def _each(self, pred: Volume, target: Volume) -> torch.Tensor:
        """[batch, channels]."""
        pairs = zip(pred.unbind(1), target.unbind(1), strict=True)
        return torch.stack([self._channel(a.flatten(1), b.flatten(1)) for a, b in pairs], 1)

    def _channel(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        most = torch.maximum(a.max(), b.max())
        scale = torch.where(most > 1, most, 1)
        a, b = a / scale, b / scale
        if self.kernel_type == "b-spline":
            one: Weights = Splines(self.num_bins)
            a, b = (spline_places(x, self.num_bins) for x in (a, b))
        else:
            centres = (torch.arange(self.num_bins, dtype=torch.float64) + 0.5) / self.num_bins
            one = Gaussians(centres, self.sigma_ratio / 2 / self.num_bins)
            a, b = (x.clamp(0, 1) for x in (a, b))
        return -information(a, b, (one, one), Smoothing(self.smooth_nr, self.smooth_dr, self.smooth_dr))


class MeanSquaredError(nn.Module):
    """`fireants.losses.mse.MeanSquaredError`.

    Args:
        reduction: "mean", "sum" or "none".
        masked: The last channel is a mask.
        mask_mode: "mult" (the product of the two masks) or "max".
    """

    def __init__(self, reduction: str = "mean", masked: bool = False, mask_mode: str = "mult") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("mask_mode", mask_mode, _MASK_MODES)
        self.reduction, self.masked, self.mask_mode = reduction, masked, mask_mode

    def get_image_padding(self) -> int:
        """0: no window reaches beyond a voxel."""
        return 0

    def forward(self, pred: Volume, target: Volume) -> Scalar | Volume:
        """`pred`, `target`: [batch, channels, ...]."""
        if not self.masked:
            return F.mse_loss(pred, target, reduction=self.reduction)
        pred, target, mask = _without_mask(pred, target, self.mask_mode)
        return _over_mask((pred - target).square(), mask, self.reduction)

    __call__ = call_of(forward)


def _without_mask(pred: Volume, target: Volume, mode: str) -> tuple[Volume, Volume, Mask]:
    """Images without their last channels, and the mask that these make."""
    if pred.shape[1] < 2 or target.shape[1] < 2:
        raise ValueError(f"masked images must have channels and a mask, got {shape(pred)} and {shape(target)}")
    masks = pred[:, -1:], target[:, -1:]
    return pred[:, :-1], target[:, :-1], masks[0] * masks[1] if mode == "mult" else torch.maximum(*masks)


def _over_mask(loss: Volume, mask: Mask, reduction: str) -> Scalar:
    """The weighted sum, or for "mean" each item's over its mask's sum: channels add up."""
    if reduction == "none":
        raise ValueError("reduction must be mean or sum with a mask, got 'none'")
    weighted = (loss * mask).flatten(1).sum(1)
    return weighted.sum() if reduction == "sum" else (weighted / (mask.flatten(1).sum(1) + 1e-8)).mean()


def _refuse_split_images() -> None:
    """There every process holds a part of the image, and FireANTs adds up the histograms."""
    module = sys.modules.get("fireants.registration.distributed.parallel_state")
    if module is not None and module.is_initialized() and module.get_grid_parallel_size() > 1:
        raise NotImplementedError("mutual information of an image that is split over processes: use FireANTs' own")
