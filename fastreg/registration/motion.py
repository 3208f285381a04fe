"""The motion of a head through a series: every volume against one reference, rigidly."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastreg.geometry import rigid
from fastreg.geometry.image import Image
from fastreg.geometry.masks import dilated, inside
from fastreg.geometry.transforms import Affine, apply
from fastreg.io.images import load_image
from fastreg.io.series import Series, open_series
from fastreg.registration.realign import Fit, Scale, Target
from fastreg.registration.samples import objects
from fastreg.utils.files import InputError
from fastreg.utils.threads import single_threads

SEARCH = (Scale(2.0, 2, 0.1), Scale(1.0, 1, 0.02))
"""What finds a volume that lies where the one before it lay, or some mm away."""
FINE = Scale(0.8, 1, 0.002)
_TOGETHER = 8
"""Volumes that are fitted side by side, all from the same start: the result does not depend on the threads."""
_FEWEST = 200
"""Voxels that a reference must have."""


@dataclass(frozen=True, eq=False)
class Motion:
    """The motion of a series."""

    matrices: np.ndarray
    """[T, 4, 4], reference RAS mm -> volume RAS mm."""
    centre_mm: np.ndarray
    """[3], RAS mm: the reference's centre of gravity, about which parameters turn."""
    converged: np.ndarray
    """[T], boolean: the fit came to rest."""
    correlation: np.ndarray
    """[T]: of volume and reference where they lie on each other."""
    reference: Image
    """What the volumes were fitted to."""

    @property
    def parameters(self) -> np.ndarray:
        """[T, 6]: translations of the centre in mm and angles in radians, as of `fastreg.geometry.rigid`."""
        return rigid.rigid_parameters(self.matrices, self.centre_mm)

    @property
    def fd_mm(self) -> np.ndarray:
        """[T]: Power's framewise displacement; NaN for the first volume."""
        return rigid.framewise_displacement(self.parameters)

    @property
    def rms_mm(self) -> np.ndarray:
        """[T]: Jenkinson's root mean square displacement since the volume before; NaN for the first."""
        return rigid.rms_displacement(self.matrices, self.centre_mm)


def motion(
    source: Any,
    *,
    reference: str | int | Path | Image = "mean",
    mask: str | Path | Image | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Motion:
    """Estimate the rigid motion of every volume of a series.

    Args:
        source: A file of four axes that nibabel reads, a nibabel image of four axes, or a `Series`.
        reference: "mean": the mean of the volumes after a first estimate to the middle one, where that one lies;
            "first", "middle" or a number from 0: a volume; or an image, with the contrast of the series.
        mask: What counts, on any grid, where the reference lies; if None, all that is not air.
        on_progress: Called with the fits that are done and the number of all.

    Returns:
        Matrices, parameters and displacements; fits that did not come to rest are marked.

    Raises:
        InputError: not a series, a volume that is constant or has no finite voxel, a reference or mask that cannot be
            used.
    """
    series = source if isinstance(source, Series) else open_series(source)
    first = _prepared(*_reference(series, reference))
    covers = None if mask is None else load_image(mask, what="mask", ndim=3)
    count, rounds = len(series), 2 if reference == "mean" else 1
    matrices, converged, correlation = np.empty((count, 4, 4)), np.empty(count, bool), np.empty(count)
    done = itertools.count(1)

    def fitted(scales: Sequence[Scale], starts: np.ndarray | None, onto: Image | None) -> Iterator[_Found]:
        for k, (fit, moved) in enumerate(_fits(series, _targets(first, covers, scales), onto, starts)):
            matrices[k], converged[k], correlation[k] = fit.matrix, fit.converged, fit.correlation
            if on_progress is not None:
                on_progress(next(done), rounds * count)
            yield fit, moved

    if rounds == 1:
        deque(fitted((*SEARCH, FINE), None, None), 0)
    else:
        total, there = np.zeros(first.shape), np.zeros(first.shape)
        for fit, moved in fitted(SEARCH, None, first):
            if fit.converged:  # as the middle volume to itself always has
                total += np.nan_to_num(moved)
                there += np.isfinite(moved)
        first = Image((total / np.maximum(there, 1)).astype(np.float32), first.affine)
        deque(fitted((FINE,), matrices.copy(), None), 0)
    lost = [str(k) for k in np.nonzero(~converged)[0]]
    if lost:
        text = f"{series.name}: expected fits that come to rest, got none for volume{'s'[: len(lost) > 1]} "
        warnings.warn(f"{text}{', '.join(lost)}: their motion is not to be trusted", UserWarning, stacklevel=2)
    whole = Image(first.data.reshape(*first.shape, *[1] * (3 - first.ndim)), first.affine)
    return Motion(matrices, _centre(first), converged, correlation, whole)


_Found: TypeAlias = tuple[Fit, np.ndarray]
"""A fit, and the volume where the reference lies: NaN outside of it, empty where nobody asks for it."""


def _fits(series: Series, targets: Sequence[Target], onto: Image | None, starts: np.ndarray | None) -> Iterator[_Found]:
    """Of every volume, in order; without `starts` from where those before it lie. `onto`: the grid to move it to."""

    def found(k: int, volume: Image, start: np.ndarray) -> _Found:
        volume = _prepared(volume, f"{series.name}, volume {k}")
        fit = _fit(targets, volume, start)
        if onto is None:
            return fit, np.empty(0)
        way = [Affine(fit.matrix)]
        return fit, apply(way, volume, onto.affine, onto.shape, mode="bspline", background=np.nan).data

    last = np.eye(4)
    with single_threads() as pool:
        volumes = enumerate(series.volumes())
        while chunk := list(itertools.islice(volumes, _TOGETHER)):
            given = [last if starts is None else starts[k] for k, _ in chunk]
            for fit, moved in pool.map(found, *zip(*chunk, strict=True), given):
                last = fit.matrix if fit.converged else last
                yield fit, moved


def _fit(targets: Sequence[Target], volume: Image, start: np.ndarray) -> Fit:
    """Through all targets, and if that fails once more from where the reference lies; the better one of both."""
    tried = []
    for begin in (start, np.eye(4)):
        fit = Fit(begin, False, 0.0)
        for target in targets:
            fit = target.fit(volume, fit.matrix)
        if fit.converged:
            return fit
        tried.append(fit)
    return max(tried, key=lambda fit: fit.correlation)


def _targets(reference: Image, mask: Image | None, scales: Sequence[Scale]) -> list[Target]:
    shape = reference.shape
    if mask is None:
        where = dilated(objects(reference.data), 1)  # with the head's border: it says most of where it lies
    else:
        where = inside(mask, (*shape, *[1] * (3 - len(shape))), reference.affine).reshape(shape)
    if where.sum() < _FEWEST:
        what = "mask" if mask is not None else "reference image"
        raise InputError(f"{what}: expected at least {_FEWEST} voxels to fit volumes by, got {where.sum()}")
    return [Target(reference, where, scale, _centre(reference)) for scale in scales]


def _centre(image: Image) -> np.ndarray:
    """[3], RAS mm: the centre of gravity of what exceeds the minimum, as FSL's tools have it."""
    weights = image.data.astype(np.float64) - image.data.min()
    index = np.zeros(3)
    for axis, length in enumerate(image.shape):
        others = tuple(k for k in range(image.ndim) if k != axis)
        index[axis] = weights.sum(others) @ np.arange(length) / weights.sum()
    return image.affine[:3, :3] @ index + image.affine[:3, 3]


def _reference(series: Series, reference: str | int | Path | Image) -> tuple[Image, str]:
    """The image, and what messages call it; of the mean the volume that comes before it."""
    if isinstance(reference, Image):
        return reference, "reference image"
    count = len(series)
    known = {"mean": count // 2, "first": 0, "middle": count // 2}
    k = known.get(str(reference), int(str(reference)) if str(reference).lstrip("-").isdigit() else None)
    if k is None:
        return load_image(reference, what="reference image", ndim=3), f"reference image {reference}"
    if not 0 <= k < count:
        raise InputError(f"reference: expected a volume from 0 to {count - 1} of {series.name}, got {k}")
    return series.volume(k), f"{series.name}, volume {k}"


def _prepared(volume: Image, name: str) -> Image:
    """Voxels that are not finite are 0; a single slice is a 2-D image. InputError if there is nothing to see."""
    finite = np.isfinite(volume.data)
    seen = volume.data[finite]
    if seen.size == 0 or seen.min() == seen.max():
        what = "no finite voxel" if seen.size == 0 else f"{seen.flat[0]:g} everywhere"
        raise InputError(f"{name}: expected intensities that vary, got {what}")
    data = np.where(finite, volume.data, 0).astype(np.float32)
    return Image(data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data, volume.affine, volume.path)
