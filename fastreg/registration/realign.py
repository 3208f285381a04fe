"""Rigid motion of a volume against a reference by least squares of intensities, as AFNI's 3dvolreg and SPM's realign.

The reference is linearised once, at the voxels that count: a volume at the places where the current motion leads is
``a R + a J d`` there, with the reference R, its change J with the six parameters and an intensity scale a. The motion
is corrected by the inverse of d (Baker and Matthews 2004, inverse compositional). Voxels far from the fit lose weight
(Tukey's biweight), after its linear part is taken out: what moves is no outlier, what is activated is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.geometry.resample import smooth
from fastreg.geometry.rigid import exponential, rms_distance
from fastreg.ops.spline import bspline_coefficients
from fastreg.ops.window import bspline_reader

ITERATIONS = 40
_ARM_MM = 50.0
"""Rotations are in mm at this distance, so that all parameters have one scale."""
_ROW = 256
"""Single places are laid out in rows, which are shared out among threads."""
_BIWEIGHT = 4.685
"""In standard deviations: Tukey's constant, efficient to 95 % for normal noise."""
_ALIKE = 0.5
"""A volume that correlates less with the reference has not been found."""
_LONG = 24
_SPARSE = 4
"""Of so many residuals one is looked at for their median."""


@dataclass(frozen=True)
class Scale:
    """How finely two volumes are compared."""

    sigma_voxels: float
    """Of the Gaussian that smooths both, in voxels of the reference."""
    step: int
    """Every so manieth voxel counts, along axes that are long enough."""
    tolerance_mm: float
    """A step that moves a head by less ends the fit."""


@dataclass(frozen=True)
class Fit:
    """Where a volume lies."""

    matrix: np.ndarray
    """[4, 4], reference RAS mm -> volume RAS mm."""
    converged: bool
    correlation: float
    """With the reference over the voxels that count, outliers aside, where the fit ended."""


class Target:
    """A reference, smoothed and linearised at one scale, that volumes are fitted to."""

    def __init__(self, reference: Image, where: np.ndarray, scale: Scale, centre: np.ndarray) -> None:
        """Of the voxels that count.

        Args:
            reference: Finite.
            where: Boolean, of the reference's shape.
            scale: Of all volumes.
            centre: [3], of turns, RAS mm.
        """
        self.scale, self.centre, self.affine = scale, centre, reference.affine
        self.generators = _generators(reference, centre)
        self.unit = float(np.abs(reference.data).max())  # so that no sum of squares overflows
        self.sigma_mm = scale.sigma_voxels * float(np.mean(reference.spacing_mm))
        self.filters: dict[tuple[int, float], torch.Tensor] = {}
        margin = [1 if length > 4 else 0 for length in reference.shape]  # smoothing has mirrored what is outside
        counted = np.zeros(reference.shape, bool)
        steps = [scale.step if length >= _LONG else 1 for length in reference.shape]
        inner = tuple(slice(m, n - m, s) for m, n, s in zip(margin, reference.shape, steps, strict=True))
        counted[inner] = where[inner]
        index = np.argwhere(counted).T
        self.count = index.shape[1]
        places = np.zeros((4, -(-self.count // _ROW) * _ROW), np.float32)
        places[: len(index), : self.count], places[3] = index, 1
        self.places = torch.from_numpy(places)
        """[4, N], voxels of the reference; those behind `count` fill the last row of `_ROW`."""
        self.own = torch.stack([torch.arange(places.shape[1]) // _ROW, torch.arange(places.shape[1]) % _ROW]).float()
        read = self.reader(reference)
        values, gradient = read(self.places[: reference.ndim]), []
        for axis in range(reference.ndim):
            step = 0.05 * torch.eye(reference.ndim)[axis][:, None]
            ends = [read(self.places[: reference.ndim] + way * step) for way in (1, -1)]
            gradient.append((ends[0] - ends[1]) / 0.1)
        back, slopes = np.linalg.inv(reference.affine), torch.stack(gradient)
        moves = [self._led(back @ generator @ reference.affine, reference.ndim) for generator in self.generators]
        self.design = torch.stack([values, *((slopes * move).sum(0) for move in moves)])
        """[1 + parameters, count]: the reference, and its slopes along them."""

    def _led(self, across: np.ndarray, ndim: int) -> torch.Tensor:
        """[ndim, N]: where a matrix leads the places, in voxels."""
        return torch.from_numpy(across[:ndim].astype(np.float32)) @ self.places

    def reader(self, image: Image) -> Callable[[torch.Tensor], torch.Tensor]:
        """What reads the smoothed image at places [ndim, N], by the cubic spline through its voxels."""
        found = torch.from_numpy((image.data / self.unit).astype(np.float32))
        for axis, (length, spacing) in enumerate(zip(image.shape, image.spacing_mm, strict=True)):
            key = length, round(self.sigma_mm / spacing, 4)
            if key not in self.filters:
                self.filters[key] = _filter(*key)
            found = torch.tensordot(self.filters[key], found, ([1], [axis])).movedim(0, axis)
        read = bspline_reader(found.contiguous()[None, None])
        grid = (*[1] * (image.ndim - 2), -1, _ROW)

        def at(places: torch.Tensor) -> torch.Tensor:
            flow = places.clone()
            flow[-2:] -= self.own
            return read(flow.view(1, image.ndim, *grid)).flatten()

        return at

    def fit(self, volume: Image, start: np.ndarray) -> Fit:
        """The motion of a volume, whose voxels are finite, from `start` [4, 4]."""
        read, matrix = self.reader(volume), start
        into = np.linalg.inv(volume.affine)
        last = torch.tensor(volume.shape)[:, None] - 1.0
        margin = torch.where(last > 3, 0.5, 0.0)
        weights = torch.ones(self.places.shape[1])
        weights[self.count :] = 0
        robust = weights
        for _ in range(ITERATIONS):
            places = self._led(into @ matrix @ self.affine, volume.ndim)
            met = weights * ((places >= margin) & (places <= last - margin)).all(0)
            values = read(places)
            weighted = self.design * (met * robust)
            normal, right = weighted @ self.design.T, weighted @ values
            found, failed = torch.linalg.solve_ex(normal.double(), right.double())
            if failed or not found.isfinite().all() or found[0] <= 0:  # too little in sight, or its negative
                return Fit(start, False, 0.0)
            residual = (values - found.float() @ self.design).abs()
            spread = 1.4826 * residual[met > 0][::_SPARSE].median()
            robust = (1 - (residual / (_BIWEIGHT * spread).clamp_min(1e-30)) ** 2).clamp_min(0) ** 2
            change = exponential(-np.tensordot((found[1:] / found[0]).numpy(), self.generators, 1))
            matrix = matrix @ change
            if rms_distance(np.eye(4), change, self.centre) < self.scale.tolerance_mm:
                correlation = _correlation(values, self.design[0], met * robust)
                return Fit(matrix, correlation > _ALIKE, correlation)
        return Fit(matrix, False, _correlation(values, self.design[0], met * robust))


def _generators(image: Image, centre: np.ndarray) -> np.ndarray:
    """[6, 4, 4], of a 2-D image [3, 4, 4]: small motions of 1 mm, turns at the end of the arm; in 2-D in the plane."""
    if image.ndim == 3:
        shifts = turns = np.eye(3)
    else:
        shifts = np.linalg.qr(image.affine[:3, :2])[0].T
        turns = np.cross(shifts[0], shifts[1])[None]
    found = np.zeros((len(shifts) + len(turns), 4, 4))
    found[: len(shifts), :3, 3] = shifts
    for matrix, (x, y, z) in zip(found[len(shifts) :], turns, strict=True):
        matrix[:3, :3] = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / _ARM_MM
        matrix[:3, 3] = -matrix[:3, :3] @ centre
    return found


def _filter(length: int, sigma: float) -> torch.Tensor:
    """[length, length]: from the voxels along an axis to the coefficients of the spline through the smoothed ones."""
    smoothed = smooth(Image(np.eye(length, dtype=np.float32), np.eye(4)), (sigma, 0.0)).data
    impulses = torch.from_numpy(smoothed.T.copy())[:, None, :, None]
    return bspline_coefficients(impulses)[:, 0, :, 0].T.contiguous()


def _correlation(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor) -> float:
    """0 where one of them is constant, or nothing counts."""
    total = weights.sum().clamp_min(1)
    a, b = (x - (weights * x).sum() / total for x in (first, second))
    spread = ((weights * a * a).sum() * (weights * b * b).sum()).sqrt()
    return float((weights * a * b).sum() / spread) if spread > 0 else 0.0
