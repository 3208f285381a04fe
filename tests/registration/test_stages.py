"""The pyramid, its windows, and what the metrics' regularity is."""

import itertools

import pytest

from fastreg.registration.stages import METRICS, REGULARITIES, STAGES, Stage, read_stages, regularity_of, window_of
from fastreg.utils.files import InputError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((0, 10), "a factor of at least 1"),
        ((2, -1), "no fewer than 0 iterations"),
        ((1, 1, 1), "window must be odd and at least 3, got 1"),
        ((1, 1, 8), "window must be odd and at least 3, got 8"),
        ((1, 1, -3), "window must be odd and at least 3, got -3"),
    ],
)
def test_a_stage_that_makes_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Stage(*wrong)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((192, 224, 192), (9, 15, 31)),
        ((160, 160), (9, 15, 31)),
        ((84, 84, 84), (9, 11, 21)),
        ((20, 20), (9, 9, 9)),
        ((320, 320, 6), (9, 11, 21)),
    ],
)
def test_windows_are_about_one_size_in_space(size, expected):
    windows = tuple(window_of(stage, size) for stage in STAGES)
    assert windows == expected and all(window % 2 for window in windows)
    assert all(window_of(Stage(s.factor, 1, 5), size) == 5 for s in STAGES), "a stage's own comes first"


def test_levels_with_windows():
    edges = [(s.factor, s.iterations, s.window) for s in read_stages("3", "9,15,31")]
    assert edges == [(4, 60, 9), (2, 40, 15), (1, 10, 31)]
    assert [s.window for s in read_stages("4x60,2x40", " 7 ")] == [7, 7]
    assert [s.window for s in read_stages("4x60,2x40")] == [None, None]
    for wrong in ("", "8", "1", "9,15", "9,15,31,31", "9;15;31", "9,15,x", "-9", "9.0"):
        with pytest.raises(InputError, match="windows: expected one odd number of at least 3, or one for each of 3"):
            read_stages("3", wrong)


def test_the_regularity_of_a_run():
    usual = REGULARITIES["default"]
    assert regularity_of("default", "lncc") == usual
    for metric, scale in METRICS.items():
        found = regularity_of("close", metric)
        assert found.smoothness == pytest.approx(REGULARITIES["close"].smoothness * scale)
        assert found.volume == pytest.approx(REGULARITIES["close"].volume * scale)
    given = regularity_of("default", "mi", smoothness=0.5, volume=0.0)
    assert (given.smoothness, given.volume) == (0.5, 0.0), "as they are, whatever the metric"
    quarter = regularity_of("default", "lncc", share=0.25)
    assert quarter.smoothness == pytest.approx(2 * usual.smoothness), "the root of what counts"
    assert list(REGULARITIES) == ["close", "default", "smooth"]
    for one, next_ in itertools.pairwise(REGULARITIES.values()):
        assert one.smoothness < next_.smoothness and one.volume < next_.volume
