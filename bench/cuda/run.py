"""The ops and a training step on this GPU, beside their bytes and their peers.

Writes results.json, results.md and plots into a folder. Times are medians with p20 and p80 over repeated runs, by CUDA
events, the L2 cache flushed in between. The floor of an op is the time in which a copy measured in this run moves the
bytes that the op cannot avoid. Peers that cannot be imported are named as absent.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import machine, speed, tables, thunks
from bench.cases import Case, floor_bytes
from bench.clock import Stopwatch, Thunk, repeated, summary
from bench.cuda import cases, networks
from bench.cuda.networks import Network
from bench.implementations import Function, Implementation, gpu_backends, ours, said
from bench.peers import find
from bench.schema import Job, Record, Timing
from fastreg.utils.files import InputError


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes what there is after every case: an interrupted run keeps its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder")
    parser.add_argument("--seconds", type=float, default=240, help="for everything, about (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the first size alone")
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        raise InputError("gpu: no GPU is visible")
    record = measured(cases.everything(options.quick), options.seconds, options.output)
    print(tables.gpu_page(record))
    from bench import report_plots  # last: the figures are there, whether or not matplotlib is

    report_plots.draw_gpu(record, options.output)


def measured(
    work: Iterable[Case | Network], seconds: float, folder: Path, device: str = "cuda", copied: int = 1 << 30
) -> Record:
    """The record of all that could be done in about `seconds`; `copied` bytes are copied for the floors."""
    end = time.monotonic() + seconds
    stopwatch = Stopwatch(device)
    record = Record(machine=machine.machine(device), about=machine.gpu() if device == "cuda" else {})
    rate = 2 * copied / summary(repeated(speed.copy_of(2 * copied, device), stopwatch))["median"]
    record.about["copy, GB/s"] = f"{rate / 1e6:.1f}"
    left_out: list[str] = []
    for one in work:
        if time.monotonic() > end:
            left_out.append(one.name)
            continue
        record.rows += rows_of(one, stopwatch, rate, device)
        write(record, folder)
    record.about["left out for want of time"] = "; ".join(left_out)
    write(record, folder)
    return record


def write(record: Record, folder: Path) -> None:
    """The record and its table."""
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / "results.json")
    (folder / "results.md").write_text(tables.gpu_page(record) + "\n")


def rows_of(one: Case | Network, stopwatch: Stopwatch, rate: float, device: str) -> Iterator[Timing]:
    """Every implementation's figures; a failure is a row too. `rate`: bytes a millisecond of a copy."""
    if isinstance(one, Network):
        for name, make in networks.implementations(one, device).items():
            about: dict[str, Any] = {"op": one.work, "work": f"{networks.MODEL}, {one.work}", "network": networks.MODEL}
            job = Job(**about, size=list(one.shape), dtype=one.dtype, backend=name, device=device)
            fill(job, make, stopwatch)
            yield job
        return
    tensors, least = cases.inputs(one, device), floor_bytes(one)
    for implementation in implementations(one, device):
        row = speed.row(one, implementation.name, device, torch.get_num_threads(), bytes=least, copy=least / rate)
        try:
            function, prepared = implementation.make(one.options), implementation.prepare(*tensors)
        except Exception as error:  # a peer that is absent or refuses this window
            row.absent = said(error)
        else:
            kept = partial(kept_bytes, function, prepared, one.wanted) if one.op == "lncc" and one.wanted else None
            fill(row, partial(thunks.job, function, prepared, one), stopwatch, kept)
        yield row


def implementations(case: Case, device: str) -> Iterator[Implementation]:
    """fastreg's backends, and the peers."""
    for name in gpu_backends() if device == "cuda" else ["native"]:
        yield ours(case.op, name)
    for name in case.peers:
        yield find(case.op, name)


def fill(row: Timing, make: Callable[[], Thunk], stopwatch: Stopwatch, kept: Callable[[], int] | None = None) -> None:
    """The row's figures, or why there are none."""
    try:
        if stopwatch.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        thunk = make()
        thunk()
        if stopwatch.cuda:
            torch.cuda.synchronize()
            row.peak = torch.cuda.max_memory_allocated() - before
            row.kept = None if kept is None else kept()
        for name, figure in summary(repeated(thunk, stopwatch)).items():
            setattr(row, name, figure)
    except Exception as error:  # out of memory, or whatever a peer raises
        row.absent = said(error)


def kept_bytes(function: Function, inputs: tuple[Any, ...], wanted: tuple[int, ...]) -> int:
    """Memory that lives as long as the result of a forward, above the result."""
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
    before = torch.cuda.memory_allocated()
    out = function(*leaves)
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before - out.numel() * out.element_size()
