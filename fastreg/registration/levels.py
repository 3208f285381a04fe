"""What a stage of the optimisation compares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastreg.geometry import fields
from fastreg.geometry.fill import pooled_known
from fastreg.ops.determinant import determinant
from fastreg.ops.mind import mind
from fastreg.ops.warp import warp
from fastreg.registration.noise import differ_by_noise
from fastreg.registration.remap import curves
from fastreg.types import Flow, Mask, Scalar, Volume

LEAST_VOLUME = 0.05
"""Where the known deformation leaves less of a volume than this, its logarithm goes no further."""


@dataclass(frozen=True)
class Level:
    """Everything on the stage's grid, and nothing that an iteration would have to make again."""

    fixed: Volume
    moving: Volume
    """As the stages before left it."""
    mask: Mask | None
    known_volume: Mask | None
    """[1, 1, ...], log Jacobian determinant of what the stages before found; None for none."""
    nothing_to_do: bool
    """The images differ by noise alone."""
    backward: tuple[Volume, Mask | None, Flow] | None = None
    """With both directions: the moving image in its place, its mask, and the inverse that is known."""

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        mask: Mask | None,
        moving_mask: Mask | None,
        flow: Flow | None,
        back: Flow | None,
        factor: int,
        seen_as: str,
    ) -> Level:
        """The level of a factor, under what is known at full resolution.

        Args:
            fixed: [1, channels, D, H, W].
            moving: Like `fixed`.
            mask: [1, 1, D, H, W], weights of the fixed image's voxels.
            moving_mask: Likewise of the moving image's.
            flow: What is known, [1, 3, D, H, W] in voxels.
            back: Its inverse, where both directions are compared.
            factor: Edge of the cubes.
            seen_as: "intensities", "descriptors" of each image at this level, or "one contrast": the intensities of
                one image mapped to those of the other.
        """
        fixed, mask = pooled_known(fixed, mask, factor)
        moving, seen = pooled_known(moving, moving_mask, factor)
        still, volume = moving, None
        with torch.no_grad():
            backward = None if back is None else fields.coarsened(back, factor)
            if flow is not None:
                known = fields.coarsened(flow, factor)
                moving = warp(moving, known, padding="border")
                seen_there = None if seen is None else _counted(warp(seen, known))
                if min(known.shape[2:]) > 1:
                    volume = determinant(known).clamp_min_(LEAST_VOLUME).log_()[:, None]
            else:
                seen_there = seen
            if seen_there is not None:
                mask = seen_there if mask is None else mask * seen_there
            done = differ_by_noise(fixed, moving, mask)
            if seen_as == "descriptors":
                fixed, moving = mind(fixed), mind(moving)
                still = still if backward is None else mind(still)
            elif seen_as == "one contrast":
                ours, theirs = curves(fixed, moving, mask)
                fixed = fixed if ours is None else ours(fixed)
                moving, still = (image if theirs is None else theirs(image) for image in (moving, still))
        return cls(fixed, moving, mask, volume, done, None if backward is None else (still, seen, backward))

    def loss(self, velocity: Flow, loss: nn.Module) -> Scalar:
        """Of the images under the exponential of a velocity."""
        return self.compare(exponential(velocity), None if self.backward is None else exponential(-velocity), loss)

    def compare(self, found: Flow, back: Flow | None, loss: nn.Module) -> Scalar:
        """Of the images under a field and, where both directions are compared, its inverse."""
        value: Scalar = loss(warp(self.moving, found, padding="border"), self.fixed, self.mask)
        if self.backward is None or back is None:
            return value
        still, weight, known = self.backward
        back = fields.compose(back, known)
        return (value + loss(warp(self.fixed, back, padding="border"), still, weight)) / 2


def _counted(weight: Mask) -> Mask:
    """The weights of a mask between its voxels: what counts for less than half does not count."""
    return torch.where(weight >= 0.5, weight, 0)


def exponential(velocity: Tensor) -> Flow:
    """As many squarings as bring the first step below half a voxel, at least one."""
    low, high = torch.aminmax(velocity.detach())  # abs().max() would write the field once more
    longest = max(-float(low), float(high))
    squarings = min(10, math.ceil(math.log2(max(2 * longest, 2.0)))) if math.isfinite(longest) else 1
    return fields.integrate(velocity, steps=squarings, padding="border")
