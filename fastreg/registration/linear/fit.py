"""The best map near a given one: BFGS over generators that are scaled to move the image by a voxel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastreg.registration.linear.bfgs import minimised
from fastreg.registration.linear.objective import LOSS_SCALE, Objective, Objectives, generators
from fastreg.registration.linear.scans import Body

STRAIN = 0.3
"""Weight of the strain against a similarity from 0 to 1, see `strain`."""
_TOLERANCE = 0.01
"""Of the scaled loss."""
_LEAST_GAIN = 1e-5
"""Of similarity: what rounding may give a map that is no better."""


def fit(
    objective: Objective | Objectives,
    world: np.ndarray,
    body: Body,
    kind: str,
    spacing_mm: float,
    iterations: int,
    weight: float = STRAIN,
) -> np.ndarray:
    """The map near `world` where similarity less strain is highest; `world` itself where nothing is gained.

    ``D(theta) @ world``: D is the exponential of a combination of generators about the fixed image's centre of mass,
    each scaled to move the image's mass by one voxel of the level, root mean square, so that the problem is well
    conditioned.
    """
    if objective.weigh(world) == 0:
        return world
    ndim = body.axes.shape[1]
    axes = torch.from_numpy(body.axes)
    basis = torch.from_numpy(body.axes @ generators(kind, ndim) @ body.axes.T * spacing_mm / body.radius_mm)
    start = torch.from_numpy(world)
    pivot = start[:3, :3] @ torch.from_numpy(body.centre) + start[:3, 3]
    strained = weight > 0 and kind in ("similarity", "affine")

    def mapped(theta: Tensor) -> Tensor:
        linear = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", theta[ndim:], basis))
        shift = pivot - linear @ pivot + spacing_mm * axes @ theta[:ndim]
        top = torch.cat([linear, shift[:, None]], 1) @ start
        return torch.cat([top, start[3:]])

    def value(map_: Tensor) -> Tensor:
        return objective(map_) - (weight * strain(map_) if strained else 0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(parameters).requires_grad_()
        found = -LOSS_SCALE * value(mapped(theta))
        (gradient,) = torch.autograd.grad(found, theta)
        return found.item(), gradient.numpy()

    parameters, gain = minimised(loss, np.zeros(ndim + len(basis)), iterations, _TOLERANCE)
    return mapped(torch.from_numpy(parameters)).numpy() if gain > LOSS_SCALE * _LEAST_GAIN else world


def strain(world: Tensor) -> Tensor:
    """A quarter of the squared norm of log(A' A): how far the linear part is from a rigid one, whatever its sign.

    Without it an affine map of images that hardly agree gains by shrinking one of them away.
    """
    linear = world[:3, :3]
    return 0.25 * torch.linalg.eigvalsh(linear.T @ linear).clamp_min(1e-9).log().square().sum()
