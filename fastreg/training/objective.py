"""What a training step minimises: image term, regularity of the field, overlap of label maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.geometry.fields import compose
from fastreg.nn.label_dice import LabelDice
from fastreg.nn.losses import LNCC, LOSSES, NoImage, Smoothness, cross_entropy, kl_divergence, mean_endpoint_error
from fastreg.ops.warp import warp
from fastreg.training.config import LossConfig
from fastreg.types import Flow, RegistrationOutput, Scalar


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
    inconsistency: Scalar
    """Mean squared distance in voxels from the start, there and back; 0 where both ways are not asked for."""


class Objective(nn.Module):
    """The loss of `fastreg train`: image + lambda smoothness + gamma label Dice + distance from a known field
    + cross-entropy of the region of interest, each as far as the configuration asks for it.

    With `uncertainty`: mean squared difference / (2 sigma^2) + KL divergence (+ gamma label Dice).
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        if config.lambda_ is None:
            raise ValueError("config must be resolved: lambda is not set")
        self.config = config
        if config.image is None or config.seg_weight is None:
            raise ValueError("config must be resolved: loss or seg_weight is not set")
        if config.image == "lncc":
            self.image: nn.Module = LNCC(config.window)
        else:
            self.image = NoImage() if config.image == "none" else LOSSES[config.image]()
        self.smoothness, self.overlap = Smoothness(config.penalty), LabelDice()

    def forward(self, found: RegistrationOutput, batch: dict[str, Tensor]) -> Terms:
        """The terms for what the network made of a batch of `data.Pairs`.

        Args:
            found: Of the batch's pairs. With `moved_back`, images and labels are compared in both directions.
            batch: "moving", "fixed", and, if the run has them, their "..._mask", "..._labels" and "..._guide" (compared
                in place of the images), "mask_known", and "flow".
        """
        config, fixed = self.config, batch["fixed"]
        mask = batch.get("fixed_mask")
        outline = fixed.new_zeros(())
        if found.region is not None:
            assert mask is not None
            known = batch["mask_known"]
            outline = cross_entropy(found.region, mask, known)
            mask = torch.where(known, mask, torch.sigmoid(found.region.detach()))
        image = self._compared(found, batch, mask)
        overlap = image.new_zeros(())
        labelled = bool(config.seg_weight) and "moving_labels" in batch
        if labelled:
            overlap = self.overlap(batch["moving_labels"], batch["fixed_labels"], found.flow)
        if found.inverse_flow is not None and labelled:
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
            # Of the background of a label map nothing says where it went.
            where = batch["fixed_labels"] > 0 if "fixed_labels" in batch else torch.ones_like(fixed[:, :1])
            if "flow_known" in batch:
                where = where * batch["flow_known"]
            distance = mean_endpoint_error(found.flow, batch["flow"], where)
        assert config.seg_weight is not None
        total = total + config.seg_weight * overlap + config.region_weight * outline
        if config.field_weight:
            total = total + config.field_weight * distance
        return Terms(total, image, regularity, overlap, distance, outline, image.new_zeros(()))

    def both_ways(self, found: RegistrationOutput, batch: dict[str, Tensor]) -> Terms:
        """The mean of the terms of both directions, and how far they are from being each other's inverse.

        Args:
            found: Of the batch's pairs, and after them of the same pairs with the roles exchanged.
            batch: As in `forward`.

        Source: the penalty is that of Christensen and Johnson 2001, "Consistent image registration".
        """
        count = len(batch["fixed"])
        roles = {"moving": "fixed", "fixed": "moving"}
        other = {}
        for name, value in batch.items():
            role, _, rest = name.partition("_")
            if role in roles:
                other[roles[role] + (f"_{rest}" if rest else "")] = value
        there, back = (
            RegistrationOutput._make(None if said is None else said[part] for said in found)
            for part in (slice(count), slice(count, None))
        )
        whole = Terms(*((one + two) / 2 for one, two in zip(self(there, batch), self(back, other), strict=True)))
        apart = [compose(there.flow, back.flow), compose(back.flow, there.flow)]
        inconsistency = torch.stack([field.square().sum(1).mean() for field in apart]).mean()
        total = whole.total + self.config.consistency * inconsistency
        return whole._replace(total=total, inconsistency=inconsistency)

    def _compared(self, found: RegistrationOutput, batch: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """The image term: of the images, or of the pair's guides; in both directions where both were asked for."""
        moved, back, ends = found.moved, found.moved_back, (batch["moving"], batch["fixed"])
        if "moving_guide" in batch:
            ends = batch["moving_guide"], batch["fixed_guide"]
            moved = warp(ends[0], found.flow)
            back = None if found.inverse_flow is None else warp(ends[1], found.inverse_flow)
        image = self.image(moved, ends[1], mask)
        if back is not None:
            image = (image + self.image(back, ends[0], batch.get("moving_mask"))) / 2
        return image

    def _edges(self, fixed: Tensor, field: Flow) -> Tensor | None:
        """The image whose edges may bend the field, on the field's grid."""
        if self.config.penalty != "edge_aware":
            return None
        if fixed.shape[2:] == field.shape[2:]:
            return fixed
        mode = "trilinear" if fixed.ndim == 5 else "bilinear"
        return F.interpolate(fixed, tuple(field.shape[2:]), mode=mode, align_corners=True)
