"""`fastreg invert`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cyclopts import Parameter

from fastreg.cli._transforms import Meant


@Parameter(name="*")
@dataclass
class Invert:
    """Invert a transform of any kind: what leads from fixed to moving then leads from moving to fixed.

    Example: `fastreg invert warp.nii.gz inverse_warp.nii.gz -i moving.nii.gz`

    Linear transforms are inverted exactly; the inverse of a warp is a displacement field on the grid of --moving, or on
    the warp's own, and how far from its start a place is after there and back is printed.
    """

    transform: str
    """The file: a warp, an affine, a composite, a B-spline (docs/files.md)."""
    output: Path
    """The inverse to write: .nii.gz, .h5, .mha, .nrrd, .npz; of linear ones .mat, .tfm, .txt, .lta, .aff12.1D."""
    meant: Meant = field(default_factory=Meant, kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)
    """Replace the output if it exists."""
    json: bool = field(default=False, kw_only=True)
    """Print JSON."""

    def run(self) -> None:
        """Reads, inverts, checks and writes."""
        import numpy as np

        from fastreg.cli._transforms import read_transforms
        from fastreg.cli.output import out, print_json
        from fastreg.geometry.image import Image
        from fastreg.geometry.transforms import Warp
        from fastreg.io.images import check_ending
        from fastreg.io.transforms import TRANSFORM_ENDINGS, as_warp, save_transforms
        from fastreg.registration.inversion import inverted, left_over_mm
        from fastreg.utils.files import check_free

        check_ending(self.output, TRANSFORM_ENDINGS)
        check_free(self.output, self.overwrite)
        fixed, moving = self.meant.grids()
        transforms = read_transforms(self.transform, fixed, moving, **self.meant.read())
        inverse = inverted(transforms, fixed, moving)
        if len(inverse) > 1:  # one warp of all is exact to one inversion, and one file
            whole = as_warp(transforms, fixed, moving)
            inverse = inverted([whole], fixed, moving)
        save_transforms(self.output, inverse, fixed=moving, moving=fixed, **self.meant.written())
        found = next((one for one in inverse if isinstance(one, Warp)), None)
        figures: dict[str, str | float] = {"output": str(self.output), "kind": "affine" if found is None else "warp"}
        said = "exact"
        if found is not None:
            onto = Image.blank(found.fixed_shape, found.fixed_affine)
            left = left_over_mm(transforms, inverse, moving or onto)
            median, most, last = (float(np.percentile(left, share)) for share in (50, 99, 100))
            figures |= {"left_mm_median": median, "left_mm_99": most, "left_mm_max": last}
            said = f"there and back: median {median:.3g} mm, 99 % within {most:.3g} mm, at most {last:.3g} mm"
        if self.json:
            print_json(figures)
            return
        out.print(f"written: {self.output}; {said}", soft_wrap=True)
