"""Speed: implementations in interleaved turns, beside a copy of the same bytes.

No figure is measured for a backend whose gradients failed in the same run (`refused`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from bench import implementations
from bench.cases import Case, floor_bytes, inputs
from bench.clock import Stopwatch, Thunk, summary, take_turns
from bench.implementations import Implementation, ours_here, said
from bench.peers import find
from bench.schema import Speed
from bench.thunks import thunk

COPY = "copy of the same bytes"
LARGE = 1_000_000
"""Voxels: a peer is tried on less before it gets so many."""
Refused = dict[tuple[str, str], str]
"""(op, backend) -> what failed."""


def run(
    cases: list[Case],
    seconds: float,
    refused: Refused,
    device: str = "cpu",
    on_progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Speed]:
    """The rows of all cases, within about `seconds` altogether; the time left is shared anew before every case."""
    stopwatch = Stopwatch(device)
    end = time.monotonic() + seconds
    pace: dict[tuple[str, str, int], float] = {}
    for number, case in enumerate(cases):
        weights = sum(one.weight for one in cases[number:])
        share = max(0.2, (end - time.monotonic()) * case.weight / weights)
        on_progress(f"{case.group}: {case.name}")
        yield from measure(case, share, refused, device, stopwatch, pace)


def measure(
    case: Case,
    seconds: float,
    refused: Refused,
    device: str = "cpu",
    stopwatch: Stopwatch | None = None,
    pace: dict[tuple[str, str, int], float] | None = None,
) -> list[Speed]:
    """The rows of one case.

    `pace` carries each implementation's milliseconds per voxel from case to case. A peer that would take longer than
    the case's share and a half for one call is left out, and says so.
    """
    pace = {} if pace is None else pace
    threads = case.threads or torch.get_num_threads()
    absent: dict[str, str] = {}
    thunks: dict[str, Thunk] = {COPY: copy_of(floor_bytes(case), device)}
    with _threads(threads):
        tensors = inputs(case, device)
        for one, isa in _implementations(case):
            name = ours_here(tensors[0]) if one.name == "fastreg" else one.name
            known = (case.op + case.work, name, threads)
            if known not in pace and name in case.peers and _voxels(case) > LARGE:
                pace[known] = _tried(case, one, device)
            expected = pace.get(known, 0.0) * _voxels(case)
            if (case.op, name) in refused:
                absent[name] = f"its gradients fail in this run: {refused[case.op, name]}"
            elif name in case.peers and expected > 1500 * seconds:
                absent[name] = f"left out for want of time: about {expected / 1000:.0f} s a call"
            else:
                try:
                    with implementations.instructions(isa):
                        job = thunk(one, case, tensors)
                    thunks[name] = job if isa is None else _with(isa, job)
                except Exception as error:  # any: a peer's failure is a row, not the end of the run
                    absent[name] = said(error)
        times, failed = take_turns(thunks, seconds, stopwatch)
    absent |= {name: said(error) for name, error in failed.items()}
    copy = summary(times.pop(COPY))["median"]
    rows = [row(case, name, device, threads, absent=why) for name, why in absent.items()]
    for name, runs in times.items():
        timed = row(case, name, device, threads, copy=copy, bytes=floor_bytes(case), **summary(runs))
        pace[case.op + case.work, name, threads] = (timed.median or 0.0) / _voxels(case)
        rows.append(timed)
    return rows


def _tried(case: Case, peer: Implementation, device: str) -> float:
    """Milliseconds per voxel of one call on a small case; 0 if it cannot, or if making it takes a compiler."""
    if peer.compiles:
        return 0.0
    small = replace(case, size=(40, 40, 40))
    try:
        job = thunk(peer, small, inputs(small, device))
        job()
        began = time.perf_counter()
        job()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began) / _voxels(small)
    except Exception:  # any: the case itself will say it
        return 0.0


def row(case: Case, backend: str, device: str, threads: int, **figures: Any) -> Speed:
    """Of one implementation at a case."""
    return Speed(
        group=case.group,
        op=case.op,
        work=case.work,
        size=case.shape,
        dtype=case.dtype,
        backend=backend,
        option=case.options.named(case.op),
        device=device,
        threads=threads,
        **figures,
    )


def _voxels(case: Case) -> int:
    return case.batch * case.channels * case.size[0] * case.size[1] * case.size[2]


def _implementations(case: Case) -> Iterator[tuple[Implementation, str | None]]:
    """fastreg, or the native backend with each instruction set, and the peers."""
    if case.isa:
        for isa in reversed(implementations.instruction_sets()):
            yield implementations.ours(case.op, "native", isa), isa
    else:
        yield implementations.ours(case.op), None
    for name in case.peers:
        yield find(case.op, name), None


def _with(isa: str, job: Thunk) -> Thunk:
    def run() -> Any:
        with implementations.instructions(isa):
            return job()

    return run


def copy_of(size: int, device: str) -> Thunk:
    """A copy that reads and writes `size` bytes together, between buffers that are there already."""
    source = torch.zeros(max(64, size // 2), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
