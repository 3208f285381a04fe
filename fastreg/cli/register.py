"""`fastreg register`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from fastreg.registration import Registered


@Parameter(name="*")
@dataclass(kw_only=True)
class Register:
    """Register two images: bring the moving one onto the fixed one's grid.

    Example: `fastreg register -f fixed.nii.gz -m moving.nii.gz -o moved.nii.gz --warp warp.nii.gz --qc qc.png`

    Without a model: linear alignment, then optimisation from coarse to fine, in seconds. With --model: a network
    trained by `fastreg train`, and --refine N iterations after it. The images may differ in size, orientation and
    spacing. No output is touched unless all inputs could be read and all outputs can be written.
    """

    fixed: Annotated[Path, Parameter(alias="-f")]
    """The image whose grid the result has."""
    moving: Annotated[Path, Parameter(alias="-m")]
    """The image that is moved."""
    moved: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write the moved image here."""
    warp: Path | None = None
    """Write the displacement field here (ITK's format, which ANTs, SimpleITK and Slicer read). It contains the linear
    part."""
    inverse_warp: Path | None = None
    """Write the inverse displacement field, on the moving image's grid, here."""
    affine_out: Path | None = None
    """Write the linear part here: .mat or .tfm (ITK, ANTs) or .txt (4x4, RAS mm)."""
    qc: Path | None = None
    """Draw a picture of the result here (.png; extra: plot)."""
    moving_labels: Path | None = None
    """A label map of the moving image, carried along."""
    moved_labels: Path | None = None
    """Write the moved labels (nearest voxel) here."""

    model: Path | None = None
    """A checkpoint of `fastreg train`; none: by optimisation."""
    refine: int | None = None
    """Iterations of optimisation at full resolution: after a model 0 if not given; without one the whole pyramid if not
    given."""
    transform: Literal["translation", "rigid", "similarity", "affine", "deformable"] = "deformable"
    """How far to go."""
    affine: bool | None = None
    """Align linearly before a deformable registration; if not said, only without a model."""
    init: str = "auto"
    """Start of the linear alignment: auto, header, mass (centres of mass), or a file with an affine."""
    metric: Literal["lncc", "mse", "mi"] = "lncc"
    """What makes images alike; mi (other contrasts) for linear transforms."""
    smoothness: Annotated[float, Parameter(alias="--lambda")] = 1.5
    """Weight of the field's roughness in the optimisation."""
    mask_fixed: Path | None = None
    """Where the fixed image counts."""
    mask_moving: Path | None = None
    """Where the moving image counts, in the linear alignment."""

    device: str | None = None
    """"cpu", "cuda" ...; a GPU if there is one."""
    overwrite: bool = False
    """Replace outputs that exist."""
    json: bool = False
    """Print the seconds of every stage as JSON."""

    def run(self) -> None:
        """Registers and writes."""
        from fastreg.cli._output import err, out, print_json
        from fastreg.files import InputError, check_exists
        from fastreg.images import load_labels, save_image
        from fastreg.registration import register
        from fastreg.transforms import load_affine, save_affine, save_warp

        self._check_outputs()
        for path, what in ((self.fixed, "fixed image"), (self.moving, "moving image")):
            check_exists(path, what)
        labels = None if self.moving_labels is None else load_labels(self.moving_labels, what="moving labels")
        init = self.init if self.init in ("auto", "header", "mass") else load_affine(self.init)
        if self.refine is not None and self.refine < 0:
            raise InputError(f"refine: expected 0 or more iterations, got {self.refine}")

        found = register(
            self.fixed,
            self.moving,
            model=self.model,
            transform=self.transform,
            affine=self.affine,
            init=init,
            refine=self.refine,
            metric=self.metric,
            smoothness=self.smoothness,
            fixed_mask=self.mask_fixed,
            moving_mask=self.mask_moving,
            device=self.device,
            inverse=self.inverse_warp is not None,
            told=lambda what, seconds: None if self.json else err.print(f"{what:10} {seconds:6.2f} s"),
        )
        if self.moved is not None:
            found.save_moved(self.moved)
        if self.warp is not None:
            found.save_warp(self.warp)
        if self.inverse_warp is not None and found.inverse_warp is not None:
            save_warp(self.inverse_warp, found.inverse_warp)
        if self.affine_out is not None:
            save_affine(self.affine_out, found.affine)
        if labels is not None and self.moved_labels is not None:
            save_image(self.moved_labels, found.apply(labels))
        if self.qc is not None:
            _draw(found, self.qc)
        if self.json:
            print_json(found.log)
        else:
            seconds = sum(value for name, value in found.log.items() if name.endswith("_seconds"))
            written = ", ".join(str(path) for path in self._outputs())
            out.print(f"registered in {seconds:.1f} s: {written}", soft_wrap=True)

    def _outputs(self) -> list[Path]:
        paths = [self.moved, self.warp, self.inverse_warp, self.affine_out, self.moved_labels, self.qc]
        return [path for path in paths if path is not None]

    def _check_outputs(self) -> None:
        from fastreg.files import InputError, check_free

        if not self._outputs():
            raise InputError(
                "nothing to write: give at least one of --moved, --warp, --inverse-warp, --affine-out, --qc"
            )
        if (self.moving_labels is None) != (self.moved_labels is None):
            raise InputError("--moving-labels and --moved-labels go together")
        for path in self._outputs():
            check_free(path, self.overwrite)
        if len(set(self._outputs())) < len(self._outputs()):
            raise InputError("two outputs have the same path")


def _draw(found: Registered, path: Path) -> None:
    """The picture that shows whether to trust the registration, on the fixed grid."""
    from fastreg.plots import qc_picture

    fixed = found.fixed
    flow = found.warp.onto(fixed.affine).tensor()[0].numpy()  # in fixed voxels, so that the grid can be drawn
    affine = fixed.affine if fixed.ndim == 3 else None
    qc_picture(fixed.data, None, found.moved[0, 0].numpy(), flow, path, spacing_mm=fixed.spacing_mm, affine=affine)
