"""Which metric suits two images that lie roughly on each other: looked up in the images themselves.

Within one contrast intensities rise together, and local correlation in wide windows is the best metric known here.
Where one image's intensity is about a function of the other's, local correlation after mapping it is; where there is no
such function (ultrasound), descriptors of self-similarity are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.registration.remap import curves
from fastreg.registration.samples import Samples, Seen, information, objects

ONE_CONTRAST = 0.45
"""Correlation of intensities inside of objects. Pairs of one contrast had 0.52 to 0.96 (brains, abdomens, ultrasound,
X-rays, sections), two stains 0.37, T1 and T2* of a spine 0.35, other two contrasts -0.45 to 0.15."""
A_FUNCTION = 0.15
"""Correlation ratio inside of objects, at least, to be mapped. Brains in two contrasts had 0.16 to 0.44, MR and
ultrasound of a prostate 0.13."""
IN_COMMON = 0.15
"""Normalised mutual information, at least. Brains in two contrasts had 0.33 to 0.45, the prostate, two stains and the
spine 0.06 to 0.10."""


@dataclass(frozen=True)
class Choice:
    """A metric, and why."""

    metric: str
    reason: str = "asked for"


def choose(fixed: Image, moving: Image, world: Affine, masks: tuple[Image | None, Image | None]) -> Choice:
    """The metric for a deformation of images that a linear alignment has brought together.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        world: Fixed RAS mm -> moving RAS mm.
        masks: Of the fixed and of the moving image, where they count.
    """
    samples = Samples(fixed, moving, masks)
    seen = samples.at(samples.under(world))
    inside = replace(seen, where=seen.where & objects(seen.ours) & objects(seen.theirs))
    correlation = correlated(inside)
    if correlation is None or correlation >= ONE_CONTRAST:
        return Choice("lncc", "one contrast" if correlation is None else f"intensities correlate by {correlation:.2f}")
    ratio, common = _ratio(inside), information(seen)
    if ratio >= A_FUNCTION and common >= IN_COMMON:
        return Choice("remap", f"intensities correlate by {correlation:.2f}, a function explains {ratio:.2f}")
    return Choice("mind", f"intensities correlate by {correlation:.2f}, a function explains {ratio:.2f} only")


def correlated(seen: Seen) -> float | None:
    """The correlation of intensities; None where there is too little to tell."""
    if seen.where.sum() < 100:
        return None
    clipped = [x[seen.where].clip(*np.percentile(x[seen.where], (1, 99))) for x in (seen.ours, seen.theirs)]
    if min(np.ptp(x) for x in clipped) == 0:
        return None
    return float(np.corrcoef(*clipped)[0, 1])


def _ratio(seen: Seen) -> float:
    images = [torch.from_numpy(np.ascontiguousarray(x[seen.where]))[None, None, :, None] for x in (seen.ours, seen.theirs)]
    return max(curve.ratio for curve in curves(images[0], images[1]) if curve is not None)
