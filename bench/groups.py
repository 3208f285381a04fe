"""Which cases are measured: a group for each question."""

from __future__ import annotations

from bench.cases import DTYPES, Case
from bench.implementations import Options
from bench.peers import PEERS

FULL = (160, 192, 224)
"""A brain at 1 mm, cropped: the size in VoxelMorph's papers."""
GROWTH = (64, 96, 128, 160, 192, 256)
WINDOWS = (3, 5, 7, 9, 15, 21)
TORCH = {op: peers[0].name for op, peers in PEERS.items()}
"""The peer that is always there."""
ORIGINAL = {
    "warp": "VoxelMorph SpatialTransformer",
    "lncc": "neurite NCC",
    "integrate": "VoxelMorph IntegrateVelocityField",
    "smoothness": "neurite SpatialGradient",
    "mind": "torch, convolutions",
}
"""VoxelMorph's own; of the descriptors, as they were published for PyTorch."""
WHOLE = [("warp", ()), ("warp", (1,)), ("warp", (0, 1)), ("lncc", ()), ("lncc", (0,)), ("lncc", (0, 1))]
WHOLE += [("integrate", ()), ("integrate", (0,)), ("smoothness", (0,)), ("mind", ()), ("mind", (0,))]
TRAINING = [("warp", (1,)), ("lncc", (0,)), ("integrate", (0,)), ("smoothness", (0,)), ("mind", (0,))]
"""Op -> what a training step asks of it."""
COST = {"warp": 1.0, "lncc": 3.0, "integrate": 5.0, "smoothness": 0.5, "mind": 2.0}
"""How slow peers are at an op, roughly: how the seconds are shared."""


def implementations(op: str, wanted: tuple[int, ...]) -> tuple[str, ...]:
    """Of all peers at an op; what takes a compiler only where training needs it."""
    return tuple(peer.name for peer in PEERS[op] if not peer.compiles or (op, wanted) in TRAINING)


def head_to_head(size: tuple[int, ...] = FULL) -> list[Case]:
    """Every op and implementation, with all threads and with one."""
    most = [
        Case("all threads", op, wanted, size, peers=implementations(op, wanted), weight=COST[op])
        for op, wanted in WHOLE
    ]
    pair = {op: (TORCH[op], ORIGINAL[op]) for op in ORIGINAL}
    return most + [
        Case("one thread", op, wanted, size, peers=pair[op], threads=1, weight=COST[op] / 2) for op, wanted in TRAINING
    ]


def cost_volumes(size: tuple[int, ...] = FULL, group: str = "correlate") -> list[Case]:
    """16 channels of features at half the size of the image: the scores, and with the gradients to both."""
    half = tuple(n // 2 for n in size)
    peers = tuple(peer.name for peer in PEERS["correlate"])
    return [Case(group, "correlate", wanted, half, channels=16, peers=peers, weight=3.0) for wanted in ((), (0, 1))]


def growth(sizes: tuple[int, ...] = GROWTH) -> list[Case]:
    """Cubes: time per voxel against voxels."""
    return [
        Case("growth", op, wanted, (n, n, n), peers=(TORCH[op], ORIGINAL[op]), weight=COST[op] * (n / 256) ** 2 / 2)
        for op, wanted in TRAINING
        for n in sizes
    ]


def windows(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """LNCC against the edge of its window."""
    peers = (TORCH["lncc"], ORIGINAL["lncc"], "MONAI LNCC")
    return [Case("windows", "lncc", (0,), size, options=Options(window=w), peers=peers, weight=0.5) for w in WINDOWS]


def batches(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """Channels and batch."""
    return [
        Case("batch and channels", op, wanted, size, batch, channels, peers=(TORCH[op], ORIGINAL[op]), weight=0.3)
        for op, wanted in TRAINING[:2]
        for batch, channels in ((1, 1), (2, 1), (4, 1), (1, 4), (1, 16))
    ]


def precisions(size: tuple[int, ...] = (96, 96, 96)) -> list[Case]:
    """The dtypes."""
    return [
        Case("dtypes", op, wanted, size, dtype=dtype, peers=(TORCH[op],), weight=0.2)
        for op, wanted in TRAINING
        for dtype in DTYPES
    ]


def processors(size: tuple[int, ...] = FULL) -> list[Case]:
    """The instruction sets, one against the other."""
    return [Case("instruction sets", op, wanted, size, isa=True, weight=COST[op] / 3) for op, wanted in TRAINING]


GROUPS = {
    "all threads": "every op and implementation, with all threads",
    "one thread": "the same with one thread, against torch and VoxelMorph",
    "correlate": "the local cost volume of 16 channels of 80x96x112, radius 1, with all threads",
    "growth": "64^3 to 256^3: does the time per voxel stay?",
    "windows": "LNCC with windows 3 to 21",
    "batch and channels": "batches of images, images of many channels",
    "dtypes": "float64, float32, bfloat16, float16",
    "instruction sets": "plain x86-64, AVX2, AVX-512",
    "ci": "small, with one thread: what `make test` compares with",
}


def everything() -> list[Case]:
    """All groups at full size."""
    compared = [*head_to_head(), *cost_volumes(), *growth(), *windows(), *batches(), *precisions()]
    return [*compared, *processors(), *ci(every_isa=True)]


def quick(size: tuple[int, ...] = (80, 96, 112)) -> list[Case]:
    """A minute's worth: every op and implementation at half the size."""
    return [case for case in head_to_head(size) if case.group == "all threads"] + cost_volumes(size)


CI_SIZE = (48, 64, 80)


def ci(every_isa: bool = False) -> list[Case]:
    """What `make test` compares with the committed ratios: one thread, against what torch alone can do."""
    return [
        Case("ci", op, wanted, CI_SIZE, peers=(TORCH[op],), threads=1, isa=every_isa, weight=COST[op] / 4)
        for op, wanted in (("warp", ()), ("warp", (1,)), ("warp", (0, 1)), ("lncc", (0,)), *TRAINING[2:])
    ]
