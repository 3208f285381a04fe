"""A pyramid of two streams: both images' features, matched level by level, coarse to fine.

One encoder sees the two images one by one. From the coarsest grid up, the moving image's features are warped by what is
known, correlated with the fixed image's, and a small decoder says what is left: each level has to find little, and the
network is spared what VoxelMorph's has to learn, to hold two images in one stream and bring together what lies apart.

Source: the streams and the levels are those of Dual-PRNet (Hu et al., MICCAI 2019), the local correlation at each level
that of Dual-PRNet++ (Kang et al., Medical Image Analysis 2022) and of PWC-Net (Sun et al., CVPR 2018) before it, the
normalised features those of Jonschkowski et al., "What matters in unsupervised optical flow" (ECCV 2020).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.geometry import fields
from fastreg.nn.cpu_convolution import convolve
from fastreg.nn.unet import activated, convolution, recomputed
from fastreg.ops.correlate import correlate
from fastreg.ops.warp import warp
from fastreg.types import Flow, Volume
from fastreg.utils.devices import computes_bfloat16

ENCODER = (16, 32, 32, 32)
"""Features of an image on half its grid, on a quarter of it, and so on."""
DECODER = (16, 32, 32, 32, 32)
"""Features of the decoders, that of the images' own grid first."""
RADIUS = 1
"""Of the correlation, voxels of the level."""
MOST = 4.0
"""What a level says at most, voxels of the level: without a bound one bad step can throw the images apart, where no
gradient is left."""


class Found(NamedTuple):
    """What the pyramid says of a pair."""

    flow: Flow
    """[batch, ndim, D, H, W], voxels."""
    back: Flow | None
    """The inverse, where it was asked for."""
    state: Tensor
    """The last decoder's features, on its grid."""


class Pyramid(nn.Module):
    """Images [batch, channels, D, H, W] with axes divisible by `divisor` -> the flow between them.

    Args:
        channels: Of one image.
        ndim: 3 or 2.
        width: Factor on the features of every layer.
        half: The finest level is that of half the grid; its flow is refined to the images'.
        squarings: What a level finds is a velocity, integrated by so many; None: a displacement.
        amp: Convolutions run in bfloat16 where that is fast.
        channels_last: Convolutions see that memory format.
        save_memory: Activations are computed anew in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        ndim: int,
        width: float = 1.0,
        half: bool = False,
        squarings: int | None = None,
        amp: bool = False,
        channels_last: bool = False,
        save_memory: bool = False,
    ) -> None:
        super().__init__()
        self.squarings, self.amp, self.channels_last, self.save_memory = squarings, amp, channels_last, save_memory
        self.last = int(half)
        """The finest level."""
        encoder, decoder = ([max(1, round(width * n)) for n in of] for of in (ENCODER, DECODER))
        self.divisor = 2 ** len(encoder)
        self.outputs = decoder[self.last]
        self.encoder, self.decoder, self.flow = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = channels * 2**ndim
        for features in encoder:
            layers = [convolution(ndim, inputs, features), convolution(ndim, features, features)]
            self.encoder.append(nn.ModuleList(layers))
            inputs = features
        for level in range(self.last, len(encoder) + 1):
            features = decoder[level]
            if level == 0:
                layers = [convolution(ndim, 2 * channels, features)]
            else:
                inputs = (2 * RADIUS + 1) ** ndim + 2 * encoder[level - 1]
                layers = [(nn.Conv3d if ndim == 3 else nn.Conv2d)(inputs, features, 1)]
                layers.append(convolution(ndim, features, features))
            layers.append(convolution(ndim, features, features))
            self.decoder.append(nn.ModuleList(layers))
            flow = convolution(ndim, features, ndim)
            nn.init.normal_(flow.weight, std=1e-5)  # starts at the identity
            self.flow.append(flow)

    def forward(self, moving: Volume, fixed: Volume, inverse: bool = False) -> Found:
        """The flow from the voxels of `fixed` to those of `moving`; with `inverse` the way back too (velocities)."""
        size, batch = tuple(fixed.shape[2:]), len(fixed)
        features = self._features(torch.cat([moving, fixed]))
        flow: Flow | None = None
        back: Flow | None = None
        state = features[-1]
        for level in reversed(range(self.last, len(features))):
            theirs, ours = (
                part.to(fixed.dtype).contiguous() for part in (features[level][:batch], features[level][batch:])
            )
            if flow is not None:
                flow = fields.refined(flow, tuple(ours.shape[2:]), 2)
                back = None if back is None else fields.refined(back, tuple(ours.shape[2:]), 2)
                theirs = warp(theirs, flow, padding="border")
            state, said = recomputed(self.save_memory, partial(self._decoded, level), theirs, ours)
            step = self._integrated(said)
            flow = step if flow is None else fields.compose(flow, step)
            if inverse:
                step = self._integrated(-said)
                back = step if back is None else fields.compose(step, back)
        assert flow is not None
        factor = 2**self.last
        flow = fields.refined(flow, size, factor)
        return Found(flow, None if back is None else fields.refined(back, size, factor), state)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Of each level, the finest first."""
        pool = F.avg_pool3d if images.ndim == 5 else F.avg_pool2d
        found = [images]
        with self._autocast(images.device):
            x = self._laid_out(_cubes(images))
            for level, layers in enumerate(self.encoder):
                x = recomputed(self.save_memory, partial(_through, layers), x if level == 0 else pool(x, 2))
                found.append(x)
        return found

    def _decoded(self, level: int, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's features, and what they say in the precision of `ours`."""
        seen = [ours, theirs]
        if level:
            even = _standardised(ours, theirs)
            seen.append(correlate(*even, radius=RADIUS, measure="ssd", padding="border"))
        if self._low(ours.device):
            seen = [part.bfloat16() for part in seen]
        with self._autocast(ours.device):
            state = _through(self.decoder[level - self.last], self._laid_out(torch.cat(seen, 1)))
            said = convolve(self.flow[level - self.last], state)
        return state, MOST * torch.tanh(said.to(ours.dtype).contiguous() / MOST)

    def _integrated(self, said: Tensor) -> Flow:
        return said if self.squarings is None else fields.integrate(said, steps=self.squarings)

    def _low(self, device: torch.device) -> bool:
        return self.amp and computes_bfloat16(device)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self._low(device))

    def _laid_out(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            return x
        return x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)


def _cubes(images: Tensor) -> Tensor:
    """[batch, channels, D, H, W] -> [batch, 8 channels, D/2, H/2, W/2]: the voxels of a cube as channels of one."""
    halves = images.shape[2:]
    for axis, length in enumerate(halves):
        images = torch.unflatten(images, 2 + 2 * axis, (length // 2, 2))
    ndim = len(halves)
    order = [0, 1, *range(3, 3 + 2 * ndim, 2), *range(2, 2 + 2 * ndim, 2)]
    return images.permute(order).flatten(1, 1 + ndim)


def _standardised(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both with mean 0 and variance 1, channel by channel over the voxels of the two: costs of one size on all levels.

    Without it a network learns far more slowly, and its features may grow without end.
    """
    axes = tuple(range(2, ours.ndim))
    parts = (torch.var_mean(part, axes, correction=0, keepdim=True) for part in (ours, theirs))
    (our_variance, our_mean), (their_variance, their_mean) = parts
    mean = (our_mean + their_mean) / 2
    variance = (our_variance + their_variance) / 2 + ((our_mean - their_mean) / 2) ** 2
    scale = torch.rsqrt(variance + 1e-5)
    return (ours - mean) * scale, (theirs - mean) * scale


def _through(layers: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        x = activated(convolve(layer, x))
    return x
