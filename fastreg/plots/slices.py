"""Slices as radiologists see them (the patient's right on the left) where an affine says which way the axes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastreg.plots.canvas import Grid


@dataclass(frozen=True)
class Plane:
    """A slice through the volume as it is shown: rows down, columns to the right."""

    axis: int | None
    """Cut along this axis of the canonical (RAS) volume; None in 2-D."""
    index: int
    spacing_mm: tuple[float, float]
    """Of the rows and of the columns."""
    size: tuple[int, int]
    letters: tuple[str, str, str, str] | None
    """Left, right, top, bottom."""

    @property
    def height_mm(self) -> float:
        """Of the whole slice."""
        return self.size[0] * self.spacing_mm[0]

    @property
    def width_mm(self) -> float:
        """Of the whole slice."""
        return self.size[1] * self.spacing_mm[1]

    def cut(self, volume: Grid) -> Grid:
        """[rows, columns] of a canonical volume."""
        if self.axis is None:
            return volume
        # Canonical axes run to the right, front and top: both are turned so that R, A are on the left and S, A on top.
        first = np.moveaxis(volume, self.axis, 0)[self.index]  # np.take would copy a turned volume whole
        return first.T[::-1, ::-1]

    def cut_vectors(self, field: Grid) -> tuple[Grid, Grid]:
        """[rows, columns] of a canonical field [axes, D, H, W]: what points down, and what points to the right."""
        if self.axis is None:
            return field[0], field[1]
        across, up = (k for k in range(3) if k != self.axis)
        return -self.cut(field[up]), -self.cut(field[across])


def planes_of(image: Grid, spacing_mm: Sequence[float], lettered: bool) -> list[Plane]:
    """Axial, coronal and sagittal through the middle of what is bright in a canonical image; in 2-D the image itself.

    Args:
        image: [D, H, W] or [H, W] in [0, 1], turned to right, anterior, superior.
        spacing_mm: Of its axes.
        lettered: The directions of its axes are known.
    """
    if image.ndim == 2:
        return [Plane(None, 0, (spacing_mm[0], spacing_mm[1]), (image.shape[0], image.shape[1]), None)]
    planes = []
    for axis, letters in ((2, ("R", "L", "A", "P")), (1, ("R", "L", "S", "I")), (0, ("A", "P", "S", "I"))):
        across, up = (k for k in range(3) if k != axis)
        size = image.shape[up], image.shape[across]
        middle = level(image, axis, 0.45 if axis == 0 else 0.5)  # a little beside it, to miss the fissure
        spacing = spacing_mm[up], spacing_mm[across]
        planes.append(Plane(axis, middle, spacing, size, letters if lettered else None))
    return planes


def level(image: Grid, axis: int, part: float) -> int:
    """The slice that lies at this part of the way through what is bright."""
    profile = (image > 0.15).any(axis=tuple(k for k in range(image.ndim) if k != axis)).nonzero()[0]
    first, last = (profile[0], profile[-1]) if profile.size else (0, image.shape[axis] - 1)
    return int(first + part * (last - first))


@dataclass(frozen=True)
class Turn:
    """What makes the axes of an array run to the right, to the front and up."""

    order: tuple[int, ...]
    """The stored axis that becomes axis 0, 1, 2."""
    flips: tuple[int, ...] = ()
    """Axes of the turned array that are mirrored."""

    @classmethod
    def of(cls, ndim: int, affine: Grid | None) -> Turn:
        """None where the array is a picture, or nothing is known of its axes."""
        if ndim == 2 or affine is None:
            return cls(tuple(range(ndim)))
        from nibabel.orientations import io_orientation

        ends = io_orientation(affine)
        order = tuple(int(k) for k in np.argsort(ends[:, 0]))
        return cls(order, tuple(k for k, axis in enumerate(order) if ends[axis, 1] < 0))

    def __call__(self, volume: Grid) -> Grid:
        """The array with its axes turned."""
        return np.flip(volume.transpose(self.order), self.flips)

    def vectors(self, field: Grid) -> Grid:
        """[axes, D, H, W], a displacement in voxels, with its components turned too."""
        return np.stack([self(field[k]) * (-1 if axis in self.flips else 1) for axis, k in enumerate(self.order)])


def window_of(image: Grid) -> tuple[float, float]:
    """What is shown black and white: the 0.5th and 99.5th percentile of what is not background; NaN counts as 0."""
    values = sample(np.where(np.isfinite(image), image, 0).astype(np.float32))
    low = float(np.percentile(values, 0.5))
    body = values[values > low]
    return low, float(np.percentile(body, 99.5)) if body.size else low


def windowed(image: Grid, window: tuple[float, float] | None = None) -> Grid:
    """Into [0, 1] by `window_of`, its own or that of another image; NaN and constants become 0."""
    low, high = window or window_of(image)
    values = np.where(np.isfinite(image), image, 0).astype(np.float32)
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1)


def sample(values: Grid) -> Grid:
    """At most some 200,000 of the values, evenly, for percentiles."""
    return values.ravel()[:: values.size // 200_000 | 1]
