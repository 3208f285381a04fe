"""A network applied several times, coarse to fine: each time to what the times before left to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from fastreg.geometry import fields
from fastreg.geometry.padding import crop
from fastreg.nn.registration_net import RegistrationNet
from fastreg.ops.warp import warp
from fastreg.types import Flow, RegistrationOutput, Volume


def cascade(
    net: RegistrationNet, moving: Volume, fixed: Volume, passes: Sequence[int] = (1,), inverse: bool = False
) -> RegistrationOutput:
    """Registers `moving` to `fixed` in one or more passes.

    Args:
        net: The network.
        moving: [batch, channels, D, H, W].
        fixed: The same shape.
        passes: For each pass the edge of the cubes, in voxels, over which the images are averaged.
        inverse: Also give the inverse and the fixed image warped by it.

    Returns:
        With more than one pass `velocity` (and what else a network says besides the flow) is None: the composition of
        diffeomorphisms is one, but not of one velocity.

    Raises:
        ValueError: images that the network does not take.

    Source: the composition of passes is that of recursive cascades (Zhao et al., ICCV 2019), with one network.
    """
    inverse_of_net = inverse and net.config.diffeomorphic
    if tuple(passes) == (1,):
        found = net(moving, fixed, inverse=inverse_of_net)
        return _inverted(found, fixed) if inverse and not inverse_of_net else found
    size = tuple(fixed.shape[2:])
    flow: Flow | None = None
    back: Flow | None = None
    for factor in passes:
        there = moving if flow is None else warp(moving, flow, padding="border")
        found = net(fields.pooled(there, factor), fields.pooled(fixed, factor), inverse=inverse_of_net)
        step = _finer(found.flow, factor, size)
        flow = step if flow is None else fields.compose(flow, step)
        if found.inverse_flow is not None:
            step = _finer(found.inverse_flow, factor, size)
            back = step if back is None else fields.compose(step, back)
    assert flow is not None
    whole = RegistrationOutput(warp(moving, flow), flow)
    if back is not None:
        return whole._replace(inverse_flow=back, moved_back=warp(fixed, back))
    return _inverted(whole, fixed) if inverse else whole


def _finer(flow: Flow, factor: int, size: tuple[int, ...]) -> Flow:
    """A field between the means over cubes, at the voxels in them: [batch, ndim, *size], linear between the centres."""
    if factor == 1:
        return flow
    edges = [min(factor, length) for length in size]  # as `fields.pooled` has them
    whole = [edge * length for edge, length in zip(edges, flow.shape[2:], strict=True)]
    fine = F.interpolate(flow, whole, mode="trilinear" if flow.ndim == 5 else "bilinear", align_corners=False)
    fine = crop(fine, size)
    return (fine * fine.new_tensor(edges).view(1, -1, *[1] * len(size))).contiguous()


def _inverted(found: RegistrationOutput, fixed: Volume) -> RegistrationOutput:
    back = fields.invert(found.flow)
    return found._replace(inverse_flow=back, moved_back=warp(fixed, back))
