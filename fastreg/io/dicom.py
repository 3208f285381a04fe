"""A DICOM series, a folder of slices or one file of many frames, as one volume, by SimpleITK (extra `io`).

Every slice is read with its own rescaling and put where its own header places it: what is missing, comes twice or lies
across is refused by name, where a reader that trusts the first two slices would place all others wrongly.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.io.itk_images import simple_itk, voxels_of
from fastreg.io.limits import check_size
from fastreg.io.memory import placement
from fastreg.io.volumes import unreadable
from fastreg.utils.files import InputError

_NUMBER, _DESCRIPTION, _SERIES = "0020|0011", "0008|103e", "0020|000e"
_UNEVEN = 0.02
"""Share of the distance between slices by which one may be off its place: what headers round."""


def read_dicom(path: Path, what: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Voxels, affine, and whether the last axis is that of channels.

    Args:
        path: A folder with one series, or a file of the series that is meant, whose other slices lie beside it.
        what: What it is to the user, for messages.

    Returns:
        [X, Y, Z] and perhaps channels, rescaled; [4, 4], voxel -> RAS mm.

    Raises:
        InputError: no SimpleITK, no series, several, one that is no stack of slices at equal distances, damaged files.
    """
    name = f"{what} {path}"
    library = simple_itk(name)
    try:
        files = _files(library, path, name)
        images = [_slice(library, file, name) for file in files]
        if len(images) == 1:
            return images[0][0], images[0][1], images[0][0].ndim > 3
        return _stacked(images, name)
    except InputError:
        raise
    except Exception as error:  # GDCM's are RuntimeErrors of many lines
        raise unreadable(name, error) from error


def _files(library: Any, path: Path, name: str) -> list[str]:
    """The files of the series that is meant."""
    reader = library.ImageSeriesReader
    if not path.is_dir():
        series = _text(_header(library, str(path)), _SERIES)
        beside = reader.GetGDCMSeriesFileNames(str(path.parent), series) if series else ()
        return list(beside) if str(path) in {str(Path(file)) for file in beside} else [str(path)]
    found = {series: reader.GetGDCMSeriesFileNames(str(path), series) for series in reader.GetGDCMSeriesIDs(str(path))}
    if not found:
        raise InputError(f"{name}: a folder without a DICOM series")
    if len(found) > 1:
        listed = "; ".join(_described(library, files) for files in found.values())
        raise InputError(f"{name}: expected one DICOM series, got {len(found)}; give a file of the one meant: {listed}")
    files = list(next(iter(found.values())))
    left = sorted({str(file) for file in path.iterdir() if _is_dicom(file)} - {str(Path(file)) for file in files})
    if left:
        text = f"{name}: {len(left)} of its DICOM files are no images that can be read, {Path(left[0]).name} first"
        warnings.warn(text, UserWarning, stacklevel=6)
    return files


def _is_dicom(file: Path) -> bool:
    if not file.is_file() or file.name == "DICOMDIR":
        return False
    with file.open("rb") as content:
        return content.read(132)[128:] == b"DICM"


def _described(library: Any, files: tuple[str, ...]) -> str:
    header = _header(library, files[0])
    number, said = _text(header, _NUMBER), _text(header, _DESCRIPTION) or "no description"
    return f"{Path(files[0]).name} (series {number}, {said}, {len(files)} files)"


def _header(library: Any, file: str) -> Any:
    reader = library.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _text(reader: Any, key: str) -> str:
    return str(reader.GetMetaData(key)).strip() if reader.HasMetaDataKey(key) else ""


def _slice(library: Any, file: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """[X, Y, Z] and perhaps channels, and the affine, of one file."""
    reader = _header(library, file)
    check_size(f"{name}, {Path(file).name}", reader.GetSize(), 2 * reader.GetNumberOfComponents())
    image = reader.Execute()
    data = voxels_of(library, image)
    return data[:, :, None] if image.GetDimension() == 2 else data, placement(image)


def _stacked(images: list[tuple[np.ndarray, np.ndarray]], name: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """The slices in the order of their places."""
    first = images[0]
    for data, affine in images:
        if data.shape != first[0].shape or data.shape[2] != 1:
            raise InputError(f"{name}: expected slices of one size, got {first[0].shape} and {data.shape}")
        if not np.allclose(affine[:3, :2], first[1][:3, :2], rtol=0, atol=1e-3 * np.abs(first[1][:3, :2]).max()):
            raise InputError(f"{name}: expected slices that are parallel and of one spacing, got others")
    normal = np.cross(first[1][:3, 0], first[1][:3, 1])
    normal /= np.linalg.norm(normal)
    images = sorted(images, key=lambda image: float(normal @ image[1][:3, 3]))
    places = np.array([affine[:3, 3] for _, affine in images])
    along = places @ normal
    if (np.diff(along) < 1e-3).any():
        raise InputError(
            f"{name}: several slices in one place ({len(images)} files): several volumes, which dcm2niix makes apart"
        )
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = np.linalg.norm(places - places[0] - np.outer(np.arange(len(places)), step), axis=1)
    if off.max() > _UNEVEN * np.linalg.norm(step):
        gap = int(np.argmax(np.diff(along)))
        raise InputError(
            f"{name}: expected slices at equal distances, got {np.diff(along).min():.4g} to "
            f"{np.diff(along).max():.4g} mm, the widest after slice {gap + 1} of {len(places)}"
        )
    affine = images[0][1].copy()
    affine[:3, 2] = step
    data = np.concatenate([data for data, _ in images], axis=2)
    return data, affine, data.ndim > 3
