"""Every backend within its tolerance of float64. It takes the `benchmark` fixture so that --benchmark-only runs it."""

import pytest

from bench import exactness
from bench.data import DATA

pytestmark = pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")


@pytest.mark.parametrize("op", DATA)
def test_fastreg_is_within_its_tolerances(op, exact, benchmark):
    rows = exact(op)
    assert sum(row.tolerance is not None for row in rows) > 20
    failed = exactness.failures(rows)
    assert not failed, "\n".join(f"{row.backend}: {exactness.describe(row)}" for row in failed)


def test_triton_in_its_interpreter(benchmark):
    rows = exactness.Interpreter().rows()
    if rows[0].tolerance is None:
        pytest.skip(rows[0].absent)
    failed = exactness.failures(rows)
    assert not failed, "\n".join(f"{row.backend}: {exactness.describe(row)}" for row in failed)
