"""The published definitions of the local correlation, as cases of one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fastreg.types import LnccForm


def lncc_form(
    definition: str,
    window: Sequence[int],
    eps: float,
    num_eps: float | None = None,
    squared: bool = True,
    kernel: str = "box",
    sigma: Sequence[float] = (),
) -> LnccForm:
    """The form behind a name in `LNCC_DEFINITIONS`.

    Args:
        definition: The name.
        window: Edge lengths along (D, H, W) or (H, W).
        eps: What the definition makes of it.
        num_eps: In place of the definition's.
        squared: As in `LnccForm`, like the rest.
        kernel: How the window weighs its voxels.
        sigma: Of the kernel "gaussian", an axis; a third of the window if empty.
    """
    sigma = tuple(sigma) or tuple(length / 3 for length in window)
    box = LnccForm(tuple(window), squared=squared, kernel=kernel, sigma=sigma if kernel == "gaussian" else ())
    n = math.prod(sum(weights) for weights in window_weights(box))
    forms = {
        "fastreg": replace(box, floor="max", floor_eps=eps, clamp=True),
        "voxelmorph": replace(box, den_eps=eps),
        "voxelmorph-tf": replace(box, floor="max", floor_eps=eps, cross_floor=True),
        "monai": replace(box, floor="max", floor_eps=eps),
        "fused-lncc": replace(box, floor="add", floor_eps=eps, clamp=True),
        "ffdp": replace(box, floor="max", floor_eps=eps * n, den_eps=eps * n, num_eps=eps * n, clamp=True),
        "fireants": replace(box, floor="max", floor_eps=eps, den_eps=eps, num_eps=eps, mean=True, clamp=True),
        "ants": replace(box, count=True, flat_eps=2.22e-16, flat=1.0),
        "icon": replace(box, floor="add", floor_eps=eps, mean=True),
    }
    form = forms[definition]
    return form if num_eps is None else replace(form, num_eps=num_eps)


LNCC_DEFINITIONS = ("fastreg", "voxelmorph", "voxelmorph-tf", "monai", "fused-lncc", "ffdp", "fireants", "ants", "icon")


def window_weights(form: LnccForm) -> list[list[float]]:
    """Of the voxels of a window along each axis; their product weighs a voxel (docs/math.md)."""
    if form.kernel == "box":
        return [[1.0] * length for length in form.window]
    if form.kernel == "gaussian":
        return [
            [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-(length // 2), length // 2 + 1)]
            for length, sigma in zip(form.window, form.sigma, strict=True)
        ]
    return [_triangle(length) for length in form.window]


def _triangle(length: int) -> list[float]:
    """A mean over m voxels taken twice, m the largest odd number for which that fits into `length`."""
    m = ((length + 1) // 2 - 1) // 2 * 2 + 1
    return [max(0, m - abs(k)) / m**2 for k in range(-(length // 2), length // 2 + 1)]
