"""Peak memory above the inputs, every case alone in a process of its own.

On Linux the kernel's record of the resident set is reset before the job and read after it; elsewhere the process' own
record is taken, which sees less of a small job. On a GPU it is the allocator's. Results and gradients count.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import child, thunks
from bench.cases import Case, inputs, result_bytes
from bench.groups import FULL, TRAINING, cost_volumes, implementations
from bench.implementations import Options, ours_here, said
from bench.peers import find
from bench.schema import Memory


def cases(size: tuple[int, ...] = FULL) -> list[Case]:
    """What a training step asks of every op, by every implementation."""
    found = [Case("memory", op, wanted, size, peers=implementations(op, wanted)) for op, wanted in TRAINING]
    return found + cost_volumes(size, "memory")[-1:]


def run(
    chosen: list[Case], device: str = "cpu", on_progress: Callable[[str], None] = lambda line: None
) -> Iterator[Memory]:
    """A row for each case and implementation."""
    for case in chosen:
        for name in ("fastreg", *case.peers):
            one = find(case.op, name)
            if one.compiles or (case.wanted and not one.gradients):
                continue  # the compiler itself would be measured; or there is no such job
            on_progress(f"memory: {case.name}: {name}")
            yield alone(case, name, device)


def alone(case: Case, implementation: str, device: str = "cpu", minutes: float = 5) -> Memory:
    """One row, from a process of its own."""
    job = {"op": case.op, "wanted": case.wanted, "size": case.size, "batch": case.batch, "channels": case.channels}
    job |= {"dtype": case.dtype, "options": vars(case.options), "implementation": implementation, "device": device}
    job |= {"threads": torch.get_num_threads()}
    name = ours_here(torch.empty(0, device=device)) if implementation == "fastreg" else implementation
    row = Memory(
        op=case.op,
        work=case.work,
        size=case.shape,
        dtype=case.dtype,
        backend=name,
        option=case.options.named(case.op),
        device=device,
        threads=torch.get_num_threads(),
    )
    try:
        done = subprocess.run(
            child.command("bench.memory", json.dumps(job)),
            env=child.environment(),
            capture_output=True,
            text=True,
            timeout=60 * minutes,
        )
    except subprocess.TimeoutExpired:
        row.absent = f"not done after {minutes:g} min"
        return row
    lines = done.stdout.strip().splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    row.absent = told.get("absent")
    if not told:
        row.absent = f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"[
            :200
        ]
    if row.absent is None:
        row.peak, row.bytes = told["peak"], result_bytes(case)
    return row


def measured(case: Case, implementation: str, device: str) -> int:
    """Bytes at the peak of one run, above what was there before it. Call it once in a process."""
    one = find(case.op, implementation)
    small = replace(case, size=(24, 24, 24))
    thunks.thunk(one, small, inputs(small, device))()  # imports, thread pools, code pages
    job = thunks.thunk(one, case, inputs(case, device))
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = job()
        torch.cuda.synchronize()
        del out
        return torch.cuda.max_memory_allocated() - before
    _give_back()
    before = _resident(reset=True)
    out = job()
    peak = _peak()
    del out
    return max(0, peak - before)


def _give_back() -> None:
    """Freed memory that the C library keeps would serve the job without being seen."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: a small job is seen smaller than it is
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(reset: bool) -> int:
    """Bytes of this process now; `reset` begins a new record of the peak."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def _main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    case = Case(
        "memory",
        job["op"],
        tuple(job["wanted"]),
        tuple(job["size"]),
        batch=job["batch"],
        channels=job["channels"],
        dtype=job["dtype"],
        options=Options(**job["options"]),
    )
    try:
        print(json.dumps({"peak": measured(case, job["implementation"], job["device"])}))
    except Exception as error:  # any: a peer's failure is a row
        print(json.dumps({"absent": said(error)}))


if __name__ == "__main__":
    _main()
