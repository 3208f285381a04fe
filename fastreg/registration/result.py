"""What a registration of two images gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.geometry.resample import sample_filled
from fastreg.geometry.transforms import Affine, Warp
from fastreg.io.images import save_image
from fastreg.io.point_sets import Grid, PointSet, carry, check_columns
from fastreg.io.points import Table
from fastreg.io.warps import save_warp
from fastreg.types import Flow, Volume
from fastreg.utils.files import InputError


@dataclass
class RegistrationResult:
    """Two images, and the warp that brings the moving one onto the fixed one's grid."""

    fixed: Image
    moving: Image
    warp: Warp
    inverse_warp: Warp | None = None
    affine: Affine = field(default_factory=lambda: Affine(np.eye(4)))
    """The linear part, fixed RAS mm -> moving RAS mm; `warp` contains it."""
    suspect: str | None = None
    """Why the result may be no better than its start, by a measure that was not optimised; None if nothing says so."""
    background: float | None = None
    """What lies outside an image that is moved; None: 0, or its minimum where that is below 0. Of labels 0."""
    log: dict[str, Any] = field(default_factory=dict)
    """Seconds of every stage, and what was used."""

    @property
    def flow(self) -> Flow:
        """[1, 3, X, Y, Z], displacement in moving voxels on the fixed grid."""
        return self.warp.tensor()

    @property
    def inverse_flow(self) -> Flow | None:
        """[1, 3, X, Y, Z] on the moving grid, in fixed voxels."""
        return None if self.inverse_warp is None else self.inverse_warp.tensor()

    @property
    def moved(self) -> Volume:
        """[1, 1, X, Y, Z], the moving image on the fixed grid."""
        return torch.from_numpy(self.apply(self.moving).data)[None, None]

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return float(sum(value for name, value in self.log.items() if name.endswith("_seconds")))

    def apply(self, image: Image, mode: str | None = None) -> Image:
        """Another image or label map on the moving image's grid or in its space, brought onto the fixed grid.

        Args:
            image: Intensities or labels.
            mode: One of `fastreg.geometry.resample.INTERPOLATIONS`; linear for intensities and nearest for labels if
                None.
        """
        warp = self.warp.onto(image.affine, image.shape)
        mode = mode or ("nearest" if image.is_labels else "linear")
        data = sample_filled(image, warp.tensor(), mode, None if image.is_labels else self.background)
        return Image(data, self.fixed.affine)

    @overload
    def map_points(self, points: np.ndarray, space: str = "ras", *, back: bool = False) -> np.ndarray: ...
    @overload
    def map_points(  # type: ignore[overload-overlap]  # a table's new text, as ever
        self, points: Table, space: str = "ras", *, back: bool = False
    ) -> str: ...
    @overload
    def map_points(self, points: PointSet, space: str = "ras", *, back: bool = False) -> PointSet: ...
    def map_points(
        self, points: np.ndarray | PointSet, space: str = "ras", *, back: bool = False
    ) -> np.ndarray | str | PointSet:
        """Points of the fixed image -> where they are in the moving one, as `fastreg warp --points` maps them.

        Args:
            points: [N, 3] (2-D: [N, 2]), or what `fastreg.io.points.load_points` read.
            space: "ras" or "lps" mm, or "voxel": in come indices of the one image, out go those of the other. A file
                that says its space is in that one.
            back: The other way, by the inverse warp: points of the moving image -> places in the fixed one.

        Returns:
            An array of an array. Of a table the table with the new points, as CSV. Of markups, surfaces and streamlines
            the same with the new points, for `fastreg.io.points.save_points`.

        Raises:
            InputError: the way back without an inverse, a space that is none, or an array of another shape.
        """
        if isinstance(points, Table):
            return points.text(self.carried(points, space, back=back).points)
        if isinstance(points, PointSet):
            return self.carried(points, space, back=back)
        array = np.asarray(points, np.float64)
        if array.ndim != 2 or array.shape[1] not in (2, 3):
            raise InputError(f"points: expected an array [N, 3] or [N, 2], got {array.shape}")
        return self.carried(PointSet(array), space, back=back).points

    def carried(self, given: PointSet, space: str = "ras", *, back: bool = False) -> PointSet:
        """`map_points` of a file's points, a table's too: the same with the new points."""
        warp = self.inverse_warp if back else self.warp
        if warp is None:
            raise InputError("points of the moving image need the inverse: register with inverse=True")
        if warp.ndim == 2:
            check_columns(given.points, given.space or space, warp.fixed_affine)
        return carry(given, warp, space, start=warp.fixed_affine, grid=self.grid_after(back))

    def grid_after(self, back: bool = False) -> Grid:
        """Affine and shape of the image that mapped points lie in."""
        image = self.fixed if back else self.moving
        return image.affine, image.shape

    def save_moved(self, path: str | Path, mode: str | None = None) -> None:
        """Writes the moved image, float32, on the fixed grid; `mode` as in `apply`."""
        save_image(path, self.apply(self.moving, mode))

    def save_warp(self, path: str | Path, format: str | None = None) -> None:
        """Writes the displacement field; `format` as in `fastreg.io.warps.save_warp`, ITK's if None."""
        save_warp(path, self.warp, format=format)
