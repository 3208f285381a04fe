"""Registration as a MONAI transform: a callable for `monai.transforms.Compose`, of two images or of a dictionary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.io.images import load_image
from fastreg.io.memory import from_memory, like
from fastreg.registration.pairwise import register
from fastreg.registration.result import RegistrationResult
from fastreg.utils.files import InputError


class Registered(NamedTuple):
    """What `Register` gives; images and fields are of the kind of what came, channel first."""

    moved: Any
    """[1, X, Y, Z], the moving image on the fixed grid."""
    warp: Any
    """[3, X, Y, Z] on the fixed grid, displacement in moving voxels: with a batch what `fastreg.warp` takes."""
    inverse_warp: Any
    """[3, X, Y, Z] on the moving grid, in fixed voxels."""
    result: RegistrationResult
    """All that `fastreg.register` says: the linear part, doubts, times."""


class Register:
    """Registers one image to another: `fastreg.register` for MONAI's images.

        moved, warp, inverse_warp, result = Register()(fixed, moving)

    Args:
        options: Of `fastreg.register`: transform, metric, regularity, model, device and so on; not the images or masks.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(
        self,
        fixed: Any,
        moving: Any,
        *,
        fixed_affine: Any = None,
        moving_affine: Any = None,
        fixed_mask: Any = None,
        moving_mask: Any = None,
    ) -> Registered:
        """
        Args:
            fixed: A MetaTensor, a tensor or an array, [1, X, Y, Z] or [1, X, Y].
            moving: Likewise, on any grid.
            fixed_affine: [4, 4], voxel -> RAS mm, of a tensor or array; the identity if None. A MetaTensor has its own.
            moving_affine: Likewise.
            fixed_mask: Where the fixed image counts: as `fixed`; without an affine of its own on the fixed grid.
            moving_mask: Likewise.

        Raises:
            InputError: an image of several channels, or as `fastreg.register`.
        """
        images = placed(fixed, fixed_affine, "fixed image"), placed(moving, moving_affine, "moving image")
        masks = {}
        for name, mask, image in (("fixed_mask", fixed_mask, images[0]), ("moving_mask", moving_mask, images[1])):
            if mask is not None:
                masks[name] = placed(mask, image.affine, name.replace("_", " "))
        result = register(*images, **{"inverse": True, **self.options, **masks})
        flow, back = result.flow[0], result.inverse_flow
        return Registered(
            _of_kind(fixed, result.apply(images[1])),
            _field(fixed, flow, images[0].affine),
            None if back is None else _field(moving, back[0], images[1].affine),
            result,
        )


class Registerd:
    """`Register` for a dictionary: what came stays, and the moved image, the warp and its inverse are added.

        Compose([LoadImaged(keys), EnsureChannelFirstd(keys), Registerd("fixed", "moving")])

    An array or tensor without an affine takes that of `data[f"{key}_meta_dict"]["affine"]`, if it is there.

    Args:
        fixed: Key of the fixed image.
        moving: Key of the moving image.
        moved: Key of the moved image, which is added.
        warp: Key of the warp, which is added.
        inverse_warp: Key of the inverse warp, which is added.
        also: Keys of further images in the moving image's space -> "linear" or "nearest"; what they become on the fixed
            grid is added as f"{moved}_{key}".
        fixed_mask: Key of the mask of the fixed image.
        moving_mask: Key of the mask of the moving image.
        options: As in `Register`.
    """

    def __init__(
        self,
        fixed: Hashable = "fixed",
        moving: Hashable = "moving",
        moved: Hashable = "moved",
        warp: Hashable = "warp",
        inverse_warp: Hashable = "inverse_warp",
        also: Mapping[Hashable, str] | None = None,
        fixed_mask: Hashable | None = None,
        moving_mask: Hashable | None = None,
        **options: Any,
    ) -> None:
        self.fixed, self.moving, self.moved, self.warp, self.inverse_warp = fixed, moving, moved, warp, inverse_warp
        self.also, self.masks = dict(also or {}), (fixed_mask, moving_mask)
        self.register = Register(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            InputError: a key that is missing, or as `Register`.
        """
        for key in (self.fixed, self.moving, *self.also, *(mask for mask in self.masks if mask is not None)):
            if key not in data:
                raise InputError(f"expected the key {key!r}, got {', '.join(map(repr, data)) or 'none'}")
        masks = [None if key is None else data[key] for key in self.masks]
        found = self.register(
            data[self.fixed],
            data[self.moving],
            fixed_affine=_told(data, self.fixed),
            moving_affine=_told(data, self.moving),
            fixed_mask=masks[0],
            moving_mask=masks[1],
        )
        added = {self.moved: found.moved, self.warp: found.warp, self.inverse_warp: found.inverse_warp}
        for key, mode in self.also.items():
            affine = _told(data, key)
            image = placed(data[key], found.result.moving.affine if affine is None else affine, str(key))
            added[f"{self.moved}_{key}"] = _of_kind(data[self.fixed], found.result.apply(image, mode))
        return {**data, **added}


def placed(source: Any, affine: Any, what: str) -> Image:
    """An image of one channel; `affine` is that of sources that have none."""
    if from_memory(source, what) is not None:
        return load_image(source, what=what)
    array = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else np.asarray(source)
    if array.ndim not in (3, 4) or array.shape[0] != 1:
        raise InputError(f"{what}: expected one channel, [1, X, Y, Z] or [1, X, Y], got {list(array.shape)}")
    matrix = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    return load_image(Image(array[0], matrix), what=what)


def _told(data: Mapping[Hashable, Any], key: Hashable) -> Any:
    return data.get(f"{key}_meta_dict", {}).get("affine")


def _of_kind(source: Any, image: Image) -> Any:
    """Channel first, of the kind of `source`."""
    made = like(source, image)
    return made if from_memory(source) is not None else made[None]


def _field(source: Any, flow: torch.Tensor, affine: np.ndarray) -> Any:
    """A field of the kind of `source`."""
    if from_memory(source) is None:
        return flow if isinstance(source, torch.Tensor) else flow.numpy()
    first = like(source, Image(flow[0].numpy(), affine))
    return type(first)(flow, affine=first.affine, meta={"space": first.meta["space"]})
