"""Nothing has become slower by half: ratios to plain torch, taken in turns, against the committed record."""

import time

import pytest
from helpers.bench_records import machine

from bench import implementations, ratios
from bench.schema import Record, Speed
from fastreg.backends import cpu


@pytest.mark.slow
def test_ratios_are_not_half_of_the_committed_ones():
    before, name = ratios.committed()
    mine = {key: ratio for key, ratio in before.items() if key[2] == f"native {cpu.isa()}"}
    if not mine:
        pytest.skip("no committed record has ratios for this instruction set: make bench")
    down = ratios.check(mine)
    assert not down, f"against {name}: " + "; ".join(down)


def slowed(times):
    """fastreg's smoothness, several times over."""
    ours = implementations.ours

    def slow(op, backend=None, isa=None):
        found = ours(op, backend, isa)

        def make(options):
            function = found.make(options)

            def run(*inputs):
                if op == "smoothness":
                    time.sleep(times)
                return function(*inputs)

            return run

        return implementations.Implementation(found.name, make)

    return slow


@pytest.mark.slow
def test_a_planted_slow_op_is_found(monkeypatch):
    only = {("smoothness", "forward + backward to flow")}
    before = ratios.measured(2, only)
    assert len(before) == 1
    monkeypatch.setattr(ratios, "ci", lambda: [case for case in CI if (case.op, case.work) in only])
    monkeypatch.setattr(implementations, "ours", slowed(0.2))
    (line,) = ratios.check(before, seconds=2)
    assert line.startswith("smoothness, forward + backward to flow, native") and "committed" in line


CI = ratios.ci()


def test_the_fall_that_counts_is_more_than_half():
    before = {("warp", "forward", "native avx2"): 8.0, ("lncc", "forward", "native avx2"): 40.0}
    now = {("warp", "forward", "native avx2"): 4.1, ("lncc", "forward", "native avx2"): 19.0}
    assert list(ratios.fallen(now, before)) == [("lncc", "forward")]
    assert not ratios.fallen({("warp", "forward", "native avx512"): 1.0}, before)  # another instruction set


def test_the_committed_record_is_the_newest_of_this_processor(tmp_path):
    about = {"op": "warp", "work": "forward", "size": [1, 1, 8, 8, 8], "dtype": "float32", "group": "ci"}

    def record(name, device, date, ours):
        one = machine()
        one.device, one.date = device, date
        rows = [
            Speed(**about, backend=who, median=ms, p20=ms, p80=ms, runs=1)
            for who, ms in (("native avx2", ours), ("native baseline", 2 * ours), ("torch grid_sample", 8.0))
        ]
        Record(machine=one, rows=rows).write(tmp_path / f"{name}.json")

    record("old", "mine", "2026-01-01", 4.0)
    record("new", "mine", "2026-02-01", 2.0)
    record("other", "theirs", "2026-03-01", 1.0)
    (tmp_path / "register.json").write_text("{}")
    found, name = ratios.committed(tmp_path, "mine")
    assert name == "new.json"
    assert found == {("warp", "forward", "native avx2"): 4.0, ("warp", "forward", "native baseline"): 2.0}
    assert ratios.committed(tmp_path, "unknown")[1] == "other.json"
    assert ratios.committed(tmp_path / "none", "mine") == ({}, "")
