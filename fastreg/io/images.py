"""Images and label maps from files and other sources, and to files.

Axes are those on disk (i, j, k). Affines are 4x4, voxel -> RAS mm, in float64; a 2-D image lies in its slice k = 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from fastreg.geometry.image import Image, check_affine, named, owned, spacing_mm
from fastreg.io.arrays import read_image_array
from fastreg.io.foreign import foreign_image
from fastreg.io.memory import from_memory
from fastreg.io.png import read_png
from fastreg.io.volumes import affine_mm, forms_distance_mm, open_nibabel, read_nibabel, warn_of_header
from fastreg.utils.files import InputError, atomic, check_exists


def load_image(source: Any, *, what: str = "image", ndim: int | None = None, integers: bool = False) -> Image:
    """Intensities as float32, with the header's scaling applied. NaN voxels come as they are.

    Args:
        source: A file (.nii, .nii.gz, .mgz, .npz, .npy, greyscale .png of 1 mm pixels), a nibabel image, an image of
            SimpleITK, ITK, ANTsPy, MONAI (MetaTensor) or torchio, an array (identity affine) or an `Image`.
        what: What the image is to the user, for messages: "fixed image".
        ndim: 2 takes [X, Y, 1] as [X, Y]; 3 takes [X, Y] as [X, Y, 1]; None leaves it as it is.
        integers: Voxels that float32 may not hold, integers and float64, stay what they are on disk: for `nearest`.

    Raises:
        InputError: no file, not an image or broken, more than 3 axes, colours,
            more than the file can hold or than 16 GiB, no voxels, a singular affine.
    """
    data, affine, path = _read(source, what, ndim)
    if integers and data.dtype.kind in "iub":
        return Image(owned(data), affine, path)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        single = np.array(data, np.float32, order="C")
    if integers and data.dtype.itemsize > 4 and not np.array_equal(single, data, equal_nan=True):
        return Image(np.array(data, np.float64, order="C"), affine, path)
    return Image(single, affine, path)


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
    data, affine, path, image = _open(source, what)
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
    affine = check_affine(affine, name)
    if image is not None:
        warn_of_header(image, affine, name)
    return data, affine, path


def _open(source: Any, what: str) -> tuple[np.ndarray, Any, Path | None, SpatialImage | None]:
    """Data, affine, path, and the nibabel image whose header says more."""
    path = None
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise InputError(f"{what} {path}: {foreign_image(path)}")
        check_exists(path, what)
        if path.suffix.lower() in (".npz", ".npy"):
            return (*read_image_array(path, what), path, None)
        if path.suffix.lower() == ".png":
            return read_png(path, what), np.eye(4), path, None
        source = open_nibabel(path, what)
    elif isinstance(source, Image):
        return source.data, source.affine, source.path, None
    elif not isinstance(source, SpatialImage):
        held = from_memory(source, what)
        return (*(held or (np.asarray(source), np.eye(4))), None, None)
    return read_nibabel(source, named(what, path)), affine_mm(source), path, source


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
    if dtype is not None:
        data = data.astype(dtype, copy=False)
    else:
        data = _smallest(data) if data.dtype.kind in "iub" else data.astype(np.float32, copy=False)
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
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    intent: int = 0,
    extension: bytes | None = None,
    description: str = "",
) -> None:
    """Write `data` as it is to .nii or .nii.gz, in mm, q-form and s-form set; NIfTI-2 where an axis needs it.

    `extension` is FreeSurfer's.
    """
    check_ending(path, (".nii", ".nii.gz"))
    kind = nibabel.Nifti1Image if max(data.shape) <= _NIFTI1_AXIS else nibabel.Nifti2Image
    image = kind(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if (forms_distance_mm(image) or 0) > 1e-3 * min(spacing_mm(affine)):
        image.set_qform(None, code=0)  # a q-form cannot say shear
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    image.header["descrip"] = description
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(14, extension))
    with atomic(path) as partial:
        nibabel.save(image, partial)


_NIFTI1_AXIS = 32767
"""The longest axis that NIfTI-1 can say, in 16 bits; beyond it files are NIfTI-2."""


def _smallest(labels: np.ndarray) -> np.ndarray:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    return labels
