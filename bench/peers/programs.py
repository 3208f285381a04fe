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
    "fastreg command": Program("fastreg_command.py"),
    "ANTs": Program("ants_syn.py", ("antspyx==0.6.3",)),
    "elastix": Program("elastix.py", ("itk-elastix==0.25.4",)),
    "Greedy": Program("greedy.py", ("picsl-greedy==1.4.0.3", "SimpleITK")),
    "ConvexAdam": Program("convex_adam.py", ("convexadam==0.2.0", "torch")),
    "FireANTs": Program("fireants_greedy.py", ("fireants==1.5.0", "torch")),
}


@dataclass(frozen=True)
class Method:
    """A program with its settings."""

    name: str
    peer: str
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    """The curve it is a point of: methods that differ in their smoothness alone. None: a point of its own."""
    slow: bool = False
    """Many minutes; only with --all or by name."""


SYN = {"type_of_transform": "SyN"}
FROM_HEADERS = {"type_of_transform": "SyNOnly", "initial_transform": "Identity"}
CC = {"syn_metric": "CC", "syn_sampling": 4}
FINE_GRID = {
    "FinalGridSpacingInPhysicalUnits": ["5"],
    "MaximumNumberOfIterations": ["1000"],
    "NumberOfSpatialSamples": ["10000"],
}
GREEDY = "-m NCC 2x2x2 -n 100x50x10"


def _syn(name: str, what: str, line: str = "ANTs SyN", slow: bool = False, **options: Any) -> Method:
    return Method(name, "ANTs", what, {**SYN, **options}, line, slow)


def _fastreg(regularity: str) -> Method:
    options = {"affine": False, "regularity": regularity}
    return Method(f"fastreg, {regularity}", "fastreg", f"register(regularity={regularity!r})", options, "fastreg")


def _fireants(name: str, what: str, **options: Any) -> Method:
    settings = {"scales": [4, 2, 1], "iterations": [200, 100, 25], "cc_kernel_size": 5}
    return Method(name, "FireANTs", what, {**settings, **options}, "FireANTs")


METHODS = (
    _fastreg("close"),
    Method("fastreg", "fastreg", "register(affine=False), deformable from the headers", {"affine": False}, "fastreg"),
    _fastreg("smooth"),
    Method("fastreg, affine first", "fastreg", "register(), nothing else said", {"affine": True}),
    Method("fastreg, two levels", "fastreg", "deform() without the finest level", {"stages": [[4, 60], [2, 40]]}),
    _syn("ANTs SyN", "MI, affine first, 40x20x0, sigmas 3 and 0: the default"),
    _syn("ANTs SyN, sigmas 1.5 and 0", "the same, the flow smoothed less", flow_sigma=1.5),
    _syn("ANTs SyN, sigmas 2 and 0", "the same, the flow smoothed a little less", flow_sigma=2),
    _syn("ANTs SyN, sigmas 5 and 0", "the same, the flow smoothed more", flow_sigma=5),
    _syn("ANTs SyN, sigmas 3 and 1", "the same, the total field smoothed too", line="", total_sigma=1),
    Method("elastix", "elastix", "B-splines 10 mm, MI and bending energy: the default", line="elastix"),
    Method("elastix, 20 mm", "elastix", "the same, B-splines 20 mm",
           {"FinalGridSpacingInPhysicalUnits": ["20"]}, "elastix"),
    Method("elastix, 5 mm", "elastix", "the same, B-splines 5 mm",
           {"FinalGridSpacingInPhysicalUnits": ["5"]}, "elastix"),
    Method("elastix fine", "elastix", "B-splines 5 mm, 1000 iterations of 10,000 samples", FINE_GRID, "elastix fine"),
    Method("elastix fine, bending 10", "elastix", "the same, ten times the bending energy's weight",
           {**FINE_GRID, "Metric1Weight": ["10"]}, "elastix fine"),
    Method("Greedy", "Greedy", "NCC 2x2x2, 100x50x10, sigmas 1.732 and 0.707 voxels: the manual's",
           {"arguments": GREEDY}, "Greedy"),
    Method("Greedy, sigmas 1 and 0.5", "Greedy", "the same, smoothed less",
           {"arguments": f"{GREEDY} -s 1vox 0.5vox"}, "Greedy"),
    Method("Greedy, sigmas 2.5 and 1", "Greedy", "the same, smoothed more",
           {"arguments": f"{GREEDY} -s 2.5vox 1vox"}, "Greedy"),
    Method("Greedy, sigmas 4 and 2", "Greedy", "the same, smoothed much more",
           {"arguments": f"{GREEDY} -s 4vox 2vox"}, "Greedy"),
    Method("ConvexAdam", "ConvexAdam", "MIND, the package's default: weight 1.25", line="ConvexAdam"),
    Method("ConvexAdam, weight 0.4", "ConvexAdam", "the same, regularised less", {"lambda_weight": 0.4}, "ConvexAdam"),
    Method("ConvexAdam, weight 4", "ConvexAdam", "the same, regularised more", {"lambda_weight": 4.0}, "ConvexAdam"),
    _fireants("FireANTs", "greedy, CC 5x5x5, 200x100x25, sigmas 1 and 0.5, without its CUDA kernels"),
    _fireants("FireANTs, sigmas 2 and 1", "the same, smoothed more", smooth_grad_sigma=2.0, smooth_warp_sigma=1.0),
    _fireants("FireANTs, sigmas 3 and 1.5", "the same, smoothed much more",
              smooth_grad_sigma=3.0, smooth_warp_sigma=1.5),
    Method("ANTs SyNOnly", "ANTs", "the default without the affine", FROM_HEADERS, slow=True),
    Method("ANTs SyNOnly CC", "ANTs", "CC radius 4, 40x20x0, from the headers", {**FROM_HEADERS, **CC}, slow=True),
    _syn("ANTs SyN long", "MI, affine first, 100x70x50x20", "", True, reg_iterations=[100, 70, 50, 20]),
    Method(
        "ANTs SyNOnly CC long", "ANTs", "CC radius 4, 100x70x50x20, about an hour each",
        {**FROM_HEADERS, **CC, "reg_iterations": [100, 70, 50, 20]}, slow=True,
    ),
)  # fmt: skip
QUICK = ("fastreg", "fastreg, two levels", "ANTs SyN")

KIND_METHODS = (
    Method("fastreg", "fastreg command", "fastreg register with its defaults, the whole command"),
    _syn("ANTs SyN", "ants.registration with its defaults"),
    Method("elastix", "elastix", "its default parameter maps: rigid, affine, B-splines",
           {"maps": ["rigid", "affine", "bspline"]}),
)  # fmt: skip
"""What registers images of any kind, each as it comes: from headers that may say little, with every linear step."""
