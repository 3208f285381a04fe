"""Volumes on a working grid, decoded once and kept on disk, and the pairs that training draws from them.

Nothing here knows about training. Which pair an index means is a function of the seed and the index alone, so a run
resumes by its step number, and every process of a parallel run finds its own share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastreg.data.cohorts import Subject
from fastreg.data.intensity import normalised
from fastreg.data.store import load_array, name_of, save_array, stored_bytes
from fastreg.geometry.grid import Grid, on_grid
from fastreg.geometry.image import Image
from fastreg.io.images import load_image, load_labels
from fastreg.io.labels import structure_codes
from fastreg.utils.files import InputError
from fastreg.utils.stop import outlive_signals


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
            try:
                for k, job in enumerate(jobs, 1):
                    job.result()
                    done(k, len(jobs))
            except BaseException:  # a bad file or Ctrl-C waits for what is begun, not for the rest
                pool.shutdown(cancel_futures=True)
                raise

    def _read(self, file: Path, labels: bool) -> Tensor:
        path = self._name(file, labels)
        dtype = np.dtype(np.int32 if labels else np.float32)
        data = load_array(path, self.grid.shape, dtype)
        if data is None:  # not there, cut short, or damaged: the image itself says it again
            data = self._decode(file, labels)
            save_array(path, data)
        return torch.from_numpy(data)[None]

    def _ensure(self, file: Path, labels: bool) -> None:
        path = self._name(file, labels)
        if not (path.is_file() and path.stat().st_size == stored_bytes(self.grid.shape)):
            save_array(path, self._decode(file, labels))

    def _name(self, file: Path, labels: bool) -> Path:
        try:
            stat = file.stat()
        except OSError as error:
            raise InputError(f"image {file}: {error.strerror}") from error
        recipe = [str(file.resolve()), stat.st_size, stat.st_mtime_ns, self.grid.shape, self.grid.affine.tolist()]
        recipe += [labels, self.normalise if not labels else "", 1]
        return self.folder / f"{name_of(recipe)}.volume"

    def _decode(self, file: Path, labels: bool) -> np.ndarray:
        image = load_labels(file) if labels else load_image(file)
        if image.ndim != len(self.grid.shape):
            raise InputError(f"image {file}: expected {len(self.grid.shape)}-D like the others, got {image.ndim}-D")
        if labels:
            return np.ascontiguousarray(on_grid(image, self.grid, "nearest")).astype(np.int32)
        scaled = Image(normalised(image.data, self.normalise), image.affine, image.path)
        return np.ascontiguousarray(on_grid(scaled, self.grid), dtype=np.float32)


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
        fields: If given, items also hold "flow" [ndim, *shape], voxels, that this says of moving and fixed subject.
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
        fields: Callable[[Subject, Subject], Tensor] | None = None,
        masked: bool = False,
    ) -> None:
        if not pairs and len(subjects) < (1 if atlas else 2):
            raise InputError(f"training needs {'an image' if atlas else 'two images'}, the cohort has {len(subjects)}")
        self.volumes, self.subjects, self.atlas, self.pairs = volumes, subjects, atlas, pairs
        self.seed, self.flip, self.structures, self.fields, self.masked = seed, flip, structures, fields, masked

    def names(self, index: int) -> tuple[Subject, Subject]:
        """Moving and fixed of item `index`."""
        if self.pairs:
            lap, k = divmod(index, len(self.pairs))
            return self.pairs[int(self._rng(0, lap).permutation(len(self.pairs))[k])]
        if self.atlas is not None:
            lap, k = divmod(index, len(self.subjects))
            return self.subjects[int(self._rng(0, lap).permutation(len(self.subjects))[k])], self.atlas
        moving, fixed = self._rng(1, index).choice(len(self.subjects), 2, replace=False)
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
        if self.fields is not None:
            item["flow"] = self.fields(moving, fixed)
        if self.flip and self._rng(2, index).random() < 0.5:
            across = self.volumes.grid.left_right
            item = {name: volume.flip(1 + across) for name, volume in item.items()}
            if "flow" in item:
                item["flow"][across] *= -1
        return item

    def _codes(self, subject: Subject, known: bool) -> Tensor:
        if not known:
            return torch.zeros(1, *self.volumes.grid.shape, dtype=torch.int32)
        return structure_codes(self.volumes.labels(subject), self.structures)

    def _rng(self, *what: int) -> np.random.Generator:
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
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # torch's own stays as a checkpoint has it, however often a run is resumed
    )


def read_ahead(batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The batches of a `loader`; what went wrong in a process that loads is said as it would be here.

    Raises:
        InputError: a file that cannot be used, or a process that loads was killed.
    """
    try:
        yield from batches
    except Exception as error:
        raise _of_worker(error) from error
    finally:  # now: an error's traceback keeps the iterator, and at the end of Python workers are slow to go
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()


def _of_worker(error: Exception) -> Exception:
    """torch hands on a worker's error as text, its traceback first, and a dead worker as a RuntimeError."""
    text = str(error)
    if re.match(r"DataLoader worker \(pid\(?s?\)? .*\) (is killed|exited)", text):
        said = " ".join(text.split())
        return InputError(f"workers: {said.rstrip('. ')}; often for want of memory: fewer --workers need less")
    if isinstance(error, RuntimeError) and ("shared memory" in text or "</torch_" in text):
        return InputError(f"workers: {text.strip().splitlines()[-1]}; fewer --workers need less shared memory, 0 none")
    if not text.startswith("Caught "):
        return error
    last = text.strip().splitlines()[-1]
    kind, _, said = last.partition(": ")
    if kind.endswith("InputError"):
        return InputError(said)
    if kind.endswith(("OSError", "MemoryError")) or isinstance(error, OSError | MemoryError):
        return type(error)(said or last)
    return error
