"""The cases of the speed and memory benchmarks: op, work, size, dtype, and who takes part. Inputs come from seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import INPUTS, Options
from bench.peers.mind import pairs_of

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DISPLACEMENT = 2.0
"""Standard deviation of the displacements, in voxels."""


@dataclass(frozen=True)
class Case:
    """One comparison."""

    group: str
    """The question that it answers: see `groups.GROUPS`; on a GPU, the size."""
    op: str
    wanted: tuple[int, ...]
    """Numbers of the inputs that get a gradient."""
    size: tuple[int, ...]
    """Of the image, [D, H, W]."""
    batch: int = 1
    channels: int = 1
    dtype: str = "float32"
    options: Options = field(default_factory=Options)
    peers: tuple[str, ...] = ()
    """Their names; fastreg always takes part."""
    threads: int | None = None
    """None: all."""
    isa: bool = False
    """fastreg takes part with each instruction set that there is."""
    weight: float = 1.0
    """Share of the seconds."""
    backward_alone: bool = False
    """The forward is done once and not measured."""
    deterministic: bool = False
    """The backward runs under torch.use_deterministic_algorithms."""

    @property
    def work(self) -> str:
        """In words."""
        names = [INPUTS[self.op][k] for k in self.wanted]
        backward = f"backward to {' and '.join(names)}" if names else ""
        if self.backward_alone:
            return backward + (", deterministic" if self.deterministic else "")
        return " + ".join(filter(None, ("forward", backward)))

    @property
    def shape(self) -> list[int]:
        """[batch, channels, D, H, W] of the image, or of the field."""
        return [self.batch, 3 if self.op in ("integrate", "smoothness") else self.channels, *self.size]

    @property
    def name(self) -> str:
        """For a line of output and for pytest's ids."""
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
    if case.op in ("lncc", "correlate"):
        return tuple(x.to(device, dtype) for x in images(case))
    if case.op == "mind":
        return (images(case)[0].to(device, dtype),)
    flow = smooth(case.size, 3, DISPLACEMENT, 3, case.batch).to(device, of_fields)
    return (images(case)[0].to(device, dtype), flow) if case.op == "warp" else (flow.to(dtype),)


def displacements(options: Options) -> int:
    """Scores of a voxel of the local cost volume."""
    return (2 * options.radius + 1) ** 3


def floor_bytes(case: Case) -> int:
    """What must be read and written at least, each array once in each of forward and backward (docs/ops/)."""
    image, of_field = DTYPES[case.dtype].itemsize, 8 if case.dtype == "float64" else 4
    points, c = case.batch * math.prod(case.size), case.channels
    if case.backward_alone:
        if case.op != "warp":
            raise ValueError(f"backward_alone: only warp's bytes are known, got {case.op}")
        per_point = 2 * c * image + 6 * of_field  # grad, vol, flow -> gradient to the flow
        if 0 in case.wanted:  # scattered in float32: cleared, then read and written; twice where the order is fixed
            per_point += 3 * c * 4 * (2 if case.deterministic else 1)
    elif case.op == "warp":
        per_point = 2 * c * image + 3 * of_field  # vol, flow -> out
        if case.wanted:  # grad, vol, flow -> gradients
            per_point += 2 * c * image + 3 * of_field + (3 * of_field if 1 in case.wanted else 0)
            per_point += c * image if 0 in case.wanted else 0
    elif case.op == "lncc":  # the gradients come out of the sweep that makes the value
        per_point = c * image * (2 + len(case.wanted))
    elif case.op == "mind":  # image -> out; grad, image -> gradient
        pairs = len(pairs_of(case.options.kind))
        per_point = c * image * (1 + pairs + (2 + pairs if case.wanted else 0))
    elif case.op == "correlate":  # a, b -> out; grad, a, b -> gradients
        scores = displacements(case.options)
        per_point = image * (2 * c + scores + ((2 + len(case.wanted)) * c + scores if case.wanted else 0))
    elif case.op == "smoothness":
        per_point = 3 * image * (1 + len(case.wanted))
    else:  # each squaring reads and writes the field; its adjoint reads field and gradient and writes a gradient
        per_point = 3 * image * case.options.steps * (2 + (3 if case.wanted else 0))
    return points * per_point


def result_bytes(case: Case) -> int:
    """Of the value and the gradients: what every implementation must allocate."""
    image, of_field = DTYPES[case.dtype].itemsize, 8 if case.dtype == "float64" else 4
    points, c = case.batch * math.prod(case.size), case.channels
    described = c * image * len(pairs_of(case.options.kind))
    out = {"warp": c * image, "lncc": 0, "mind": described, "smoothness": 0, "integrate": 3 * image}
    out["correlate"] = displacements(case.options) * image
    sizes = {"warp": (c * image, 3 * of_field), "lncc": (c * image,) * 2, "mind": (c * image,)}
    sizes["correlate"] = sizes["lncc"]
    return points * (out[case.op] + sum(sizes.get(case.op, (3 * image,))[k] for k in case.wanted))
