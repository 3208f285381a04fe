"""NIfTI, MGH and the other files that nibabel reads, opened so that nothing in them is believed unseen.

A header's sizes are compared with the file before memory is taken, and a gzip stream is read to its end, where its
checksum stands: nibabel stops after the last voxel.
"""

from __future__ import annotations

import gzip
import itertools
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError, SpatialImage

from fastreg.geometry.image import spacing_mm
from fastreg.io.foreign import foreign_image
from fastreg.io.limits import check_size, is_gzip, open_unpacked, read_to_end
from fastreg.utils.files import InputError

_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes of metre, mm and micron."""
_UNIT_NAMES = {1: "metre", 2: "mm", 3: "micron"}
_PLAIN = (nibabel.AnalyzeImage, nibabel.MGHImage)
"""Formats whose voxels lie one after the other, NIfTI among them: their bytes are the file's, or gzip's."""
_SINGLE_FILES: tuple[tuple[Any, bytes, int], ...] = (
    (nibabel.Nifti1Image, b"n+1\0", 344),
    (nibabel.Nifti2Image, b"n+2\0", 4),
)


def open_nibabel(path: Path, what: str) -> Any:
    """The file as a nibabel image, its voxels not read yet; InputError if it is none, or claims more than it holds."""
    name = f"{what} {path}"
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # an affine that is not finite is refused by name
            image = _open(path, name)
    except InputError:
        raise
    except Exception as error:  # what nibabel raises on a damaged header is of any kind
        known = foreign_image(path)
        raise (unreadable(name, error) if known is None else InputError(f"{name}: {known}")) from error
    if not isinstance(image, SpatialImage):
        raise InputError(f"{name}: expected an image, got {type(image).__name__}")
    if (shape := getattr(image, "shape", None)) is None:
        raise InputError(f"{name}: expected an image, got {type(image).__name__}")
    proxy = image.dataobj
    stored = np.dtype(getattr(proxy, "dtype", image.get_data_dtype()))
    source = _data_path(image, path)
    if isinstance(image, _PLAIN) and source.suffix.lower() not in (".bz2", ".zst"):
        _check_claim(name, source, shape, stored.itemsize, int(getattr(proxy, "offset", 0)))
    else:  # compressed in other ways
        check_size(name, shape, stored.itemsize)
    return image


def _open(path: Path, name: str) -> Any:
    """By its first bytes, whatever its ending says; by nibabel's own loader where the voxels lie in a second file."""
    stream = open_unpacked(path)
    head = stream.read(540)
    stream.seek(0)
    kind = next((cls for cls, magic, at in _SINGLE_FILES if head[at : at + 4] == magic), None)
    if kind is not None:
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
        # Before nibabel reads all the header extensions that the offset leaves room for.
        _check_claim(name, path, (int(header["vox_offset"]),), 1, 0)
    elif path.name.lower().endswith((".mgh", ".mgz")):
        kind = nibabel.MGHImage
    if kind is None:
        stream.close()
        return nibabel.load(path)
    holder = FileHolder(filename=str(path), fileobj=stream)
    try:
        image = kind.from_file_map({"image": holder, "header": holder}, mmap=False)
    except BaseException:
        stream.close()
        raise
    image._fastreg = True
    return image


def _check_claim(name: str, path: Path, shape: tuple[int, ...], itemsize: int, offset: int) -> None:
    with path.open("rb") as file:
        packed = is_gzip(file.read(2))
    check_size(name, shape, itemsize, offset=offset, held=path.stat().st_size, packed=packed)


def _data_path(image: Any, path: Path) -> Path:
    """The file that holds the voxels: of a pair .hdr and .img the second."""
    holder = (getattr(image, "file_map", None) or {}).get("image")
    return path if holder is None or holder.filename is None else Path(holder.filename)


def read_nibabel(image: Any, name: str) -> np.ndarray:
    """The voxels of a nibabel image, scaled; InputError if the file is cut short or damaged."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # so far as a header scales voxels out of all range
            data = np.asanyarray(image.dataobj)
        finish(image, name)
    except InputError:
        raise
    except Exception as error:  # as above
        raise unreadable(name, error) from error
    finally:
        close(image)
    return data


def finish(image: Any, name: str) -> None:
    """Reads a compressed file to its end, behind the last voxel; InputError if it is cut short or damaged."""
    holder = (getattr(image, "file_map", None) or {}).get("image")
    stream = getattr(holder, "fileobj", None)
    name_on_disk = str(getattr(holder, "filename", None))
    try:
        if isinstance(stream, gzip.GzipFile):
            read_to_end(stream, name)
        elif stream is None and nibabel.is_proxy(image.dataobj) and name_on_disk.lower().endswith("gz"):
            with gzip.open(name_on_disk) as pair:
                read_to_end(pair, name)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(name, error) from error


def close(image: Any) -> None:
    """Closes the file of an image that `open_nibabel` opened; its header stays."""
    stream = getattr((getattr(image, "file_map", None) or {}).get("image"), "fileobj", None)
    if stream is not None and getattr(image, "_fastreg", False):
        stream.close()


def unreadable(name: str, error: Exception) -> InputError:
    """One line for whatever a reader raised."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return InputError(f"{name}: does not fit in memory ({reason})")
    return InputError(f"{name}: not an image that can be read, or cut short ({reason[:200]})")


def _unit_code(image: Any) -> int:
    header = getattr(image, "header", None)
    return int(header["xyzt_units"]) & 7 if isinstance(header, nibabel.Nifti1Header) else 0


def unit(image: Any) -> str | None:
    """The header's unit of length, "mm", "micron" or "metre"; None where it does not say."""
    return _UNIT_NAMES.get(_unit_code(image))


def unit_mm(image: Any) -> float:
    """Mm of the header's unit of length; 1 where it does not say, as in ITK."""
    return _UNITS_MM.get(_unit_code(image), 1.0)


def affine_mm(image: Any) -> Any:
    """[4, 4], voxel -> RAS mm, of a nibabel image, whatever its header's unit."""
    if image.affine is None:
        return None
    affine = np.array(image.affine, np.float64)
    affine[:3] *= unit_mm(image)
    return affine


def forms_distance_mm(image: Any) -> float | None:
    """How far q-form and s-form put a corner of the grid apart; None unless the header has both."""
    header = getattr(image, "header", None)
    if not isinstance(header, nibabel.Nifti1Header) or not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return None
    try:
        difference = (header.get_qform() - header.get_sform()) * unit_mm(image)
    except (HeaderDataError, ValueError):
        return float("inf")
    ends = [(0, length - 1) for length in (*image.shape, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    return float(np.linalg.norm(corners @ difference[:3].T, axis=1).max())


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes are not at right angles, within what ITK's reader of NIfTI takes."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4)


def warn_of_header(image: Any, affine: np.ndarray, name: str) -> None:
    """A line where q-form and s-form disagree, and one where the axes are not at right angles."""
    distance = forms_distance_mm(image)
    if distance is not None and distance > 0.05 * min(spacing_mm(affine)):
        text = f"{name}: its q-form and s-form disagree by up to {distance:.3g} mm; the s-form is used"
        warnings.warn(text, UserWarning, stacklevel=5)
    if is_sheared(affine):
        text = f"{name}: its axes are sheared: ITK, ANTs and Slicer cannot open it, nor what is written on its grid"
        warnings.warn(text, UserWarning, stacklevel=5)
