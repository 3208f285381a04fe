"""A registration from files to files: read, check, register, score, write. One pair and many go through it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.data.pairs import PairFiles
from fastreg.evaluation.scoring import evaluate
from fastreg.geometry.folds import exact_inverse
from fastreg.geometry.image import in_plane
from fastreg.geometry.transforms import Warp
from fastreg.io.affines import AFFINE_ENDINGS, save_affine
from fastreg.io.images import check_ending, load_labels, save_image
from fastreg.io.points import check_conversion, load_points, save_points
from fastreg.io.transforms import save_transforms
from fastreg.io.warps import WARP_ENDINGS, save_warp
from fastreg.registration.inversion import residual
from fastreg.registration.pairwise import register
from fastreg.registration.quality import found_inverse_error_mm
from fastreg.registration.result import RegistrationResult
from fastreg.utils.files import check_free

Figures = dict[str, Any]


ANTS_NAMES = ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz", "Warped.nii.gz")
"""As antsRegistrationSyN.sh names its results."""


def ants_paths(prefix: str) -> list[Path]:
    """The files of ANTs' names behind a prefix."""
    return [Path(f"{prefix}{name}") for name in ANTS_NAMES]


def bids_paths(prefix: str, moving: str, fixed: str) -> list[Path]:
    """The transforms of images from the moving to the fixed space, and back, by the names of BIDS' derivatives."""
    both = ((moving, fixed), (fixed, moving))
    return [Path(f"{prefix}_from-{one}_to-{other}_mode-image_xfm.h5") for one, other in both]


@dataclass(frozen=True)
class Outputs:
    """Where the results of one registration go; None: nowhere."""

    moved: Path | None = None
    warp: Path | None = None
    inverse_warp: Path | None = None
    affine: Path | None = None
    moved_labels: Path | None = None
    """The pair's `moving_labels` on the fixed grid."""
    points: Path | None = None
    """The pair's `points_fixed`, where they are in the moving image."""
    points_back: Path | None = None
    """The pair's `points_moving`, where they are in the fixed image."""
    ants_prefix: str | None = None
    """What the names of ANTs' files begin with, a folder before it."""
    bids: tuple[str, str, str] | None = None
    """What BIDS' names of the transforms begin with, and the labels of the moving and the fixed space."""

    def paths(self) -> list[Path]:
        """Those that are wanted."""
        ants = [] if self.ants_prefix is None else ants_paths(self.ants_prefix)
        bids = [] if self.bids is None else bids_paths(*self.bids)
        return [*(path for path in vars(self).values() if isinstance(path, Path)), *ants, *bids]

    def check(self, overwrite: bool) -> None:
        """InputError unless each can be written, in a format that is written here."""
        for path in self.paths():
            check_free(path, overwrite)
        for image in (self.moved, self.moved_labels):
            if image is not None:
                check_ending(image)
        for warp in (self.warp, self.inverse_warp):
            if warp is not None:
                check_ending(warp, (*WARP_ENDINGS, ".h5"))
        if self.affine is not None:
            check_ending(self.affine, AFFINE_ENDINGS)


def register_files(
    pair: PairFiles,
    outputs: Outputs,
    *,
    points_space: str = "ras",
    landmarks: bool = True,
    scored: bool = True,
    overwrite: bool = True,
    channels: Mapping[str, Any] | None = None,
    interpolation: str = "linear",
    **options: Any,
) -> tuple[RegistrationResult, Figures]:
    """Registers a pair of files and writes what is wanted. Nothing is written unless everything could be read.

    Args:
        pair: The files; label maps and points that are given are scored.
        outputs: What is written, and where.
        points_space: Of all points whose files do not say it: "ras", "lps" or "voxel".
        landmarks: The pair's points of both images are the same places: their distance is scored.
        scored: Compute the figures.
        overwrite: False: refuse outputs that exist, also those that came while the work was done.
        channels: The images and masks of several channels, as `fastreg.register` takes them, in place of the pair's.
        interpolation: Of the moved image, as in `RegistrationResult.apply`.
        options: Arguments of `fastreg.register`.

    Returns:
        The registration and its figures: folds, NDV, SDlogJ, seconds, those of `UNLABELLED`; mean Dice, HD95 (if scipy
        is there) and TRE where labels and points are given.

    Raises:
        InputError: a file or an option that cannot be used.
    """
    labels = None if pair.moving_labels is None else load_labels(pair.moving_labels, what="moving labels")
    if pair.fixed_labels is not None:
        load_labels(pair.fixed_labels, what="fixed labels")  # before, not after, the work
    points = None if pair.points_fixed is None else load_points(pair.points_fixed)
    points_back = None if pair.points_moving is None else load_points(pair.points_moving)
    for given, output in ((points, outputs.points), (points_back, outputs.points_back)):
        if given is not None and output is not None:
            check_conversion(output, given)
    wants_inverse = any(given is not None for given in (outputs.bids, outputs.inverse_warp, outputs.points_back))
    images: Mapping[str, Any] = channels or {
        "fixed": pair.fixed, "moving": pair.moving, "fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask,
    }  # fmt: skip
    named: dict[str, Any] = {**images, "fixed_labels": pair.fixed_labels, "moving_labels": pair.moving_labels}
    found = register(**named, inverse=wants_inverse, **options)
    figures = score(found, pair, points_space, landmarks) if scored else {}
    outputs.check(overwrite)
    if outputs.moved is not None:
        found.save_moved(outputs.moved, interpolation)
    if outputs.warp is not None:
        save_transforms(outputs.warp, [found.warp], fixed=found.fixed, moving=found.moving)
    if outputs.inverse_warp is not None and found.inverse_warp is not None:
        save_transforms(outputs.inverse_warp, [found.inverse_warp], fixed=found.moving, moving=found.fixed)
    if outputs.affine is not None:
        save_affine(outputs.affine, found.affine, fixed=found.fixed, moving=found.moving)
    if outputs.ants_prefix is not None:
        save_as_ants(found, outputs.ants_prefix, interpolation)
    if outputs.bids is not None and found.inverse_warp is not None:
        onto_fixed, onto_moving = bids_paths(*outputs.bids)
        save_transforms(onto_fixed, [found.warp], fixed=found.fixed, moving=found.moving)
        save_transforms(onto_moving, [found.inverse_warp], fixed=found.moving, moving=found.fixed)
    if outputs.moved_labels is not None and labels is not None:
        save_image(outputs.moved_labels, found.apply(labels))
    for given, output, back in ((points, outputs.points, False), (points_back, outputs.points_back, True)):
        if given is not None and output is not None:
            there = found.carried(given, points_space, back=back)
            save_points(output, there, points_space, found.grid_after(back))
    return found, figures


def save_as_ants(found: RegistrationResult, prefix: str, interpolation: str = "linear") -> None:
    """Writes what antsApplyTransforms takes: the linear part, the deformation before it, its inverse, the moved image.

    Fixed to moving: `-t 1Warp.nii.gz -t 0GenericAffine.mat`, and back: `-t [0GenericAffine.mat,1] -t
    1InverseWarp.nii.gz`, listed as ANTs lists them.
    """
    linear, warp, inverse, moved = ants_paths(prefix)
    flat = found.fixed.ndim == 2 and in_plane(found.fixed.affine)
    save_affine(linear, found.affine, ndim=2 if flat else 3)
    flow = residual(found.warp, found.affine)
    back = exact_inverse(flow)
    grid = found.fixed.affine
    for path, field in ((warp, flow), (inverse, back)):
        save_warp(path, Warp(np.moveaxis(field[0].numpy(), 0, -1), grid, grid, found.fixed.shape))
    found.save_moved(moved, interpolation)


_FIGURES: Mapping[str, str] = {
    "dice_before": "dice_before_mean",
    "dice": "dice_mean",
    "hd95_mm_before": "hd95_mm_before_mean",
    "hd95_mm": "hd95_mm_mean",
    "folds": "folds_central",
    "folds_of": "folds_central_of",
    "corner_folds": "folds_corner",
    "ndv_percent": "ndv_percent",
    "sdlogj": "sdlogj",
    "learn2reg_sdlogj": "learn2reg_sdlogj",
}
"""Column of a table -> name in `evaluate`."""
UNLABELLED = (
    "measure", "measure_before", "measure_after", "overlap",
    "log_jacobian_min", "log_jacobian_low", "log_jacobian_high", "log_jacobian_max", "inverse_error_mm",
)  # fmt: skip
"""Columns of figures that need no labels, as `RegistrationResult.log` has them."""


def score(found: RegistrationResult, pair: PairFiles, points_space: str = "ras", landmarks: bool = True) -> Figures:
    """The figures of one registration, as in `register_files`; an image of one voxel along an axis has no folds."""
    given: dict[str, Any] = {"warp": found.warp, "fixed": found.fixed, "moving": found.moving}
    if pair.fixed_labels is not None and pair.moving_labels is not None:
        given |= {"fixed_labels": pair.fixed_labels, "moving_labels": pair.moving_labels}
    if landmarks and pair.points_fixed is not None and pair.points_moving is not None:
        given |= {"points_fixed": pair.points_fixed, "points_moving": pair.points_moving}
    hd95 = importlib.util.find_spec("scipy") is not None  # an extra, and no reason to register nothing without it
    figures = {} if min(found.fixed.shape) < 2 else evaluate(hd95=hd95, points_space=points_space, **given)
    row: Figures = {"seconds": round(found.seconds, 3), "suspect": found.suspect}
    row |= {name: found.log[name] for name in ("corner_folds", *UNLABELLED) if name in found.log}
    row.setdefault("inverse_error_mm", found_inverse_error_mm(found.warp))
    for column, name in _FIGURES.items():
        if name in figures:
            row[column] = None if math.isnan(figures[name]) else figures[name]
    for name in ("tre_mm_before", "tre_mm"):
        if name in figures:
            row[name] = figures[name]["mean"]
    return row
