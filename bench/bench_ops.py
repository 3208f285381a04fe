"""`pytest bench --benchmark-only`: all implementations, a group a case. `python -m bench` lets them take turns."""

import os
import time

import pytest

from bench import exactness
from bench.cases import inputs
from bench.groups import quick
from bench.implementations import Absent, ours_here
from bench.peers import find
from bench.thunks import thunk

SIZE = tuple(int(n) for n in os.environ.get("BENCH_SIZE", "80 96 112").split())
ALL = [
    (case, name)
    for case in quick(SIZE)
    for name in ("fastreg", *case.peers)
    if not (case.wanted and not find(case.op, name).gradients)
]


@pytest.mark.parametrize(("case", "implementation"), ALL, ids=lambda value: getattr(value, "name", value))
def bench_op(case, implementation, exact, benchmark):
    tensors = inputs(case)
    if implementation == "fastreg":
        refused = exactness.refused(exact(case.op))
        backend = ours_here(tensors[0])
        if (case.op, backend) in refused:
            pytest.fail(f"no speed without gradients: {refused[case.op, backend]}")
    benchmark.group = case.name
    try:
        job = thunk(find(case.op, implementation), case, tensors)
    except Absent as reason:
        pytest.skip(str(reason))
    began = time.perf_counter()
    job()  # warm-up
    benchmark.pedantic(job, rounds=5 if time.perf_counter() - began < 1 else 1)
