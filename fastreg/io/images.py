"""Images and label maps from files and other sources, and to files.

Axes are those on disk (i, j, k). Affines are 4x4, voxel -> RAS mm, in float64; a 2-D image lies in its slice k = 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from fastreg.geometry.image import Image, check_affine, named, owned, spacing_mm
from fastreg.io import packed
from fastreg.io.arrays import read_image_array
from fastreg.io.colours import check_channel, one_channel
from fastreg.io.dicom import read_dicom
from fastreg.io.foreign import reader_of
from fastreg.io.itk_images import ITK_ENDINGS, read_itk, save_itk
from fastreg.io.memory import from_memory
from fastreg.io.pictures import PNG_ENDINGS, read_picture, read_tiff, save_picture
from fastreg.io.volumes import affine_mm, forms_distance_mm, open_nibabel, read_nibabel, warn_of_header
from fastreg.utils.files import InputError, atomic, check_exists


def load_image(
    source: Any,
    *,
    what: str = "image",
    ndim: int | None = None,
    integers: bool = False,
    channel: str | int | None = None,
) -> Image:
    """Intensities as float32, with the header's scaling applied. NaN voxels come as they are.

    Args:
        source: A file (.nii, .nii.gz, .mgz, .npz, .npy; with the extra `io` .nrrd, .mha, .mhd, a DICOM folder or file,
            .png, .jpg, .tif), a nibabel image, an image of SimpleITK, ITK, ANTsPy, MONAI (MetaTensor) or torchio, an
            array (identity affine) or an `Image`.
        what: What the image is to the user, for messages: "fixed image".
        ndim: 2 takes [X, Y, 1] as [X, Y]; 3 takes [X, Y] as [X, Y, 1]; None leaves it as it is.
        integers: Voxels that float32 may not hold, integers and float64, stay what they are on disk: for `nearest`.
        channel: Of colours and other channels, or of a series of volumes, the one that is taken: "red", "green",
            "blue", "alpha" or a number from 0; None and "luminance" are the luminance of colours. Grey images are
            taken as they are.

    Raises:
        InputError: no file, not an image or broken, more than 3 axes, channels that are no colours, a channel that is
            none, more than the file can hold or than 16 GiB, no voxels, a singular affine, an extra that is missing.
    """
    data, affine, path = _read(source, what, ndim, channel)
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
    data, affine, path = _read(source, what, ndim, labels=True)
    if data.dtype.kind == "f":
        whole = np.isfinite(data) & (np.rint(data) == data) & (np.abs(data) < 2.0**63)
        if not whole.all():
            bad = data[~whole].flat[0]
            raise InputError(f"{named(what, path)}: expected whole labels, got {bad:g} in {(~whole).sum()} voxels")
        data = _smallest(data.astype(np.int64))
    return Image(owned(data), affine, path)


def _read(
    source: Any, what: str, ndim: int | None, channel: str | int | None = None, *, labels: bool = False
) -> tuple[np.ndarray, np.ndarray, Path | None]:
    """Data (scaled), affine, path."""
    channel = check_channel(channel)
    data, affine, path, image, channels = _open(source, what, labels)
    name = named(what, path)
    if data.dtype.names is not None:  # NIfTI's colours
        data, channels = np.stack([data[part] for part in data.dtype.names], -1), True
    if data.dtype.kind not in "iufb":
        raise InputError(f"{name}: expected one number a voxel, got {data.dtype} voxels")
    if channels and labels and data.shape[-1] > 1:
        raise InputError(f"{name}: expected one label a voxel, got {data.shape[-1]} channels")
    shape = data.shape
    if channels or (isinstance(channel, int) and data.ndim == 4 and data.shape[-1] > 1):
        data = one_channel(data, channel, name)
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
    warn_of_header(image, affine, name)
    return data, affine, path


_Opened: TypeAlias = tuple[np.ndarray, Any, "Path | None", "SpatialImage | None", bool]
"""Data, affine, path, the nibabel image whose header says more, and whether the last axis is that of channels."""


def _open(source: Any, what: str, labels: bool) -> _Opened:
    path = None
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            data, affine, channels = read_dicom(path, what)
            return data, affine, path, None, channels
        check_exists(path, what)
        if path.suffix.lower() in (".npz", ".npy"):
            return (*read_image_array(path, what), path, None, False)
        kind = reader_of(path)
        if kind is not None:
            data, affine, channels = (
                read_picture(path, what, indices=labels) if kind == "picture" else _READERS[kind](path, what)
            )
            return data, affine, path, None, channels
        source = open_nibabel(path, what)
    elif isinstance(source, Image):
        return source.data, source.affine, source.path, None, False
    elif not isinstance(source, SpatialImage):
        held = from_memory(source, what)
        return (*(held or (np.asarray(source), np.eye(4))), None, None, False)
    return read_nibabel(source, named(what, path)), affine_mm(source), path, source, False


_READERS = {"itk": read_itk, "dicom": read_dicom, "tiff": read_tiff}


def save_image(
    path: str | Path, data: np.ndarray | Image, affine: np.ndarray | None = None, *, dtype: Any = None
) -> None:
    """Write an image whole or not at all.

    Integers stay integers, in the smallest of uint8, int16, int32, int64 that holds them; other numbers become float32.

    Args:
        path: .nii, .nii.gz, .mgz, .npz (`vol` and `affine`); with the extra `io` .nrrd, .mha, and .png of a picture,
            whose values become whole numbers of 8 or 16 bits.
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
    ending = Path(path).suffix.lower()
    if ending in (".nii", ".gz"):
        save_nifti(path, data, affine)
        return
    if ending in PNG_ENDINGS and data.ndim != 2:
        raise InputError(f"output {path}: expected a 2-D image for a picture, got {data.ndim}-D")
    with atomic(path) as partial:
        if ending == ".npz":
            np.savez_compressed(partial, vol=data, affine=affine)
        elif ending in MGH_ENDINGS:
            packed.save(nibabel.MGHImage(_for_mgh(data), affine), partial)
        elif ending in ITK_ENDINGS:
            save_itk(partial, Image(data, affine))
        else:
            save_picture(partial, data, f"output {path}")


def _for_mgh(data: np.ndarray) -> np.ndarray:
    """What MGH can store: uint8, int16, int32 or float32, of three axes."""
    if data.dtype.kind in "iub" and data.size and np.abs(data.astype(np.int64)).max() < 2**31:
        kind = "u1" if data.dtype == np.uint8 else "i4"
    else:
        kind = "f4"
    return data.astype(kind, copy=False).reshape(*data.shape, *[1] * (3 - data.ndim))


MGH_ENDINGS = (".mgz", ".mgh")
WRITTEN = (".nii", ".nii.gz", ".npz", *MGH_ENDINGS, *ITK_ENDINGS, *PNG_ENDINGS)
"""Endings of images that are written here."""


def check_ending(path: str | Path, endings: tuple[str, ...] = WRITTEN) -> None:
    """InputError unless the name says a format that is written here."""
    if not str(path).lower().endswith(endings):
        raise InputError(f"output {path}: expected a name that ends in {', '.join(endings)}")


def save_nifti(
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    intent: tuple[int, str, float] = (0, "", 0),
    extension: bytes | None = None,
    description: str = "",
) -> None:
    """Write `data` as it is to .nii or .nii.gz, in mm, q-form and s-form set; NIfTI-2 where an axis needs it.

    `intent` is its code, its name and its first parameter; `extension` is FreeSurfer's.
    """
    check_ending(path, (".nii", ".nii.gz"))
    image = nifti_image(data, affine)
    image.header["intent_code"], image.header["intent_name"], image.header["intent_p1"] = intent
    image.header["descrip"] = description
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(14, extension))
    with atomic(path) as partial:
        packed.save(image, partial)


def nifti_image(data: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """`data` as it is, in mm, q-form and s-form set; NIfTI-2 where an axis needs it."""
    kind = nibabel.Nifti1Image if max(data.shape) <= _NIFTI1_AXIS else nibabel.Nifti2Image
    image = kind(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if (forms_distance_mm(image) or 0) > 1e-3 * min(spacing_mm(affine)):
        image.set_qform(None, code=0)  # a q-form cannot say shear
    image.header.set_xyzt_units("mm")
    return image


_NIFTI1_AXIS = 32767
"""The longest axis that NIfTI-1 can say, in 16 bits; beyond it files are NIfTI-2."""


def _smallest(labels: np.ndarray) -> np.ndarray:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    return labels
