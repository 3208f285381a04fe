"""Volumes on a working grid, decoded once and kept on disk, and the pairs that training draws from them.

Nothing here knows about training. Which pair an index means is a function of the seed and the index alone, so a run
resumes by its step number, and every process of a parallel run finds its own share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastreg.cohorts import Subject
from fastreg.files import InputError, atomic
from fastreg.images import Image, centred_affine, load_image, load_labels, resample_to_grid
from fastreg.segmentation import structure_codes


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


def normalised(data: np.ndarray, how: str) -> np.ndarray:
    """Float32 intensities; "percentile": 0.1st to 99.9th onto [0, 1], clipped; "minmax": all onto it; "none": as is."""
    data = np.ascontiguousarray(data, dtype=np.float32)
    if how == "none":
        return data
    finite = data[np.isfinite(data)]
    if finite.size == 0:
        raise InputError("an image has no finite voxel")
    low = high = 0.0
    if how == "percentile":
        # A million voxels, evenly taken, say it to a thousandth and in a twentieth of the time.
        low, high = np.percentile(finite[:: max(1, finite.size // 1_000_000)], (0.1, 99.9))
    if not high > low:
        low, high = float(finite.min()), float(finite.max())
    scaled = (data - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.clip(np.nan_to_num(scaled), 0, 1).astype(np.float32)


def on_grid(image: Image, grid: Grid, mode: str = "linear") -> np.ndarray:
    """The image's values at the grid's voxels, zero outside the image."""
    if image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-4):
        return image.data
    return resample_to_grid(image, grid.affine, grid.shape, mode=mode).data


class Volumes:
    """Images and label maps of subjects on one grid, as arrays in a folder that all processes and runs share.

    Args:
        grid: The working grid; images are brought onto it through their headers.
        normalise: As in `normalised`.
        folder: Where decoded volumes lie, 4 bytes a voxel. A changed file or setting gets a new name.
    """

    def __init__(self, grid: Grid, normalise: str, folder: Path) -> None:
        self.grid, self.normalise, self.folder = grid, normalise, folder

    def image(self, subject: Subject) -> Tensor:
        """[1, *grid.shape], float32."""
        return self._read(subject.image, labels=False)

    def labels(self, subject: Subject) -> Tensor:
        """[1, *grid.shape], int32; InputError if the subject has none."""
        if subject.label is None:
            raise InputError(f"subject {subject.id} has no label map")
        return self._read(subject.label, labels=True)

    def mask(self, subject: Subject) -> Tensor:
        """[1, *grid.shape], float32: 1 where the subject's mask is not zero, everywhere if it has none."""
        if subject.mask is None:
            return torch.ones(1, *self.grid.shape)
        return (self._read(subject.mask, labels=True) != 0).float()

    def prepare(
        self, subjects: Iterable[Subject], threads: int, done: Callable[[int, int], None] = lambda k, n: None
    ) -> None:
        """Decodes what is not there yet, so that a bad file is found now and no step waits for one later."""
        subjects = list(subjects)
        files = {(s.image, False) for s in subjects}
        files |= {(file, True) for s in subjects for file in (s.label, s.mask) if file is not None}
        with ThreadPoolExecutor(max(1, threads)) as pool:
            jobs = [pool.submit(self._ensure, file, labels) for file, labels in sorted(files)]
            for k, job in enumerate(jobs, 1):
                job.result()
                done(k, len(jobs))

    def _read(self, file: Path, labels: bool) -> Tensor:
        return torch.from_numpy(np.load(self._ensure(file, labels)))[None]

    def _ensure(self, file: Path, labels: bool) -> Path:
        stat = file.stat()
        recipe = [str(file.resolve()), stat.st_size, stat.st_mtime_ns, self.grid.shape, self.grid.affine.tolist()]
        recipe += [labels, self.normalise if not labels else "", 1]
        path = self.folder / f"{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]}.npy"
        if not path.is_file():
            data = self._decode(file, labels)
            with atomic(path) as partial:
                np.save(partial, data)
        return path

    def _decode(self, file: Path, labels: bool) -> np.ndarray:
        image = load_labels(file) if labels else load_image(file)
        if image.ndim != len(self.grid.shape):
            raise InputError(f"image {file}: expected {len(self.grid.shape)}-D like the others, got {image.ndim}-D")
        if labels:
            return np.ascontiguousarray(on_grid(image, self.grid, "nearest")).astype(np.int32)
        return on_grid(Image(normalised(image.data, self.normalise), image.affine, image.path), self.grid)


class LabelMaps:
    """Label maps of subjects by number, coded as by `structure_codes`, for `synthesis.SyntheticPairs`."""

    def __init__(self, volumes: Volumes, subjects: Sequence[Subject], structures: Sequence[Sequence[int]]) -> None:
        self.volumes, self.subjects, self.structures = volumes, subjects, structures

    def __call__(self, number: int) -> Tensor:
        """[1, *grid.shape], int32; any number is some subject's."""
        return structure_codes(self.volumes.labels(self.subjects[number % len(self.subjects)]), self.structures)


class Pairs(Dataset[dict[str, Tensor]]):
    """An endless, seeded sequence of (moving, fixed) pairs; item k is the same in every process and every run.

    Args:
        volumes: Where images come from.
        subjects: Any two different ones make a pair, if nothing else is said.
        atlas: If given, always the fixed image.
        pairs: If given, these pairs, in a new order each time they are through.
        seed: Chance.
        flip: Mirror every other pair left to right, by chance.
        structures: If given, items also hold "moving_labels" and "fixed_labels", coded as by `structure_codes`; all
            zeros if one of the two subjects has no label map, so that no structure is missed in vain.
        masked: Items also hold "moving_mask", "fixed_mask" and "mask_known", [1, 1, ...]: whether the fixed image has
            one.
    """

    def __init__(
        self,
        volumes: Volumes,
        subjects: tuple[Subject, ...],
        *,
        atlas: Subject | None = None,
        pairs: tuple[tuple[Subject, Subject], ...] = (),
        seed: int = 0,
        flip: bool = False,
        structures: Sequence[Sequence[int]] = (),
        masked: bool = False,
    ) -> None:
        if not pairs and len(subjects) < (1 if atlas else 2):
            raise InputError(f"training needs {'an image' if atlas else 'two images'}, the cohort has {len(subjects)}")
        self.volumes, self.subjects, self.atlas, self.pairs = volumes, subjects, atlas, pairs
        self.seed, self.flip, self.structures, self.masked = seed, flip, structures, masked

    def names(self, index: int) -> tuple[Subject, Subject]:
        """Moving and fixed of item `index`."""
        if self.pairs:
            lap, k = divmod(index, len(self.pairs))
            return self.pairs[int(self._chance(0, lap).permutation(len(self.pairs))[k])]
        if self.atlas is not None:
            lap, k = divmod(index, len(self.subjects))
            return self.subjects[int(self._chance(0, lap).permutation(len(self.subjects))[k])], self.atlas
        moving, fixed = self._chance(1, index).choice(len(self.subjects), 2, replace=False)
        return self.subjects[moving], self.subjects[fixed]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        moving, fixed = self.names(index)
        item = {"moving": self.volumes.image(moving), "fixed": self.volumes.image(fixed)}
        if self.structures:
            both = moving.label is not None and fixed.label is not None
            item |= {"moving_labels": self._codes(moving, both), "fixed_labels": self._codes(fixed, both)}
        if self.masked:
            item |= {"fixed_mask": self.volumes.mask(fixed), "moving_mask": self.volumes.mask(moving)}
            item["mask_known"] = torch.full((1,) * (1 + len(self.volumes.grid.shape)), fixed.mask is not None)
        if self.flip and self._chance(2, index).random() < 0.5:
            axis = 1 + self.volumes.grid.left_right
            item = {name: volume.flip(axis) for name, volume in item.items()}
        return item

    def _codes(self, subject: Subject, known: bool) -> Tensor:
        if not known:
            return torch.zeros(1, *self.volumes.grid.shape, dtype=torch.int32)
        return structure_codes(self.volumes.labels(subject), self.structures)

    def _chance(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what])


class Share(Sampler[list[int]]):
    """The batches of one process from `start` to `stop`: together the processes take consecutive items."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.stop, self.batch_size, self.rank, self.world = start, stop, batch_size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = (step * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.stop - self.start


def loader(pairs: Dataset[dict[str, Tensor]], share: Share, workers: int, pin: bool) -> DataLoader[dict[str, Tensor]]:
    """Batches {"moving", "fixed", ...} [batch, 1, D, H, W], read ahead by `workers` processes."""
    return DataLoader(
        pairs,
        batch_sampler=share,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        persistent_workers=False,
    )
