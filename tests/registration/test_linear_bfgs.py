"""The minimiser of the linear fits."""

import numpy as np
import pytest

from fastreg.registration.linear.bfgs import minimised


def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
    a, b = 1 - x[0], x[1] - x[0] ** 2
    return a * a + 100 * b * b, np.array([-2 * a - 400 * x[0] * b, 200 * b])


def test_follows_a_curved_valley() -> None:
    found, gained = minimised(rosenbrock, np.array([-1.2, 1.0]), 100, 1e-14)
    np.testing.assert_allclose(found, [1, 1], atol=1e-5)
    assert gained == pytest.approx(rosenbrock(np.array([-1.2, 1.0]))[0])


@pytest.mark.parametrize("size", [1, 3, 12])
def test_needs_few_evaluations_of_a_quadratic(size: int) -> None:
    rng = np.random.default_rng(size)
    root = rng.standard_normal((size, size)) + 2 * np.eye(size)
    bend, goal = root @ root.T, rng.standard_normal(size)
    calls = 0

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal calls
        calls += 1
        return 0.5 * float((x - goal) @ bend @ (x - goal)), bend @ (x - goal)

    np.testing.assert_allclose(minimised(function, np.zeros(size), 100, 1e-13)[0], goal, atol=1e-4)
    assert calls <= 5 * size + 10


def test_gives_the_lowest_point_that_it_met_however_few_iterations() -> None:
    met = []

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = rosenbrock(x)
        met.append(value)
        return value, gradient

    for iterations in (0, 1, 2, 5):
        met.clear()
        found, _ = minimised(function, np.array([-1.2, 1.0]), iterations, 0)
        assert rosenbrock(found)[0] <= min([rosenbrock(np.array([-1.2, 1.0]))[0], *met]) + 1e-12


def test_stays_before_a_wall() -> None:
    """Nothing beyond 1 is defined; the minimum would lie at 2."""

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        if x[0] >= 1:
            return float("nan"), np.full(1, np.nan)
        return float((x[0] - 2) ** 2), 2 * (x - 2)

    found, _ = minimised(function, np.zeros(1), 50, 1e-12)
    assert 0.9 < found[0] < 1


def test_a_flat_function_leaves_the_start() -> None:
    start = np.array([3.0, -1.0])
    found, gained = minimised(lambda x: (1.0, np.zeros(2)), start, 10, 0)
    np.testing.assert_array_equal(found, start)
    assert gained == 0


def test_an_end_by_the_tolerance_comes_early() -> None:
    calls = []

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        calls.append(x)
        return rosenbrock(x)

    minimised(function, np.array([-1.2, 1.0]), 100, 1e-14)
    long = len(calls)
    calls.clear()
    minimised(function, np.array([-1.2, 1.0]), 100, 0.5)
    assert 0 < len(calls) < long
