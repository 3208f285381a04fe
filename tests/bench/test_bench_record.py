"""The record of a benchmark: what goes in comes out, and what does not fit is refused by name."""

import json

import pytest
from helpers.bench_records import machine

from bench.schema import Exactness, Job, Memory, Record, Speed, read
from fastreg.utils.files import InputError

ABOUT = {"op": "warp", "work": "forward", "size": [1, 1, 8, 8, 8], "dtype": "float32", "backend": "native avx2"}


@pytest.fixture
def stored(tmp_path):
    rows = [
        Exactness(**ABOUT, data="CT", error=float("inf"), tolerance=1e-6, reason="warp"),
        Speed(**ABOUT, group="growth", median=2.0, p20=1.5, p80=3.0, runs=7, bytes=4096, copy=1.0, threads=2),
        Speed(**{**ABOUT, "backend": "MONAI"}, group="growth", absent="not installed"),
        Memory(**ABOUT, peak=100, bytes=50),
        Job(**ABOUT, network="vm1", median=9.0, p20=9.0, p80=9.0, runs=1, share=0.25, images_per_second=111.1),
    ]
    path = tmp_path / "results.json"
    Record(machine=machine(), rows=rows).write(path)
    return path, rows


def test_what_was_written_is_read(stored):
    path, rows = stored
    record = read(path)
    assert record.rows == rows and record.machine == machine()
    assert record.of(Speed, group="growth", backend="MONAI")[0].absent == "not installed"
    assert record.of(Speed)[0].fraction_of_copy == 0.5
    assert not record.of(Exactness)[0].ok


def change(path, edit):
    stored = json.loads(path.read_text())
    edit(stored)
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.update(version=7), r"expected version 1 of the format, got 7"),
        (lambda s: s["rows"][1].update(median="fast"), r"row 1: median must be .*float.*, got 'fast'"),
        (lambda s: s["rows"][1].update(threads=True), r"row 1: threads must be int, got True"),
        (lambda s: s["rows"][1].update(p20=2.5), r"row 1: expected 0 < p20 <= median <= p80"),
        (lambda s: s["rows"][1].pop("median"), r"row 1: a timing needs median"),
        (lambda s: s["rows"][3].update(peak=-1), r"row 3: peak must be bytes >= 0, got -1"),
        (lambda s: s["rows"][0].update(colour="red"), r"row 0: unknown colour"),
        (lambda s: s["rows"][0].pop("data"), r"row 0: .*data"),
        (lambda s: s["rows"][0].pop("error"), r"row 0: a row of exactness needs its error"),
        (lambda s: s["rows"][4].update(kind="guess"), r"row 4: kind must be one of exactness, speed, memory, job"),
        (lambda s: s["rows"][4].update(size=[1, "x"]), r"row 4: size must be .*list"),
        (lambda s: s["machine"].pop("commit"), r"machine: .*commit"),
    ],
)
def test_what_does_not_fit_is_refused(stored, edit, message):
    path, _ = stored
    change(path, edit)
    with pytest.raises(InputError, match=message):
        read(path)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: not JSON"):
        read(tmp_path / "bad.json")
