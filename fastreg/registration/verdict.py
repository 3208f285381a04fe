"""Whether a registration is better than its start, by a measure that it did not optimise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine, Warp
from fastreg.ops.lncc import lncc
from fastreg.registration.contrast import correlated
from fastreg.registration.quality import Figures
from fastreg.registration.samples import Samples, Seen, information

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
    samples = Samples(fixed, moving, masks)
    began, ended = samples.under(start), samples.along(warp)
    measure, compare = ("local correlation", _local_correlation) if metric == "mi" else _INFORMATION
    first, last = samples.at(began), samples.at(ended)
    before, after = compare(first), compare(last)
    moved = float(np.median(np.linalg.norm(ended - began, axis=-1)))
    suspect = _suspect(measure, before, after, last.overlap, moved)
    if suspect is None and metric in ("lncc", "mse"):
        suspect = _other_contrast(samples.at(samples.under(linear or start)))
    return Verdict(measure, before, after, last.overlap, suspect)


FOLDED = 1e-3
"""Share of voxels that fold at a corner: with more the field is no map of one space onto the other."""
STRETCHED = 2.0
"""Log of the change of volume that one voxel in a hundred exceeds: seven times as large or as small."""


def of_field(figures: Figures, voxels: int) -> str | None:
    """What is suspicious about a field, by `quality.field_figures`; None if nothing is."""
    folds, low, high = (figures[k] for k in ("corner_folds", "log_jacobian_low", "log_jacobian_high"))
    if folds is None or low is None or high is None:
        return None
    if folds > FOLDED * voxels:
        return f"the field folds in {100 * folds / voxels:.2g} % of the voxels"
    if max(-low, high) > STRETCHED:
        return f"volumes change {np.exp(max(-low, high)):.0f}-fold in a hundredth of the image"
    return None


def _suspect(measure: str, before: float, after: float, overlap: float, moved: float) -> str | None:
    if overlap < 0.1:
        return f"only {100 * overlap:.0f} % of the fixed image lies in the moving image"
    least = (1 + _GAIN) * before if moved > 1 else (1 - _GAIN) * before
    if after < least:
        return f"no better than its start by {measure}: {before:.3f} before, {after:.3f} after"
    return None


def _other_contrast(seen: Seen) -> str | None:
    """A word where intensities inside of the objects do not rise together: there "lncc" and "mse" may be misled."""
    agreement = correlated(seen.inside())
    if agreement is None or agreement >= _ONE_CONTRAST:
        return None
    return f"the contrasts seem to differ (intensities correlate by {agreement:.2f}): try the metric auto"


_ONE_CONTRAST = 0.2
"""Eight pairs of one contrast, of brains, spines, abdomens, hearts and sections, had 0.5 to 0.8, four of two -0.45 to
0.26."""


_INFORMATION = ("mutual information", information)


def _local_correlation(seen: Seen) -> float:
    """Mean squared correlation in windows of 5 points, whatever its sign."""
    if not seen.where.any():
        return 0.0
    volumes = [torch.from_numpy(np.ascontiguousarray(x))[None, None] for x in (seen.ours, seen.theirs)]
    spread = [max(float(x.std()), 1e-12) for x in volumes]
    scaled = [x / s for x, s in zip(volumes, spread, strict=True)]
    return float(lncc(*scaled, window=5, eps=1e-3, mask=torch.from_numpy(seen.where.astype(np.float32))[None, None]))
