"""What an image looks like, whatever its contrast: the modality independent neighbourhood descriptor."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreg.types import Volume


def descriptors(image: Volume) -> Tensor:
    """MIND: how alike a voxel's neighbourhood is to those one voxel further, whatever the contrast.

    ``exp(-d_k / v)`` for the 2 ndim neighbours k, d_k the mean squared difference over 3^ndim voxels, v the mean of
    d_k over k, at least a thousandth of its mean over the image: 1 where nothing changes.

    Args:
        image: [batch, channels, D, H, W] or [batch, channels, H, W], any intensity unit.

    Returns:
        [batch, channels * 2 ndim, D, H, W], 0 to 1.

    Source: Heinrich et al. 2012, "MIND: Modality independent neighbourhood descriptor for multi-modal deformable
    registration", with the six-neighbourhood.
    """
    squares = []
    for axis in range(2, image.ndim):
        step = image.diff(dim=axis).square()
        border = torch.zeros_like(image.narrow(axis, 0, 1))
        squares += [torch.cat([step, border], axis), torch.cat([border, step], axis)]
    if torch.compiler.is_exporting():  # in few steps; else one by one, in little memory
        distances = _averaged(torch.stack(squares, 1).flatten(1, 2))
        distances = torch.unflatten(distances, 1, (len(squares), image.shape[1]))
    else:
        distances = torch.stack([_averaged(square) for square in squares], 1)  # [batch, 2 ndim, channels, ...]
    mean = distances.mean(1, keepdim=True)
    floor = 1e-3 * mean.mean(tuple(range(3, mean.ndim)), keepdim=True)
    scale = torch.maximum(mean, floor).clamp_min(torch.finfo(mean.dtype).tiny)
    return torch.exp(-distances / scale).flatten(1, 2)


def _averaged(image: Tensor) -> Tensor:
    """Over 3 voxels along each axis, the border's values going on."""
    for axis in range(2, image.ndim):
        length = image.shape[axis]
        ends = image.narrow(axis, 0, 1), image.narrow(axis, length - 1, 1)
        longer = torch.cat([ends[0], image, ends[1]], axis)
        image = sum((longer.narrow(axis, k, length) for k in range(3)), torch.zeros(())) / 3
    return image
