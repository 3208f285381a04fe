"""The ops as modules, for `nn.Sequential`, configs and networks of one's own. They have no weights."""

from __future__ import annotations

import math

from torch import nn

from fastreg.geometry import fields
from fastreg.ops.warp import warp
from fastreg.types import PADDINGS, WARP_MODES, Flow, Volume
from fastreg.utils.checks import check_choice, check_whole
from fastreg.utils.typed import call_of


class Warp(nn.Module):
    """`fastreg.warp` as a module: `moved = Warp()(moving, flow)`.

    Args:
        mode: As in `fastreg.warp`, like the others.
        padding: What lies outside the volume.
        channels_last: The flow is [batch, D', H', W', 3].
        backend: The fastest that fits if None.

    Raises:
        ValueError: a mode or padding that does not exist.
    """

    def __init__(
        self, mode: str = "linear", padding: str = "zeros", channels_last: bool = False, backend: str | None = None
    ) -> None:
        super().__init__()
        check_choice("mode", mode, WARP_MODES)
        check_choice("padding", padding, PADDINGS)
        self.mode, self.padding, self.channels_last, self.backend = mode, padding, channels_last, backend

    def forward(self, vol: Volume, flow: Flow) -> Volume:
        """`vol`: [batch, channels, D, H, W]; `flow`: [batch, 3, D', H', W'], voxels of `vol`."""
        return warp(
            vol, flow, mode=self.mode, padding=self.padding, channels_last=self.channels_last, backend=self.backend
        )

    __call__ = call_of(forward)

    def extra_repr(self) -> str:
        """The options, as printed."""
        return f"mode={self.mode!r}, padding={self.padding!r}, channels_last={self.channels_last}"


class Integrate(nn.Module):
    """`fastreg.integrate` as a module: velocity to displacement, both in voxels.

        flow_of = nn.Sequential(unet, Integrate(steps=7), Resize(factor=2))

    Args:
        steps: Number of squarings.
        padding: The field outside its grid, as in `fastreg.integrate`.
        backend: The fastest that fits if None.

    Raises:
        TypeError: `steps` that is no integer.
        ValueError: negative steps, or a padding that does not exist.
    """

    def __init__(self, steps: int = 7, padding: str = "zeros", backend: str | None = None) -> None:
        super().__init__()
        check_whole("steps", steps, 0)
        check_choice("padding", padding, PADDINGS)
        self.steps, self.padding, self.backend = steps, padding, backend

    def forward(self, velocity: Flow) -> Flow:
        """`velocity`: [batch, 3, D, H, W]."""
        return fields.integrate(velocity, steps=self.steps, padding=self.padding, backend=self.backend)

    __call__ = call_of(forward)

    def extra_repr(self) -> str:
        """The options, as printed."""
        return f"steps={self.steps}, padding={self.padding!r}"


class Resize(nn.Module):
    """The same deformation on another grid: linear, corner voxels coincide, values scaled to voxels of the new grid.

    Args:
        size: D', H', W' of the new grid.
        factor: Of every axis, in place of a size; a grid of n voxels gets floor(factor n), at least 1.

    Raises:
        ValueError: neither or both of them, or one that is not positive.
    """

    def __init__(self, size: tuple[int, ...] | None = None, factor: float | None = None) -> None:
        super().__init__()
        if (size is None) == (factor is None):
            raise ValueError(f"expected either size or factor, got size={size} and factor={factor}")
        for axis in size or ():
            check_whole("size", axis, 1)
        if factor is not None and not 0 < factor < math.inf:
            raise ValueError(f"factor must be positive and finite, got {factor}")
        self.size, self.factor = None if size is None else tuple(size), factor

    def forward(self, flow: Flow) -> Flow:
        """`flow`: [batch, 3, D, H, W], voxels of its own grid."""
        if self.size is not None:
            return fields.resize(flow, self.size)
        factor = self.factor or 1.0
        return fields.resize(flow, tuple(max(1, math.floor(factor * length)) for length in flow.shape[2:]))

    __call__ = call_of(forward)

    def extra_repr(self) -> str:
        """The options, as printed."""
        return f"size={self.size}, factor={self.factor}"
