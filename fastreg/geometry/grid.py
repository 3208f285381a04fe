"""The working grid: where the voxels lie that networks and optimisations compute on."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.resample import centred_affine, resample_to_grid
from fastreg.utils.files import InputError


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a working image lie."""

    shape: tuple[int, ...]
    affine: np.ndarray
    """4x4, voxel -> RAS mm."""

    @property
    def orientation(self) -> str:
        """Axis codes such as "RAS" or "LIA"."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def left_right(self) -> int:
        """The array axis that runs most nearly left to right."""
        return int(np.argmax(np.abs(self.affine[0, : len(self.shape)])))


def working_grid(image: Image, spacing_mm: float | None = None, shape: tuple[int, ...] | None = None) -> Grid:
    """The image's own grid at another spacing, cut or extended to `shape` around the same centre.

    Args:
        image: Gives orientation, extent and centre.
        spacing_mm: Edge of the new cubic voxels; the image's own spacing if None.
        shape: Size in voxels; what covers the image's extent if None.
    """
    ndim = len(image.shape)
    old = np.asarray(image.spacing_mm[:ndim], dtype=float)
    new = old if spacing_mm is None else np.full(ndim, float(spacing_mm))
    if shape is None:
        shape = tuple(max(1, int(np.floor(n * a / b + 0.5))) for n, a, b in zip(image.shape, old, new, strict=True))
    if len(shape) != ndim:
        raise InputError(f"shape: expected {ndim} numbers for an image of shape {image.shape}, got {tuple(shape)}")
    return Grid(tuple(int(n) for n in shape), centred_affine(image, shape, new))


def spacing_of(image: Image, spacing_mm: float | None, voxels: int | None) -> float | None:
    """The working spacing in mm: what is said, or what covers the image with about `voxels` cubes, or None: its own.

    Args:
        image: Gives size and spacing.
        spacing_mm: What is said; returned as it is without `voxels`.
        voxels: About so many cubes, whose volume is not below that of the image's own voxels.
    """
    if voxels is None:
        return spacing_mm
    ndim = len(image.shape)
    own = float(np.prod(image.spacing_mm[:ndim]) ** (1 / ndim))
    axes = max(1, sum(length > 1 for length in image.shape))  # an axis of one voxel cannot get shorter
    return max(own, own * (float(np.prod(image.shape)) / voxels) ** (1 / axes))


def on_grid(image: Image, grid: Grid, mode: str = "linear") -> np.ndarray:
    """The image's values at the grid's voxels, zero outside the image."""
    if image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-4):
        return image.data
    return resample_to_grid(image, grid.affine, grid.shape, mode=mode).data
