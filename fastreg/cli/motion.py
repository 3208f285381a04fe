"""`fastreg motion`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fastreg.cli._transforms import MatrixKind, WarpFormat
from fastreg.utils.ranges import Range

if TYPE_CHECKING:
    from fastreg.geometry.image import Image
    from fastreg.geometry.transforms import Transform
    from fastreg.io.series import Series
    from fastreg.registration.motion import Motion as Found


@Parameter(name="*")
@dataclass
class Motion:
    """Correct the motion of a head through a series of volumes (BOLD, diffusion, perfusion): rigidly, to one reference.

    Example: `fastreg motion bold.nii.gz -o moco.nii.gz --parameters motion.par --plot motion.png`

    With -t and -r the series comes onto another grid, such as a template's, through motion, distortion field and all
    other transforms in one interpolation. Nothing is written unless all of it can be. docs/motion.md has the
    conventions of all files.
    """

    series: Path
    """The series, 4-D (.nii, .nii.gz and what else nibabel reads)."""
    output: Annotated[Path | None, Parameter(alias="-o")] = field(default=None, kw_only=True)
    """Write the series without motion here (.nii, .nii.gz; float32)."""
    reference: str = field(default="mean", kw_only=True)
    """What the volumes are fitted to: mean (of all, after a first fit to the middle one, where that one lies), first,
    middle, the number of a volume from 0, or an image of the same contrast, such as a single-band reference."""
    mask: Path | None = field(default=None, kw_only=True)
    """A mask where the reference lies, of what counts for the fit; if not given, all that is not air."""
    grid: Annotated[Path | None, Parameter(alias="-r")] = field(default=None, kw_only=True)
    """The image whose grid --output gets; if not given, the first warp's of -t, or that of the reference."""
    transform: Annotated[list[str], Parameter(alias="-t", negative=())] = field(default_factory=list, kw_only=True)
    """Transforms of --output from the grid of -r to the volumes' reference, listed as for fastreg warp: the way to the
    template first, the distortion field last. Repeat for several."""
    interpolation: Annotated[Literal["linear", "bspline", "lanczos"], Parameter(alias="-n")] = field(
        default="bspline", kw_only=True
    )
    """Of --output. bspline and lanczos keep it sharper than linear and overshoot at edges."""
    background: float | None = field(default=None, kw_only=True)
    """Value of --output outside of a volume; if not given, 0, or the first volume's minimum where that is below 0."""
    parameters: Path | None = field(default=None, kw_only=True)
    """Write the six parameters of each volume here: .par (FSL's mcflirt), .csv (ANTs' MOCOparams), .tsv (BIDS
    _motion.tsv, with a .json beside it) or .aff12.1D (AFNI's -1Dmatrix_save)."""
    matrices: Path | None = field(default=None, kw_only=True)
    """Write a matrix for each volume, from the reference to it, into this folder."""
    matrix_format: Literal["itk", "flirt"] = field(default="itk", kw_only=True)
    """Of --matrices: itk (volume_0000.mat, for antsApplyTransforms and fastreg warp --per-volume), or flirt (MAT_0000,
    as mcflirt -mats)."""
    fd: Path | None = field(default=None, kw_only=True)
    """Write framewise displacement here: Power's and Jenkinson's (.tsv, .csv), or Power's alone (.txt)."""
    threshold: Annotated[float, Range(0, above=True, unit="mm")] = field(default=0.5, kw_only=True)
    """Volumes with more framewise displacement are counted, and marked in --plot."""
    plot: Path | None = field(default=None, kw_only=True)
    """Draw translations, rotations and framewise displacement here (.png, .pdf, .svg; extra: plot)."""
    save_reference: Path | None = field(default=None, kw_only=True)
    """Write the image that the volumes were fitted to here: the mean, of which a way to other images can start."""
    warp_format: WarpFormat | None = field(default=None, kw_only=True)
    """Format of the warps among --transform, where their headers do not tell."""
    matrix: MatrixKind | None = field(default=None, kw_only=True)
    """What a --transform that is a plain 4x4 matrix maps: see fastreg warp."""
    overwrite: bool = field(default=False, kw_only=True)
    """Replace outputs that exist."""
    json: bool = field(default=False, kw_only=True)
    """Print the summary as JSON."""

    def run(self) -> None:
        """Estimates, writes and sums up."""
        import contextlib
        import time

        from fastreg.cli.output import progress
        from fastreg.io.images import load_image, save_image
        from fastreg.io.motion_files import save_files
        from fastreg.io.series import open_series
        from fastreg.plots.motion import motion_figure
        from fastreg.registration.motion import motion
        from fastreg.utils.files import atomic

        self._check()
        started = time.monotonic()
        series = open_series(self.series)
        grid = None if self.grid is None else load_image(self.grid, what="grid", ndim=3)
        shared = self._transforms(series, grid)
        with progress() as bar:
            task = bar.add_task("fitting volumes", total=None)
            found = motion(
                series,
                reference=self.reference,
                mask=self.mask,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        estimated = time.monotonic() - started
        files = self._files(found, series)
        with contextlib.ExitStack() as stack:
            if self.output is not None:
                partial = stack.enter_context(atomic(self.output))  # until the other outputs are there
                self._write_moved(partial, series, found, shared, grid)
            if self.plot is not None:
                title, threshold = self.series.name, self.threshold
                motion_figure(found.parameters, found.fd_mm, self.plot, threshold_mm=threshold, title=title)
            if self.save_reference is not None:
                save_image(self.save_reference, found.reference)
            save_files(files, self.matrices)
        self._report(found, {"fit_seconds": estimated, "seconds": time.monotonic() - started})

    def _check(self) -> None:
        """What can be known before anything is read."""
        from fastreg.io.images import check_ending
        from fastreg.io.motion_files import DISPLACEMENT_ENDINGS, PARAMETER_ENDINGS, check_matrices
        from fastreg.io.series import SERIES_ENDINGS
        from fastreg.plots.canvas import PICTURE_ENDINGS
        from fastreg.utils.extras import need
        from fastreg.utils.files import InputError, check_free

        for given, name in ((self.grid, "--grid"), (self.transform, "--transform"), (self.background, "--background")):
            if given not in (None, []) and self.output is None:
                raise InputError(f"{name} needs --output, the series to write")
        if self.background is not None and not math.isfinite(self.background):
            raise InputError(f"--background: expected a finite number, got {self.background}")
        for path, endings in (
            (self.output, SERIES_ENDINGS),
            (self.parameters, PARAMETER_ENDINGS),
            (self.fd, DISPLACEMENT_ENDINGS),
            (self.plot, PICTURE_ENDINGS),
        ):
            if path is not None:
                check_ending(check_free(path, self.overwrite), endings)
        if self.parameters is not None and self.parameters.suffix.lower() == ".tsv":
            check_free(self.parameters.with_suffix(".json"), self.overwrite)
        if self.save_reference is not None:
            check_ending(check_free(self.save_reference, self.overwrite))
        if self.matrices is not None:
            check_matrices(self.matrices, self.overwrite)
        if self.plot is not None:
            need("matplotlib", "plot", f"plot {self.plot}")

    def _transforms(self, series: Series, grid: Image | None) -> list[Transform]:
        """Those of --transform, from the grid to the reference."""
        from fastreg.cli._transforms import read_transforms

        if not self.transform:
            return []
        volume = series.volume(0)
        meant = {"format": self.warp_format, "matrix": self.matrix}
        return [one for name in self.transform for one in read_transforms(name, grid, volume, **meant)]

    def _files(self, found: Found, series: Series) -> dict[Path, bytes]:
        """All that is text or a matrix."""
        from fastreg.geometry.image import Image
        from fastreg.io.motion_files import displacement_file, matrix_files, parameter_files

        volume = Image.blank(series.shape, series.affine)
        files: dict[Path, bytes] = {}
        if self.parameters is not None:
            of = found.matrices, found.centre_mm, found.correlation
            files |= parameter_files(self.parameters, *of, found.reference, volume)
        if self.fd is not None:
            files[self.fd] = displacement_file(self.fd, found.matrices, found.centre_mm)
        if self.matrices is not None:
            files |= matrix_files(self.matrices, found.matrices, found.reference, volume, self.matrix_format)
        return files

    def _write_moved(
        self, path: Path, series: Series, found: Found, shared: list[Transform], grid: Image | None
    ) -> None:
        from fastreg.cli._series import write_moved
        from fastreg.geometry.resample import background_of
        from fastreg.geometry.transforms import Affine, fixed_grid

        affine, shape = fixed_grid(shared, grid) or (found.reference.affine, found.reference.shape)
        outside = background_of(series.volume(0)) if self.background is None else self.background
        each = ([Affine(matrix)] for matrix in found.matrices)
        mode = self.interpolation
        write_moved(path, series, shared, affine, shape, each=each, mode=mode, background=outside)

    def _report(self, found: Found, seconds: dict[str, float]) -> None:
        import numpy as np

        from fastreg.cli.output import print_json, print_table, shown

        fd, parameters = found.fd_mm[1:], np.abs(found.parameters)
        figures: dict[str, Any] = {
            "series": str(self.series),
            "volumes": len(found.matrices),
            "mean_fd_mm": float(fd.mean()) if fd.size else 0.0,
            "max_fd_mm": float(fd.max()) if fd.size else 0.0,
            "mean_rmsd_mm": float(found.rms_mm[1:].mean()) if fd.size else 0.0,
            "max_translation_mm": float(parameters[:, :3].max()),
            "max_rotation_degrees": float(np.degrees(parameters[:, 3:].max())),
            "threshold_mm": self.threshold,
            "above_threshold": (np.nonzero(fd > self.threshold)[0] + 1).tolist(),
            "not_converged": np.nonzero(~found.converged)[0].tolist(),
            **seconds,
        }
        if self.json:
            print_json(figures)
            return
        rows = []
        for name, value in figures.items():
            text = str(len(value)) if isinstance(value, list) else value if isinstance(value, str) else shown(value)
            rows.append([name.replace("_", " "), text])
        print_table(["", ""], rows)
