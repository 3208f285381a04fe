"""Whether a registration is better than its start, by a measure that it did not optimise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastreg.geometry.image import Image, affine_field, to_flow
from fastreg.geometry.masks import inside
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import Affine, Warp
from fastreg.ops.lncc import lncc

POINTS = 150_000
"""About so many voxels of the fixed image are compared."""
_BINS = 32
_GAIN = 0.02
"""Less than this part of the measure is no difference."""


@dataclass(frozen=True)
class Verdict:
    """The measure before and after, and what is suspicious about it, if anything is."""

    measure: str
    before: float
    after: float
    overlap: float
    """Share of the fixed image's voxels that lie in the moving image, after."""
    suspect: str | None


def judge(
    fixed: Image, moving: Image, warp: Warp, start: Affine, metric: str, masks: tuple[Image | None, Image | None]
) -> Verdict:
    """Compares a result with its start.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        warp: What was found, on the fixed image's grid.
        start: Where the images lay before, fixed RAS mm -> moving RAS mm.
        metric: What was optimised; the measure is another one: local correlation after "mi", else mutual information.
        masks: Of the fixed and of the moving image, where they count.
    """
    step = max(1, round((np.prod(fixed.shape) / POINTS) ** (1 / fixed.ndim)))
    every = (slice(None, None, step),) * fixed.ndim
    index = np.stack(np.meshgrid(*[np.arange(0, n, step) for n in fixed.shape], indexing="ij"), -1)
    across = np.linalg.inv(moving.affine) @ start.matrix @ fixed.affine
    began = affine_field(across[: fixed.ndim], fixed.shape)[every]
    ended = index + warp.flow[every]
    ours = np.nan_to_num(fixed.data[every].astype(np.float32))
    every_affine = fixed.affine @ np.diag([*[float(step)] * fixed.ndim, *[1.0] * (4 - fixed.ndim)])
    counted = np.ones(ours.shape, bool) if masks[0] is None else inside(masks[0], ours.shape, every_affine)
    figures = []
    for places in (began, ended):
        met: np.ndarray = np.all((places >= -0.5) & (places <= np.array(moving.shape) - 0.5), axis=-1)
        flow = to_flow(places - np.stack(np.meshgrid(*map(np.arange, ours.shape), indexing="ij"), -1))
        theirs = sample(Image(np.nan_to_num(moving.data.astype(np.float32)), moving.affine), flow, padding="border")
        where = met & counted
        if masks[1] is not None:
            at = sample(Image((masks[1].data > 0).astype(np.float32), masks[1].affine), _into(masks[1], moving, places))
            where &= at >= 0.5
        overlap = float(met[counted].mean()) if counted.any() else 0.0
        figures.append((_local_correlation if metric == "mi" else _information)(ours, theirs, where))
    before, after = figures
    measure = "local correlation" if metric == "mi" else "mutual information"
    moved = float(np.median(np.linalg.norm(ended - began, axis=-1)))
    return Verdict(measure, before, after, overlap, _suspect(measure, before, after, overlap, moved))


def _suspect(measure: str, before: float, after: float, overlap: float, moved: float) -> str | None:
    if overlap < 0.1:
        return f"only {100 * overlap:.0f} % of the fixed image lies in the moving image"
    least = (1 + _GAIN) * before if moved > 1 else (1 - _GAIN) * before
    if after < least:
        return f"no better than its start by {measure}: {before:.3f} before, {after:.3f} after"
    return None


def _into(mask: Image, moving: Image, places: np.ndarray) -> torch.Tensor:
    """The flow from the points' own grid into the mask's, for places in voxels of the moving image."""
    ndim = moving.ndim
    across = (np.linalg.inv(mask.affine) @ moving.affine)[:ndim]
    index = np.stack(np.meshgrid(*map(np.arange, places.shape[:-1]), indexing="ij"), -1)
    return to_flow(places @ across[:, :ndim].T + across[:, 3] - index)


def _information(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Normalised mutual information, 0 (nothing in common) to 1: 2 I / (H_a + H_b)."""
    if where.sum() < 2:
        return 0.0
    codes = [_ranked(image[where]) for image in (a, b)]
    joint = np.bincount(codes[0] * _BINS + codes[1], minlength=_BINS**2).reshape(_BINS, _BINS) / where.sum()
    entropies = [_entropy(joint.sum(1)), _entropy(joint.sum(0)), _entropy(joint.ravel())]
    total = entropies[0] + entropies[1]
    return 2 * (total - entropies[2]) / total if total > 0 else 0.0


def _ranked(values: np.ndarray) -> np.ndarray:
    """A bin for each value: equal steps between the 0.5th and the 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    return np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny) * _BINS, 0, _BINS - 1).astype(np.int64)


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _local_correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Mean squared correlation in windows of 5 points, whatever its sign."""
    if not where.any():
        return 0.0
    volumes = [torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None, None] for x in (a, b)]
    spread = [max(float(x.std()), 1e-12) for x in volumes]
    scaled = [x / s for x, s in zip(volumes, spread, strict=True)]
    return float(lncc(*scaled, window=5, eps=1e-3, mask=torch.from_numpy(where.astype(np.float32))[None, None]))
