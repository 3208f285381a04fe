"""NRRD, MetaImage, GIPL and VTK images, read and written by SimpleITK (extra `io`)."""

from __future__ import annotations

import locale
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.geometry.image import Image, in_plane
from fastreg.io.limits import check_size
from fastreg.io.memory import image_for, placement
from fastreg.io.volumes import unreadable
from fastreg.utils.extras import need
from fastreg.utils.files import InputError

ITK_ENDINGS = (".nrrd", ".mha")
"""What is written here; each is one file."""
_BLOCK = 2**20


def simple_itk(name: str) -> Any:
    """SimpleITK, without the warnings that it prints; InputError that names the extra where it is not installed."""
    library = need("SimpleITK", "io", name)
    library.ProcessObject.SetGlobalWarningDisplay(False)
    return library


def read_itk(path: Path, what: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Voxels, affine, and whether the last axis is that of channels.

    Args:
        path: .nrrd, .nhdr, .mha, .mhd, .gipl, .vtk or another image that ITK reads.
        what: What it is to the user, for messages.

    Returns:
        [X, Y, Z], [X, Y] or more axes, and perhaps channels last; [4, 4], voxel -> RAS mm.

    Raises:
        InputError: no SimpleITK, no image, one that is damaged, cut short or claims more than its file holds.
    """
    name = f"{what} {path}"
    library = simple_itk(name)
    words = locale.setlocale(locale.LC_ALL)
    try:
        reader = library.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        shape, parts = reader.GetSize(), reader.GetNumberOfComponents()
        itemsize = library.GetArrayViewFromImage(library.Image([1, 1], _scalar(library, reader.GetPixelID()))).itemsize
        alone = path.suffix.lower() in (".mha", ".nrrd")
        held = path.stat().st_size if alone else None
        check_size(name, shape, itemsize * parts, held=held, packed=True)
        if path.suffix.lower() == ".mha":
            _check_metaimage(path, int(np.prod(shape)) * itemsize * parts)
        image = reader.Execute()
    except InputError:
        raise
    except Exception as error:  # ITK's are RuntimeErrors of many lines
        raise unreadable(name, error) from error
    finally:
        locale.setlocale(locale.LC_ALL, words)  # ITK's reader of VTK leaves "C" behind: no text but ASCII is then read
    data = voxels_of(library, image)
    return data, placement(image), data.ndim > image.GetDimension()


def voxels_of(library: Any, image: Any) -> np.ndarray:
    """[X, Y, Z] or as many axes as the image has, and channels last where it has them."""
    data, ndim = library.GetArrayFromImage(image), image.GetDimension()
    return np.asarray(data.transpose(*range(ndim)[::-1], *range(ndim, data.ndim)))


def holds_vectors(path: Path) -> bool:
    """Whether an image has as many real numbers a voxel as axes, by its header: bytes are colours."""
    library = simple_itk(f"warp {path}")
    try:
        reader = library.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except Exception as error:  # as above
        raise unreadable(f"warp {path}", error) from error
    real = reader.GetPixelID() in (library.sitkVectorFloat32, library.sitkVectorFloat64)
    return real and reader.GetNumberOfComponents() == reader.GetDimension()


def _scalar(library: Any, pixel: int) -> int:
    """The type of a component of a vector's."""
    vectors = {getattr(library, f"sitkVector{kind}"): getattr(library, f"sitk{kind}") for kind in _KINDS}
    return int(vectors.get(pixel, pixel))


_KINDS = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")


def _check_metaimage(path: Path, size: int) -> None:
    """ValueError where the voxels are not all there, or their checksum is wrong: ITK reads on, with what there is."""
    with path.open("rb") as file:
        packed = False
        while line := file.readline(4096):
            key, _, value = line.decode("latin-1").partition("=")
            if key.strip() == "CompressedData":
                packed = value.strip().lower() == "true"
            if key.strip() == "ElementDataFile":
                if value.strip().upper() != "LOCAL":
                    return
                break
        found, stream = 0, zlib.decompressobj()
        while block := file.read(_BLOCK):
            found += len(stream.decompress(block) if packed else block)
            if found > size:
                break
    if found < size or (packed and not stream.eof):
        raise ValueError(f"expected {size} bytes of voxels, got {found}")


def save_itk(path: Path, image: Image) -> None:
    """Write an image; one in a plane that is not axial as a slice of a volume, for 2-D files cannot say where it is."""
    library = simple_itk(f"output {path}")
    if image.ndim == 2 and not in_plane(image.affine):
        image = Image(image.data[..., None], image.affine)
    library.WriteImage(image_for("SimpleITK", image), str(path), useCompression=True)


def save_itk_vectors(path: Path, vectors: np.ndarray, affine: np.ndarray) -> None:
    """Write [X, Y, Z, 3] or [X, Y, 3], LPS mm; 2-D ones in the x-y plane with two components, others as one slice."""
    library = simple_itk(f"output {path}")
    if vectors.ndim == 3:
        vectors = vectors[..., :2] if in_plane(affine) else vectors[:, :, None]
    made = image_for("SimpleITK", Image(np.zeros(vectors.shape[:-1], np.uint8), affine))
    image = library.GetImageFromArray(np.ascontiguousarray(np.moveaxis(vectors, -1, 0).T), isVector=True)
    image.CopyInformation(made)
    library.WriteImage(image, str(path), useCompression=True)
