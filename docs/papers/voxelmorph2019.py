"""VoxelMorph TMI 2019: training-set size, image loss, doubled features, instance optimisation, auxiliary segmentations.

Subject to subject on a cohort of labelled brains. All arms are scored on the same pairs of people whom none trains on.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import permutations
from pathlib import Path

import study

from fastreg.data.cohorts import read_cohort
from fastreg.io.labels import read_structures
from fastreg.training.config import TrainConfig
from fastreg.utils.files import InputError

DATA = Path(os.environ.get("FASTREG_DATA", "data")) / "brains"
STUDIES = ("size", "loss", "width", "refine", "segmentation")
# Labels of the MICCAI 2012 protocol in four groups, as TMI 2019 grouped FreeSurfer's.
COARSE = {
    "white matter": [44, 45, 40, 41],
    "grey matter": [47, 48, 31, 32, 36, 37, 38, 39, 55, 56, 57, 58, 59, 60, 23, 30, 71, 72, 73, *range(100, 208)],
    "cerebrospinal fluid": [4, 11, 46, 49, 50, 51, 52],
    "brain stem": [35, 61, 62],
}


def main() -> None:
    """Runs the studies."""
    options = study.parser(__doc__, "voxelmorph2019")
    options.add_argument("--images", default=str(DATA / "*_t1.nii.gz"), help="quoted glob of images")
    options.add_argument("--labels", default=str(DATA / "*_labels.nii.gz"), help="quoted glob of their label maps")
    options.add_argument("--test", default="1036,1038,1039", help="ids of the people to test on")
    options.add_argument("--exclude", default="1018,1019", help="ids left out altogether: rescans of the test")
    options.add_argument("--last", default="1023,1024,1025", help="ids that join the training last: rescans within it")
    options.add_argument("--sizes", default="2,5,10,20", help="numbers of training scans")
    options.add_argument("--studies", default=",".join(STUDIES), help="which of the studies")
    options.add_argument("--spacing", type=float, default=2.0, help="working resolution, mm")
    options.add_argument("--model", default="vm2", choices=("vm1", "vm2", "vxm"), help="the network")
    options.add_argument("--refine", type=int, default=50, help="iterations of the instance optimisation")
    options.add_argument("--gamma", type=float, default=0.05, help="weight of the auxiliary segmentation loss")
    options.add_argument("--coarse", help="JSON of the coarse groups, {name: [labels]}; MICCAI 2012's if not given")
    options.add_argument("--score", default="all", help="structures that Dice is the mean of: all, 1,2,3 or JSON")
    given = options.parse_args()

    cohort = read_cohort(given.images, given.labels)
    test, last = ([key for key in text.split(",") if key] for text in (given.test, given.last))
    out = {*test, *(key for key in given.exclude.split(",") if key)}
    first = [subject.id for subject in cohort.subjects if subject.id not in {*out, *last}]
    training = study.subset(cohort, [*first, *last])
    sizes = sorted({min(int(n), len(training)) for n in given.sizes.split(",")})
    chosen = given.studies.split(",")
    unknown = [name for name in chosen if name not in STUDIES]
    if unknown:
        raise InputError(f"studies: expected some of {', '.join(STUDIES)}, got {unknown[0]}")
    coarse = given.coarse or str(given.output / "coarse.json")
    if given.coarse is None:
        given.output.mkdir(parents=True, exist_ok=True)
        Path(coarse).write_text(json.dumps(COARSE))

    def arm(of: str, name: str, folder: str, n: int = len(training), refine: int = 0, **change: object) -> study.Arm:
        """An arm on the first n people."""
        values = {
            "images": study.write_list(given.output / f"first_{n}.csv", training[:n]),
            "output": given.output / folder, "cache": given.output / "cache", "model": given.model,
            "spacing": given.spacing, "steps": given.steps, "minutes": given.minutes, "schedule": "cosine", "lr": 1e-3,
            "loss": "lncc", "window": 5, "lambda_": 1.0, "amp": True, "channels_last": True, "val_every": 0,
            "workers": 1, "seed": given.seed, "device": given.device, "threads": given.threads, **change,
        }  # fmt: skip
        return study.Arm(of, name, TrainConfig.of(**values), refine, float(n) if of == "size" else None)

    # The base network, on everybody, is an arm of several studies; its folder makes it one training.
    base = f"lncc_{len(training)}"
    mse = {"loss": "mse", "lambda_": 0.02}
    structures = sorted(label for group in (read_structures(coarse) or {}).values() for label in group)
    some = ",".join(map(str, structures[::2]))
    every = {
        "size": [arm("size", f"{n} scans", f"lncc_{n}", n) for n in sizes],
        "loss": [arm("loss", "LNCC", base), arm("loss", "MSE", "mse", **mse)],
        "width": [arm("width", "features x 1", base), arm("width", "features x 2", "wide", width=2.0)],
        "refine": [
            arm("refine", "network", base),
            arm("refine", f"network + {given.refine} iterations", base, refine=given.refine),
        ],
        "segmentation": [
            arm("segmentation", "none", "mse", **mse),
            *(
                arm("segmentation", name, f"seg_{folder}", seg_weight=given.gamma, seg_labels=labels, **mse)
                for name, folder, labels in (
                    ("one label", "one", str(structures[0])),
                    ("every second", "some", some),
                    ("all", "all", "all"),
                    ("coarse groups", "coarse", coarse),
                )
            ),
        ],
    }
    arms = [one for name in chosen for one in every[name]]
    groups = read_structures(given.score)
    score = None if groups is None else [label for group in groups.values() for label in group]
    rows = study.run(arms, list(permutations(study.subset(cohort, test), 2)), given, score)
    for name in chosen if rows else ():
        study.plot(rows, name, given.output / f"{name}.png", "training scans")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"voxelmorph2019: {error}")
