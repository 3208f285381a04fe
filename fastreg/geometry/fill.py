"""Voxels that do not count, filled in from those that do, so that no interpolation brings their values back."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastreg.geometry.fields import pooled
from fastreg.types import Mask, Volume


def filled(volume: Volume, mask: Mask | None) -> Volume:
    """The volume with the voxels of weight 0 replaced by a smooth continuation of the others.

    Averages over ever larger cubes, then back: each voxel that is missing takes the average of the smallest cube about
    it that holds others (push and pull).

    Args:
        volume: [batch, channels, D, H, W] or [batch, channels, H, W].
        mask: [batch, 1, D, H, W], weights; None: everything counts.

    Returns:
        The same shape; voxels of positive weight are unchanged. Zeros where nothing counts at all.
    """
    if mask is None or bool((mask > 0).all()):
        return volume
    known = (mask > 0).to(volume.dtype)
    return torch.where(known > 0, volume, _continued(torch.where(known > 0, volume, 0), known))


def _continued(volume: Volume, known: Mask) -> Volume:
    """`volume` where `known` is 1, what surrounds it elsewhere; partly known cubes are averages of what is known."""
    size = tuple(volume.shape[2:])
    if max(size) == 1 or bool((known > 0).all()):
        return volume
    share = pooled(known, 2)
    coarse = torch.where(share > 0, pooled(volume * known, 2) / share.clamp_min(1e-12), 0)
    around = _continued(coarse, (share > 0).to(volume.dtype))
    mode = "trilinear" if volume.ndim == 5 else "bilinear"
    return torch.where(known > 0, volume, F.interpolate(around, size, mode=mode, align_corners=False))


def pooled_known(volume: Volume, mask: Mask | None, factor: int) -> tuple[Volume, Mask | None]:
    """`fields.pooled` with the mask as weight, and the pooled mask, 0 where less than half of a cube counts."""
    if mask is None:
        return pooled(volume, factor), None
    share = pooled(mask, factor)
    average = torch.where(share > 0, pooled(volume * mask, factor) / share.clamp_min(1e-12), pooled(volume, factor))
    return average, torch.where(share >= 0.5, share, 0)
