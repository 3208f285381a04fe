"""What a runner and bench/registration/measure.py tell each other; imports nothing that a peer may lack.

A runner is called with one JSON file: paths of the images, options, threads, and a folder for what it makes. It leaves
there the moving labels on the fixed grid and the files of its transforms, and writes `result.json`. Where the case has
no labels, nothing asks for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What is to be registered, and how."""

    fixed: str
    moving: str
    labels: str | None
    """Label map of the moving image."""
    out: str
    """An empty folder."""
    threads: int
    options: dict[str, Any]
    points: str | None = None
    """CSV of places in the fixed image, for programs that map them by a command; the others' transforms do."""

    @property
    def moved_labels(self) -> str:
        """Where the runner leaves the labels on the fixed grid."""
        return str(Path(self.out) / "moved_labels.nii.gz")

    @property
    def mapped_points(self) -> str:
        """Where a runner that maps points leaves them."""
        return str(Path(self.out) / "mapped_points.csv")

    def file(self, name: str) -> str:
        """A path in the folder of results."""
        return str(Path(self.out) / name)


@dataclass
class Result:
    """What a runner found out."""

    seconds: float = 0.0
    """Of the registration alone: images read before, nothing written after."""
    cpu_seconds: float = 0.0
    """The same, user and system time of all its threads: other work on the machine hardly changes it."""
    base_mb: float = 0.0
    """Resident before the registration: the library and both images."""
    peak_mb: float = 0.0
    """Highest while it ran."""
    suspect: bool | None = None
    """The program's own verdict, of those that have one: whether to mistrust what it found."""
    transforms: list[str] = field(default_factory=list)
    """From fixed to moving, in the order of antsApplyTransforms; displacement fields as ITK writes them."""
    versions: dict[str, str] = field(default_factory=dict)


def read_job() -> Job:
    """The job named on the command line."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def finish(job: Job, result: Result, transforms: list[str], *packages: str) -> None:
    """Writes `result.json`."""
    result.transforms = transforms
    result.versions = {package: version(package) for package in packages}
    Path(job.file("result.json")).write_text(json.dumps(asdict(result)))


@contextlib.contextmanager
def measured() -> Iterator[Result]:
    """Seconds and peak resident memory of what runs inside."""
    result = Result(base_mb=_resident_mb("VmRSS"))
    _forget_peak()
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    yield result
    result.seconds = time.perf_counter() - start
    result.cpu_seconds = _cpu_seconds() - cpu_start
    result.peak_mb = _resident_mb("VmHWM")


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _forget_peak() -> None:
    """Linux counts the peak anew from here; elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_mb(what: str) -> float:
    """VmRSS (now) or VmHWM (peak) in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024
