"""Score registrations from files: overlap, surface distance, regularity of the warp, errors at landmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.evaluation import metrics
from fastreg.geometry.image import Image
from fastreg.geometry.resample import resample_to_grid, sample_filled
from fastreg.geometry.transforms import Warp
from fastreg.io.images import load_image, load_labels
from fastreg.io.point_sets import from_ras, matched, to_ras
from fastreg.io.points import load_points
from fastreg.io.warps import load_warp
from fastreg.utils.files import InputError

Figures = dict[str, Any]
"""JSON-like: name -> figure, or label -> figure for every structure, or mean, median, max over landmarks."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is known of one registration. A file, or what `load_labels`, `load_image` take in its stead."""

    fixed_labels: Any = None
    """Structures of the fixed image."""
    moved_labels: Any = None
    """Structures of the moved image, on the fixed grid. Not with both `moving_labels` and `warp`, which give them."""
    moving_labels: Any = None
    """Structures of the moving image: for the figures before registration, and for `warp` to move."""
    warp: Any = None
    """The displacement field: a file or a `Warp`."""
    fixed: Any = None
    """Fixed image: its grid."""
    moving: Any = None
    """Moving image: its grid."""
    mask: Any = None
    """On the fixed grid; regularity is reported inside it too."""
    points_fixed: Any = None
    """Landmarks in the fixed image, of any kind that `fastreg.io.points` reads."""
    points_moving: Any = None
    """The same landmarks in the moving image, in the same order or with the same labels."""


def evaluate(
    *,
    labels: Sequence[int] | None = None,
    learn2reg: bool = False,
    hd95: bool = True,
    points_space: str = "ras",
    **pair: Any,
) -> Figures:
    """Figures of merit of one registration; what is not given is not scored.

    Args:
        labels: The structures; None for all that the fixed labels hold.
        learn2reg: Dice and HD95 as the challenge averages them: NaN where the fixed or the moving image lacks the
            structure, HD95 with unit spacing.
        hd95: Compute HD95 (extra `eval`).
        points_space: What landmarks are whose file does not say it: "ras" or "lps" mm, or "voxel" indices of their own
            image.
        **pair: The fields of `Pair`.

    Returns:
        `dice`, `hd95_mm` (`hd95_voxels` in the Learn2Reg mode): label -> figure, and `dice_mean`, `hd95_..._mean`; the
        same with `_before` for the moving labels in place; the figures of `metrics.regularity` for the warp; `tre_mm`
        and `tre_mm_before`: mean, sd, median, max and n.

    Raises:
        InputError: files that cannot be read or whose grids do not match, nothing to score, labels that are not there.
    """
    given = Pair(**pair)
    fixed_labels = _optional(load_labels, given.fixed_labels, "fixed labels")
    moving_labels = _optional(load_labels, given.moving_labels, "moving labels")
    fixed = _optional(load_image, given.fixed, "fixed image") or fixed_labels
    moving = _optional(load_image, given.moving, "moving image") or moving_labels
    warp = _warp(given.warp, moving)
    if fixed is not None and warp is not None:
        _check_grid("warp", given.warp, warp.fixed_shape, warp.fixed_affine, fixed)
    figures: Figures = {}
    if fixed_labels is not None:
        moved = _moved_labels(given, fixed_labels, moving_labels, warp)
        before = None if moving_labels is None else _in_place(moving_labels, fixed_labels)
        if moved is None and before is None:
            raise InputError("fixed labels alone say nothing: give moved labels, or moving labels")
        order = _structures(labels, fixed_labels)
        for suffix, other in (("", moved), ("_before", before)):
            if other is not None:
                figures |= _overlap(fixed_labels, other, moving_labels, order, learn2reg, hd95, suffix)
    if warp is not None:
        # In voxels of the fixed grid alone the determinant is the change of volume in the world, whatever the grids.
        if min(warp.fixed_shape) < 2:
            raise InputError(f"warp: expected at least 2 voxels along every axis, got {warp.fixed_shape}")
        flow = np.moveaxis(warp.onto(warp.fixed_affine).flow, -1, 0)
        figures |= metrics.regularity(np.ascontiguousarray(flow), _mask(given.mask, warp))
    if given.points_fixed is not None or given.points_moving is not None:
        figures |= _landmarks(given, points_space, warp, fixed, moving)
    if not figures:
        raise InputError(
            "nothing to score: give fixed labels with moved or moving labels, a warp, or two sets of points"
        )
    return figures


def _optional(load: Any, source: Any, what: str) -> Image | None:
    return None if source is None else load(source, what=what)


def _warp(source: Any, moving: Image | None) -> Warp | None:
    if source is None or not isinstance(source, Warp):
        return None if source is None else load_warp(source, moving=moving)
    return source if moving is None else source.onto(moving.affine, moving.shape)


def _check_grid(what: str, name: Any, shape: Sequence[int], affine: np.ndarray, onto: Image) -> None:
    """InputError unless the grid is that of `onto`, to a tenth of a voxel at its corners."""
    label = f"{what} {name}" if isinstance(name, str | Path) else what
    if tuple(shape) != onto.shape:
        raise InputError(f"{label}: expected the fixed grid of {onto.shape} voxels, got {tuple(shape)}")
    corners = np.array([[0, 0, 0, 1], [*(np.array([*shape, 1])[:3] - 1), 1]], dtype=np.float64)
    apart_mm = float(np.linalg.norm(corners @ (affine - onto.affine).T, axis=1).max())
    if apart_mm > 0.1 * min(onto.spacing_mm):
        raise InputError(f"{label}: expected the fixed grid, got one that lies up to {apart_mm:.3g} mm apart from it")


def _moved_labels(given: Pair, fixed: Image, moving: Image | None, warp: Warp | None) -> Image | None:
    if given.moved_labels is not None:
        moved = load_labels(given.moved_labels, what="moved labels")
        _check_grid("moved labels", given.moved_labels, moved.shape, moved.affine, fixed)
        return moved
    if moving is None or warp is None:
        return None
    if moving.ndim != warp.ndim:
        raise InputError(f"moving labels: {moving.ndim}-D, but the warp is {warp.ndim}-D")
    onto = warp.onto(moving.affine, moving.shape)
    return Image(sample_filled(moving, onto.tensor(), "nearest"), fixed.affine)


def _in_place(moving: Image, fixed: Image) -> Image:
    """The moving labels as they lie in the world before registration."""
    if moving.ndim != fixed.ndim:
        raise InputError(f"moving labels: {moving.ndim}-D, but the fixed labels are {fixed.ndim}-D")
    return resample_to_grid(moving, fixed.affine, fixed.shape, mode="nearest")


def _structures(labels: Sequence[int] | None, fixed: Image) -> list[int]:
    present = metrics.labels_of(fixed.data)
    name = f"fixed labels {fixed.path}" if fixed.path else "fixed labels"
    if not present:
        raise InputError(f"{name}: expected structures, got zeros alone")
    if labels is not None and not set(labels) & set(present):
        shown = ", ".join(map(str, present[:12])) + (", ..." if len(present) > 12 else "")
        raise InputError(f"labels: {name} holds none of {', '.join(map(str, labels))}; it holds {shown}")
    return present if labels is None else list(labels)


def _overlap(
    fixed: Image, other: Image, moving: Image | None, labels: list[int], learn2reg: bool, hd95: bool, suffix: str
) -> Figures:
    if learn2reg:
        overlap = metrics.learn2reg_dice(fixed.data, other.data, (moving or other).data, labels)
    else:
        overlap = metrics.dice(fixed.data, other.data, labels)
    figures: Figures = {f"dice{suffix}": overlap, f"dice{suffix}_mean": metrics.mean(overlap.values())}
    if hd95:
        name, spacing = ("hd95_voxels", (1.0,) * fixed.ndim) if learn2reg else ("hd95_mm", fixed.spacing_mm)
        distances = metrics.hd95(fixed.data, other.data, spacing, labels)
        kept = {label: math.nan if learn2reg and math.isnan(overlap[label]) else d for label, d in distances.items()}
        figures |= {f"{name}{suffix}": kept, f"{name}{suffix}_mean": metrics.mean(kept.values())}
    return figures


def _mask(source: Any, warp: Warp) -> np.ndarray | None:
    mask = _optional(load_image, source, "mask")
    if mask is None:
        return None
    _check_grid("mask", source, mask.shape, mask.affine, Image(warp.flow[..., 0], warp.fixed_affine))
    return mask.data


def _landmarks(given: Pair, space: str, warp: Warp | None, fixed: Image | None, moving: Image | None) -> Figures:
    if given.points_fixed is None or given.points_moving is None:
        raise InputError("landmarks come in two files: give points of the fixed and of the moving image")
    fixed_affine = warp.fixed_affine if warp is not None else fixed.affine if fixed is not None else None
    moving_affine = moving.affine if moving is not None else None
    first, second = load_points(given.points_fixed), load_points(given.points_moving)
    spaces = [first.space or space, second.space or space]
    if (spaces[0] == "voxel" and fixed_affine is None) or (spaces[1] == "voxel" and moving_affine is None):
        raise InputError("landmarks in voxels need the grids of their images: give the fixed and the moving image")
    order = matched(first, second, given.points_fixed, given.points_moving)
    start = to_ras(first.points, spaces[0], fixed_affine)
    target = to_ras(second.points[order], spaces[1], moving_affine)
    figures: Figures = {"tre_mm_before": _summary(np.linalg.norm(start - target, axis=1))}
    if warp is not None:
        voxels = from_ras(start, "voxel", warp.fixed_affine, warp.ndim)
        wanted = from_ras(target, "voxel", warp.moving_affine, warp.ndim)
        spacing = Image(warp.flow[..., 0], warp.moving_affine).spacing_mm
        figures["tre_mm"] = _summary(metrics.tre(voxels, wanted, np.moveaxis(warp.flow, -1, 0), spacing))
    return figures


def _summary(errors: np.ndarray) -> Figures:
    if not len(errors):
        return {"mean": math.nan, "sd": math.nan, "median": math.nan, "max": math.nan, "n": 0}
    return {
        "mean": float(errors.mean()),
        "sd": float(errors.std()),
        "median": float(np.median(errors)),
        "max": float(errors.max()),
        "n": len(errors),
    }
