"""Images in and out, and their geometry: orientation, resampling, padding.

Axes are those on disk (i, j, k). Affines are 4x4, voxel -> RAS mm, in float64; a 2-D image lies in its slice k = 0.
"""

from __future__ import annotations

import itertools
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from fastreg.geometry.image import Image, check_affine, named, owned, spacing_mm
from fastreg.io.png import read_png
from fastreg.utils.files import InputError, atomic, check_exists

ARRAY_KEYS = ("vol", "seg", "vol_data", "data", "image", "labels", "arr_0")
"""Where an .npz file keeps its array, in the order tried; the first three are VoxelMorph's."""
_NOT_READABLE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError)


def load_image(source: Any, *, what: str = "image", ndim: int | None = None, integers: bool = False) -> Image:
    """Intensities as float32, with the header's scaling applied. NaN voxels come as they are.

    Args:
        source: A file (.nii, .nii.gz, .mgz, .npz, .npy, greyscale .png of 1 mm pixels), a nibabel image, an array
            (identity affine) or an `Image`.
        what: What the image is to the user, for messages: "fixed image".
        ndim: 2 takes [X, Y, 1] as [X, Y]; 3 takes [X, Y] as [X, Y, 1]; None leaves it as it is.
        integers: Voxels that are integers on disk, and not scaled, stay so.

    Raises:
        InputError: no file, not an image or broken, more than 3 axes, colours, no voxels, a singular affine.
    """
    data, affine, path = _read(source, what, ndim)
    if integers and data.dtype.kind in "iub":
        return Image(owned(data), affine, path)
    return Image(np.array(data, np.float32, order="C"), affine, path)


def load_labels(source: Any, *, what: str = "label map", ndim: int | None = None) -> Image:
    """A label map, every label exactly as on disk: integers of any size, or floats that are whole.

    Arguments and errors as `load_image`; InputError too where a voxel is no whole number.
    """
    data, affine, path = _read(source, what, ndim)
    if data.dtype.kind == "f":
        whole = np.isfinite(data) & (np.rint(data) == data) & (np.abs(data) < 2.0**63)
        if not whole.all():
            bad = data[~whole].flat[0]
            raise InputError(f"{named(what, path)}: expected whole labels, got {bad:g} in {(~whole).sum()} voxels")
        data = _smallest(data.astype(np.int64))
    return Image(owned(data), affine, path)


def _read(source: Any, what: str, ndim: int | None) -> tuple[np.ndarray, np.ndarray, Path | None]:
    """Data (scaled), affine, path."""
    data, affine, path = _open(source, what)
    name = named(what, path)
    if data.dtype.names is not None or data.dtype.kind not in "iufb":
        kind = "colours (RGB)" if data.dtype.names else f"{data.dtype} voxels"
        raise InputError(f"{name}: expected one number a voxel, got {kind}")
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if ndim == 2 and data.ndim == 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if ndim == 3 and data.ndim == 2:
        data = data[..., None]
    if data.ndim not in ((2, 3) if ndim is None else (ndim,)):
        raise InputError(f"{name}: expected {ndim or '2-D or 3'}-D, got {len(shape)}-D of shape {shape}")
    if data.size == 0:
        raise InputError(f"{name}: expected voxels, got an empty image of shape {shape}")
    return data, check_affine(affine, name), path


def _open(source: Any, what: str) -> tuple[np.ndarray, Any, Path | None]:
    path = None
    if isinstance(source, str | Path):
        path = check_exists(source, what)
        if path.suffix in (".npz", ".npy"):
            return (*_read_numpy(path, what), path)
        if path.suffix.lower() == ".png":
            return read_png(path, what), np.eye(4), path
        source = open_nibabel(path, what)
    elif isinstance(source, Image):
        return source.data, source.affine, source.path
    elif not isinstance(source, SpatialImage):
        return np.asarray(source), np.eye(4), None
    _warn_if_forms_disagree(source, named(what, path))
    return read_nibabel(source, named(what, path)), source.affine, path


def open_nibabel(path: Path, what: str) -> Any:
    """The file as a nibabel image, its voxels not read yet; InputError if it is none."""
    try:
        image = nibabel.load(path)
    except _NOT_READABLE as error:
        raise _unreadable(f"{what} {path}", error) from error
    if not isinstance(image, SpatialImage):
        raise InputError(f"{what} {path}: expected an image, got {type(image).__name__}")
    return image


def read_nibabel(image: Any, name: str) -> np.ndarray:
    """The voxels of a nibabel image, scaled; InputError if the file is cut short or broken."""
    try:
        return np.asanyarray(image.dataobj)
    except _NOT_READABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{name}: not an image that can be read, or cut short ({reason})")


def _read_numpy(path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    archive = open_numpy(path, what)
    key = next((key for key in ARRAY_KEYS if key in archive), None)
    if key is None:
        raise InputError(f"{what} {path}: expected an array named {' or '.join(ARRAY_KEYS[:3])}, got {list(archive)}")
    return archive[key], archive.get("affine", np.eye(4))


def open_numpy(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; an .npy file is one array, "arr_0"."""
    try:
        content = np.load(path, allow_pickle=False)
        return {"arr_0": content} if isinstance(content, np.ndarray) else dict(content)
    except (*_NOT_READABLE, zipfile.BadZipFile) as error:
        raise _unreadable(f"{what} {path}", error) from error


def forms_distance_mm(image: Any) -> float | None:
    """How far q-form and s-form put a corner of the grid apart; None unless the header has both."""
    header = getattr(image, "header", None)
    if not isinstance(header, nibabel.Nifti1Header) or not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return None
    try:
        difference = header.get_qform() - header.get_sform()
    except (HeaderDataError, ValueError):
        return float("inf")
    ends = [(0, length - 1) for length in (*image.shape, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    return float(np.linalg.norm(corners @ difference[:3].T, axis=1).max())


def _warn_if_forms_disagree(image: Any, name: str) -> None:
    distance = forms_distance_mm(image)
    if distance is not None and distance > 0.05 * min(spacing_mm(image.affine)):
        text = f"{name}: its q-form and s-form disagree by up to {distance:.3g} mm; the s-form is used"
        warnings.warn(text, UserWarning, stacklevel=5)


def save_image(
    path: str | Path, data: np.ndarray | Image, affine: np.ndarray | None = None, *, dtype: Any = None
) -> None:
    """Write an image whole or not at all.

    Integers stay integers, in the smallest of uint8, int16, int32, int64 that holds them; other numbers become float32.

    Args:
        path: .nii, .nii.gz or .npz (`vol` and `affine`).
        data: [X, Y, Z] or [X, Y], or an `Image`, which brings its affine.
        affine: [4, 4], voxel -> RAS mm.
        dtype: Store as this instead.
    """
    if isinstance(data, Image):
        affine = data.affine if affine is None else affine
        data = data.data
    check_ending(path)
    affine = check_affine(affine, f"output {path}")
    data = _smallest(data) if data.dtype.kind in "iub" else data.astype(np.float32, copy=False)
    if dtype is not None:
        data = data.astype(dtype)
    if Path(path).suffix == ".npz":
        with atomic(path) as partial:
            np.savez_compressed(partial, vol=data, affine=affine)
        return
    save_nifti(path, data, affine)


def check_ending(path: str | Path, endings: tuple[str, ...] = (".nii", ".nii.gz", ".npz")) -> None:
    """InputError unless the name says a format that is written here."""
    if not str(path).endswith(endings):
        raise InputError(f"output {path}: expected a name that ends in {', '.join(endings)}")


def save_nifti(
    path: str | Path, data: np.ndarray, affine: np.ndarray, *, intent: int = 0, extension: bytes | None = None
) -> None:
    """Write `data` as it is to .nii or .nii.gz, in mm, q-form and s-form set; `extension` is FreeSurfer's."""
    check_ending(path, (".nii", ".nii.gz"))
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if (forms_distance_mm(image) or 0) > 1e-3 * min(spacing_mm(affine)):
        image.set_qform(None, code=0)  # a q-form cannot say shear
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(14, extension))
    with atomic(path) as partial:
        nibabel.save(image, partial)


def _smallest(labels: np.ndarray) -> np.ndarray:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    return labels
