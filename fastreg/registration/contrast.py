"""Whether two images that lie roughly on each other show one contrast, and which metrics may suit them.

Within one contrast intensities rise together, and local correlation in wide windows is the best metric known here.
Where one image's intensity is about a function of the other's, local correlation after mapping it is; where there is no
such function, descriptors of self-similarity, or what locally goes together all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.registration.samples import Samples, Seen

ONE_CONTRAST = 0.45
"""Correlation of intensities inside of objects. Pairs of one contrast had 0.52 to 0.96 (brains, abdomens, ultrasound,
X-rays, sections), two stains 0.37, T1 and T2* of a spine 0.35, other two contrasts -0.45 to 0.15."""
WITHIN = ("lncc",)
ACROSS = ("remap", "mind", "lncc")
"""Tried in this order: the first of equals is taken."""


@dataclass(frozen=True)
class Choice:
    """A metric, and why."""

    metric: str
    reason: str = "asked for"
    stiffness: float = 1.0
    """How much more than usual the field is held, where the images say little about it."""


def candidates(fixed: Image, moving: Image, world: Affine, masks: tuple[Image | None, Image | None]) -> tuple[str, ...]:
    """The metrics that may suit a deformation of images that a linear alignment has brought together.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        world: Fixed RAS mm -> moving RAS mm.
        masks: Of the fixed and of the moving image, where they count.
    """
    samples = Samples(fixed, moving, masks)
    seen = samples.at(samples.under(world))
    correlation = correlated(seen.inside())
    return WITHIN if correlation is None or correlation >= ONE_CONTRAST else ACROSS


def correlated(seen: Seen) -> float | None:
    """The correlation of intensities; None where there is too little to tell."""
    if seen.where.sum() < 100:
        return None
    clipped = [x[seen.where].clip(*np.percentile(x[seen.where], (1, 99))) for x in (seen.ours, seen.theirs)]
    if min(np.ptp(x) for x in clipped) == 0:
        return None
    return float(np.corrcoef(*clipped)[0, 1])
