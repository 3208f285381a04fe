"""What the registration libraries compute, written by its definition in plain torch: slow, dense, any dtype."""

import torch
import torch.nn.functional as F


def gaussian(n):
    return torch.exp(-0.5 * ((torch.arange(n).double() - n // 2) / (n / 3)) ** 2)


def sampled(image, ddf, mode, padding):
    """The definition: the image at p + ddf(p), in torch's normalised coordinates."""
    lengths = torch.tensor(ddf.shape[2:], dtype=ddf.dtype)
    axes = [torch.arange(n, dtype=ddf.dtype) for n in ddf.shape[2:]]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) + ddf.movedim(1, -1)
    return F.grid_sample(image, (2 * place / (lengths - 1) - 1).flip(-1), mode, padding, align_corners=True)


def data(ndim, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = (9, 8, 7)[:ndim]
    a = torch.rand(2, 2, *size, generator=rng, dtype=dtype)
    return a, 0.6 * a + 0.4 * torch.rand(2, 2, *size, generator=rng, dtype=dtype), rng


def gradients(value, *tensors):
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return torch.autograd.grad(value, tensors, weights, allow_unused=True)


def moments(a, b, weights):
    """Covariance and variances under a window, the product of `weights` along every axis; windows are cut out."""
    ndim, n = a.ndim - 2, len(weights)
    window = weights
    for _ in range(ndim - 1):
        window = window[..., None] * weights
    total = window.sum()

    def summed(x):
        cut = F.pad(x, [n // 2] * 2 * ndim)
        for axis in range(2, ndim + 2):
            cut = cut.unfold(axis, n, 1)
        return (cut * window).sum(tuple(range(-ndim, 0)))

    def covariance(x, y):
        return summed(x * y) - summed(x) * summed(y) / total

    return covariance(a, b), covariance(a, a), covariance(b, b)


def by_gaussians(places, centres, sigma):
    """Weights of bins, [batch, voxels, bins]."""
    weights = torch.exp(-(((places[..., None] - centres) / sigma) ** 2) / 2)
    return weights / weights.sum(-1, keepdim=True)


def by_splines(x, bins, order):
    """The same of B-splines, between the least and the greatest intensity."""
    place = ((x - x.min()) / (x.max() - x.min()) * (bins - 4) + 2).clamp(2, bins - 3)
    d = (place[..., None] - torch.arange(bins)).abs()
    cubic = torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, torch.where(d < 2, (2 - d) ** 3 / 6, 0 * d))
    weights = cubic if order == 3 else (d < 0.5).double() + 0.5 * (d == 0.5)
    return weights / weights.sum(-1, keepdim=True)


def information(wa, wb, nr, dr, floor):
    """Mutual information of images by their weights, [batch]."""
    joint = wa.transpose(1, 2) @ wb / wa.shape[1]
    apart = wa.mean(1)[:, :, None] * wb.mean(1)[:, None]
    return (joint * ((joint + nr) / (apart + dr) + floor).log()).sum((1, 2))
