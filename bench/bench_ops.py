"""`pytest bench --benchmark-only`: every case at a size that takes a minute, fastreg and peers in one group each."""

import os

import pytest
from cases import cases
from peers import Absent

SIZE = tuple(int(n) for n in os.environ.get("BENCH_SIZE", "80 96 112").split())
ALL = [(case, rival) for case in cases(SIZE) for rival in case.rivals]


@pytest.mark.parametrize(("case", "rival"), ALL, ids=lambda value: getattr(value, "name", value))
def bench_op(case, rival, benchmark):
    benchmark.group = f"{case.name}, {'x'.join(map(str, SIZE))}"
    try:
        thunk = case.make(rival)
    except Absent as reason:
        pytest.skip(str(reason))
    benchmark.pedantic(thunk, rounds=5, warmup_rounds=1)
