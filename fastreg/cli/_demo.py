"""What `fastreg demo` does, from top to bottom; each step is a public function or command of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastreg.cli.output import err
from fastreg.cli.train_bar import TrainBar
from fastreg.data import phantom
from fastreg.evaluation.metrics import dice, endpoint_error, hd95, mean, regularity
from fastreg.geometry.image import Image
from fastreg.io.images import save_image
from fastreg.nn import checkpoint
from fastreg.plots.registration import registration_figure
from fastreg.plots.training import loss_curve
from fastreg.registration.pairwise import register
from fastreg.training.config import TrainConfig
from fastreg.training.record import check_folder
from fastreg.training.trainer import fit


def run_demo(
    output: Path, subjects: int, unseen: int, steps: int, spacing: float, model: str, seed: int, device: str | None
) -> tuple[list[dict[str, Any]], float]:
    """Makes the cohort, trains, registers the unseen subjects and draws the picture; arguments as in `fastreg demo`.

    Returns:
        The figures of every registration, and the seconds of it all.
    """
    began = time.perf_counter()
    check_folder(output)
    cohort = output / "cohort"
    err.print(f"making {subjects + unseen} subjects from the MNI152 template")
    seeds = [1000 * seed + k for k in range(subjects + unseen)]
    for k, person in enumerate(seeds):
        _make_subject(cohort / ("train" if k < subjects else "unseen"), person)

    with TrainBar(quiet=True) as bar:
        path = fit(_training(cohort, output / "run", steps, spacing, model, seed, device), bar)
    loss_curve(output / "run" / "metrics.csv", output / "loss.png")

    network = checkpoint.load(path)
    unseen_seeds = seeds[subjects:]
    rows = []
    for k, moving in enumerate(unseen_seeds):
        fixed = unseen_seeds[(k + 1) % len(unseen_seeds)]
        rows.append(_register_one(cohort / "unseen", output, network, fixed, moving, first=k == 0))
    return rows, time.perf_counter() - began


def _name(seed: int) -> str:
    return f"subject{seed:03d}"


def _make_subject(folder: Path, seed: int) -> None:
    """Writes the image and the labels of the person that `seed` makes."""
    person = phantom.subject(seed)
    save_image(folder / f"{_name(seed)}_t1.nii.gz", person.image, phantom.AFFINE)
    save_image(folder / f"{_name(seed)}_labels.nii.gz", person.labels, phantom.AFFINE)


def _training(
    cohort: Path, output: Path, steps: int, spacing: float, model: str, seed: int, device: str | None
) -> TrainConfig:
    return TrainConfig.of(
        images=str(cohort / "train" / "*_t1.nii.gz"),
        output=output,
        model=model,
        spacing=spacing,
        steps=steps,
        lr=1e-3,
        schedule="cosine",
        window=5,
        lambda_=1.0,
        flip=True,
        amp=True,
        channels_last=True,
        workers=0,
        val_every=0,
        save_every=0,
        seed=seed,
        device=device,
        overwrite=True,
    )


def _register_one(folder: Path, output: Path, model: Any, fixed: int, moving: int, first: bool) -> dict[str, Any]:
    """Registers one unseen subject to another as a user would, and compares with the truth."""
    start = time.perf_counter()
    images = [folder / f"{_name(seed)}_t1.nii.gz" for seed in (fixed, moving)]
    found = register(*images, model=model)
    seconds = time.perf_counter() - start
    found.save_moved(output / f"{_name(moving)}_to_{_name(fixed)}.nii.gz")
    found.save_warp(output / f"{_name(moving)}_to_{_name(fixed)}_warp.nii.gz")

    ours, theirs = phantom.subject(fixed), phantom.subject(moving)
    flow = found.flow[0].numpy()
    truth, brain = phantom.true_displacement(ours, theirs), ours.labels > 0
    moved_labels = found.apply(Image(theirs.labels, phantom.AFFINE)).data
    if first:
        registration_figure(
            found.fixed.data,
            found.moving.data,
            found.moved[0, 0].numpy(),
            flow,
            output / "figure.png",
            affine=phantom.AFFINE,
            fixed_labels=ours.labels,
            moving_labels=theirs.labels,
            moved_labels=moved_labels,
            title="fastreg demo, two subjects that the network never saw",
        )
    figures = regularity(flow, brain)
    return {
        "moving": _name(moving),
        "fixed": _name(fixed),
        "dice_before": mean(dice(ours.labels, theirs.labels).values()),
        "dice": mean(dice(ours.labels, moved_labels).values()),
        "hd95_mm": mean(hd95(ours.labels, moved_labels, [phantom.VOXEL_MM] * 3).values()),
        "error_before_mm": _error_mm(0 * flow, truth, brain),
        "error_mm": _error_mm(flow, truth, brain),
        "folds": figures["folds_central_mask"],
        "voxels": figures["folds_central_mask_of"],
        "seconds": seconds,
    }


def _error_mm(flow: Any, truth: Any, brain: Any) -> float:
    """Mean distance inside the fixed brain between where the voxels were sent and where they belong."""
    return float(endpoint_error(flow, truth, [phantom.VOXEL_MM] * 3, brain).mean())
