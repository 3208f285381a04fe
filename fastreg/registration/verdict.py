"""Whether a registration is better than its start, by a measure that it did not optimise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastreg.geometry.image import Image, to_flow
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
    fixed: Image,
    moving: Image,
    warp: Warp,
    start: Affine,
    metric: str,
    masks: tuple[Image | None, Image | None],
    linear: Affine | None = None,
) -> Verdict:
    """Compares a result with its start.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        warp: What was found, on the fixed image's grid.
        start: Where the images lay before, fixed RAS mm -> moving RAS mm.
        metric: What was optimised; the measure is another one: local correlation after "mi", else mutual information.
        masks: Of the fixed and of the moving image, where they count.
        linear: The linear alignment, under which it is looked whether both images show one contrast; what the
            deformation has fitted says less. None: the start.
    """
    step = max(1, round((np.prod(fixed.shape) / POINTS) ** (1 / fixed.ndim)))
    every = (slice(None, None, step),) * fixed.ndim
    index = np.stack(np.meshgrid(*[np.arange(0, n, step) for n in fixed.shape], indexing="ij"), -1)
    ours = np.nan_to_num(fixed.data[every].astype(np.float32))
    every_affine = fixed.affine @ np.diag([*[float(step)] * fixed.ndim, *[1.0] * (4 - fixed.ndim)])
    counted = np.ones(ours.shape, bool) if masks[0] is None else inside(masks[0], ours.shape, every_affine)
    across = [np.linalg.inv(moving.affine) @ m.matrix @ fixed.affine for m in (start, linear or start)]
    began, aligned = (index @ m[: fixed.ndim, : fixed.ndim].T + m[: fixed.ndim, 3] for m in across)
    moving = Image(np.nan_to_num(moving.data.astype(np.float32)), moving.affine)
    ended = index + warp.flow[every]
    measure, compare = ("local correlation", _local_correlation) if metric == "mi" else _INFORMATION
    theirs, _, where = _sampled(moving, masks[1], began, counted)
    before = compare(ours, theirs, where)
    theirs, overlap, where = _sampled(moving, masks[1], ended, counted)
    after = compare(ours, theirs, where)
    moved = float(np.median(np.linalg.norm(ended - began, axis=-1)))
    suspect = _suspect(measure, before, after, overlap, moved)
    if suspect is None and metric != "mi":
        theirs, _, where = _sampled(moving, masks[1], aligned, counted)
        suspect = _other_contrast(ours, theirs, where)
    return Verdict(measure, before, after, overlap, suspect)


def _sampled(
    moving: Image, mask: Image | None, places: np.ndarray, counted: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """The moving image at places in its voxels, the share of what counts that meets it, and where both count."""
    met: np.ndarray = np.all((places >= -0.5) & (places <= np.array(moving.shape) - 0.5), axis=-1)
    flow = to_flow(places - np.stack(np.meshgrid(*map(np.arange, counted.shape), indexing="ij"), -1))
    theirs = sample(moving, flow, padding="border")
    where = met & counted
    if mask is not None:
        at = sample(Image((mask.data > 0).astype(np.float32), mask.affine), _into(mask, moving, places))
        where &= at >= 0.5
    return theirs, float(met[counted].mean()) if counted.any() else 0.0, where


def _suspect(measure: str, before: float, after: float, overlap: float, moved: float) -> str | None:
    if overlap < 0.1:
        return f"only {100 * overlap:.0f} % of the fixed image lies in the moving image"
    least = (1 + _GAIN) * before if moved > 1 else (1 - _GAIN) * before
    if after < least:
        return f"no better than its start by {measure}: {before:.3f} before, {after:.3f} after"
    return None


def _other_contrast(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> str | None:
    """A word where intensities inside of the objects do not rise together: there "lncc" and "mse" may be misled."""
    where = where & _object(a) & _object(b)
    if where.sum() < 100:
        return None
    clipped = [x[where].clip(*np.percentile(x[where], (1, 99))) for x in (a, b)]
    if min(np.ptp(x) for x in clipped) == 0:
        return None
    agreement = float(np.corrcoef(*clipped)[0, 1])
    if agreement >= _ONE_CONTRAST:
        return None
    return f"the contrasts seem to differ (intensities correlate by {agreement:.2f}): try the metric mi"


_ONE_CONTRAST = 0.2
"""Eight pairs of one contrast, of brains, spines, abdomens, hearts and sections, had 0.5 to 0.8, four of two -0.45 to
0.26."""


def _object(image: np.ndarray) -> np.ndarray:
    """Where it is not background, which is what lies along its border."""
    border = np.ones(image.shape, bool)
    border[tuple(slice(1, -1) for _ in image.shape)] = False
    low, high = np.percentile(image, (0.5, 99.5))
    return np.asarray(np.abs(image - np.median(image[border])) > 0.15 * (high - low))


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


_INFORMATION = ("mutual information", _information)


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
