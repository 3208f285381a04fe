"""Figures of a network over validation pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastreg.data.cohorts import Subject
from fastreg.data.datasets import Volumes
from fastreg.evaluation.diffeomorphism import simplices
from fastreg.evaluation.metrics import dice, folds, mean, ndv_percent
from fastreg.geometry.fields import jacobian_determinant
from fastreg.nn.cascade import cascade
from fastreg.nn.registration_net import RegistrationNet
from fastreg.ops.warp import warp
from fastreg.training.record import Validation


@torch.no_grad()
def validate(
    net: RegistrationNet,
    volumes: Volumes,
    pairs: list[tuple[Subject, Subject]],
    image_loss: nn.Module,
    step: int,
    passes: tuple[int, ...] = (1,),
) -> Validation:
    """Figures of the network over pairs (moving, fixed), on the working grid; labels are warped by nearest voxel."""
    device = next(net.parameters()).device
    rows = []
    net.eval()
    for moving, fixed in pairs:
        there, here = (volumes.image(subject)[None].to(device) for subject in (moving, fixed))
        found = cascade(net, there, here, passes)
        before = after = math.nan
        if moving.label is not None and fixed.label is not None:
            theirs, ours = volumes.labels(moving), volumes.labels(fixed)
            moved = warp(theirs[None].double(), found.flow.cpu().double(), mode="nearest")[0].round().int()
            before, after = _mean_dice(ours, theirs), _mean_dice(ours, moved)
        at = simplices(found.flow)
        folded = [100 * folds(determinant).fraction for determinant in (jacobian_determinant(found.flow), at.least)]
        ndv = ndv_percent(at.reversed, at.volume)
        rows.append([image_loss(found.moved, here).item(), after, before, *folded, ndv])
    net.train()
    return Validation(step, *(mean(column) for column in zip(*rows, strict=True)))


def _mean_dice(fixed: Tensor, moved: Tensor) -> float:
    """Over all structures; one that a map lacks counts 0."""
    return mean(dice(fixed.numpy(), moved.numpy()).values())
