"""What a registration makes of its inputs: checked, filled where masks leave something out, on the working grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreg.data.intensity import normalised
from fastreg.geometry import fields
from fastreg.geometry.fill import filled
from fastreg.geometry.grid import Grid, on_grid
from fastreg.geometry.image import Image, named
from fastreg.geometry.masks import inside
from fastreg.geometry.transforms import Affine
from fastreg.registration.noise import differ_by_noise
from fastreg.utils.files import InputError


def as_array(source: Any) -> Any:
    """A tensor as the array that `load_image` takes; anything else as it is, a MetaTensor too, which has an affine."""
    if not isinstance(source, Tensor) or hasattr(source, "affine"):
        return source
    array = source.detach().cpu().numpy()
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    return array


def check_structure(image: Image, what: str) -> None:
    """InputError where there is nothing to register."""
    finite = image.data[np.isfinite(image.data)]
    if not finite.size:
        raise InputError(f"{named(what, image.path)}: expected intensities, got NaN in every voxel")
    if finite.min() == finite.max():
        raise InputError(f"{named(what, image.path)}: expected structure, got the constant {finite.min():g}")


def check_mask(mask: Image, image: Image, what: str) -> None:
    """InputError where a mask is not of its image, or empty."""
    if mask.ndim != image.ndim:
        raise InputError(f"{named(f'{what} mask', mask.path)}: {mask.ndim}-D, but the {what} image is {image.ndim}-D")
    if not (mask.data > 0).any():
        raise InputError(f"{named(f'{what} mask', mask.path)}: expected voxels above 0, got none")


def weight_of(
    mask: Image | None, grid: Grid, what: str, device: torch.device, world: Affine | None = None
) -> Tensor | None:
    """A mask on the working grid, [1, 1, ...]; InputError where it leaves nothing there."""
    if mask is None:
        return None
    counts = inside(seen(mask, world), grid.shape, grid.affine)
    weight = torch.from_numpy(counts.astype(np.float32))[None, None].to(device)
    if not (weight > 0).any():
        raise InputError(
            f"{named(f'{what} mask', mask.path)}: expected voxels above 0 within the fixed image, got none"
        )
    return weight


def reach_of(moving: Image, grid: Grid, world: Affine, device: torch.device) -> Tensor | None:
    """Where the moving image lies on the working grid, [1, 1, ...]; None where it covers nearly all of it.

    What a device did not see is not dark, and an edge that it leaves is none of the object's.
    """
    whole = Image(np.ones(moving.shape, np.float32), moving.affine)
    met = on_grid(seen(whole, world), grid) >= 0.5
    return None if met.mean() > _COVERED else torch.from_numpy(met.astype(np.float32))[None, None].to(device)


_COVERED = 0.95


def differ_by_noise_alone(fixed: Image, moving: Image) -> bool:
    """Whether the images lie on one grid and differ by noise alone: an alignment would follow the noise."""
    if fixed.shape != moving.shape or not np.allclose(fixed.affine, moving.affine):
        return False
    pair = [torch.from_numpy(np.nan_to_num(image.data.astype(np.float32)))[None, None] for image in (fixed, moving)]
    return all(differ_by_noise(*(fields.pooled(image, factor) for image in pair)) for factor in (1, 2, 4))


def working_image(
    image: Image,
    grid: Grid,
    normalise: str,
    masks: tuple[Image | None, Image | None],
    placed: tuple[Affine | None, Affine | None],
) -> Tensor:
    """An image as it is compared, [1, 1, ...] on the working grid.

    Args:
        image: The fixed or the moving one.
        grid: In the fixed image's world.
        normalise: See `normalised`.
        masks: The image's own and the other image's. Both say which voxels give the range; what the own one leaves out
            is filled in from around before anything is interpolated.
        placed: The maps that bring the image to the grid, and the other's mask to the image.
    """
    own = None if masks[0] is None else inside(masks[0], image.shape, image.affine)
    other = None if masks[1] is None else inside(seen(masks[1], placed[1]), image.shape, image.affine)
    where = own if other is None else other if own is None else own & other
    scaled = normalised(image.data, normalise, where)
    if own is not None:
        known = [torch.from_numpy(x)[None, None] for x in (scaled, own.astype(np.float32))]
        scaled = filled(*known)[0, 0].numpy()
    there = on_grid(seen(Image(scaled, image.affine, image.path), placed[0]), grid)
    return torch.from_numpy(np.ascontiguousarray(there))[None, None]


def seen(image: Image, world: Affine | None) -> Image:
    """The moving image where the alignment puts it."""
    if world is None or np.allclose(world.matrix, np.eye(4)):
        return image
    return Image(image.data, np.linalg.inv(world.matrix) @ image.affine, image.path)
