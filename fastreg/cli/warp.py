"""`fastreg warp`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fastreg.cli._transforms import MatrixKind, WarpFormat

if TYPE_CHECKING:
    import numpy as np

    from fastreg.geometry.image import Image
    from fastreg.geometry.transforms import Transform
    from fastreg.io.point_sets import Grid, PointSet
    from fastreg.io.series import Series


@Parameter(name="*")
@dataclass(kw_only=True)
class Warp:
    """Apply warps and affine transforms to an image or to points; compose and convert them.

    Example: `fastreg warp -i moving.nii.gz -r fixed.nii.gz -t warp.nii.gz -t affine.mat -o moved.nii.gz`

    Transforms are listed as for antsApplyTransforms: each leads from the fixed image towards the moving one, and the
    last one is applied to the moving image first. [FILE,1] is the inverse of a transform. Nothing is written unless all
    of it can be.
    """

    moving: Annotated[Path | None, Parameter(alias="-i")] = None
    """The image, label map or series of volumes (4-D) to warp. FSL's and Learn2Reg's warps cannot be read without
    it."""
    channel: str | None = None
    """Of a colour picture the channel to warp: luminance (if not given), red, green, blue, or a number from 0, which
    takes a volume of a series too."""
    reference: Annotated[Path | None, Parameter(alias="-r")] = None
    """The image whose grid the result gets; the first warp's grid if not given."""
    transform: Annotated[list[str], Parameter(alias="-t", negative=())] = field(default_factory=list)
    """A file of any kind that fastreg reads (docs/files.md), or [FILE,1] for its inverse. Repeat for several."""
    per_volume: Path | None = None
    """Of a series one more transform for each volume, applied after --transform: from the reference that the volumes
    share to the volume, as fastreg motion --matrices writes them. A folder, in the order of the names, or a text file
    with a path on each line."""
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write the moved image here; a series volume by volume (.nii, .nii.gz)."""
    interpolation: Annotated[
        Literal["linear", "nearest", "genericlabel", "bspline", "lanczos", "multilabel"], Parameter(alias="-n")
    ] = "linear"
    """bspline (cubic) and lanczos (windowed sinc) keep an image sharper than linear and overshoot at edges. For label
    maps: nearest, genericlabel (the label with the largest linear weight), or multilabel (that with most of a Gaussian
    of 1 voxel, which smooths borders)."""
    background: float | None = None
    """Value of what lies outside the moving image; if not given, 0, or the moving image's (of a series the first
    volume's) minimum where that is below 0: the air of a CT. The outermost voxels reach half a voxel outward, as in
    antsApplyTransforms."""
    points: Path | None = None
    """Points (.csv with columns x, y, z; Slicer's .fcsv, .mrk.json), a surface (.vtk, .ply, .stl, .gii) or streamlines
    (.trk, .tck) of the fixed image, to be mapped into the moving image. What lies in the moving image goes to the fixed
    one by the inverse warp: fastreg warp -t inverse_warp.nii.gz --points tracts.trk --points-output mapped.trk"""
    points_output: Path | None = None
    """Write the mapped points here, in the format of the ending: the one that was read, or .csv. If not given, tables
    and markups are printed."""
    points_space: Literal["ras", "lps", "voxel"] = "ras"
    """Coordinates of points whose file does not say them (.csv, and .vtk, .ply, .stl without SPACE=): RAS mm, LPS mm
    (ITK, ANTs), or voxel indices (of the fixed image in, of the moving one out)."""
    jacobian: Path | None = None
    """Write the Jacobian determinant on the fixed grid here: local change of volume, <= 0 where the warp folds."""
    jacobian_log: bool = False
    """Of --jacobian the natural logarithm, for tensor-based morphometry; what is below 0.001 counts as 0.001."""
    jacobian_nonlinear: bool = False
    """Of --jacobian what is left without the linear part: divided by the determinant of the affine files among
    --transform; where there are none, by that of the linear map that fits the warp best."""
    compose: Path | None = None
    """Write the composition of all transforms here: as one warp (.nii.gz, .mha, .nrrd, .npz), or as they are (.h5)."""
    convert_to: WarpFormat | None = None
    """Format of --compose; if not given, npz for .npz and itk for .nii.gz."""
    warp_format: WarpFormat | None = None
    """Format of the warps that are read, where their headers do not tell."""
    matrix: MatrixKind | None = None
    """What a transform that is a plain 4x4 matrix of numbers maps: ras, fixed RAS mm to moving RAS mm (NiftyReg); or
    flirt, as FSL's flirt -omat writes it with --moving as -in and --reference as -ref."""
    overwrite: bool = False
    """Replace outputs that exist."""

    def run(self) -> None:
        """Reads everything, computes everything, then writes; of a series volume by volume."""
        import contextlib

        from fastreg.geometry.jacobian import jacobian_map
        from fastreg.geometry.linear import product_of
        from fastreg.geometry.resample import VOTES, background_of, sample_filled
        from fastreg.geometry.transforms import compose
        from fastreg.io.images import load_image, save_image
        from fastreg.io.points import encode_points
        from fastreg.io.transforms import save_transforms
        from fastreg.io.warps import WARP_ENDINGS
        from fastreg.utils.files import InputError, atomic, save_bytes

        self._check()
        series = self._open_series()
        moving = None if self.moving is None else self._load_moving(self.moving) if series is None else series.volume(0)
        reference = None if self.reference is None else load_image(self.reference, what="reference image")
        given = None if self.points is None else self._load_points(self.points)
        transforms = [one for name in self.transform for one in self._load(name, moving, reference)]
        content = None
        if given is not None:
            grid = _grid_after(transforms, moving)
            there = self._moved_points(given, transforms, grid, reference)
            content = encode_points(self.points_output or f"points{given.ending}", there, self.points_space, grid)
        if self.output or self.jacobian or self.compose:
            affine, shape = _grid(transforms, reference)
            if moving is not None and moving.ndim != len(shape):
                raise InputError(f"moving image {self.moving}: {moving.ndim}-D, but the fixed grid is {len(shape)}-D")
            into = (affine, None) if moving is None else (moving.affine, moving.shape)
            warp = compose(transforms, affine, shape, *into)
            moved = None
            outside = self.background
            if moving is not None and outside is None and self.interpolation not in VOTES:
                outside = background_of(moving)
            if moving is not None and series is None:
                moved = sample_filled(moving, warp.tensor(), self.interpolation, outside)
            jacobian = None
            if self.jacobian:
                linear = product_of(transforms)
                jacobian = jacobian_map(warp, log=self.jacobian_log, nonlinear=self.jacobian_nonlinear, linear=linear)
            with contextlib.ExitStack() as stack:
                if series is not None and moving is not None and self.output:
                    partial = stack.enter_context(atomic(self.output))  # until the other outputs are there
                    self._write_series(partial, series, moving, transforms, affine, shape, outside)
                if self.compose:
                    warped = self.compose.name.lower().endswith(WARP_ENDINGS)  # others hold the transforms as they are
                    parts = [warp] if warped else transforms
                    save_transforms(self.compose, parts, fixed=reference, moving=moving, format=self.convert_to)
                if self.output and moved is not None:
                    save_image(self.output, moved, affine, dtype=moved.dtype if moved.dtype.kind == "f" else None)
                if self.jacobian and jacobian is not None:
                    save_image(self.jacobian, jacobian, affine)
        if content is not None and self.points_output:
            save_bytes(self.points_output, content)
        elif content is not None:
            print(content.decode(), end="")

    def _check(self) -> None:
        """What can be known before anything is read."""
        from fastreg.io.images import check_ending
        from fastreg.io.transforms import TRANSFORM_ENDINGS
        from fastreg.utils.files import InputError, check_exists, check_free

        if not (self.output or self.points or self.jacobian or self.compose):
            raise InputError("nothing to do: give --output, --points, --jacobian or --compose")
        if self.background is not None and not math.isfinite(self.background):
            raise InputError(f"--background: expected a finite number, got {self.background}")
        for wanted, given, why in (
            (self.output, self.moving, "--output needs --moving, the image to move"),
            (self.convert_to, self.compose, "--convert-to needs --compose, the file to write"),
            (self.per_volume, self.output, "--per-volume needs --output, the series to write"),
            (self.points_output, self.points, "--points-output needs --points"),
            (self.jacobian_log, self.jacobian, "--jacobian-log needs --jacobian, the file to write"),
            (self.jacobian_nonlinear, self.jacobian, "--jacobian-nonlinear needs --jacobian, the file to write"),
            (self.convert_to in ("fsl", "freesurfer", "learn2reg"), self.moving, "--convert-to {} needs --moving"),
        ):
            if wanted and not given:
                raise InputError(why.format(self.convert_to))
        for path in (self.output, self.jacobian):
            if path is not None:
                check_ending(path)
        if self.per_volume is not None and not self.per_volume.is_dir():
            check_exists(self.per_volume, "--per-volume")
        if self.compose is not None:
            check_ending(self.compose, TRANSFORM_ENDINGS)
        for path in (self.output, self.jacobian, self.compose, self.points_output):
            if path is not None:
                check_free(path, self.overwrite)

    def _open_series(self) -> Series | None:
        """--moving, where it is a series of which no volume is chosen."""
        from fastreg.io.images import check_ending
        from fastreg.io.series import SERIES_ENDINGS, holds_series, open_series
        from fastreg.utils.files import InputError, check_exists

        chosen = self.channel is not None and self.channel.isdigit()
        if self.moving is None or chosen or not holds_series(check_exists(self.moving, "moving image", folder=True)):
            if self.per_volume is not None:
                raise InputError(f"--per-volume needs a series as --moving, got {self.moving}")
            return None
        if self.output is not None:
            check_ending(self.output, SERIES_ENDINGS)
        return open_series(self.moving, what="moving series")

    def _write_series(
        self,
        path: Path,
        series: Series,
        volume: Image,
        transforms: list[Transform],
        affine: np.ndarray,
        shape: tuple[int, ...],
        background: float | None,
    ) -> None:
        from fastreg.cli._series import read_each, transform_files, write_moved

        each = None
        if self.per_volume is not None:
            files = transform_files(self.per_volume, len(series), series)
            each = read_each(files, volume, format=self.warp_format, matrix=self.matrix)
        mode = self.interpolation
        write_moved(path, series, transforms, affine, shape, each=each, mode=mode, background=background)

    def _load_moving(self, path: Path) -> Image:
        from fastreg.geometry.resample import VOTES
        from fastreg.io.images import load_image, load_labels

        if self.interpolation in VOTES:
            return load_labels(path, what="moving image")
        return load_image(path, what="moving image", integers=self.interpolation == "nearest", channel=self.channel)

    def _load(self, name: str, moving: Image | None, reference: Image | None) -> list[Transform]:
        """The transforms of a file, or of [FILE,1]."""
        from fastreg.cli._transforms import read_transforms

        given = {"format": self.warp_format, "matrix": self.matrix}
        return read_transforms(name, reference, moving, **given)

    def _load_points(self, path: Path) -> PointSet:
        from fastreg.io.markups import ENDINGS
        from fastreg.io.points import check_conversion, load_points
        from fastreg.utils.files import InputError

        given = load_points(path)
        if self.points_output is not None:
            check_conversion(self.points_output, given)
        elif given.ending not in (".csv", *ENDINGS):
            raise InputError(f"points {path}: {given.kind} is not printed; give --points-output, the file to write")
        return given

    def _moved_points(
        self, given: PointSet, transforms: list[Transform], grid: Grid | None, reference: Image | None
    ) -> PointSet:
        from fastreg.geometry.transforms import Warp as Field
        from fastreg.geometry.transforms import map_places
        from fastreg.io.point_sets import carry, check_columns

        planes = [t.fixed_affine for t in transforms if isinstance(t, Field) and t.ndim == 2]
        space = given.space or self.points_space
        check_columns(given.points, space, *planes)
        fixed = _grid(transforms, reference)[0] if space == "voxel" else None
        return carry(given, lambda places: map_places(transforms, places), space, start=fixed, grid=grid)


def _grid_after(transforms: list[Transform], moving: Image | None) -> Grid | None:
    """The moving grid, where it is known."""
    from fastreg.geometry.transforms import Warp as Field

    if moving is not None:
        return moving.affine, moving.shape
    last = transforms[-1] if transforms else None
    if not isinstance(last, Field) or last.moving_shape is None:
        return None
    return last.moving_affine, last.moving_shape


def _grid(transforms: list[Transform], reference: Image | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of the fixed grid."""
    from fastreg.geometry.transforms import fixed_grid
    from fastreg.utils.files import InputError

    grid = fixed_grid(transforms, reference)
    if grid is None:
        raise InputError("the fixed grid is not known: give --reference, or a warp as the first --transform")
    return grid
