"""The losses of VoxelMorph's PyTorch package of 2019 to 2024, by their names: `NCC().loss(y_true, y_pred)`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastreg.geometry.fields import smoothness
from fastreg.ops.lncc import lncc
from fastreg.types import Flow, Scalar, Volume
from fastreg.utils.checks import check_choice


class NCC:
    """Minus the mean squared local correlation.

    Args:
        win: Edge lengths of the window in voxels, all alike and odd; 9 if None.

    Raises:
        ValueError: edges that differ, whose windows VoxelMorph pads on the wrong axes.
    """

    def __init__(self, win: Sequence[int] | None = None) -> None:
        if win is not None and len(set(win)) != 1:
            raise ValueError(f"win must be one length for all axes, got {list(win)}")
        self.win = win

    def loss(self, y_true: Volume, y_pred: Volume) -> Scalar:
        """`y_true`, `y_pred`: [batch, 1, D, H, W], or one axis fewer."""
        window = 9 if self.win is None else self.win[0]
        return -lncc(y_true, y_pred, window=window, eps=1e-5, definition="voxelmorph").to(y_pred.dtype)


class MSE:
    """Mean squared difference."""

    def loss(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> Scalar:
        """Tensors of one shape."""
        return (y_true - y_pred).square().mean()


class Dice:
    """Minus the mean soft Dice; labels that both images lack count 0."""

    def loss(self, y_true: Volume, y_pred: Volume) -> Scalar:
        """`y_true`, `y_pred`: [batch, labels, D, H, W], one-hot or probabilities."""
        axes = tuple(range(2, y_pred.ndim))
        total = (y_true + y_pred).sum(axes).clamp_min(1e-5)
        return -(2 * (y_true * y_pred).sum(axes) / total).mean()


class Grad:
    """The mean absolute or squared forward difference of a field.

    Args:
        penalty: "l1" or "l2".
        loss_mult: A factor.
    """

    def __init__(self, penalty: str = "l1", loss_mult: float | None = None) -> None:
        check_choice("penalty", penalty, ("l1", "l2"))
        self.penalty, self.loss_mult = penalty, loss_mult

    def loss(self, y_true: torch.Tensor | None, y_pred: Flow) -> Scalar:
        """`y_pred`: [batch, 3, D, H, W]; `y_true` is not looked at."""
        loss = smoothness(y_pred, penalty=self.penalty)
        return loss if self.loss_mult is None else loss * self.loss_mult
