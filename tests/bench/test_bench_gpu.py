"""The GPU's benchmark without one: its cases and floors, and a small run on the processor."""

import pytest

from bench import report_plots, tables
from bench.cases import Case, floor_bytes
from bench.cuda import cases, networks, run
from bench.cuda.networks import Network
from bench.peers.on_gpu import VOXELMORPH
from bench.schema import Speed, read


def test_the_first_size_comes_first_and_every_size_has_the_same_ops():
    everything = list(cases.everything(quick=False))
    assert everything[:37] == list(cases.everything(quick=True))
    assert [one.name for one in everything if isinstance(one, Network)] == [
        f"vm2, {work}, {dtype}" for work in ("training step", "inference") for dtype in ("float32", "bfloat16")
    ]
    ops = [one for one in everything if isinstance(one, Case)]
    assert len(ops) == 4 * 33 and {case.group for case in ops} == set(cases.SIZES)
    assert all(("fused-lncc" in case.peers) == (len(case.wanted) < 2) for case in ops if case.op == "lncc")
    assert {case.name for case in ops if case.deterministic} >= {
        "warp, backward to vol and flow, deterministic, zeros, 2x16x128x128x128, bfloat16"
    }


def test_floors_count_the_scatter_of_a_backward():
    def per_voxel(wanted, **more):
        return floor_bytes(Case("x", "warp", wanted, (10, 10, 10), backward_alone=True, **more)) / 1000

    assert per_voxel((1,)) == 8 + 24
    assert per_voxel((0, 1)) == 8 + 24 + 12
    assert per_voxel((0, 1), deterministic=True) == 8 + 24 + 24
    assert per_voxel((0, 1), channels=16, dtype="bfloat16") == 64 + 24 + 16 * 12
    with pytest.raises(ValueError, match="only warp's bytes are known, got lncc"):
        floor_bytes(Case("x", "lncc", (0,), (10, 10, 10), backward_alone=True))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cases, "SIZES", {"small": (1, 2, 24, 24, 24)})
    return [*cases.warps("small", "float32"), list(cases.lnccs("small", "float32"))[1], *cases.fields("small")]


@pytest.mark.slow
def test_a_run_leaves_a_record_and_its_table(small, tmp_path):
    pytest.importorskip("matplotlib")
    made = run.measured(small, 100, tmp_path, device="cpu", copied=1 << 20)
    record = read(tmp_path / "results.json")
    assert record == made and record.about["left out for want of time"] == ""
    rows = record.of(Speed)
    assert {row.backend for row in rows} >= {"native", VOXELMORPH}
    assert all(row.median > 0 and row.fraction_of_copy > 0 for row in rows if row.absent is None)
    assert next(row.absent for row in rows if row.backend == "fused-lncc").startswith("fused_lncc is not installed")
    page = (tmp_path / "results.md").read_text()
    assert "copy, GB/s: " in page
    assert "| warp, backward to vol and flow, deterministic | 1x2x24^3 | zeros | float32 | native | " in page
    assert page.count("\n| ") == 2 + len(rows)
    (picture,) = report_plots.draw_gpu(record, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_there_is_no_time_for_is_named(small, tmp_path):
    record = run.measured(small, -1, tmp_path, device="cpu", copied=1 << 20)
    assert not record.rows and record.about["left out for want of time"].startswith("warp, forward, zeros, ")
    assert tables.NONE in tables.gpu_page(record)


@pytest.mark.parametrize("work", ["training step", "inference"])
def test_networks_run_with_either_ops(work):
    made = networks.implementations(Network(work, "float32", (1, 1, 32, 32, 32)), "cpu")
    assert list(made) == ["fastreg", "fastreg, compiled", "VoxelMorph's ops (their formulas)"]
    for name in ("fastreg", "VoxelMorph's ops (their formulas)"):
        made[name]()()
