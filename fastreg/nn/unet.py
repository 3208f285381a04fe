"""The U-Nets of VoxelMorph's family: encoder, decoder, skips, tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastreg.nn.cpu_convolution import convolve


@dataclass(frozen=True)
class Architecture:
    """Numbers of channels. The encoder halves the grid after each level; the decoder comes back."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    """One convolution per level, from the coarsest grid up."""
    tail_half: tuple[int, ...]
    """Further convolutions on the last decoder grid, before the tail."""
    tail: tuple[int, ...]
    """Convolutions on the full grid, before the flow layer."""
    pooled: bool
    """Full-resolution first convolution and max-pooling (VxmDense) instead of stride-2 convolutions (2018)."""
    half: bool = False
    """Ends on the half grid, without the last upsampling and its skip (MICCAI 2018, VxmDense's `unet_half_res`)."""
    matching: int = 0
    """Above 0: all of the network is on the half grid and sees, instead of the images, `cost_volume.Matching` of this
    radius."""


ARCHITECTURES = {
    "vm1": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (8,), (8,), pooled=False),
    "vm2": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (32,), (16, 16), pooled=False),
    "vxm": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (), (32, 16, 16), pooled=True),
    "match": Architecture((24, 32, 32), (32, 32, 32), (32,), (16, 16), pooled=False, matching=2),
}


RESAMPLINGS = ("corners", "voxelmorph", "voxelmorph2018")


def convolution(ndim: int, inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d | nn.Conv3d:
    """3 voxels wide, initialised as in Keras; strided ones leave the padding to their caller."""
    layer: nn.Conv2d | nn.Conv3d = (nn.Conv3d if ndim == 3 else nn.Conv2d)(
        inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0
    )
    nn.init.kaiming_normal_(layer.weight, a=0.0, nonlinearity="relu")  # Keras' he_normal
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class UNet(nn.Module):
    """[batch, inputs, D, H, W] with axes divisible by `divisor` -> features [batch, outputs, D, H, W].

    Networks with `half` give features on the half grid. `strided_padding`: how stride-2 convolutions are padded,
    "tensorflow" (0, 1) or "symmetric" (1, 1). `save_memory`: activations are computed anew in the backward pass.
    """

    def __init__(
        self,
        architecture: Architecture,
        inputs: int,
        ndim: int,
        strided_padding: str = "tensorflow",
        save_memory: bool = False,
    ) -> None:
        super().__init__()
        self.architecture, self.ndim, self.save_memory = architecture, ndim, save_memory
        self.divisor = 2 ** len(architecture.encoder)
        self.pads = ((0, 1) if strided_padding == "tensorflow" else (1, 1)) * ndim
        stride = 1 if architecture.pooled else 2
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = inputs
        for features in architecture.encoder:
            self.encoder.append(convolution(ndim, channels, features, stride))
            channels = features
        # Skips from the coarsest to the finest; the 2018 networks end with the raw input, VxmDense has no such skip.
        skips = list(reversed(architecture.encoder))
        if not architecture.pooled:
            skips = [*skips[1:], inputs]
        for k, features in enumerate(architecture.decoder):
            self.decoder.append(convolution(ndim, channels, features))
            channels = features + (skips[k] if self._joins(k) else 0)
        self.tail_half, self.tail = nn.ModuleList(), nn.ModuleList()
        for features in architecture.tail_half:
            self.tail_half.append(convolution(ndim, channels, features))
            channels = features
        channels += 0 if architecture.pooled or architecture.half else skips[-1]
        for features in architecture.tail:
            self.tail.append(convolution(ndim, channels, features))
            channels = features
        self.outputs = channels

    def _joins(self, k: int) -> bool:
        """Whether the k-th decoder convolution is followed by upsampling and a skip."""
        last = len(self.architecture.decoder) - 1
        return k < last or (self.architecture.pooled and not self.architecture.half)

    def forward(self, x: Tensor) -> Tensor:
        """Features on the full grid, or on the half grid."""
        skips = [] if self.architecture.pooled else [x]
        for layer in self.encoder:
            if self.architecture.pooled:
                x = self._layer(layer, x)
                skips.append(x)
                x = (F.max_pool3d if self.ndim == 3 else F.max_pool2d)(x, 2)
            else:
                # TensorFlow's SAME padding of a stride-2 convolution of an even axis is (0, 1), not (1, 1).
                x = self._layer(layer, x, pads=self.pads)
                skips.append(x)
        if not self.architecture.pooled:
            skips.pop()  # the coarsest features are the decoder's input
        skip = None
        for k, layer in enumerate(self.decoder):
            x = self._layer(layer, x, skip)
            skip = skips.pop() if self._joins(k) else None
        for layer in self.tail_half:
            x = self._layer(layer, x, skip)
            skip = None
        if not (self.architecture.pooled or self.architecture.half):
            skip = skips.pop()
        for layer in self.tail:
            x = self._layer(layer, x, skip)
            skip = None
        return x if skip is None else _join(x, skip)

    def _layer(self, layer: nn.Module, x: Tensor, skip: Tensor | None = None, pads: tuple[int, ...] = ()) -> Tensor:
        """A convolution and its activation, of `x` alone or upsampled beside the skip."""

        def run(x: Tensor, skip: Tensor | None) -> Tensor:
            x = x if skip is None else _join(x, skip)
            return activated(convolve(layer, F.pad(x, pads) if pads else x))

        return recomputed(self.save_memory, run, x, skip)


def recomputed(saving: bool, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
    """`function(*inputs)`; `saving`: the graph keeps the inputs alone, the rest is computed anew in the backward."""
    if not (saving and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def activated(x: Tensor) -> Tensor:
    """What every layer but the last ends with."""
    return F.leaky_relu(x, 0.2, inplace=True)  # its gradient needs no more than its result


def _join(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1)


def widened(architecture: Architecture, width: float) -> Architecture:
    """With `width` times as many features in every layer, at least one."""

    def wide(channels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(width * features)) for features in channels)

    a = architecture
    return replace(a, encoder=wide(a.encoder), decoder=wide(a.decoder), tail_half=wide(a.tail_half), tail=wide(a.tail))
