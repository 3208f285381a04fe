"""Programs that register a whole pair, each with the settings that bench/registration measures it with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Program:
    """Its script in bench/registration/runners, and the packages of its own environment; none: it runs in this one."""

    runner: str
    packages: tuple[str, ...] = ()


PROGRAMS = {
    "fastreg": Program("fastreg_register.py"),
    "ANTs": Program("ants_syn.py", ("antspyx==0.6.3",)),
    "elastix": Program("elastix.py", ("itk-elastix==0.25.4",)),
    "Greedy": Program("greedy.py", ("picsl-greedy==1.4.0.3",)),
    "FireANTs": Program("fireants_greedy.py", ("fireants==1.5.0", "torch")),
}


@dataclass(frozen=True)
class Method:
    """A program with its settings."""

    name: str
    peer: str
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    """Many minutes; only with --all or by name."""


FROM_HEADERS = {"type_of_transform": "SyNOnly", "initial_transform": "Identity"}
CC = {"syn_metric": "CC", "syn_sampling": 4}
FINE_GRID = {
    "FinalGridSpacingInPhysicalUnits": ["5"],
    "MaximumNumberOfIterations": ["1000"],
    "NumberOfSpatialSamples": ["10000"],
}
METHODS = (
    Method("fastreg", "fastreg", "register(affine=False), deformable from the headers", {"affine": False}),
    Method("fastreg, affine first", "fastreg", "register(), nothing else said", {"affine": True}),
    Method("fastreg, two levels", "fastreg", "deform() without the finest level", {"stages": [[4, 60], [2, 40]]}),
    Method("ANTs SyN", "ANTs", "MI, affine first, 40x20x0: the default", {"type_of_transform": "SyN"}),
    Method("ANTs SyNOnly", "ANTs", "the same without the affine", FROM_HEADERS),
    Method("ANTs SyNOnly CC", "ANTs", "CC radius 4, 40x20x0, from the headers", {**FROM_HEADERS, **CC}),
    Method("elastix", "elastix", "B-splines 10 mm, MI and bending energy: the default"),
    Method("elastix fine", "elastix", "B-splines 5 mm, 1000 iterations of 10,000 samples", FINE_GRID),
    Method("Greedy", "Greedy", "NCC 2x2x2, 100x50x10: the manual's", {"arguments": "-m NCC 2x2x2 -n 100x50x10"}),
    Method(
        "ANTs SyN long", "ANTs", "MI, affine first, 100x70x50x20",
        {"type_of_transform": "SyN", "reg_iterations": [100, 70, 50, 20]}, slow=True,
    ),
    Method(
        "ANTs SyNOnly CC long", "ANTs", "CC radius 4, 100x70x50x20, about an hour each",
        {**FROM_HEADERS, **CC, "reg_iterations": [100, 70, 50, 20]}, slow=True,
    ),
    Method(
        "FireANTs", "FireANTs", "greedy, CC 5x5x5, 200x100x25, without its CUDA kernels",
        {"scales": [4, 2, 1], "iterations": [200, 100, 25], "cc_kernel_size": 5}, slow=True,
    ),
)  # fmt: skip
QUICK = ("fastreg", "fastreg, two levels", "ANTs SyN")
