"""`pytest bench --benchmark-only`: every op and implementation, a group each. `python -m bench` lets them take turns."""

import os
import time

import pytest

from bench import exactness, peers
from bench.cases import inputs, quick
from bench.speed import ours_here

SIZE = tuple(int(n) for n in os.environ.get("BENCH_SIZE", "80 96 112").split())
ALL = [
    (case, rival)
    for case in quick(SIZE)
    for rival in ("fastreg", *case.rivals)
    if not (case.wanted and not peers.find(case.op, rival).gradients)
]


@pytest.mark.parametrize(("case", "rival"), ALL, ids=lambda value: getattr(value, "name", value))
def bench_op(case, rival, exact, benchmark):
    tensors = inputs(case)
    if rival == "fastreg":
        refused = exactness.refused(exact(case.op))
        backend = ours_here(tensors[0])
        if (case.op, backend) in refused:
            pytest.fail(f"no speed without gradients: {refused[case.op, backend]}")
    benchmark.group = case.name
    try:
        job = peers.thunk(peers.find(case.op, rival), case.options, tensors, case.wanted)
    except peers.Absent as reason:
        pytest.skip(str(reason))
    began = time.perf_counter()
    job()  # warm-up
    benchmark.pedantic(job, rounds=5 if time.perf_counter() - began < 1 else 1)
