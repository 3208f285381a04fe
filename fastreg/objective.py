"""What a training step minimises: image term, regularity of the field, overlap of label maps."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.config import SYNTHETIC, TrainConfig
from fastreg.files import InputError
from fastreg.losses import LNCC, LOSSES, Smoothness
from fastreg.ops._checks import shape
from fastreg.segmentation import LabelDice
from fastreg.types import Flow, Mask, Registration, Scalar, Volume


class Terms(NamedTuple):
    """The loss and its parts, which have no weights yet; scalars, or means of them over a run's processes."""

    total: Scalar
    image: Scalar
    regularity: Scalar
    """Smoothness penalty, or the KL divergence."""
    segmentation: Scalar
    """Minus the soft Dice; 0 without label maps."""
    field: Scalar
    """Mean distance in voxels from the deformation that made a synthetic pair; 0 where it is not asked for."""
    region: Scalar
    """Cross-entropy of the region of interest; 0 where the network says none."""


class Objective(nn.Module):
    """The loss of `fastreg train`: image + lambda smoothness + gamma label Dice + distance from a known field
    + cross-entropy of the region of interest, each as far as the configuration asks for it.

    With `uncertainty`: mean squared difference / (2 sigma^2) + KL divergence (+ gamma label Dice).
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        if config.lambda_ is None:
            raise ValueError("config must be resolved: lambda is not set")
        self.config = config
        if config.loss is None or config.seg_weight is None:
            raise ValueError("config must be resolved: loss or seg_weight is not set")
        if config.loss == "lncc":
            self.image: nn.Module = LNCC(config.window)
        else:
            self.image = NoImage() if config.loss == "none" else LOSSES[config.loss]()
        self.smoothness, self.overlap = Smoothness(config.penalty), LabelDice()

    def forward(self, found: Registration, batch: dict[str, Tensor]) -> Terms:
        """The terms for what the network made of a batch of `data.Pairs`.

        Args:
            found: Of the batch's pairs. With `moved_back`, images and labels are compared in both directions.
            batch: "moving", "fixed", and, if the run has them, their "..._mask" and "..._labels", "mask_known",
                and "flow".
        """
        config, moving, fixed = self.config, batch["moving"], batch["fixed"]
        mask = batch.get("fixed_mask")
        outline = fixed.new_zeros(())
        if found.region is not None:
            assert mask is not None
            known = batch["mask_known"]
            outline = cross_entropy(found.region, mask, known)
            mask = torch.where(known, mask, torch.sigmoid(found.region.detach()))
        image = self.image(found.moved, fixed, mask)
        overlap = image.new_zeros(())
        labelled = bool(config.seg_weight) and "moving_labels" in batch
        if labelled:
            overlap = self.overlap(batch["moving_labels"], batch["fixed_labels"], found.flow)
        if found.moved_back is not None and found.inverse_flow is not None:
            image = (image + self.image(found.moved_back, moving, batch.get("moving_mask"))) / 2
            if labelled:
                back = self.overlap(batch["fixed_labels"], batch["moving_labels"], found.inverse_flow)
                overlap = (overlap + back) / 2
        field = found.flow if found.velocity is None else found.velocity
        if found.log_variance is not None:
            regularity = kl_divergence(field, found.log_variance, config.prior_lambda)
            total = image / (2 * config.image_sigma**2) + regularity
        else:
            assert config.lambda_ is not None
            regularity = self.smoothness(field, self._edges(fixed, field))
            total = image + config.lambda_ * regularity
        distance = image.new_zeros(())
        if "flow" in batch:
            distance = endpoint_error(found.flow, batch["flow"], batch["fixed_labels"] > 0)
        assert config.seg_weight is not None
        total = total + config.seg_weight * overlap + config.field_weight * distance + config.region_weight * outline
        return Terms(total, image, regularity, overlap, distance, outline)

    def _edges(self, fixed: Tensor, field: Flow) -> Tensor | None:
        """The image whose edges may bend the field, on the field's grid."""
        if self.config.penalty != "edge_aware":
            return None
        if fixed.shape[2:] == field.shape[2:]:
            return fixed
        mode = "trilinear" if fixed.ndim == 5 else "bilinear"
        return F.interpolate(fixed, tuple(field.shape[2:]), mode=mode, align_corners=True)


def endpoint_error(flow: Flow, truth: Flow, where: Mask) -> Scalar:
    """Mean distance between two fields in voxels, over the voxels of `where` [batch, 1, D, H, W].

    Not its square, which few pairs with large deformations would rule. Of the background nothing says where it went.
    """
    length = ((flow - truth).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (length * where).sum() / where.sum().clamp_min(1)


def cross_entropy(region: Volume, mask: Mask, known: Tensor) -> Scalar:
    """Of the masks that are known under the log odds of a network, in nats, mean over their voxels; 0 without any.

    Args:
        region: [batch, 1, D, H, W], log odds.
        mask: The same shape, 0 to 1.
        known: [batch, 1, 1, 1, 1], bool.
    """
    weight = known.to(region.dtype).expand_as(region)
    value = F.binary_cross_entropy_with_logits(region, mask.to(region.dtype), weight=weight, reduction="sum")
    return value / weight.sum().clamp_min(1)


class NoImage(nn.Module):
    """No image term: 0, whatever the images."""

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """0 on the device of `moved`."""
        return moved.new_zeros(())


def kl_divergence(mean: Flow, log_variance: Flow, prior_lambda: float) -> Scalar:
    """KL of N(mean, diag exp(log_variance)) from the prior N(0, (prior_lambda L)^-1), per voxel, without constants.

    L is the Laplacian of the grid's graph of neighbours, D its degrees: with sums over components and voxels,
    ``1/2 [sum(prior_lambda D exp(s) - s) + prior_lambda sum over edges (mean_p - mean_q)^2]``, divided by the voxels.

    Args:
        mean: [batch, 3, D, H, W], voxels.
        log_variance: The same shape.
        prior_lambda: Precision of the prior.

    Source: Dalca et al. 2018, "Unsupervised Learning for Fast Probabilistic Diffeomorphic Registration", eq. 6.
    """
    if mean.shape != log_variance.shape:
        raise ValueError(f"log_variance must have the shape of mean {shape(mean)}, got {shape(log_variance)}")
    degree, edges = mean.new_zeros(mean.shape[2:]), mean.new_zeros(())
    for axis in range(2, mean.ndim):
        line = torch.full((mean.shape[axis],), 2.0, dtype=mean.dtype, device=mean.device)
        line[0] -= 1
        line[-1] -= 1
        degree = degree + line.view([-1 if k == axis else 1 for k in range(2, mean.ndim)])
        edges = edges + mean.diff(dim=axis).square().sum()
    spread = (prior_lambda * degree * log_variance.exp() - log_variance).sum()
    return 0.5 * (spread + prior_lambda * edges) / (mean.numel() / mean.shape[1])


def resolved_objective(config: TrainConfig) -> TrainConfig:
    """The configuration with the loss, its weights and the smoothness' filled in; InputError where they disagree."""
    synthetic = config.images == SYNTHETIC
    if synthetic and config.loss not in (None, "none"):
        raise InputError(f"loss {config.loss}: --images synthetic has no image term, its contrasts differ by chance")
    loss = config.loss or ("none" if synthetic else "lncc")
    weight = config.seg_weight if config.seg_weight is not None else float(synthetic)
    if loss == "none" and not weight and not config.field_weight:
        raise InputError("loss none: needs --seg-weight, otherwise there is nothing to learn from")
    if config.uncertainty and not (config.diffeomorphic and loss == "mse"):
        raise InputError("uncertainty: needs --diffeomorphic and --loss mse, the noise model of its likelihood")
    for name in ("image_sigma", "prior_lambda"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name}: expected a number above 0, got {getattr(config, name)}")
    if config.region_weight and config.masks is None:
        raise InputError("region_weight: needs --masks, from which the network learns the region")
    others = (("field_weight", config.field_weight), ("region_weight", config.region_weight))
    for name, value in (("seg_weight", weight), *others):
        if value < 0:
            raise InputError(f"{name}: expected 0 or more, got {value}")
    if config.field_weight and not synthetic:
        raise InputError("field_weight: needs --images synthetic, whose deformations are known")
    published = {"lncc": 1.5 if config.model == "vm2" else 1.0, "mse": 0.01, "none": 1.0}
    lambda_ = published[loss] if config.lambda_ is None else config.lambda_
    return replace(config, loss=loss, seg_weight=weight, lambda_=lambda_)
