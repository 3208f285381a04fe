"""What `fastreg demo` does, from top to bottom; each step is a public function or command of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastreg import checkpoint, phantom
from fastreg.cli._output import err, out, print_json, print_table
from fastreg.cli._train_log import TrainBar
from fastreg.config import TrainConfig
from fastreg.files import InputError
from fastreg.images import Image, save_image
from fastreg.metrics import dice, endpoint_error, mean, regularity
from fastreg.plots import loss_curve, registration_figure
from fastreg.registration import register
from fastreg.train import fit

if TYPE_CHECKING:
    from fastreg.cli.demo import Demo


def run_demo(options: Demo) -> None:
    """Makes the cohort, trains, registers the unseen subjects, prints the figures and draws the picture."""
    if options.subjects < 2 or options.unseen < 2:
        raise InputError(f"subjects and unseen: expected at least 2, got {options.subjects} and {options.unseen}")
    began = time.perf_counter()
    cohort = options.output / "cohort"
    err.print(f"making {options.subjects + options.unseen} subjects from the MNI152 template")
    people = _make_cohort(options, cohort)

    with TrainBar(quiet=True) as bar:
        path = fit(_training(options, cohort), bar)
    loss_curve(options.output / "run" / "metrics.csv", options.output / "loss.png")

    model = checkpoint.load(path)
    rows = []
    unseen = people[options.subjects :]
    for k, moving in enumerate(unseen):
        fixed = unseen[(k + 1) % len(unseen)]
        rows.append(_register_one(options, cohort, model, fixed, moving, first=k == 0))
    _report(options, rows, time.perf_counter() - began)


def _name(seed: int) -> str:
    return f"subject{seed:03d}"


def _make_cohort(options: Demo, folder: Path) -> list[int]:
    """Writes images and labels; returns the subjects' seeds, those to train on first."""
    seeds = [1000 * options.seed + k for k in range(options.subjects + options.unseen)]
    for k, seed in enumerate(seeds):
        person = phantom.subject(seed)
        group = folder / ("train" if k < options.subjects else "unseen")
        save_image(group / f"{_name(seed)}_t1.nii.gz", person.image, phantom.AFFINE)
        save_image(group / f"{_name(seed)}_labels.nii.gz", person.labels, phantom.AFFINE)
    return seeds


def _training(options: Demo, cohort: Path) -> TrainConfig:
    return TrainConfig(
        images=str(cohort / "train" / "*_t1.nii.gz"),
        output=options.output / "run",
        model=options.model,  # type: ignore[arg-type]
        spacing=options.spacing,
        steps=options.steps,
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
        seed=options.seed,
        device=options.device,
        overwrite=True,
    )


def _register_one(options: Demo, cohort: Path, model: Any, fixed: int, moving: int, first: bool) -> dict[str, Any]:
    """Registers one unseen subject to another as a user would, and compares with the truth."""
    folder = cohort / "unseen"
    start = time.perf_counter()
    images = [folder / f"{_name(seed)}_t1.nii.gz" for seed in (fixed, moving)]
    found = register(*images, model=model)
    seconds = time.perf_counter() - start
    found.save_moved(options.output / f"{_name(moving)}_to_{_name(fixed)}.nii.gz")
    found.save_warp(options.output / f"{_name(moving)}_to_{_name(fixed)}_warp.nii.gz")

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
            options.output / "figure.png",
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
        "error_before_mm": _error_mm(0 * flow, truth, brain),
        "error_mm": _error_mm(flow, truth, brain),
        "folds": figures["folds_central_mask"],
        "voxels": figures["folds_central_mask_of"],
        "seconds": seconds,
    }


def _error_mm(flow: Any, truth: Any, brain: Any) -> float:
    """Mean distance inside the fixed brain between where the voxels were sent and where they belong."""
    return float(endpoint_error(flow, truth, [phantom.VOXEL_MM] * 3, brain).mean())


def _report(options: Demo, rows: list[dict[str, Any]], seconds: float) -> None:
    summary = {name: mean(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], float)}
    if options.json:
        print_json({"pairs": rows, "mean": summary, "total_seconds": seconds, "output": str(options.output)})
        return
    print_table(
        ["moving -> fixed", "Dice before", "Dice", "error before, mm", "error, mm", "folds", "seconds"],
        [
            [
                f"{row['moving']} -> {row['fixed']}",
                f"{row['dice_before']:.3f}",
                f"{row['dice']:.3f}",
                f"{row['error_before_mm']:.2f}",
                f"{row['error_mm']:.2f}",
                f"{row['folds']} of {row['voxels']}",
                f"{row['seconds']:.2f}",
            ]
            for row in rows
        ],
        title=f"{len(rows)} registrations of subjects that the network never saw",
    )
    out.print(
        f"mean Dice {summary['dice_before']:.3f} -> {summary['dice']:.3f}, error against the known displacement "
        f"{summary['error_before_mm']:.2f} -> {summary['error_mm']:.2f} mm, {summary['seconds']:.2f} s a pair; "
        f"{seconds / 60:.1f} min in all"
    )
    out.print(
        f"picture {options.output / 'figure.png'}, model {options.output / 'run' / 'model.safetensors'}", soft_wrap=True
    )
