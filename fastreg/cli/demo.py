"""`fastreg demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fastreg.utils.ranges import Range


@Parameter(name="*")
@dataclass(kw_only=True)
class Demo:
    """Watch a network learn to register brains, in minutes, without data of your own.

    Example: `fastreg demo --output demo`

    Makes a cohort with known deformations from the MNI152 template that nilearn carries, trains on it, registers
    subjects that it has never seen, and compares with the truth. Needs the extra `demo`.
    """

    output: Annotated[Path, Parameter(alias="-o")] = Path("demo")
    """Folder for the cohort, the run, the registered images, warps and figure.png."""
    subjects: Annotated[int, Range(2)] = 12
    """Subjects to train on."""
    unseen: Annotated[int, Range(2)] = 4
    """Subjects to register, each to the next."""
    steps: Annotated[int, Range(1)] = 1500
    """Training steps."""
    spacing: Annotated[float, Range(0, 1e4, above=True, unit="mm")] = 4.0
    """Working resolution of the network in mm; the images have voxels of 2.75 mm."""
    model: Literal["vm1", "vm2", "vxm"] = "vm2"
    """The network: vm1, vm2 or vxm."""
    seed: Annotated[int, Range(0, 2**31)] = 0
    """Random seed for the cohort and the training."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, ...; if not given, a GPU where there is one."""
    overwrite: bool = False
    """Write into a folder that is not empty, over what an earlier demo left there."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> None:
        """Makes, trains, registers, compares, draws."""
        from fastreg.cli._demo import run_demo
        from fastreg.utils.files import InputError

        if self.output.is_dir() and any(self.output.iterdir()) and not self.overwrite:
            raise InputError(
                f"output {self.output}: expected a new or an empty folder; use --overwrite to write into it"
            )
        rows, seconds = run_demo(
            self.output, self.subjects, self.unseen, self.steps, self.spacing, self.model, self.seed, self.device
        )
        self._report(rows, seconds)

    def _report(self, rows: list[dict[str, Any]], seconds: float) -> None:
        from fastreg.cli.output import out, print_json, print_table
        from fastreg.evaluation.metrics import mean

        summary = {name: mean(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], float)}
        if self.json:
            print_json({"pairs": rows, "mean": summary, "total_seconds": seconds, "output": str(self.output)})
            return
        print_table(
            ["moving -> fixed", "Dice before", "Dice", "HD95, mm", "error before, mm", "error, mm", "folds", "seconds"],
            [
                [
                    f"{row['moving']} -> {row['fixed']}",
                    f"{row['dice_before']:.3f}",
                    f"{row['dice']:.3f}",
                    f"{row['hd95_mm']:.2f}",
                    f"{row['error_before_mm']:.2f}",
                    f"{row['error_mm']:.2f}",
                    f"{row['folds']} of {row['voxels']}",
                    f"{row['seconds']:.2f}",
                ]
                for row in rows
            ],
            title=f"{len(rows)} registrations of subjects that the network never saw",
        )
        out.print(
            f"mean Dice {summary['dice_before']:.3f} -> {summary['dice']:.3f}, error against the known displacement "
            f"{summary['error_before_mm']:.2f} -> {summary['error_mm']:.2f} mm, {summary['seconds']:.2f} s a pair; "
            f"{seconds / 60:.1f} min in all"
        )
        picture, model = self.output / "figure.png", self.output / "run" / "model.safetensors"
        out.print(f"picture {picture}, model {model}", soft_wrap=True)
