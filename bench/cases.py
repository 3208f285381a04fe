"""The cases of the speed and memory benchmarks: op, work, size, dtype, and who takes part. Inputs come from seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers import INPUTS, RIVALS, Options

FULL = (160, 192, 224)
"""A brain at 1 mm, cropped: the size in VoxelMorph's papers."""
GROWTH = (64, 96, 128, 160, 192, 256)
WINDOWS = (3, 5, 7, 9, 15, 21)
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DISPLACEMENT = 2.0
"""Standard deviation of the displacements, in voxels."""


@dataclass(frozen=True)
class Case:
    """One comparison."""

    group: str
    """The question that it answers: see `GROUPS`."""
    op: str
    wanted: tuple[int, ...]
    """Numbers of the inputs that get a gradient."""
    size: tuple[int, ...]
    """Of the image, [D, H, W]."""
    batch: int = 1
    channels: int = 1
    dtype: str = "float32"
    options: Options = field(default_factory=Options)
    rivals: tuple[str, ...] = ()
    """Names of peers; fastreg always takes part."""
    threads: int | None = None
    """None: all."""
    isa: bool = False
    """fastreg takes part with each instruction set that there is."""
    weight: float = 1.0
    """Share of the seconds."""

    @property
    def work(self) -> str:
        """In words."""
        names = [INPUTS[self.op][k] for k in self.wanted]
        return "forward" + (f" + backward to {' and '.join(names)}" if names else "")

    @property
    def shape(self) -> list[int]:
        """[batch, channels, D, H, W] of the image, or of the field."""
        return [self.batch, 3 if self.op in ("integrate", "smoothness") else self.channels, *self.size]

    @property
    def name(self) -> str:
        """For people and for pytest's ids."""
        said = self.options.named(self.op)
        size = "x".join(map(str, self.shape if self.shape[0] > 1 or self.channels > 1 else self.size))
        return ", ".join(part for part in (self.op, self.work, said, size, self.dtype) if part)


def smooth(size: tuple[int, ...], channels: int, amplitude: float, seed: int, batch: int = 1) -> Tensor:
    """[batch, channels, *size], random and smooth: control points every twelve voxels, linear between them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, *[max(2, n // 12) for n in size], generator=generator)
    return (amplitude * F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)).contiguous()


def images(case: Case) -> tuple[Tensor, Tensor]:
    """Two images in about [0, 1] with some structure in common."""
    a = 0.5 + smooth(case.size, case.channels, 0.2, 2, case.batch)
    return a, a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))


def inputs(case: Case, device: str = "cpu") -> tuple[Tensor, ...]:
    """What fastreg's op takes. A displacement or velocity of a half-precision image stays float32."""
    dtype = DTYPES[case.dtype]
    of_fields = torch.float64 if case.dtype == "float64" else torch.float32
    if case.op == "lncc":
        return tuple(x.to(device, dtype) for x in images(case))
    flow = smooth(case.size, 3, DISPLACEMENT, 3, case.batch).to(device, of_fields)
    return (images(case)[0].to(device, dtype), flow) if case.op == "warp" else (flow.to(dtype),)


def floor_bytes(case: Case) -> int:
    """What must be read and written at least, each array once in each of forward and backward (docs/ops/)."""
    image, of_field = DTYPES[case.dtype].itemsize, 8 if case.dtype == "float64" else 4
    points, c = case.batch * math.prod(case.size), case.channels
    if case.op == "warp":
        per_point = 2 * c * image + 3 * of_field  # vol, flow -> out
        if case.wanted:  # grad, vol, flow -> gradients
            per_point += 2 * c * image + 3 * of_field + (3 * of_field if 1 in case.wanted else 0)
            per_point += c * image if 0 in case.wanted else 0
    elif case.op == "lncc":  # the gradients come out of the sweep that makes the value
        per_point = c * image * (2 + len(case.wanted))
    elif case.op == "smoothness":
        per_point = 3 * image * (1 + len(case.wanted))
    else:  # each squaring reads and writes the field; its adjoint reads field and gradient and writes a gradient
        per_point = 3 * image * case.options.steps * (2 + (3 if case.wanted else 0))
    return points * per_point


def result_bytes(case: Case) -> int:
    """Of the value and the gradients: what anybody must allocate."""
    image, of_field = DTYPES[case.dtype].itemsize, 8 if case.dtype == "float64" else 4
    points, c = case.batch * math.prod(case.size), case.channels
    out = {"warp": c * image, "lncc": 0, "smoothness": 0, "integrate": 3 * image}[case.op]
    sizes = {"warp": (c * image, 3 * of_field), "lncc": (c * image,) * 2}.get(case.op, (3 * image,))
    return points * (out + sum(sizes[k] for k in case.wanted))


# ---------------------------------------------------------------- the groups

TORCH = {op: rivals[0].name for op, rivals in RIVALS.items()}
"""The peer that is always there."""
ORIGINAL = {
    "warp": "VoxelMorph SpatialTransformer",
    "lncc": "neurite NCC",
    "integrate": "VoxelMorph IntegrateVelocityField",
    "smoothness": "neurite SpatialGradient",
}
"""VoxelMorph's own."""
WHOLE = [("warp", ()), ("warp", (1,)), ("warp", (0, 1)), ("lncc", ()), ("lncc", (0,)), ("lncc", (0, 1))]
WHOLE += [("integrate", ()), ("integrate", (0,)), ("smoothness", (0,))]
TRAINING = [("warp", (1,)), ("lncc", (0,)), ("integrate", (0,)), ("smoothness", (0,))]
"""Op -> what a training step asks of it."""
COST = {"warp": 1.0, "lncc": 3.0, "integrate": 5.0, "smoothness": 0.5}
"""How slow peers are at an op, roughly: how the seconds are shared."""


def everybody(op: str, wanted: tuple[int, ...]) -> tuple[str, ...]:
    """All peers at an op; what takes a compiler only where training needs it."""
    return tuple(rival.name for rival in RIVALS[op] if not rival.compiles or (op, wanted) in TRAINING)


def head_to_head(size: tuple[int, ...] = FULL) -> list[Case]:
    """Every op against everybody, with all threads and with one."""
    most = [
        Case("all threads", op, wanted, size, rivals=everybody(op, wanted), weight=COST[op]) for op, wanted in WHOLE
    ]
    pair = {op: (TORCH[op], ORIGINAL[op]) for op in TORCH}
    return most + [
        Case("one thread", op, wanted, size, rivals=pair[op], threads=1, weight=COST[op] / 2) for op, wanted in TRAINING
    ]


def growth(sizes: tuple[int, ...] = GROWTH) -> list[Case]:
    """Cubes: time per voxel against voxels."""
    return [
        Case("growth", op, wanted, (n, n, n), rivals=(TORCH[op], ORIGINAL[op]), weight=COST[op] * (n / 256) ** 2 / 2)
        for op, wanted in TRAINING
        for n in sizes
    ]


def windows(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """LNCC against the edge of its window."""
    rivals = (TORCH["lncc"], ORIGINAL["lncc"], "MONAI LNCC")
    return [Case("windows", "lncc", (0,), size, options=Options(window=w), rivals=rivals, weight=0.5) for w in WINDOWS]


def batches(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """Channels and batch."""
    return [
        Case("batch and channels", op, wanted, size, batch, channels, rivals=(TORCH[op], ORIGINAL[op]), weight=0.3)
        for op, wanted in TRAINING[:2]
        for batch, channels in ((1, 1), (2, 1), (4, 1), (1, 4), (1, 16))
    ]


def precisions(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """The dtypes."""
    return [
        Case("dtypes", op, wanted, size, dtype=dtype, rivals=(TORCH[op],), weight=0.2)
        for op, wanted in TRAINING
        for dtype in DTYPES
    ]


def processors(size: tuple[int, ...] = FULL) -> list[Case]:
    """The instruction sets, one against the other."""
    return [Case("instruction sets", op, wanted, size, isa=True, weight=COST[op] / 3) for op, wanted in TRAINING]


GROUPS = {
    "all threads": "every op against everybody, with all threads",
    "one thread": "the same with one thread, against torch and VoxelMorph",
    "growth": "64^3 to 256^3: does the time per voxel stay?",
    "windows": "LNCC with windows 3 to 21",
    "batch and channels": "batches of images, images of many channels",
    "dtypes": "float64, float32, bfloat16, float16",
    "instruction sets": "plain x86-64, AVX2, AVX-512",
    "ci": "small, with one thread: what `make test` compares with",
}


def everything() -> list[Case]:
    """All groups at full size."""
    return [*head_to_head(), *growth(), *windows(), *batches(), *precisions(), *processors(), *ci(every_isa=True)]


def quick(size: tuple[int, ...] = (80, 96, 112)) -> list[Case]:
    """A minute's worth: every op against everybody at half the size."""
    return [case for case in head_to_head(size) if case.group == "all threads"]


CI_SIZE = (48, 64, 80)


def ci(every_isa: bool = False) -> list[Case]:
    """What `make test` compares with the committed ratios: one thread, against what torch alone can do."""
    return [
        Case("ci", op, wanted, CI_SIZE, rivals=(TORCH[op],), threads=1, isa=every_isa, weight=COST[op] / 4)
        for op, wanted in (("warp", ()), ("warp", (1,)), ("warp", (0, 1)), ("lncc", (0,)), *TRAINING[2:])
    ]
