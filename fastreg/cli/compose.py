"""`fastreg compose`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fastreg.cli._transforms import Meant


@Parameter(name="*")
@dataclass(kw_only=True)
class Compose:
    """Compose transforms of any kind into one file.

    Example: `fastreg compose -t warp.nii.gz -t affine.mat -r fixed.nii.gz -o both.h5`

    Transforms are listed as for antsApplyTransforms: each leads from the fixed image towards the moving one; [FILE,1]
    is the inverse. An .h5 or .tfm file keeps them as they are, a linear format multiplies them, and .nii.gz, .mha,
    .nrrd and .npz hold one displacement field. docs/files.md has the table of formats.
    """

    transform: Annotated[list[str], Parameter(alias="-t", negative=())] = field(default_factory=list)
    """A file of any kind that fastreg reads, or [FILE,1]. Repeat for several."""
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """The file to write: .nii.gz, .h5, .mha, .nrrd, .npz; .tfm; .mat, .txt, .lta, .aff12.1D if all are linear."""
    meant: Meant = field(default_factory=Meant)
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        """Reads everything, then writes."""
        from fastreg.cli._transforms import read_transforms
        from fastreg.io.images import check_ending
        from fastreg.io.transforms import TRANSFORM_ENDINGS, save_transforms
        from fastreg.utils.files import InputError, check_free

        if self.output is None or not self.transform:
            raise InputError("compose needs --transform (-t), once or more, and --output (-o)")
        check_ending(self.output, TRANSFORM_ENDINGS)
        check_free(self.output, self.overwrite)
        fixed, moving = self.meant.grids()
        transforms = [
            one for name in self.transform for one in read_transforms(name, fixed, moving, **self.meant.read())
        ]
        save_transforms(self.output, transforms, fixed=fixed, moving=moving, **self.meant.written())
