"""Series of volumes in commands: one transform a volume from files, and volumes written as they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fastreg.geometry.image import Image
    from fastreg.geometry.transforms import Transform
    from fastreg.io.series import Series


def transform_files(source: Path, count: int, series: Series) -> list[Path]:
    """The files of --per-volume: those of a folder in the order of their names, or of a list, one on a line.

    Raises:
        InputError: neither, a file that is not there, or another number of them than `count`.
    """
    from fastreg.utils.files import InputError, check_exists, read_text

    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        lines = [line.strip() for line in read_text(source, "per-volume list").splitlines()]
        found = [check_exists(source.parent / line, "transform") for line in lines if line and line[0] != "#"]
    if len(found) != count:
        raise InputError(f"--per-volume {source}: expected {count} transforms, one a volume of {series.name}, "
                         f"got {len(found)}")  # fmt: skip
    return found


def read_each(files: Sequence[Path], volume: Image, **meant: Any) -> Iterator[list[Transform]]:
    """The transforms of files, one file after the other, each from the reference volume to a volume on the same grid.

    `meant` as in `load_transforms`.
    """
    from fastreg.io.transforms import load_transforms

    for path in files:
        yield load_transforms(path, fixed=volume, moving=volume, **meant)


def write_moved(
    path: Path,
    series: Series,
    transforms: Sequence[Transform],
    affine: np.ndarray,
    shape: Sequence[int],
    *,
    each: Iterator[Sequence[Transform]] | None,
    mode: str,
    background: float | None,
) -> None:
    """The volumes of a series on the grid of `affine` and `shape`, written one by one: see `apply_each`.

    Raises:
        InputError: a grid of another number of axes, labels that are not whole, a background that the file cannot hold.
    """
    import numpy as np

    from fastreg.geometry.resample import VOTES
    from fastreg.geometry.transforms import apply_each
    from fastreg.io.series import save_series
    from fastreg.utils.files import InputError

    if len(shape) != 3:
        raise InputError(f"{series.name}: volumes are 3-D, but the fixed grid is {len(shape)}-D")
    kind = "intensities"
    dtype: np.dtype[Any] = np.dtype("f4")
    if mode in VOTES or (mode == "nearest" and series.is_labels):
        kind, dtype = "labels", series.label_dtype
        held = np.iinfo(dtype)
        if background is not None and not held.min <= background <= held.max:
            raise InputError(f"--background: expected a number that {dtype}, the type of the labels, holds, "
                             f"got {background:g}")  # fmt: skip
    volumes, step, unit = series.volumes(kind), series.step, series.step_unit
    moved = apply_each(transforms, volumes, series.affine, affine, shape, each=each, mode=mode, background=background)
    save_series(path, moved, affine, shape, len(series), dtype=dtype, step=step, step_unit=unit)
