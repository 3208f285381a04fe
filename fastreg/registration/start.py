"""Where a registration starts from: a named start, a linear transform, or a warp that it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from fastreg.geometry.bsplines import BSpline
from fastreg.geometry.grid import Grid
from fastreg.geometry.image import Image
from fastreg.geometry.linear import linear_part, product_of
from fastreg.geometry.transforms import Affine, Transform, Warp, compose
from fastreg.io.transforms import load_transforms
from fastreg.registration.inversion import residual
from fastreg.registration.landmarks import Landmarks, from_landmarks
from fastreg.registration.linear.align import STARTS
from fastreg.types import Flow
from fastreg.utils.files import InputError


def check_start(init: str | Path, what: str = "init") -> None:
    """InputError unless it is a start by name or a file; `what` is the argument to the user."""
    if str(init) not in STARTS and not Path(init).is_file():
        raise InputError(f"{what}: expected one of {', '.join(STARTS)} or a file with a transform, got {init}")


@dataclass(frozen=True)
class Start:
    """What is given beside the images."""

    world: Affine | None = None
    """The linear map of the world that is given, or the linear part of the warp; None: a start by name."""
    warp: tuple[Transform, ...] | None = None
    """The transforms of a start that is not linear, from fixed to moving."""
    landmarks: tuple[np.ndarray, np.ndarray] | None = None
    """Places [N, 3] in RAS mm, in the fixed and in the moving image, that the linear map is of."""

    def check(self, affine: bool | None, network: bool) -> None:
        """InputError where something else is to stand in the place of the warp."""
        if affine or network:
            other = "a network" if network else "a linear alignment"
            raise InputError(f"init: a warp is given, which {other} cannot start from; leave one of them out")

    def flow_on(self, grid: Grid, device: torch.device) -> Flow | None:
        """What the warp does before its linear part, [1, 3, ...] in voxels of the working grid; None without a warp."""
        if self.warp is None or self.world is None:
            return None
        there = compose(self.warp, grid.affine, grid.shape, grid.affine, grid.shape)
        return residual(there, self.world).to(device)


Init: TypeAlias = "str | Path | Transform | Sequence[Transform] | Landmarks"
"""What `init` of `fastreg.register` may be."""


def starting_point(init: Init, fixed: Image, moving: Image, transform: str) -> Start:
    """The start that `init` of `fastreg.register` says, for a registration that stops at `transform`.

    Raises:
        InputError: neither a start by name nor a file that can be read.
    """
    if isinstance(init, Landmarks):
        places = init.places(fixed, moving)
        kind = "affine" if transform == "deformable" else transform
        return Start(from_landmarks(*places, kind, fixed.ndim), landmarks=places)
    if isinstance(init, str) and init in STARTS:
        return Start()
    if isinstance(init, str | Path):
        check_start(init)
        transforms = tuple(load_transforms(init, fixed=fixed, moving=moving))
    else:
        transforms = (init,) if isinstance(init, Affine | Warp | BSpline) else tuple(init)
    if all(isinstance(one, Affine) for one in transforms):
        return Start(product_of(transforms) or Affine(np.eye(4)))
    ndims = {one.ndim for one in transforms if not isinstance(one, Affine)}
    if ndims != {fixed.ndim}:
        raise InputError(f"init: expected transforms of {fixed.ndim}-D images, got {ndims.pop()}-D ones")
    whole = compose(transforms, fixed.affine, fixed.shape, moving.affine, moving.shape)
    return Start(linear_part(whole), transforms if transform == "deformable" else None)
