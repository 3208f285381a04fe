"""Timing. On a CPU thunks take turns, so that a machine that drifts drifts for all; on a GPU one follows the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Thunk = Callable[[], Any]

LONG = 1.5
"""Seconds: a thunk as slow as this needs no warm-up, and its first call counts."""
REPEATS = 5
"""Calls of a fast thunk in one turn, at most."""


class Stopwatch:
    """Milliseconds of one call on a device."""

    def __init__(self, device: str = "cpu") -> None:
        self.cuda = device == "cuda"
        # More than any L2 cache: between calls on a GPU what the last one left there is overwritten.
        self.flush = torch.empty(192 << 20, dtype=torch.uint8, device="cuda") if self.cuda else None

    def __call__(self, thunk: Thunk) -> float:
        if not self.cuda:
            start = time.perf_counter()
            thunk()
            return 1000 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        assert self.flush is not None
        self.flush.zero_()
        begin.record()
        thunk()
        end.record()
        self.wait()
        return begin.elapsed_time(end)

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize()


def take_turns(
    thunks: dict[str, Thunk], seconds: float, stopwatch: Stopwatch | None = None, least: int = 5
) -> tuple[dict[str, list[float]], dict[str, Exception]]:
    """Milliseconds of each thunk's calls; and what those raised at their first call that cannot do the job.

    In every round each thunk has a turn; who begins changes from round to round. A turn of a fast thunk is several
    calls. Rounds go on until the seconds are used up, at least `least` of them for thunks that together take less
    than `LONG`; a thunk slower than that stays out of rounds that would overrun.
    """
    watch = stopwatch or Stopwatch()
    times: dict[str, list[float]] = {}
    cost: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    began = time.perf_counter()
    for name, thunk in thunks.items():
        try:
            first = watch(thunk)
        except Exception as error:  # any: the others go on without it
            failed[name] = error
            continue
        cost[name] = first / 1000
        times[name] = [first] if cost[name] > LONG else []
    slice_ = max(0.02, seconds / 20)
    order = list(times)
    rounds = 0
    while order:
        left = seconds - (time.perf_counter() - began)
        quick = [name for name in order if cost[name] <= LONG]
        late = rounds >= 1 and -left > 2 * seconds + 1
        if left <= 0 and (not quick or rounds >= least or late):
            break
        took_part = False
        for name in order:
            if cost[name] > LONG and cost[name] > seconds - (time.perf_counter() - began):
                continue
            took_part = True
            share = slice_ / len(order)
            for _ in range(min(REPEATS, max(1, int(share / max(cost[name], 1e-6))))):
                spent = watch(thunks[name])
                times[name].append(spent)
            cost[name] = min(cost[name], spent / 1000)
        if not took_part:
            break
        rounds += 1
        order = order[1:] + order[:1]
    return times, failed


def repeated(thunk: Thunk, stopwatch: Stopwatch, most: int = 40, seconds: float = 0.8, least: int = 5) -> list[float]:
    """Milliseconds of one thunk's calls after a warm-up, on a machine that does not drift."""
    for _ in range(3):
        thunk()
    stopwatch.wait()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or (len(times) < most and time.perf_counter() - began < seconds):
        times.append(stopwatch(thunk))
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Median, 20th and 80th percentile and the number of runs, as a `schema.Timing` has them."""
    cuts = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
    median = statistics.median(times)
    return {"median": median, "p20": min(cuts[0], median), "p80": max(cuts[3], median), "runs": len(times)}
