"""What a network may learn from besides the images: the field that the optimisation finds for a pair.

`fastreg register` needs a second or more for a pair, and finds more than a network does at once. Each field is made
where it is first asked for, by the processes that load data, and kept on disk: later epochs, other runs on the same
cohort and runs that are resumed read it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastreg.data.cohorts import Subject
from fastreg.data.datasets import Volumes
from fastreg.data.store import load_array, name_of, save_array
from fastreg.registration.deformable import deform


class Teacher:
    """Fields of pairs of subjects on the working grid, by `deform` with its defaults.

    Args:
        volumes: Where the images come from.
        folder: Where fields are kept, 2 bytes a component.
    """

    def __init__(self, volumes: Volumes, folder: Path) -> None:
        self.volumes, self.folder = volumes, folder

    def __call__(self, moving: Subject, fixed: Subject) -> Tensor:
        """[ndim, *shape], float32, voxels: where the voxels of `fixed` come from in `moving`."""
        shape = (len(self.volumes.grid.shape), *self.volumes.grid.shape)
        path = self.folder / f"{self._name(moving, fixed)}.field"
        found = load_array(path, shape, np.dtype(np.float16))
        if found is None:  # not there, cut short, or damaged
            images = (self.volumes.image(subject)[None] for subject in (fixed, moving))
            flow = deform(*images).flow[0]
            found = flow.numpy().astype(np.float16)  # rounds a displacement of 16 voxels by a hundredth at most
            save_array(path, found)
        return torch.from_numpy(found.astype(np.float32))

    def _name(self, moving: Subject, fixed: Subject) -> str:
        """Changes with the files, the working grid, the intensities, and what `deform` makes of them."""
        files = [(str(s.image.resolve()), s.image.stat().st_size, s.image.stat().st_mtime_ns) for s in (moving, fixed)]
        grid = self.volumes.grid
        recipe = [files, grid.shape, grid.affine.tolist(), self.volumes.normalise, VERSION]
        return name_of(recipe)


VERSION = 1
"""Of the fields that `deform` gives with its defaults: higher when these change."""
