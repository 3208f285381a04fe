"""Pages and pictures come from a record and nothing else."""

import pytest
from helpers.bench_records import machine

from bench import ROOT, report
from bench.report import MARK
from bench.schema import Exactness, Job, Memory, Record, Speed
from bench.tables import NONE
from fastreg.utils.files import InputError

pytest.importorskip("matplotlib")
WARP = {"op": "warp", "work": "forward", "size": [1, 1, 64, 64, 64], "dtype": "float32", "option": "zeros"}
LNCC = {"op": "lncc", "work": "forward + backward to a", "size": [1, 1, 96, 96, 96], "dtype": "float32"}


def speed(about, who, ms, group="all threads", **more):
    return Speed(**about, backend=who, group=group, median=ms, p20=0.9 * ms, p80=1.2 * ms, runs=5, **more)


@pytest.fixture
def record():
    rows = [
        speed(WARP, "native avx2", 2.0, bytes=20 * 64**3, copy=1.0),
        speed(WARP, "torch grid_sample", 17.0),
        Speed(**WARP, backend="MONAI Warp", group="all threads", absent="monai is not installed"),
        *[
            speed({**LNCC, "option": f"window {w}"}, who, ms, "windows")
            for w in (3, 9)
            for who, ms in (("native avx2", 4.0), ("neurite NCC", 40.0 * w))
        ],
        *[speed({**WARP, "size": [1, 1, n, n, n]}, "native avx2", n**3 / 1e5, "growth", copy=0.1) for n in (64, 96)],
        Memory(**WARP, backend="native avx2", peak=16_000_000, bytes=16_000_000),
        Memory(**WARP, backend="MONAI Warp", peak=80_000_000, bytes=16_000_000),
        Job(**{**WARP, "op": "training step"}, backend="x", network="vm1", median=10, p20=9, p80=11, runs=3, share=0.5),
        Exactness(**WARP, backend="native avx2", data="CT", error=2e-7, tolerance=1e-6, reason="warp"),
        Exactness(**WARP, backend="native avx2", data="noise", error=1e-7, tolerance=1e-6, reason="warp"),
        Exactness(**WARP, backend="torch grid_sample", data="CT", error=3e-6),
        Exactness(**WARP, backend="MONAI Warp", data="CT", absent="ImportError: no monai"),
    ]
    return Record(machine=machine(), rows=rows)


def test_speed_says_ratio_spread_bandwidth_and_who_is_absent(record):
    lines = report.section(record, "speed warp").splitlines()
    assert lines[2] == "| warp, forward | 64^3 | native avx2 | 2 (1.8 to 2.4), 5 |  | 2.62 | 0.5 |"
    assert "| torch grid_sample | 17 (15.3 to 20.4), 5 | 8.5x |" in lines[3]
    assert "absent: monai is not installed" in lines[4]
    assert {line.count("|") for line in lines} == {8}
    assert report.section(record, "speed integrate") == NONE


def test_grids_are_per_voxel(record):
    assert report.section(record, "windows").splitlines()[2:] == [
        "| lncc, forward + backward to a | native avx2 | 4.52 | 4.52 |",
        "| lncc, forward + backward to a | neurite NCC | 136 | 407 |",
    ]
    assert report.section(record, "growth warp").splitlines()[0].endswith("| 64^3 | 96^3 |")


def test_exactness_names_the_worst_data_and_a_failure(record):
    line = "| warp | forward | native avx2 | float32 | zeros | 2.0e-07 | CT |"
    assert line + " 0.20 (CT) |" in report.section(record, "exactness warp")
    record.rows.append(Exactness(**WARP, backend="native avx2", data="far", error=2e-6, tolerance=1e-6, reason="warp"))
    assert "| far | FAILS |" in report.section(record, "exactness")
    peers = report.section(record, "exactness peers warp")
    assert "| warp | forward | CT | 2.0e-07 | 3.0e-06 | refuses: ImportError |" in peers
    assert "2 of 3" in report.section(record, "exactness summary")
    assert "16 roundings" in report.section(record, "reasons")


def test_memory_and_jobs(record):
    assert "| MONAI Warp | 80 | 5.0x | 16 |" in report.section(record, "memory")
    assert "| 50.0 % |" in report.section(record, "jobs")


def test_every_mark_of_every_page_is_known_and_can_be_filled_again(record, tmp_path):
    marks = 0
    for name in report.PAGES:
        text = (ROOT / name).read_text()
        marks += len(MARK.findall(text))
        assert text.count("<!-- bench:") == text.count("<!-- bench end -->") == len(MARK.findall(text))
        once = report.filled(text, record, name)
        assert report.filled(once, record, name) == once
        assert MARK.sub("", once) == MARK.sub("", text)  # nothing outside the marks is touched
    assert marks > 30
    with pytest.raises(InputError, match=r"a\.md: the mark 'bench: sped' must be one of machine, speed"):
        report.filled("<!-- bench: sped -->\n<!-- bench end -->\n", record, "a.md")


@pytest.mark.slow
def test_pictures(record, tmp_path):
    from bench import report_plots

    written = report_plots.draw(record, tmp_path)
    assert [path.name for path in written] == ["bench_ratios.png", "bench_growth.png", "bench_copy.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert report_plots.draw(Record(machine=machine()), tmp_path / "none") == []
