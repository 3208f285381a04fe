"""The pictures of one pair for the page: slices of three planes as sprites, and the displacement at each as a picture.

A page shows flicker, checkerboard, differences, edges and the deformed grid, all made in the browser from four sprites
a plane: fixed, moved, before (JPEG) and field (PNG). Row k of a sprite is slice k.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Warp
from fastreg.plots.canvas import Grid
from fastreg.plots.slices import Plane, Turn, level, planes_of, sample, window_of, windowed
from fastreg.utils.extras import need

LIMIT = 1_200_000
"""Bytes that the pictures of a pair may take; beyond it there are fewer of them, and coarser ones."""
_TRIES = ((9, 256, 85), (7, 256, 75), (5, 192, 65), (3, 160, 50), (1, 128, 40))
"""Slices of a plane, longest side in pixels, JPEG's quality; the first that keeps to the limit."""
_FLAT = 1024
"""Longest side of a 2-D image, which has one slice, in the first try."""
_NODES = 96
"""Longest side of a picture of the displacement."""


def views(fixed: Image, moved: Image, before: Image | None = None, warp: Warp | None = None) -> dict[str, Any]:
    """What the page's scripts draw a pair from.

    Args:
        fixed: [X, Y, Z] or [X, Y].
        moved: The moving image on the fixed grid.
        before: The moving image on the fixed grid where it lay before.
        warp: On the fixed grid, in its voxels; without it no deformation is shown.

    Returns:
        `planes`, a list of them, each with its size in pixels and mm, its slices and sprites as data URIs; `spread_mm`
        and `log_range`, the scales of the displacement; `grid_mm`, the distance of grid lines. At most `LIMIT` bytes as
        JSON.

    Raises:
        InputError: Pillow is not installed.
    """
    pair = _Turned.of(fixed, moved, before, warp)
    for slices, side, quality in _TRIES:
        found = pair.drawn(slices, side if fixed.ndim == 3 else side * _FLAT // _TRIES[0][1], quality)
        if len(json.dumps(found)) <= LIMIT:
            break
    return found


@dataclass(frozen=True)
class _Turned:
    """A pair with its axes turned to right, front, top, and intensities in [0, 1]."""

    images: dict[str, Grid]
    flow: Grid | None
    """[axes, D, H, W], mm along the turned axes."""
    log_jacobian: Grid | None
    """0 to 255: 0 where a voxel folds, 128 where volumes stay."""
    spacing_mm: tuple[float, ...]
    lettered: bool
    spread_mm: float
    log_range: float

    @classmethod
    def of(cls, fixed: Image, moved: Image, before: Image | None, warp: Warp | None) -> _Turned:
        turn = Turn.of(fixed.ndim, fixed.affine)
        window = window_of(moved.data if before is None else before.data)
        if window[0] >= window[1]:
            window = window_of(moved.data)
        images = {"fixed": windowed(turn(fixed.data)), "moved": windowed(turn(moved.data), window)}
        if before is not None:
            images["before"] = windowed(turn(before.data), window)
        spacing = tuple(fixed.spacing_mm[k] for k in turn.order)
        flow, codes, spread, reach = None, None, 0.0, 0.0
        if warp is not None:
            stored = np.nan_to_num(np.moveaxis(warp.flow, -1, 0))
            flow = turn.vectors(stored) * np.array(spacing, np.float32).reshape(-1, *[1] * fixed.ndim)
            spread = max(float(np.percentile(np.abs(sample(flow)), 99.9)), 1e-3)
            codes, reach = _codes(turn, warp)
        return cls(images, flow, codes, spacing, fixed.ndim == 3, spread, reach)

    def drawn(self, slices: int, side: int, quality: int) -> dict[str, Any]:
        planes = [
            self._plane(plane, slices, side, quality)
            for plane in planes_of(self.images["fixed"], self.spacing_mm, self.lettered)
            if min(plane.size) > 1
        ]
        lengths = [length * mm for length, mm in zip(self.images["fixed"].shape, self.spacing_mm, strict=True)]
        return {
            "planes": planes,
            "spread_mm": round(self.spread_mm, 4),
            "log_range": round(self.log_range, 3),
            "grid_mm": _round_number(max(lengths) / 24),
        }

    def _plane(self, plane: Plane, slices: int, side: int, quality: int) -> dict[str, Any]:
        pixel_mm = max(min(plane.spacing_mm), max(plane.height_mm, plane.width_mm) / side)
        height, width = (max(2, round(mm / pixel_mm)) for mm in (plane.height_mm, plane.width_mm))
        indices = self._indices(plane, slices)
        cuts = [replace(plane, index=index) for index in indices]
        sprites = {
            name: _jpeg(np.concatenate([_resized(cut.cut(image), width, height) for cut in cuts]), quality)
            for name, image in self.images.items()
        }
        shown: dict[str, Any] = {
            "axis": plane.axis,
            "name": {None: "image", 2: "axial", 1: "coronal", 0: "sagittal"}[plane.axis],
            "letters": plane.letters,
            "indices": indices,
            "of": 1 if plane.axis is None else self.images["fixed"].shape[plane.axis],
            "first": len(indices) // 2,
            "width": width,
            "height": height,
            "pixel_mm": round(pixel_mm, 5),
        }
        if self.flow is not None and self.log_jacobian is not None:
            part = min(1.0, _NODES / max(width, height))
            nodes = [max(2, round(length * part)) for length in (width, height)]
            fields = [self._field(cut, self.flow, self.log_jacobian, *nodes) for cut in cuts]
            shown |= {"field_width": nodes[0], "field_height": nodes[1]}
            sprites["field"] = _data_uri(np.concatenate(fields), "PNG", optimize=True)
        return shown | {"sprites": sprites}

    def _indices(self, plane: Plane, slices: int) -> list[int]:
        """The middle and as many before as after, through what is bright."""
        if plane.axis is None:
            return [0]
        shift = -0.05 if plane.axis == 0 else 0.0
        parts = np.linspace(0.12, 0.88, slices) + shift if slices > 1 else [0.5 + shift]
        return sorted({level(self.images["fixed"], plane.axis, float(part)) for part in parts})

    def _field(self, cut: Plane, flow: Grid, log_jacobian: Grid, width: int, height: int) -> Grid:
        """[rows, columns, 3] in bytes: mm to the right, mm down (128 is none), and the log Jacobian's code."""
        down, right = cut.cut_vectors(flow)
        red, green = (_resized(128 + 127 / self.spread_mm * part, width, height) for part in (right, down))
        codes = cut.cut(log_jacobian).astype(np.float32)
        blue = _resized(codes, width, height).clip(1, 255)
        blue[_resized((codes == 0).astype(np.float32), width, height) > 0] = 0  # a fold stays to be seen
        return np.stack([red, green, blue], -1).clip(0, 255).round().astype(np.uint8)


def _codes(turn: Turn, warp: Warp) -> tuple[Grid, float]:
    """The log Jacobian in bytes, and the value that 255 stands for."""
    if min(warp.fixed_shape) < 2:
        return np.full([warp.fixed_shape[k] for k in turn.order], 128, np.uint8), 0.1
    determinant = np.nan_to_num(warp.jacobian())
    log = np.log(determinant.clip(1e-3))
    reach = float(np.clip(np.percentile(np.abs(sample(log)), 99.5), 0.1, 2.0))
    codes = (128 + 127 / reach * log).clip(1, 255).round()
    return turn(np.where(determinant > 0, codes, 0).astype(np.uint8)), reach


def _round_number(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(min((power * step for step in (1, 2, 5, 10)), key=lambda step: abs(np.log(step / value))))


def _resized(values: Grid, width: int, height: int) -> Grid:
    """[height, width] float32: averages of what lies in a pixel, or between pixels linearly."""
    pillow = need("PIL.Image", "plot", "the report's pictures")
    picture = pillow.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((width, height), pillow.Resampling.BILINEAR))


def _jpeg(values: Grid, quality: int) -> str:
    return _data_uri((255 * values).clip(0, 255).round().astype(np.uint8), "JPEG", quality=quality)


def _data_uri(pixels: Grid, format: str, **options: Any) -> str:
    pillow = need("PIL.Image", "plot", "the report's pictures")
    buffer = io.BytesIO()
    pillow.fromarray(pixels).save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
