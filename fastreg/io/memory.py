"""Images that other libraries hold in memory: SimpleITK, ITK, ANTsPy, MONAI's MetaTensor and torchio.

None of them is imported here: an image of a library can come only where that library is loaded already.
SimpleITK, ITK and ANTsPy place voxels in LPS mm by origin, spacing and direction; the arrays of the first two have
their axes reversed (z, y, x). torchio's and MONAI's affines are voxel -> RAS mm, unless `meta["space"]` says LPS.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from nibabel.spatialimages import SpatialImage

from fastreg.geometry.image import Image, spacing_mm
from fastreg.geometry.transforms import LPS
from fastreg.utils.files import InputError


def from_memory(source: Any, what: str = "image") -> tuple[np.ndarray, np.ndarray] | None:
    """Voxels and affine of another library's image; None where it is none.

    Args:
        source: Anything.
        what: What the image is to the user, for messages.

    Returns:
        [X, Y, Z] or [X, Y], axes i, j, k, and [4, 4], voxel -> RAS mm, float64.

    Raises:
        InputError: several numbers a voxel, or a space that is neither RAS nor LPS.
    """
    kind = _kind(source)
    if kind is None:
        return None
    if kind == "MetaTensor":
        data, affine = _meta(source, what)
    elif kind == "torchio":
        data, affine = _one_channel(source.data.numpy(), what), np.asarray(source.affine, np.float64)
    else:
        data, affine = _placed(source, kind, what)
    return data, affine


def like(source: Any, image: Image) -> Any:
    """An image as an object of the kind of `source`, placed where the image is.

        moved = like(fixed_sitk, result.apply(result.moving))  # a SimpleITK image

    Args:
        source: An image of a library named above, a nibabel image, an `Image`, a tensor or an array.
        image: The voxels and their place.

    Returns:
        A MetaTensor and a torchio image have one channel, [1, X, Y, Z]; a tensor has the axes of the image, as an array
        has, and neither says where it lies.
    """
    kind, data = _kind(source), image.data
    if kind == "MetaTensor":
        space = _space(source, "source")
        affine = torch.from_numpy(LPS @ image.affine if space == "LPS" else image.affine.copy())
        return type(source)(torch.from_numpy(data.copy())[None], affine=affine, meta={"space": space})
    if kind == "torchio":
        volume = torch.from_numpy(data.copy()).view(1, *data.shape, *[1] * (3 - data.ndim))
        return type(source)(tensor=volume, affine=image.affine)
    if kind is not None:
        return image_for(kind, image)
    if isinstance(source, SpatialImage):
        return type(source)(data, image.affine)
    if isinstance(source, torch.Tensor):
        return torch.from_numpy(data.copy())
    return image if isinstance(source, Image) else data


def _kind(source: Any) -> str | None:
    """The library of an image, from those that are loaded."""
    if isinstance(source, torch.Tensor):
        return "MetaTensor" if hasattr(source, "affine") and hasattr(source, "meta") else None
    for name, module, kind in (
        ("SimpleITK", "SimpleITK", "Image"),
        ("ants", "ants.core.ants_image", "ANTsImage"),
        ("torchio", "torchio.data.image", "Image"),
    ):
        own = getattr(sys.modules.get(module), kind, None)
        if own is not None and isinstance(source, own):
            return name
    loaded = sys.modules.get("itk")
    return "itk" if loaded is not None and hasattr(source, "GetLargestPossibleRegion") else None


def _meta(source: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    data = source.detach().cpu()
    array = torch.Tensor.numpy(data.as_tensor() if hasattr(data, "as_tensor") else data)
    channels = source.meta.get("original_channel_dim") != "no_channel"
    while array.ndim > 3 and array.shape[0] == 1:
        array, channels = array[0], False
    if array.ndim > 3 or (channels and array.ndim == 3 and array.shape[0] == 1):
        array = _one_channel(array, what)
    affine = np.eye(4)
    given = np.asarray(source.affine.detach().cpu() if isinstance(source.affine, torch.Tensor) else source.affine)
    if given.shape == (3, 3):  # of a 2-D image
        affine[np.ix_([0, 1, 3], [0, 1, 3])] = given
    else:
        affine = given.astype(np.float64)
    return array, LPS @ affine if _space(source, what) == "LPS" else affine


def _space(source: Any, what: str) -> str:
    """Of a MetaTensor's affine."""
    said = source.meta.get("space")
    space = "RAS" if said is None else str(getattr(said, "value", said))
    if space not in ("RAS", "LPS"):
        raise InputError(f"{what}: expected a MetaTensor whose meta['space'] is RAS or LPS, got {space!r}")
    return space


def _one_channel(array: np.ndarray, what: str) -> np.ndarray:
    if array.shape[0] != 1:
        raise InputError(f"{what}: expected one number a voxel, got {array.shape[0]} channels")
    return array[0]


def _placed(source: Any, kind: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the libraries that have origin, spacing and direction."""
    if kind == "ants":
        parts = source.components
        origin, spacing, direction = source.origin, source.spacing, source.direction
    else:
        parts = source.GetNumberOfComponentsPerPixel()
        origin, spacing, direction = source.GetOrigin(), source.GetSpacing(), source.GetDirection()
    if parts != 1:
        raise InputError(f"{what}: expected one number a voxel, got {parts}")
    if kind == "ants":
        data = source.numpy()
    elif kind == "SimpleITK":
        data = sys.modules[kind].GetArrayViewFromImage(source).T
    else:
        data = sys.modules[kind].array_view_from_image(source).T
        direction = sys.modules[kind].array_from_matrix(direction)
    return data, _affine(origin, spacing, direction)


def placement(image: Any) -> np.ndarray:
    """[4, 4], voxel -> RAS mm, of an image of SimpleITK, whatever its voxels are."""
    return _affine(image.GetOrigin(), image.GetSpacing(), image.GetDirection())


def _affine(origin: Any, spacing: Any, direction: Any) -> np.ndarray:
    """[4, 4], voxel -> RAS mm, of ITK's three in LPS; the axes behind the third do not count."""
    axes = len(origin)
    ndim = min(axes, 3)
    lps = np.eye(4)
    turned = np.asarray(direction, np.float64).reshape(axes, axes)[:ndim, :ndim]
    lps[:ndim, :ndim] = turned * np.asarray(spacing, np.float64)[:ndim]
    lps[:ndim, 3] = np.asarray(origin, np.float64)[:ndim]
    return LPS @ lps


def image_for(kind: str, image: Image) -> Any:
    """An image of a library that is loaded and has origin, spacing and direction: SimpleITK, itk or ants."""
    library, ndim = sys.modules[kind], image.ndim
    spacing = [float(length) for length in spacing_mm(image.affine)[:ndim]]
    lps = LPS @ image.affine
    origin = [float(x) for x in lps[:ndim, 3]]
    direction = lps[:ndim, :ndim] / spacing
    if kind == "ants":
        return library.from_numpy(image.data, origin=origin, spacing=spacing, direction=direction)
    reversed_axes = np.ascontiguousarray(image.data.T)
    if kind == "SimpleITK":
        made = library.GetImageFromArray(reversed_axes)
        made.SetDirection([float(x) for x in direction.flatten()])
    else:
        made = library.image_from_array(reversed_axes)
        made.SetDirection(library.matrix_from_array(direction))
    made.SetOrigin(origin)
    made.SetSpacing(spacing)
    return made
