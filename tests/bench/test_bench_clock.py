"""Interleaved timing: turns, slow rivals, failures, percentiles."""

import time

import pytest

from bench import clock


@pytest.mark.slow
def test_rivals_take_turns_and_the_first_changes():
    order = []
    rivals = {name: (lambda name=name: (order.append(name), time.sleep(0.03))) for name in "abc"}
    times, failed = clock.take_turns(rivals, seconds=0.2, least=4)
    assert not failed and all(len(times[name]) >= 4 for name in "abc")
    after_warm_up = order[3:]
    assert after_warm_up[:9] == list("abcbcacab")


def test_a_slow_rival_does_not_use_up_the_time(monkeypatch):
    monkeypatch.setattr(clock, "LONG", 0.1)
    times, _ = clock.take_turns({"slow": lambda: time.sleep(0.15), "fast": lambda: time.sleep(0.002)}, seconds=0.25)
    assert 1 <= len(times["slow"]) <= 3
    assert len(times["fast"]) >= 5
    assert min(times["slow"]) >= 140


def test_a_rival_that_fails_is_named_and_the_rest_goes_on():
    def broken():
        raise RuntimeError("no such kernel")

    times, failed = clock.take_turns({"broken": broken, "good": lambda: None}, seconds=0.05)
    assert list(times) == ["good"] and str(failed["broken"]) == "no such kernel"
    assert clock.take_turns({"broken": broken}, seconds=0.05)[0] == {}


def test_percentiles():
    found = clock.summary([float(n) for n in range(1, 12)])
    assert found == {"median": 6.0, "p20": pytest.approx(3.0), "p80": pytest.approx(9.0), "runs": 11}
    assert clock.summary([2.0]) == {"median": 2.0, "p20": 2.0, "p80": 2.0, "runs": 1}
