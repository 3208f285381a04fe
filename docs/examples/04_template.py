"""Build the average image of a cohort at its average shape: `python 04_template.py IMAGES OUTPUT.nii.gz`."""

import sys

from fastreg.data.cohorts import read_cohort
from fastreg.io.images import save_image
from fastreg.registration.stages import Stage
from fastreg.registration.template import build_template

images, output = sys.argv[1], sys.argv[2]
cohort = read_cohort(images)  # a folder, a quoted glob, a .txt, .csv or .json list

template = build_template(
    cohort.subjects,
    rounds=2,
    stages=(Stage(factor=4, iterations=40), Stage(factor=2, iterations=20)),  # coarse to fine; quick
    finished=lambda row: print(f"round {row.number}: {row.drift_mm:.3f} mm from the mean shape"),
)
save_image(output, template.image)
print(f"{len(cohort.subjects)} subjects, {template.image.shape} voxels: {output}")
