"""The general model on real brains: in the contrast that they have, and in contrasts that no training saw.

SynthMorph's claim is that a network which has seen random shapes alone registers images of any contrast. Real T2 or
FLAIR scans are not asked for here: the moving T1 image is given another contrast, intensity by intensity ("T2-like" is
its negative, "FLAIR-like" has dark fluid, bright grey and middling white matter), with noise. Beside the model stands
`fastreg register` without one, with its defaults and by mutual information. "levels" is `--levels 2x10,1x10`.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.cli.output import err, out, print_table
from fastreg.data.intensity import normalised
from fastreg.evaluation.scoring import evaluate
from fastreg.geometry.image import Image
from fastreg.io.images import load_image
from fastreg.io.labels import read_structures
from fastreg.registration.pairwise import register
from fastreg.registration.stages import Stage
from fastreg.utils.files import InputError, atomic

DATA = Path(os.environ.get("FASTREG_DATA", "data"))
CONTRASTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "T1": None,
    "T2-like": ((0.0, 1.0), (1.0, 0.0)),
    "FLAIR-like": ((0.0, 0.25, 0.5, 0.75, 1.0), (0.1, 0.1, 0.9, 0.55, 0.5)),
}
"""Name -> intensities of the T1 image, 0 to 1, and what becomes of them; linear between."""
METHODS: dict[str, dict[str, Any]] = {
    "general": {"model": "general"},
    "general, 20 iterations": {"model": "general", "refine": 20},
    "general, levels": {"model": "general", "stages": (Stage(2, 10), Stage(1, 10))},
    "no model, LNCC": {},
    "no model, MI": {"metric": "mi"},
}
COLUMNS = ("pair", "contrast", "method", "dice_before", "dice", "folds", "voxels", "seconds")


def in_contrast(image: Image, name: str, seed: int = 0) -> Image:
    """The image in another contrast; what is exactly 0, as after skull-stripping, stays 0."""
    curve = CONTRASTS[name]
    if curve is None:
        return image
    scaled = normalised(image.data, "percentile")
    noise = 0.02 * np.random.default_rng(seed).standard_normal(scaled.shape)
    changed = np.where(image.data == 0, 0, np.interp(scaled, *curve) + noise)
    return Image(changed.astype(np.float32), image.affine)


def main() -> None:
    """Registers every pair in every contrast by every method."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument(
        "-o", "--output", type=Path, default=Path("general_study"), help="folder of the table and the plot"
    )
    options.add_argument("--pairs", type=Path, help="CSV: moving, fixed, moving_labels, fixed_labels, structures")
    options.add_argument("--methods", default=";".join(METHODS), help="which, separated by semicolons")
    options.add_argument("--device", help="cpu, cuda ...; a GPU if there is one")
    given = options.parse_args()
    methods = given.methods.split(";")
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InputError(f"methods: expected some of {'; '.join(METHODS)}, got {unknown[0]}")
    rows = []
    for pair in read_pairs(given.pairs):
        moving = load_image(pair["moving"])
        for contrast in CONTRASTS:
            seen = in_contrast(moving, contrast)
            for method in methods:
                row = measure(pair, contrast, method, seen, given.device)
                err.print(f"{row['pair']}, {contrast}, {method}: {row['dice_before']:.3f} -> {row['dice']:.3f}")
                rows.append(row)
    with atomic(given.output / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    show(rows, methods)
    plot(rows, methods, given.output / "general.png")


def read_pairs(listed: Path | None) -> list[dict[str, str]]:
    """The rows of the list, or the pair and three pairs of brains of DATA."""
    if listed is not None:
        with listed.open(newline="") as file:
            return list(csv.DictReader(file))
    brains, pair = DATA / "brains", DATA / "pair"
    found = [
        {
            "moving": pair / "subject_b_t1.nii.gz", "fixed": pair / "subject_a_t1.nii.gz",
            "moving_labels": pair / "subject_b_labels.nii.gz", "fixed_labels": pair / "subject_a_labels.nii.gz",
            "structures": pair / "labels30.json",
        }
    ]  # fmt: skip
    for moving, fixed in ((1000, 1006), (1007, 1012), (1003, 1015)):  # as in docs/register.md
        found.append(
            {
                "moving": brains / f"{moving}_t1.nii.gz",
                "fixed": brains / f"{fixed}_t1.nii.gz",
                "moving_labels": brains / f"{moving}_labels.nii.gz",
                "fixed_labels": brains / f"{fixed}_labels.nii.gz",
                "structures": "all",
            }
        )
    return [{name: str(value) for name, value in row.items()} for row in found]


def measure(pair: dict[str, str], contrast: str, method: str, moving: Image, device: str | None) -> dict[str, Any]:
    """One row of the table."""
    found = register(pair["fixed"], moving, device=device, **METHODS[method])
    groups = read_structures(pair.get("structures") or "all")
    figures = evaluate(
        fixed_labels=pair["fixed_labels"], moving_labels=pair["moving_labels"], warp=found.warp, hd95=False,
        labels=None if groups is None else [label for group in groups.values() for label in group],
    )  # fmt: skip
    seconds = found.seconds
    names = [Path(pair[role]).name.split(".")[0].removesuffix("_t1") for role in ("moving", "fixed")]
    values = (
        " to ".join(names), contrast, method, figures["dice_before_mean"], figures["dice_mean"],
        figures["folds_central"], figures["folds_central_of"], seconds,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def show(rows: list[dict[str, Any]], methods: list[str]) -> None:
    """Dice of every pair and contrast, a column for each method."""
    keys = list(dict.fromkeys((row["pair"], row["contrast"]) for row in rows))
    table = []
    for pair, contrast in keys:
        mine = [row for row in rows if (row["pair"], row["contrast"]) == (pair, contrast)]
        table.append([pair, contrast, f"{mine[0]['dice_before']:.3f}", *(f"{row['dice']:.3f}" for row in mine)])
    print_table(["pair", "moving image", "before", *methods], table, title="mean Dice, labels by the nearest voxel")
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        folds, voxels = (sum(row[name] for row in mine) for name in ("folds", "voxels"))
        seconds = statistics.median(row["seconds"] for row in mine)
        out.print(f"{method}: folds {folds} of {voxels}, central differences; {seconds:.1f} s a pair, median")


def plot(rows: list[dict[str, Any]], methods: list[str], path: Path) -> None:
    """Mean Dice over the pairs: a group of bars for each contrast."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.4))
    axes = figure.add_subplot()
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        heights = [
            statistics.fmean(row["dice"] for row in rows if (row["method"], row["contrast"]) == (method, contrast))
            for contrast in CONTRASTS
        ]
        places = [j + (k - (len(methods) - 1) / 2) * width for j in range(len(CONTRASTS))]
        axes.bar(places, heights, 0.9 * width, label=method, color=f"C{k}")
    before = statistics.fmean(row["dice_before"] for row in rows)
    axes.axhline(before, color="0.5", ls=":", label="before registration")
    axes.set_xticks(range(len(CONTRASTS)), [f"{name} to T1" for name in CONTRASTS])
    axes.set_ylabel(f"mean Dice over {len({row['pair'] for row in rows})} pairs")
    axes.set_ylim(max(0.0, before - 0.15), None)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.tight_layout()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=130)
    err.print(f"plot {path}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"general: {error}")
