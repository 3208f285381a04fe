"""Shan et al. 2017 in 2-D: does a network register better when it has also trained on additional unlabelled images?

Arms: a few training images; the same and all the additional ones; the same with the edge-aware smoothness swapped for
the plain one; the same with a region of interest (what is not black), which the network learns from the masks of the
few and predicts for the others. Test pairs are the labelled slices, which no training sees.
"""

from __future__ import annotations

import os
import statistics
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import study
import torch

from fastreg.cli.output import out
from fastreg.data.cohorts import Subject
from fastreg.data.intensity import normalised
from fastreg.evaluation.metrics import dice
from fastreg.io.arrays import open_numpy
from fastreg.io.images import load_image, save_image
from fastreg.nn import checkpoint
from fastreg.training.config import TrainConfig
from fastreg.utils.files import InputError

DATA = Path(os.environ.get("FASTREG_DATA", "data")) / "slices"


def slices(path: Path, folder: Path) -> list[Subject]:
    """Unpacks an .npz of slices (vol [N, H, W], perhaps seg and name) into 1 mm NIfTI files."""
    content = open_numpy(path, "slices")
    if "vol" not in content or content["vol"].ndim != 3:
        raise InputError(f"slices {path}: expected an array vol [slices, H, W], got {list(content)}")
    people = []
    for k, vol in enumerate(content["vol"]):
        name = str(content["name"][k]) if "name" in content else f"slice{k:03d}"
        image, label = folder / f"{name}.nii.gz", None
        save_image(image, vol.astype(np.float32), np.eye(4))
        if "seg" in content:
            label = folder / f"{name}_labels.nii.gz"
            save_image(label, content["seg"][k], np.eye(4))
        people.append(Subject(name, image, label))
    return people


def write_masks(people: list[Subject], folder: Path) -> str:
    """The regions of interest, where an image is not black; returns the glob that pairs them with the images."""
    for person in people:
        image = load_image(person.image)
        save_image(folder / f"{person.id}.nii.gz", (image.data > 0).astype(np.uint8), image.affine)
    return str(folder / "*.nii.gz")


def score_region(model: Path, people: list[Subject]) -> tuple[float, float]:
    """Mean and standard deviation of the Dice of the predicted region and what is not black, over pairs of people."""
    net, about = checkpoint.load(model)
    net.eval()
    found = []
    for moving, fixed in permutations(people, 2):
        images = [load_image(person.image) for person in (moving, fixed)]
        scaled = [torch.from_numpy(normalised(image.data, about.working.normalise))[None, None] for image in images]
        with torch.inference_mode():
            region = net(*scaled).region[0, 0] > 0
        found.append(dice((images[1].data > 0).astype(np.uint8), region.numpy().astype(np.uint8))[1])
    return statistics.fmean(found), statistics.stdev(found)


def main() -> None:
    """Runs the study."""
    options = study.parser(__doc__, "shan2017")
    options.add_argument("--train", type=Path, default=DATA / "oasis_slices.npz", help="unlabelled slices")
    options.add_argument("--test", type=Path, default=DATA / "labelled_slices.npz", help="labelled slices")
    options.add_argument("--few", type=int, default=10, help="training images without the additional ones")
    options.set_defaults(steps=1500, minutes=20.0)
    given = options.parse_args()

    everybody = slices(given.train, given.output / "slices" / "train")
    test = slices(given.test, given.output / "slices" / "test")
    few = study.write_list(given.output / "few.csv", everybody[: given.few])
    masks = write_masks(everybody[: given.few], given.output / "masks")
    rest = study.write_list(given.output / "additional.csv", everybody[given.few :])
    base = TrainConfig.of(
        images=few, output=given.output / "few", model="vm2", loss="mse", penalty="edge_aware", lambda_=0.015, lr=5e-4,
        schedule="cosine", batch_size=4, spacing=1.0, steps=given.steps, minutes=given.minutes, val_every=0,
        save_every=200, workers=0, seed=given.seed, device=given.device, threads=given.threads,
    )  # fmt: skip

    def arm(name: str, folder: str, **change: object) -> study.Arm:
        return study.Arm("additional images", name, base.changed(**change, output=given.output / folder))

    arms = [
        arm(f"{given.few} images", "few"),
        arm(f"and {len(everybody) - given.few} more", "more", unlabelled=rest),
        arm("and more, l2 smoothness", "more_l2", unlabelled=rest, penalty="l2", lambda_=0.05),
        arm("and more, region of interest", "region", unlabelled=rest, masks=masks, region_weight=0.1),
    ]
    rows = study.run(arms, list(permutations(test, 2)), given)
    if rows:
        mean, sd = score_region(arms[-1].config.run.output / "model.safetensors", test)
        out.print(f"predicted region of interest: Dice {mean:.3f} ± {sd:.3f}")
        study.plot(rows, "additional images", given.output / "additional_images.png", "")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"shan2017: {error}")
