"""Label maps of whole heads, each brought onto the first by a linear map, for the training of the general model.

python docs/papers/head_maps.py 'maps/*.nii.gz' -o aligned

The maps have FreeSurfer's labels. An image is made of each, grey matter brighter than fluid and white matter brighter
than that, without what lies outside the brain; the alignment is that of `fastreg register --transform affine`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from fastreg.cli.output import err
from fastreg.data.cohorts import read_cohort
from fastreg.geometry.image import Image
from fastreg.geometry.resample import sample_filled
from fastreg.io.images import load_labels, save_image
from fastreg.registration.pairwise import register
from fastreg.utils.files import InputError

WHITE = (2, 7, 41, 46, 16, 28, 60)
FLUID = (4, 5, 14, 15, 43, 44, 72)
DEEP = (10, 11, 12, 13, 26, 49, 50, 51, 52, 58)
GREY = (3, 8, 17, 18, 42, 47, 53, 54)
BRIGHTNESS = {
    label: value for group, value in ((WHITE, 1.0), (FLUID, 0.2), (DEEP, 0.75), (GREY, 0.6)) for label in group
}
"""FreeSurfer's labels -> intensity; all others are 0."""
MARGIN = 16.0
"""Of the head around the brain, mm."""


def image_of(labels: Image) -> Image:
    """The map as an image like a T1 scan without its skull."""
    table = np.zeros(max(int(labels.data.max()), *BRIGHTNESS) + 1, np.float32)
    table[list(BRIGHTNESS)] = list(BRIGHTNESS.values())
    return Image(table[labels.data.astype(int)], labels.affine)


def box_of(labels: Image) -> tuple[slice, ...]:
    """The part of the grid that holds the brain and MARGIN mm around it."""
    brain = np.isin(labels.data, list(BRIGHTNESS))
    found = []
    for axis, spacing in enumerate(labels.spacing_mm):
        other = tuple(k for k in range(brain.ndim) if k != axis)
        inside, margin = np.flatnonzero(brain.any(other)), round(MARGIN / spacing)
        found.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + 1 + margin))
    return tuple(found)


def main() -> None:
    """Writes the aligned maps, on the part of the first's grid where its brain is."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("maps", help="quoted glob of label maps")
    options.add_argument("-o", "--output", type=Path, required=True, help="folder of the aligned maps")
    given = options.parse_args()
    subjects = read_cohort(given.maps).subjects
    first = load_labels(subjects[0].image)
    box = box_of(first)
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    for subject in subjects:
        labels = load_labels(subject.image)
        found = register(image_of(first), image_of(labels), transform="affine", metric="lncc")
        moved = sample_filled(labels, found.warp.tensor(), "nearest", background=0).astype(np.int32)
        save_image(given.output / f"{subject.id}.nii.gz", moved[box], first.affine @ corner)
        overlap = np.mean((moved > 0) & (first.data > 0)) / np.mean((moved > 0) | (first.data > 0))
        err.print(f"{subject.id}: {100 * overlap:.0f} % of what is not background in common with the first")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"head_maps: {error}")
