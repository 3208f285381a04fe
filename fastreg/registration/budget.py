"""What a registration may take: presets, seconds, memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreg.registration.stages import STAGES, Stage
from fastreg.utils.files import InputError

PRESETS: dict[str, tuple[Stage, ...]] = {
    "fast": STAGES[:-1],
    "default": STAGES,
    "best": tuple(Stage(stage.factor, 2 * stage.iterations) for stage in STAGES),
}
"""Name -> pyramid. "fast" leaves the finest level out; docs/register.md has what each gives."""


@dataclass
class Deadline:
    """Seconds that are left, and what the machine was seen to need: an iteration's cost grows with its voxels."""

    end: float
    """On the clock of `time.monotonic`."""
    rate: float | None = None
    """Seconds an iteration takes a voxel, of the last stage."""

    @classmethod
    def after(cls, seconds: float, since: float | None = None) -> Deadline:
        """So many seconds after `since`, or after now."""
        return cls((time.monotonic() if since is None else since) + seconds)

    def reserve(self, seconds: float) -> None:
        """Leave so much for what comes after the optimisation."""
        self.end -= seconds

    def allows(self, voxels: int, iterations: int = 1) -> bool:
        """Whether so many iterations on a grid of so many voxels end in time; always, before the first was seen."""
        needed = 0.0 if self.rate is None else self.rate * voxels * iterations
        return time.monotonic() + needed <= self.end

    def took(self, voxels: int, seconds: float) -> None:
        """An iteration on a grid of so many voxels took so long."""
        self.rate = seconds / voxels


LEAST = 3
"""Iterations that a stage must have time for, to be begun."""
HASTY = 20
"""Iterations of the coarsest level where the time is up before it."""
_PER_VOXEL = {"start": 90, "iteration": 95, "inverse": 80}
"""Bytes a voxel: of the grid at full resolution, of the finest level, and of the inverse. Measured, see
`tests/registration/test_budget.py`."""
_PROCESS = 350 * 2**20
"""Of Python and torch."""


def memory_needed(shape: Sequence[int], moving_shape: Sequence[int], stages: Sequence[Stage], inverse: bool) -> int:
    """About how many bytes a registration takes at its peak.

    Args:
        shape: Of the fixed image's working grid, in voxels.
        moving_shape: Of the moving image.
        stages: The pyramid.
        inverse: The inverse is found too.
    """
    voxels, other = math.prod(shape), math.prod(moving_shape)
    finest = min((stage.factor for stage in stages if stage.iterations), default=None)
    working = 0.0 if finest is None else _PER_VOXEL["iteration"] * voxels / finest ** len(shape)
    extra = _PER_VOXEL["inverse"] * max(voxels, other) if inverse else 0
    return int(_PROCESS + _PER_VOXEL["start"] * max(voxels, other) + working + extra)


def memory_free() -> int | None:
    """Bytes that this process may still take, by the system's and the container's word; None where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left = int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii"))
            free = min(free, max(left, 0))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return free


def check_memory(
    shape: Sequence[int], moving_shape: Sequence[int], stages: Sequence[Stage], inverse: bool, free: int | None = None
) -> int:
    """The bytes that are needed; InputError where they are not free, with a pyramid that would fit.

    The environment's FASTREG_MEMORY=ignore takes the word of the system for nothing.
    """
    needed = memory_needed(shape, moving_shape, stages, inverse)
    free = memory_free() if free is None else free
    if free is None or needed <= free or os.environ.get("FASTREG_MEMORY") == "ignore":
        return needed
    coarser = [stage for stage in stages if stage.factor > min(s.factor for s in stages)]
    hint = ""
    while coarser:
        if memory_needed(shape, moving_shape, coarser, inverse) <= free:
            hint = f"; --levels {','.join(f'{s.factor}x{s.iterations}' for s in coarser)} would fit"
            break
        coarser = [stage for stage in coarser if stage.factor > min(s.factor for s in coarser)]
    gib = [amount / 2**30 for amount in (needed, free)]
    raise InputError(
        f"memory: a registration at {'x'.join(map(str, shape))} voxels takes about {gib[0]:.1f} GiB, and "
        f"{gib[1]:.1f} GiB are free{hint} (FASTREG_MEMORY=ignore tries all the same)"
    )
