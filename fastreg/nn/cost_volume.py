"""What a network sees that must not care for contrast: how well each place fits its neighbours in the other image.

A U-Net on two raw images learns to match them slowly, and slowest where their contrasts differ. Given descriptors that
contrast does not change, and the cost of every displacement in reach, it has but to find the smooth field of low cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.geometry.fields import pooled
from fastreg.ops.correlate import correlate
from fastreg.ops.mind import mind
from fastreg.types import Volume


def costs(moving: Tensor, fixed: Tensor, radius: int) -> Tensor:
    """Mean squared difference of `fixed` at p and `moving` at p + d, for all d with components in -radius to radius.

    Args:
        moving: [batch, channels, D, H, W]; beyond its border the border's values go on.
        fixed: The same shape.
        radius: In voxels, 0 to 15.

    Returns:
        [batch, (2 radius + 1)^ndim, D, H, W], the last component of d running fastest.
    """
    if not torch.compiler.is_exporting():
        return correlate(fixed, moving, radius, measure="ssd", padding="border")
    around = F.pad(moving, (radius,) * (2 * (fixed.ndim - 2)), mode="replicate")
    return _costs_in_few_steps(around, fixed, 2 * radius + 1)


def _costs_in_few_steps(around: Tensor, fixed: Tensor, reach: int) -> Tensor:
    """The same in steps that a graph may have: of the op there is none where the model runs.

    All displacements along the axes but the first are compared at once: [batch, channels, D, reach, H, reach, W].
    """
    ndim = fixed.ndim - 2
    for axis in range(ndim - 1, 0, -1):  # from the last, so that the axes before it stay where they are
        length = fixed.shape[2 + axis]
        at = torch.arange(reach, device=fixed.device)[:, None] + torch.arange(length, device=fixed.device)
        around = torch.unflatten(around.index_select(2 + axis, at.flatten()), 2 + axis, (reach, length))
    for axis in range(1, ndim):
        fixed = fixed.unsqueeze(2 * axis + 1)
    found = []
    for first in range(reach):
        cost = (fixed - around.narrow(2, first, fixed.shape[2])).square().mean(1)  # [batch, D, reach, H, reach, W]
        found.append(cost.permute(0, *range(2, 2 * ndim, 2), *range(1, 2 * ndim, 2)).flatten(1, ndim - 1))
    return torch.cat(found, 1)


class Matching(nn.Module):
    """[batch, channels, D, H, W] twice -> features [batch, outputs, ceil(D / 2), ...] of how they fit each other.

    Args:
        channels: Of one image.
        ndim: 3 or 2.
        radius: Displacements compared, in voxels of the half grid.
        outputs: Number of features.
    """

    def __init__(self, channels: int, ndim: int, radius: int, outputs: int) -> None:
        super().__init__()
        self.radius = radius
        inputs = (2 * radius + 1) ** ndim + 2 * ndim * channels
        self.squeeze: nn.Conv2d | nn.Conv3d = (nn.Conv3d if ndim == 3 else nn.Conv2d)(inputs, outputs, 1)

    def forward(self, moving: Volume, fixed: Volume) -> Tensor:
        """The features. Nothing before the convolution learns: no gradient goes to the images."""
        with torch.no_grad():
            work = torch.promote_types(fixed.dtype, torch.float32)
            theirs, ours = (pooled(mind(image.to(work)), 2) for image in (moving, fixed))
            cost = costs(theirs, ours, self.radius)
            cost.sub_(cost.mean(1, keepdim=True)).mul_(10)  # to about 1; what all displacements cost says nothing
            seen = torch.cat([cost, ours], 1).to(self.squeeze.weight.dtype)
        return F.leaky_relu(self.squeeze(seen), 0.2)
