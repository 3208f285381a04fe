"""A linear start from pairs of landmarks, by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.linear import least_squares
from fastreg.geometry.transforms import Affine
from fastreg.io.point_sets import matched, to_ras
from fastreg.io.points import load_points
from fastreg.utils.files import InputError

_FREE = {2: 6, 3: 8}
"""Axes -> landmarks from which on an affine map is worth its parameters, with some to average over."""


def from_landmarks(fixed: np.ndarray, moving: np.ndarray, kind: str = "affine", ndim: int = 3) -> Affine:
    """The linear map nearest to pairs of places, in least squares.

        start = from_landmarks(fixed_mm, moving_mm)
        result = fastreg.register("fixed.nii.gz", "moving.nii.gz", init=start)

    Args:
        fixed: [N, 3], RAS mm.
        moving: [N, 3], RAS mm, the same places in the moving image.
        kind: "translation", "rigid", "similarity" or "affine". Few points give a simpler one: fewer than eight (2-D:
            six), or all in a plane, a rigid one in place of an affine one, one or two (2-D: one) a translation.
        ndim: 2 for places that all lie in an image's plane.

    Raises:
        InputError: no pairs, lists of unequal length, or an unknown kind.

    Source: Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns".
    """
    if kind not in ("translation", "rigid", "similarity", "affine"):
        raise InputError(f"landmarks: expected translation, rigid, similarity or affine, got {kind}")
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != 3 or not len(fixed):
        raise InputError(f"landmarks: expected pairs of places [N, 3], got {fixed.shape} and {moving.shape}")
    spread = np.linalg.svd(fixed - fixed.mean(0), compute_uv=False)
    flat = len(spread) < ndim or spread[ndim - 1] < 0.02 * spread[0]
    if kind == "affine" and len(fixed) >= _FREE[ndim] and not flat:
        return least_squares(fixed, moving)
    turns = kind != "translation" and len(fixed) >= ndim and spread[min(ndim - 2, len(spread) - 1)] > 0
    return _rigid(fixed, moving, turns, kind == "similarity")


def _rigid(fixed: np.ndarray, moving: np.ndarray, turns: bool, scales: bool) -> Affine:
    centres = fixed.mean(0), moving.mean(0)
    linear = np.eye(3)
    if turns:
        left, sizes, right = np.linalg.svd((moving - centres[1]).T @ (fixed - centres[0]))
        signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])  # a turn, never a mirror image
        linear = left @ np.diag(signs) @ right
        if scales:
            linear = linear * (sizes @ signs) / ((fixed - centres[0]) ** 2).sum()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, centres[1] - linear @ centres[0]
    return Affine(matrix)


@dataclass(frozen=True)
class Landmarks:
    """Two files of landmarks, a start of `fastreg.register`."""

    fixed: Path
    """Any file of points."""
    moving: Path
    """Likewise, of the same places in the moving image: matched by label where both files have them, else by order."""
    space: str = "ras"
    """Of files that do not say theirs: "ras", "lps" or "voxel" (indices of each image)."""

    def places(self, fixed: Image, moving: Image) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of places [N, 3] in RAS mm, in the fixed and in the moving image."""
        first, second = load_points(self.fixed), load_points(self.moving)
        order = matched(first, second, self.fixed, self.moving)
        both = zip((first, second), (fixed, moving), strict=True)
        places = [to_ras(points.points, points.space or self.space, image.affine) for points, image in both]
        return places[0], places[1][order]


def left_mm(start: Affine, fixed: np.ndarray, moving: np.ndarray) -> float:
    """Root mean square distance that a map leaves between landmarks, in mm."""
    return float(np.sqrt(((start(fixed) - moving) ** 2).sum(1).mean()))
