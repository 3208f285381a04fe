"""`fastreg convert`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from fastreg.cli._transforms import Meant
from fastreg.cli.compose import Compose


@Parameter(name="*")
@dataclass
class Convert:
    """Convert a transform into another format, or a VoxelMorph network into a model for `fastreg register --model`.

    Example: `fastreg convert TransformParameters.1.txt warp.nii.gz -r fixed.nii.gz`, and a network:
    `fastreg convert cvpr2018_vm2_cc.h5 vm2.safetensors`

    Transforms of any kind (docs/files.md) become what the output's ending says. A network becomes .safetensors: that
    reads the .h5 files of CVPR 2018, MICCAI 2018 and VxmDense (extra: compat) and the .pt files of VxmDense. These say
    nothing about the images that the network was trained on, so --spacing, --orientation and --normalise do; the
    defaults are those of VoxelMorph's own brains. Registration brings any image onto that working grid.
    """

    file: Path
    """The transform, or [FILE,1] for its inverse; or the network: .h5 or .pt."""
    output: Path
    """The transform to write: .nii.gz, .h5, .mha, .nrrd, .npz, .tfm, .mat, .txt, .lta or .aff12.1D; or the model:
    .safetensors."""
    indexing: Literal["ij", "xy"] | None = field(default=None, kw_only=True)
    """Whether flow channels 0 and 1 of an .h5 file displace axes 0 and 1 (ij) or 1 and 0 (xy). If not given: as the
    file says, or as the network shows on a test pair."""
    spacing: float = field(default=1.0, kw_only=True)
    """Voxel size of the training images, mm."""
    orientation: str = field(default="LIA", kw_only=True)
    """Orientation of the training images, such as LIA or RAS, as `fastreg info` prints it."""
    normalise: Literal["minmax", "percentile", "none"] = field(default="minmax", kw_only=True)
    """How intensities are scaled to [0, 1]: by minimum and maximum, by percentiles, or not at all."""
    meant: Meant = field(default_factory=Meant, kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)
    """Replace the model if it exists."""
    json: bool = field(default=False, kw_only=True)
    """Print JSON."""

    def run(self) -> None:
        """Reads, checks and writes."""
        from fastreg.io.transforms import TRANSFORM_ENDINGS
        from fastreg.utils.files import InputError

        if self.output.suffix != ".safetensors":
            if not self.output.name.lower().endswith(TRANSFORM_ENDINGS):
                known = ", ".join(TRANSFORM_ENDINGS)
                ending = self.output.suffix or "no ending"
                raise InputError(f"output {self.output}: expected .safetensors (a network) or {known}, got {ending}")
            Compose(transform=[str(self.file)], output=self.output, meant=self.meant, overwrite=self.overwrite).run()
            return
        self._run_network()

    def _run_network(self) -> None:
        from fastreg.cli.output import out, print_json
        from fastreg.compat.voxelmorph import read_network
        from fastreg.nn import checkpoint
        from fastreg.nn.checkpoint import Checkpoint, WorkingSpace
        from fastreg.utils.files import InputError, check_free

        if not self.spacing > 0:
            raise InputError(f"spacing: expected a length in mm above 0, got {self.spacing}")
        if sorted(_AXES.get(letter, 3) for letter in self.orientation) != [0, 1, 2]:
            raise InputError(f"orientation: expected three letters such as LIA or RAS, got {self.orientation}")
        check_free(self.output, self.overwrite)
        found = read_network(self.file, indexing=self.indexing)
        net = found.network()
        about = Checkpoint(
            network=net.options,
            working=WorkingSpace(self.spacing, self.orientation, found.shape or (), self.normalise),
            config={"converted_from": self.file.name, "notes": found.notes},
        )
        checkpoint.save(self.output, net, about)
        parameters = sum(p.numel() for p in net.parameters())
        if self.json:
            print_json({"model": str(self.output), "parameters": parameters, "notes": found.notes, **about.to_json()})
            return
        for note in found.notes:
            out.print(f"note    {note}", soft_wrap=True)
        head = f"diffeomorphic, {net.config.steps} steps" if net.config.diffeomorphic else "displacement"
        out.print(f"model   {self.output}: {net.config.name}, {head}, {parameters:,} parameters", soft_wrap=True)
        grid = f"{self.spacing:g} mm, {self.orientation}, intensities {self.normalise}"
        out.print(f"expects {grid}{_shape(found.shape)}", soft_wrap=True)


_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else f"; trained on {'x'.join(map(str, shape))} voxels"
