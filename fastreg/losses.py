"""Losses as modules: `loss(moved, fixed)`, a scalar, lower is better. A new loss is a class and a line in `LOSSES`."""

from __future__ import annotations

import torch
from torch import nn

from fastreg import fields
from fastreg.ops._checks import check_volume, shape
from fastreg.ops.lncc import lncc
from fastreg.types import Flow, Mask, Scalar, Volume


class LNCC(nn.Module):
    """Minus the mean squared local correlation: -1 for identical images. Arguments as in `fastreg.lncc`."""

    def __init__(
        self, window: int = 9, eps: float = 1e-5, definition: str = "fastreg", backend: str | None = None
    ) -> None:
        super().__init__()
        self.window, self.eps, self.definition, self.backend = window, eps, definition, backend

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, channels, D, H, W]; `mask` weights the windows."""
        return -lncc(
            moved,
            fixed,
            window=self.window,
            eps=self.eps,
            definition=self.definition,
            mask=mask,
            backend=self.backend,
        )


class MSE(nn.Module):
    """Mean squared difference of intensities, for images of one contrast and scale."""

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, channels, D, H, W]; `mask` weights the voxels."""
        square = (moved - fixed).square()
        if mask is None:
            return square.mean()
        weight = mask.to(square.dtype).expand_as(square)
        return (weight * square).sum() / weight.sum().clamp_min(torch.finfo(square.dtype).tiny)


class Dice(nn.Module):
    """Minus the mean soft Dice over label channels: -1 for identical segmentations (TMI 2019, eq. 6).

    Channels that are empty in both images do not count.
    """

    def forward(self, moved: Volume, fixed: Volume, mask: Mask | None = None) -> Scalar:
        """`moved`, `fixed`: [batch, labels, D, H, W], probabilities or one-hot labels."""
        check_volume("moved", moved)
        if moved.shape != fixed.shape:
            raise ValueError(f"fixed must have the shape of moved, {shape(moved)}, got {shape(fixed)}")
        if mask is not None:
            moved, fixed = moved * mask, fixed * mask
        axes = tuple(range(2, moved.ndim))
        overlap, total = (moved * fixed).sum(axes), moved.sum(axes) + fixed.sum(axes)
        present = total > 0
        dice = torch.where(present, 2 * overlap / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        return -dice.sum() / present.sum().clamp_min(1)


class Smoothness(nn.Module):
    """Roughness of a displacement field; `penalty` as in `fastreg.smoothness`."""

    def __init__(self, penalty: str = "l2", backend: str | None = None) -> None:
        super().__init__()
        self.penalty, self.backend = penalty, backend

    def forward(self, flow: Flow, image: Volume | None = None) -> Scalar:
        """`flow`: [batch, 3, D, H, W], voxels; `image` only for "edge_aware"."""
        return fields.smoothness(flow, penalty=self.penalty, image=image, backend=self.backend)


LOSSES: dict[str, type[nn.Module]] = {"lncc": LNCC, "mse": MSE}
"""Image losses by the names that `fastreg train --loss` takes."""
