"""A network applied several times, coarse to fine: each time to what the times before left to do."""

from __future__ import annotations

from collections.abc import Sequence

from fastreg import fields
from fastreg.model import RegistrationNet
from fastreg.ops.warp import warp
from fastreg.types import Flow, Registration, Volume


def cascade(
    net: RegistrationNet, moving: Volume, fixed: Volume, passes: Sequence[int] = (1,), inverse: bool = False
) -> Registration:
    """Registers `moving` to `fixed` in one or more passes.

    Args:
        net: The network.
        moving: [batch, channels, D, H, W].
        fixed: The same shape.
        passes: For each pass the edge of the cubes, in voxels, over which the images are averaged.
        inverse: Also give the inverse and the fixed image warped by it.

    Returns:
        With more than one pass `velocity` is None: the composition of diffeomorphisms is one, but not of one velocity.

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
        there, here = fields.pooled(moving, factor), fields.pooled(fixed, factor)
        if flow is not None:
            there = warp(there, fields.resize(flow, tuple(here.shape[2:])), padding="border")
        found = net(there, here, inverse=inverse_of_net)
        step = fields.resize(found.flow, size)
        flow = step if flow is None else fields.compose(flow, step)
        if found.inverse_flow is not None:
            step = fields.resize(found.inverse_flow, size)
            back = step if back is None else fields.compose(step, back)
    assert flow is not None
    whole = Registration(warp(moving, flow), flow)
    if back is not None:
        return whole._replace(inverse_flow=back, moved_back=warp(fixed, back))
    return _inverted(whole, fixed) if inverse else whole


def _inverted(found: Registration, fixed: Volume) -> Registration:
    back = fields.invert(found.flow)
    return found._replace(inverse_flow=back, moved_back=warp(fixed, back))
