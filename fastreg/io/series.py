"""Series of volumes, images of four axes, read and written one by one: memory does not grow with their number.

A compressed file is unpacked once, forward, by whoever goes through the volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage
from nibabel.volumeutils import seek_tell

from fastreg.geometry.image import Image, check_affine, named, owned
from fastreg.io.foreign import reader_of
from fastreg.io.images import check_ending, nifti_image
from fastreg.io.volumes import affine_mm, close, finish, open_nibabel, unreadable, warn_of_header
from fastreg.utils.files import InputError, atomic, check_exists

SERIES_ENDINGS = (".nii", ".nii.gz")
"""Of what is written here."""
_STEP_UNITS = {8: "sec", 16: "msec", 24: "usec", 32: "hz", 40: "ppm", 48: "rads"}
"""NIfTI's codes of what lies between two volumes."""
_LABELS = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Series:
    """Volumes on one grid. Going through it opens the file anew."""

    source: Path | SpatialImage
    path: Path | None
    what: str
    """What it is to the user, for messages."""
    shape: tuple[int, ...]
    """Of a volume, [X, Y, Z]."""
    count: int
    affine: np.ndarray
    """[4, 4], voxel -> RAS mm, float64."""
    dtype: np.dtype[Any]
    """Of the voxels, their scaling applied."""
    step: float
    """From one volume to the next: the repetition time; 0 where the file does not say it."""
    step_unit: str
    """"sec", "msec", "usec", "hz", "ppm", "rads" or "unknown"."""

    def __len__(self) -> int:
        return self.count

    @property
    def name(self) -> str:
        """For messages."""
        return named(self.what, self.path)

    @property
    def is_labels(self) -> bool:
        """Whether the voxels are integers."""
        return self.dtype.kind in "iub"

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Of the volumes as labels."""
        if not self.is_labels:
            return np.dtype("i4")
        return np.dtype("u1") if self.dtype.kind == "b" else self.dtype.newbyteorder("=")

    def volumes(self, kind: str = "intensities", stop: int | None = None) -> Iterator[Image]:
        """One volume after the other.

        Args:
            kind: "intensities": float32; "labels": the integers that they are, or int32 of whole floats.
            stop: So many, instead of all.

        Raises:
            InputError: a file that is damaged, cut short or no longer what it was; labels that are not whole.
        """
        image = _open(self.source, self.what)
        try:
            if image.shape != (*self.shape, self.count):
                raise InputError(f"{self.name}: has changed while it was read")
            for k in range(self.count if stop is None else stop):
                yield Image(self._cast(_volume(image, k, self.name), kind, k), self.affine, self.path)
            if stop is None:
                finish(image, self.name)
        finally:
            close(image)

    def _cast(self, data: np.ndarray, kind: str, k: int) -> np.ndarray:
        if kind != "intensities" and data.dtype.kind in "iub":
            return owned(data)
        if kind != "labels":
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
                return np.array(data, np.float32, order="C")
        whole = np.isfinite(data) & (np.rint(data) == data) & (data >= _LABELS.min) & (data <= _LABELS.max)
        if not whole.all():
            raise InputError(f"{self.name}: expected whole labels, got {data[~whole].flat[0]:g} in volume {k}")
        return np.array(data, np.int32, order="C")

    def volume(self, k: int) -> Image:
        """The `k`-th, counted from 0, as float32."""
        *_, last = self.volumes(stop=k + 1)
        return last


def open_series(source: Any, *, what: str = "series") -> Series:
    """A series of volumes whose header has been read.

    Args:
        source: A file of four axes that nibabel reads (.nii, .nii.gz, .mgz, AFNI's, ...), or a nibabel image.
        what: What it is to the user, for messages.

    Raises:
        InputError: no file, not an image or broken, other than four axes, colours, no voxels, a singular affine, more
            than the file can hold or than 16 GiB unpacked.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    name = named(what, path)
    if path is None and not isinstance(source, SpatialImage):
        raise InputError(f"{name}: expected a file or a nibabel image, got {type(source).__name__}")
    image = _open(source if path is None else path, what)
    try:
        shape = tuple(int(length) for length in image.shape)
        if len(shape) != 4:
            raise InputError(f"{name}: expected a series of volumes, 4-D, got {len(shape)}-D of shape {shape}")
        if 0 in shape:
            raise InputError(f"{name}: expected voxels, got an empty series of shape {shape}")
        first = _volume(image, 0, name)
        if first.dtype.kind not in "iufb":
            raise InputError(f"{name}: expected one number a voxel, got {first.dtype} voxels")
        affine = check_affine(affine_mm(image), name)
        warn_of_header(image, affine, name)
        step, unit = _step(image)
    finally:
        close(image)
    return Series(path or source, path, what, shape[:3], shape[3], affine, first.dtype, step, unit)


def holds_series(path: Path) -> bool:
    """Whether a file's header has four axes with several volumes; False of what nibabel does not read."""
    if not path.is_file() or path.suffix.lower() in (".npz", ".npy") or reader_of(path) is not None:
        return False
    image = open_nibabel(path, "image")
    close(image)
    return len(image.shape) == 4 and image.shape[3] > 1 and image.get_data_dtype().names is None


def _open(source: Path | SpatialImage, what: str) -> Any:
    if isinstance(source, SpatialImage):
        return source
    check_exists(source, what)
    if source.suffix.lower() in (".npz", ".npy") or reader_of(source) is not None:
        raise InputError(f"{what} {source}: expected a series of volumes as nibabel reads them (.nii, .nii.gz, .mgz)")
    return open_nibabel(source, what)


def _volume(image: Any, k: int, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # so far as a header scales voxels out of all range
            return np.asanyarray(image.dataobj[..., k])
    except Exception as error:  # what nibabel raises on a damaged file is of any kind
        raise unreadable(name, error) from error


def _step(image: Any) -> tuple[float, str]:
    """What lies between two volumes, and its unit."""
    header = image.header
    zooms: tuple[float, ...] = header.get_zooms() if hasattr(header, "get_zooms") else ()
    step = float(zooms[3]) if len(zooms) > 3 else 0.0
    if not 0 < step < np.inf:
        return 0.0, "unknown"
    if isinstance(header, nibabel.Nifti1Header):
        return step, _STEP_UNITS.get(int(header["xyzt_units"]) & 56, "unknown")
    return step, "msec" if isinstance(image, nibabel.MGHImage) else "unknown"


def save_series(
    path: str | Path,
    volumes: Iterable[np.ndarray],
    affine: np.ndarray,
    shape: Sequence[int],
    count: int,
    *,
    dtype: Any = np.float32,
    step: float = 0.0,
    step_unit: str = "unknown",
) -> None:
    """Write volumes as they come, whole or not at all, to .nii or .nii.gz.

    Args:
        path: Ends as one of `SERIES_ENDINGS`.
        volumes: [X, Y, Z] or [X, Y], each of `shape`.
        affine: [4, 4], voxel -> RAS mm.
        shape: Of a volume.
        count: Of the volumes.
        dtype: Of the file; the volumes' numbers must fit.
        step: See `Series`.
        step_unit: See `Series`.

    Raises:
        InputError: another ending.
        ValueError: volumes of another shape or number.
    """
    check_ending(path, SERIES_ENDINGS)
    spatial = (*shape, *[1] * (3 - len(shape)))
    image = nifti_image(np.broadcast_to(np.zeros((), dtype), (*spatial, count)), affine)
    image.header["pixdim"][4] = step
    image.header.set_xyzt_units("mm", step_unit)
    image.update_header()
    written = 0
    with atomic(path) as partial, ImageOpener(partial, "wb") as file:
        image.header.write_to(file)
        seek_tell(file, image.header.get_data_offset(), write0=True)
        for volume in volumes:
            if volume.shape != tuple(shape):
                raise ValueError(f"volumes must have the shape {tuple(shape)}, got {volume.shape}")
            file.write(volume.astype(image.header.get_data_dtype(), copy=False).tobytes(order="F"))
            written += 1
        if written != count:
            raise ValueError(f"expected {count} volumes, got {written}")
