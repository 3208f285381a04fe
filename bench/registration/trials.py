"""What was tried for `fastreg register`: prints the tables of docs/register.md.

The pair of brains, the lung CT and a made-up contrast; the data (FASTREG_DATA, or ../shared/data) are not part of the
project. Seconds are those of `register` or `deform` on this machine, one run each: they say what is cheap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.machine import facts as machine
from bench.registration.pairs import add_data, check_data, pairs_of, structures
from fastreg.data.intensity import normalised
from fastreg.evaluation.metrics import dice, mean, regularity, tre
from fastreg.geometry.fields import compose
from fastreg.geometry.image import Image
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import Affine
from fastreg.io.images import load_image, load_labels
from fastreg.registration.deformable import deform
from fastreg.registration.linear.align import align
from fastreg.registration.pairwise import register
from fastreg.registration.stages import read_stages

DEFORM: tuple[tuple[str, dict[str, Any]], ...] = (
    ("default: 4x60, 2x40, 1x10; windows 9, 15, 31", {}),
    ("folds left as they come", {"unfold": False}),
    ("4x60, 2x40 (without the finest level)", {"levels": "4x60,2x40"}),
    ("4x60, 2x40, 1x20", {"levels": "4x60,2x40,1x20"}),
    ("8x40, 4x50, 2x40, 1x10", {"levels": "8x40,4x50,2x40,1x10"}),
    ("4x60, 2x25, 1x14", {"levels": "4x60,2x25,1x14"}),
    ("no early stop", {"tolerance": 0.0}),
    ("regularity close", {"regularity": "close"}),
    ("regularity smooth", {"regularity": "smooth"}),
    ("smoothness 1", {"smoothness": 1.0}),
    ("smoothness 2", {"smoothness": 2.0}),
    ("no weight of the volume", {"volume": 0.0}),
    ("windows 7", {"windows": "7"}),
    ("windows 9", {"windows": "9"}),
    ("windows 15", {"windows": "15"}),
    ("step 0.2", {"step": 0.2}),
    ("step 0.6", {"step": 0.6}),
    ("bidir", {"bidir": True}),
    ("MSE", {"metric": "mse"}),
)
CT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear part alone, masks", {"transform": "affine"}),
    ("default, masks", {}),
    ("masks, smoothness 1", {"smoothness": 1.0}),
    ("masks, smoothness 3", {"smoothness": 3.0}),
    ("masks, 4x60, 2x40, 1x20", {"levels": "4x60,2x40,1x20"}),
    ("masks, bidir", {"bidir": True}),
    ("default, no masks", {"masks": False}),
)
CONTRASTS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("as it is", lambda x: x),
    ("inverted", lambda x: 1 - x),
    ("non-monotonic", lambda x: 0.8 * np.abs(np.sin(2.2 * np.pi * x)) + 0.2 * (1 - x)),
)
"""Of intensities from 0 to 1; the background (below 0.02) stays dark."""


def _staged(options: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in options.items() if key not in ("levels", "windows", "masks")}
    if "levels" not in options and "windows" not in options:
        return rest
    return {**rest, "stages": read_stages(options.get("levels", "3"), options.get("windows"))}


def _table(title: str, columns: str) -> None:
    names = columns.split(", ")
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)


def _row(*cells: Any) -> None:
    print("|", " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells), "|", flush=True)


def deformable(data: Path) -> None:
    """The pair subject_b -> subject_a from its headers, the deformable part alone."""
    pair = pairs_of(data)[0]
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    labels, moving_labels, counted = load_labels(pair.fixed_labels), load_labels(pair.moving_labels), structures(pair)
    images = [torch.from_numpy(normalised(image.data, "percentile"))[None, None] for image in (fixed, moving)]
    _table(f"{pair.name}: `deform`", "what, Dice, folds, SDlogJ, seconds")
    for name, options in DEFORM:
        start = time.perf_counter()
        flow = deform(images[0], images[1], **_staged(options)).flow
        seconds = time.perf_counter() - start
        found = regularity(flow)
        moved = sample(moving_labels, flow, "nearest")
        overlap = mean(dice(labels.data, moved, counted).values())
        _row(name, overlap, found["folds_central"], found["sdlogj"], f"{seconds:.1f}")


def inverses(data: Path) -> None:
    """How far forward and back leads from where it started, in voxels of the brain that is moved."""
    pair = pairs_of(data)[0]
    _table(f"{pair.name}: forward after inverse, voxels", "what, mean, 99 %, 99.9 %, most, folds of the inverse")
    for name in ("inverse", "bidir"):
        options: dict[str, Any] = {name: True}
        found = register(pair.fixed, pair.moving, affine=False, device="cpu", **options)
        assert found.inverse_flow is not None and found.inverse_warp is not None
        left = compose(found.flow, found.inverse_flow).norm(dim=1)[0].numpy()
        left = left[found.moving.data > 0.05 * found.moving.data.max()]
        folds = int((found.inverse_warp.jacobian() <= 0).sum())
        _row(
            f"{name}=True",
            float(left.mean()),
            *(float(q) for q in np.percentile(left, (99, 99.9))),
            float(left.max()),
            folds,
        )


def lung(data: Path) -> None:
    """Follow-up CT, 51 landmarks, world coordinates about 34 mm apart."""
    folder = data / "ct"
    masks = {"fixed_mask": folder / "fixed_mask.nii.gz", "moving_mask": folder / "moving_mask.nii.gz"}
    landmarks = np.loadtxt(folder / "landmarks_voxels.csv", delimiter=",")
    _table("Lung CT: `register`", "what, TRE mm, folds, seconds")
    for name, options in CT:
        given = _staged(options) | (masks if options.get("masks", True) else {})
        found = register(folder / "fixed.nii.gz", folder / "moving.nii.gz", device="cpu", **given)
        flow = np.moveaxis(found.warp.flow, -1, 0)
        error = tre(landmarks[:, :3], landmarks[:, 3:], flow, found.moving.spacing_mm)
        _row(name, float(error.mean()), int((found.warp.jacobian() <= 0).sum()), f"{found.seconds:.1f}")


def contrasts(data: Path) -> None:
    """subject_b's T1 with its intensities replaced: the affine against that of the original, and the whole."""
    pair = pairs_of(data)[0]
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    labels, moving_labels, counted = load_labels(pair.fixed_labels), load_labels(pair.moving_labels), structures(pair)
    scaled = normalised(moving.data, "percentile")
    true = align(fixed, moving)
    brain = np.argwhere(fixed.data > 0.05 * fixed.data.max())
    places = Affine(fixed.affine)(np.array(list(itertools.product(*zip(brain.min(0), brain.max(0), strict=True)))))
    _table(
        f"{pair.name}: subject_b in another contrast",
        "contrast, metric, affine: mm from that of the original (corners of the brain's box; mean and most), Dice",
    )
    for name, bend in CONTRASTS:
        other = Image(np.where(scaled > 0.02, bend(scaled), 0).astype(np.float32), moving.affine)
        for metric in ("lncc", "remap", "mind", "mi"):
            linear = align(fixed, other, metric="auto" if metric == "remap" else metric)
            apart = np.linalg.norm(linear(places) - true(places), axis=1)
            found = register(fixed, other, affine=False, metric=metric, device="cpu")
            moved = found.apply(moving_labels).data
            overlap = mean(dice(labels.data, moved, counted).values())
            _row(name, metric, f"{apart.mean():.2f}, {apart.max():.2f}", overlap)


PARTS: dict[str, Callable[[Path], None]] = {
    "deformable": deformable,
    "inverses": inverses,
    "ct": lung,
    "contrasts": contrasts,
}


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench trials", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    add_data(parser)
    options = parser.parse_args(words)
    check_data(options.data)
    torch.set_num_threads(options.threads)
    print(json.dumps(machine()))
    for name in options.parts or PARTS:
        PARTS[name](options.data)
