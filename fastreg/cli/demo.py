"""`fastreg demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


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
    subjects: int = 12
    """Subjects to train on."""
    unseen: int = 4
    """Subjects to register, each to the next."""
    steps: int = 1500
    """Training steps."""
    spacing: float = 4.0
    """Working resolution of the network in mm; the images have 2.75 mm."""
    model: str = "vm2"
    """The network: vm1, vm2 or vxm."""
    seed: int = 0
    """Chance of the cohort and of the training."""
    device: str | None = None
    """"cpu", "cuda" ...; a GPU if there is one."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> None:
        """Makes, trains, registers, compares, draws."""
        from fastreg.cli._demo import run_demo

        run_demo(self)
