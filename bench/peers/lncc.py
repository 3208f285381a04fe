"""Local correlation, called as its users call it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Function, Implementation, Options
from bench.peers.packages import compiled, module
from bench.peers.warp import one_image


def box_sums(x: Tensor, window: int) -> Tensor:
    """Separable, by average pools that count the padding."""
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = window, window // 2
        if x.shape[2 + axis] < window:  # which avg_pool3d refuses
            margins = [0, 0] * 3
            margins[4 - 2 * axis : 6 - 2 * axis] = [window // 2] * 2
            x, padding[axis] = F.pad(x, margins), 0
        x = F.avg_pool3d(x, kernel, 1, padding, divisor_override=1)
    return x


def torch_lncc(a: Tensor, b: Tensor, window: int) -> Tensor:
    """VoxelMorph's formula as well as plain torch can: the five sums as channels of one separable average pool."""
    a, b = a.flatten(0, 1)[:, None], b.flatten(0, 1)[:, None]
    n = window**3
    sum_a, sum_b, aa, bb, ab = box_sums(torch.cat([a, b, a * a, b * b, a * b], 1), window).unbind(1)
    cross = ab - sum_a * sum_b / n
    return (cross**2 / ((aa - sum_a**2 / n) * (bb - sum_b**2 / n) + 1e-5)).mean()


def _compiled_lncc(options: Options) -> Function:
    return compiled(lambda a, b: torch_lncc(a, b, options.window))


def _neurite_ncc(options: Options) -> Function:
    return module("neurite.nn.modules").NCC(window_size=options.window)


def _monai_lncc(options: Options) -> Function:
    return module("monai.losses").LocalNormalizedCrossCorrelationLoss(kernel_size=options.window)


def _fireants_lncc(options: Options) -> Function:
    return module("fireants.losses.cc").LocalNormalizedCrossCorrelationLoss(kernel_size=options.window)


def _itk_lncc(options: Options) -> Function:
    sitk = module("SimpleITK")

    def run(fixed: Any, moving: Any) -> float:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
        metric = sitk.ImageRegistrationMethod()
        metric.SetNumberOfThreads(torch.get_num_threads())
        metric.SetMetricAsANTSNeighborhoodCorrelation(options.window // 2)
        metric.SetInterpolator(sitk.sitkLinear)
        metric.SetInitialTransform(sitk.TranslationTransform(3))
        return metric.MetricEvaluate(fixed, moving)

    return run


def _itk_images(a: Tensor, b: Tensor) -> tuple[Any, Any]:
    sitk = module("SimpleITK")
    one_image(a)
    return sitk.GetImageFromArray(a[0, 0].detach().numpy()), sitk.GetImageFromArray(b[0, 0].detach().numpy())


def _from_metric(out: float) -> Tensor:
    return torch.tensor(-out, dtype=torch.float64)


LNCCS = (
    Implementation("torch, average pools", lambda o: lambda a, b: torch_lncc(a, b, o.window), definition="voxelmorph"),
    Implementation("torch.compile, average pools", _compiled_lncc, definition="voxelmorph", compiles=True),
    Implementation("neurite NCC", _neurite_ncc, read=lambda out: out.sum(), definition="voxelmorph"),
    Implementation("MONAI LNCC", _monai_lncc, read=torch.neg, definition="monai"),
    Implementation("FireANTs LNCC", _fireants_lncc, read=torch.neg, definition="fireants"),
    Implementation(
        "SimpleITK ANTS correlation", _itk_lncc, _itk_images, _from_metric, definition="ants", gradients=False
    ),
)
