"""3-D convolutions on the CPU around two weaknesses of torch: plain loops for small images, a fault of oneDNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by the way that is right and fast for a tensor of this size, dtype and device."""
    # What is exported runs elsewhere, and is of any size: a branch on the size would tie it to one.
    if x.device.type != "cpu" or x.ndim == 4 or torch.compiler.is_exporting():
        y: Tensor = layer(x)
        return y
    # oneDNN's bfloat16 gradient of 3-D weights reads memory that it never wrote where there are two planes, now and
    # then a NaN; grids that coarse cost nothing in float32.
    if x.shape[2] == 2 and x.dtype != torch.float64:
        with torch.autocast("cpu", enabled=False):
            y = layer(x.float())
            return y
    if _left_to_plain_loops(x):
        assert isinstance(layer, nn.Conv3d)
        return _convolve_halves(layer, x)
    y = layer(x)
    return y


def _left_to_plain_loops(x: Tensor) -> bool:
    """Whether torch takes its im2col loops for [1, channels, D, H, W], many times slower than oneDNN.

    It goes by the product of the first four axes, as if the image had two; larger batches always have oneDNN.
    """
    small = len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480
    return small and x[0, 0].numel() > 512 and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _convolve_halves(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """The same convolution, of the image's halves along the first axis as a batch of two."""
    assert not isinstance(layer.padding, str)
    width, stride, (first, *others) = layer.kernel_size[0], layer.stride[0], layer.padding
    x = F.pad(x, (0, 0, 0, 0, first, first))
    planes = (x.shape[2] - width) // stride + 1
    half = -(-planes // 2)
    reach, start = stride * (half - 1) + width, stride * (planes - half)
    halves = torch.cat([x[:, :, :reach], x[:, :, start : start + reach]])
    y = F.conv3d(halves, layer.weight, layer.bias, layer.stride, (0, *others))
    return torch.cat([y[:1], y[1:, :, 2 * half - planes :]], 2)
