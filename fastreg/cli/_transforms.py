"""Transforms as commands take them: a file, or [FILE,1] for its inverse; and what says how files are meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from fastreg.geometry.image import Image
    from fastreg.geometry.transforms import Transform


WarpFormat: TypeAlias = Literal["itk", "fsl", "freesurfer", "niftyreg", "learn2reg", "npz"]
MatrixKind: TypeAlias = Literal["ras", "flirt"]


@Parameter(name="*")
@dataclass(kw_only=True)
class Meant:
    """The options that say what files of transforms mean."""

    reference: Annotated[Path | None, Parameter(alias="-r")] = None
    """The fixed image: its grid is that of a warp that is written, otherwise the first warp's; and FLIRT's, AFNI's and
    FreeSurfer's matrices need it."""
    moving: Annotated[Path | None, Parameter(alias="-i")] = None
    """The moving image: FSL's, FLIRT's, FreeSurfer's and Learn2Reg's files need it."""
    to: WarpFormat | Literal["flirt"] | None = None
    """Format of the output where its ending leaves a choice: a warp's in .nii.gz (itk if not given), or flirt for a
    matrix in .mat or .txt."""
    warp_format: WarpFormat | None = None
    """Format of a warp that is read, where its header does not tell."""
    matrix: MatrixKind | None = None
    """What a 4x4 matrix of numbers that is read maps: ras, fixed RAS mm to moving RAS mm; or flirt, as FSL's flirt
    -omat writes it."""

    def grids(self) -> tuple[Image | None, Image | None]:
        """The fixed and the moving image."""
        return load_grid(self.reference, "reference image"), load_grid(self.moving, "moving image")

    def read(self) -> dict[str, Any]:
        """Of `load_transforms`."""
        return {"format": self.warp_format, "matrix": self.matrix}

    def written(self) -> dict[str, Any]:
        """Of `save_transforms`."""
        return {"matrix": "flirt"} if self.to == "flirt" else {"format": self.to}


def read_transforms(
    name: str, fixed: Image | None, moving: Image | None, *, format: str | None = None, matrix: str | None = None
) -> list[Transform]:
    """The transforms of FILE or [FILE,1], the first for the fixed places.

    An inverted file leads from what was its moving side: FSL's and FLIRT's are then read with the images exchanged, and
    the inverse of a warp is on the grid of `fixed`.
    """
    from fastreg.io.transforms import load_transforms
    from fastreg.registration.inversion import inverted
    from fastreg.utils.files import InputError

    bracketed = name.startswith("[") and name.endswith("]")
    path, _, turned = name[1:-1].rpartition(",") if bracketed else (name, "", "0")
    if turned.strip() not in ("0", "1"):
        raise InputError(f"transform {name}: expected FILE or [FILE,1]")
    if turned.strip() == "0":
        return load_transforms(path, fixed=fixed, moving=moving, format=format, matrix=matrix)
    found = load_transforms(path, fixed=moving, moving=fixed, format=format, matrix=matrix)
    return inverted(found, moving, fixed)


def load_grid(path: Path | None, what: str) -> Image | None:
    """The image that gives a grid; None: not given."""
    from fastreg.io.images import load_image

    return None if path is None else load_image(path, what=what)
