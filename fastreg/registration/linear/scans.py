"""Images as the linear alignment sees them: averages on coarse grids, weights, and where their mass lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreg.geometry.fill import filled
from fastreg.geometry.image import Image
from fastreg.geometry.masks import inside
from fastreg.types import Mask, Volume
from fastreg.utils.files import InputError

FINEST = {2: 192, 3: 96}
"""About so many voxels along an axis has the finest working grid, where the image has them."""
COARSEST = {2: 40, 3: 18}
"""The coarsest has no fewer along the mean axis."""


@dataclass(frozen=True)
class Scan:
    """An image on a working grid."""

    values: Volume
    """[1, channels, X, Y, Z] float32, about 0 to 1."""
    weight: Mask
    """[1, 1, X, Y, Z], 0 to 1."""
    affine: np.ndarray
    """[4, 4], voxel -> RAS mm."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.values.ndim - 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size in voxels."""
        return tuple(self.values.shape[2:])

    def halved(self) -> Scan:
        """Averaged over two voxels along its finer axes."""
        spacing = np.linalg.norm(self.affine[:3, : self.ndim], axis=0)
        factors = [2 if mm < 1.5 * spacing.min() and n > 1 else 1 for mm, n in zip(spacing, self.shape, strict=True)]
        pool = F.avg_pool3d if self.ndim == 3 else F.avg_pool2d
        values, weight = (pool(x, factors) for x in (self.values, self.weight))
        return Scan(values, weight, self.affine @ _coarser(factors))


def default_levels(fixed: Image) -> tuple[float, ...]:
    """Spacings in mm, each half of the one before: as many as three, as the size of the image allows."""
    extent_mm = float(np.prod(np.array(fixed.shape) * fixed.spacing_mm) ** (1 / fixed.ndim))
    finest = max(extent_mm / FINEST[fixed.ndim], min(fixed.spacing_mm))
    levels = [finest]
    while len(levels) < 3 and extent_mm / (2 * levels[0]) >= COARSEST[fixed.ndim]:
        levels.insert(0, 2 * levels[0])
    return tuple(levels)


def pyramid(
    image: Image, mask: Image | None, what: str, levels_mm: Sequence[float], device: torch.device
) -> list[Scan]:
    """The image at each level, coarse to fine; InputError where there is nothing to align."""
    finite = np.isfinite(image.data)
    if not finite.any():
        raise InputError(f"{what} image: expected intensities, got NaN in every voxel")
    counts = finite
    if mask is not None:
        if mask.ndim != image.ndim:
            raise InputError(f"{what} mask: {mask.ndim}-D, but the {what} image is {image.ndim}-D")
        counts = finite & inside(mask, image.shape, image.affine)
    if not counts.any():
        raise InputError(f"{what} mask: expected voxels above 0 within the {what} image, got none")
    low, high = _range(image.data[counts])
    if not high > low:
        raise InputError(f"{what} image: expected structure, got the constant {low:g}")
    finest = min(levels_mm)
    weight = _block_means(Image(counts.astype(np.float32), image.affine), finest)
    data = _block_means(Image(np.where(counts, image.data.clip(low, high), 0), image.affine), finest)

    def scan(spacing_mm: float) -> Scan:
        """Averages of what counts; where nothing does, of what lies around it."""
        sums, share = _block_means(data, spacing_mm), _block_means(weight, spacing_mm)
        values, counted = (torch.from_numpy(x.data)[None, None] for x in (sums, share))
        values = filled(values / counted.clamp_min(1e-12), counted)
        return Scan(((values - low) / (high - low)).to(device), counted.to(device), sums.affine)

    return [scan(mm) for mm in levels_mm]


def without_background(scan: Scan) -> Scan:
    """The scan whose background does not count; as it is where it has none."""
    outside = background(scan)
    if outside is None:
        return scan
    pool = F.max_pool3d if scan.ndim == 3 else F.max_pool2d
    near = pool(outside.to(scan.values.dtype)[None, None], 3, stride=1, padding=1)
    weight = scan.weight * (1 - near)
    return replace(scan, weight=weight) if (weight > 0.5).any() else scan


def background(scan: Scan) -> Tensor | None:
    """What looks like the border of the grid, boolean [X, Y, Z]; None where the border is not uniform."""
    values = scan.values[0, 0]
    border = torch.ones_like(values, dtype=torch.bool)
    border[tuple(slice(1, -1) for _ in scan.shape)] = False
    outside = (values - values[border].median()).abs() < _UNIFORM
    return outside if outside[border].float().mean() > _MOST else None


_UNIFORM = 0.06
"""Of the range of intensities: what is nearer to the border's median is background."""
_MOST = 0.5
"""Share of the border that must be."""


def without_field_of_view(scans: list[tuple[Scan, Scan]]) -> list[tuple[Scan, Scan]]:
    """Levels whose background does not count if it is the device's: the same voxels of both images, to a hundredth.

    The rim of an ophthalmoscope or the cone of an ultrasound probe lies still while the object moves.
    """
    outside = [background(scan) for scan in scans[-1]]
    if outside[0] is None or outside[1] is None or outside[0].shape != outside[1].shape:
        return scans
    differ, inside = (outside[0] != outside[1]).sum(), (~outside[0]).sum()
    if differ > _SAME * inside:
        return scans
    return [(without_background(fixed), without_background(moving)) for fixed, moving in scans]


_SAME = 0.01


def _range(data: np.ndarray) -> tuple[float, float]:
    """Intensities without the outermost ones, of a sample."""
    sample = data.ravel()[:: max(1, data.size // 200_000)]
    low, high = np.percentile(sample, [0.5, 99.8])
    return (float(low), float(high)) if high > low else (float(data.min()), float(data.max()))


def _block_means(image: Image, spacing_mm: float) -> Image:
    """The image in voxels as near to `spacing_mm` as whole multiples of its own come; never finer than it is."""
    factors = [
        min(max(1, round(spacing_mm / own)), length) for own, length in zip(image.spacing_mm, image.shape, strict=True)
    ]
    pool = F.avg_pool3d if image.ndim == 3 else F.avg_pool2d
    data = pool(torch.from_numpy(np.ascontiguousarray(image.data, np.float32))[None, None], factors)
    return Image(data[0, 0].numpy(), image.affine @ _coarser(factors))


def _coarser(factors: Sequence[int]) -> np.ndarray:
    """Voxels of averages -> voxels of what was averaged."""
    change = np.eye(4)
    for axis, factor in enumerate(factors):
        change[axis, axis], change[axis, 3] = factor, (factor - 1) / 2
    return change


@dataclass(frozen=True)
class Body:
    """Where the fixed image's mass lies: the frame of the parameters."""

    centre: np.ndarray
    """[3], RAS mm."""
    radius_mm: float
    """Root mean square distance from the centre."""
    axes: np.ndarray
    """[3, ndim], orthonormal: the directions in which the map may move anything."""

    @classmethod
    def of(cls, scan: Scan) -> Body:
        """Of the fixed image."""
        ndim = scan.ndim
        mass = mass_of(scan)
        centre = centre_of(scan, mass)
        voxels = np.stack(np.meshgrid(*[np.arange(n) for n in mass.shape], indexing="ij"), -1)
        apart = (voxels @ scan.affine[:3, :ndim].T) + scan.affine[:3, 3] - centre
        radius = float(np.sqrt((mass * (apart**2).sum(-1)).sum() / mass.sum()))
        axes = np.eye(3) if ndim == 3 else np.linalg.qr(scan.affine[:3, :2])[0]
        return cls(centre, radius, axes)


def mass_of(scan: Scan) -> np.ndarray:
    """How far each voxel is from the background, which is what lies along the border of the grid."""
    values, weight = scan.values[0, 0].cpu().numpy(), scan.weight[0, 0].cpu().numpy()
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) for _ in values.shape)] = False
    mass = np.abs(values - np.median(values[border])) * weight
    return mass if mass.any() else weight


def centre_of(scan: Scan, mass: np.ndarray) -> np.ndarray:
    """The centre of mass in RAS mm."""
    ndim = mass.ndim
    rest = [tuple(a for a in range(ndim) if a != axis) for axis in range(ndim)]
    voxel = [mass.sum(others) @ np.arange(n) / mass.sum() for others, n in zip(rest, mass.shape, strict=True)]
    return scan.affine[:3, :ndim] @ voxel + scan.affine[:3, 3]
