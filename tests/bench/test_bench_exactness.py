"""The judge is judged: planted errors in values and gradients are found, and cost the backend its speed."""

from dataclasses import replace

import pytest
import torch

import fastreg
from bench import exactness, implementations, peers, speed, truth
from bench.cases import Case, floor_bytes, inputs, result_bytes
from bench.data import DATA, SIZE
from bench.implementations import Options
from bench.peers.lncc import torch_lncc

WARP = {data.name: data for data in DATA["warp"]}
LNCC = {data.name: data for data in DATA["lncc"]}
BEST = f"native {implementations.instruction_sets()[-1]}"


def rows_of(op, function, data, options=None, dtype="float32"):
    planted = replace(implementations.ours(op, "native"), make=lambda options: function)
    return list(exactness.of_implementation(op, planted, BEST, data, options or Options(), dtype, True, SIZE, "cpu"))


class _Wrong(torch.autograd.Function):
    """The right value; the gradient to the flow is off by a part in ten thousand at one point."""

    @staticmethod
    def forward(ctx, vol, flow):
        with torch.enable_grad():
            leaves = vol.detach().requires_grad_(), flow.detach().requires_grad_()
            out = fastreg.warp(*leaves)
        ctx.kept = out, leaves
        return out.detach()

    @staticmethod
    def backward(ctx, grad):
        out, leaves = ctx.kept
        grad_vol, grad_flow = torch.autograd.grad(out, leaves, grad)
        place = grad_flow.abs().argmax()
        grad_flow.view(-1)[place] *= 1 + 1e-4
        return grad_vol, grad_flow


def test_a_planted_error_of_one_slope_is_found():
    good = rows_of("warp", fastreg.warp, WARP["CT"])
    assert [row.work for row in good] == ["value", "gradient to vol", "gradient to flow"]
    assert not exactness.failures(good)
    bad = exactness.failures(rows_of("warp", _Wrong.apply, WARP["CT"]))
    assert [row.work for row in bad] == ["gradient to flow"]
    assert bad[0].error == pytest.approx(1e-4, rel=0.05)


def test_float32_sums_of_squares_are_found():
    """What popular implementations do: right on easy data, far off on CT."""

    def uncentred(a, b):
        return torch_lncc(a, b, 9)

    easy = rows_of("lncc", uncentred, LNCC["noise in [0, 1]"])
    hard = rows_of("lncc", uncentred, LNCC["unrelated, 1e4 added"])
    assert easy[0].error < 1e-5
    assert hard[0].error > 1 and len(exactness.failures(hard)) == 3


def test_the_left_slope_at_whole_coordinates_is_found():
    def leftward(vol, flow):
        return fastreg.warp(vol, flow - 1e-6)

    failed = exactness.failures(rows_of("warp", leftward, WARP["identity"]))
    assert "gradient to flow" in {row.work for row in failed}
    assert max(row.error for row in failed) > 0.1


def test_nan_and_a_refusal_fail():
    assert exactness.failures(rows_of("warp", lambda vol, flow: fastreg.warp(vol, flow) * float("nan"), WARP["CT"]))

    def refuses(vol, flow):
        raise RuntimeError("not here")

    (row,) = rows_of("warp", refuses, WARP["CT"])
    assert not row.ok and row.absent == "RuntimeError: not here"


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("definition", ["fastreg", "voxelmorph", "monai", "fireants", "ants"])
def test_brute_force_is_the_reference(definition, window):
    a, b = LNCC["half flat"].make((7, 8, 9))
    expected = fastreg.lncc(a, b, window=window, definition=definition, backend="reference")
    torch.testing.assert_close(truth.brute_force_lncc(a, b, window, definition), expected, rtol=1e-9, atol=0)


def test_peers_are_called_as_their_definition_says():
    """On easy data what is measured against gives the truth: same padding, window, definition."""
    easy = {op: [data for data in DATA[op] if not data.hard and data.one_image][:1] for op in DATA}
    judged = 0
    for op, others in peers.PEERS.items():
        for peer in (*others, *peers.ON_GPU[op]):
            for data in easy[op]:
                rows = exactness.of_implementation(op, peer, peer.name, data, Options(), "float32", False, SIZE, "cpu")
                for row in [] if peer.compiles else rows:
                    if row.absent is None:
                        judged += 1
                        assert row.error < 2e-4, (peer.name, row)
    assert judged >= 15  # torch, SimpleITK, scipy and VoxelMorph's formulas are always there


@pytest.mark.slow
def test_no_speed_without_gradients():
    case = Case("growth", "smoothness", (0,), (24, 24, 24), peers=("torch, differences",), threads=1)
    failed = exactness.Exactness(
        op="smoothness",
        work="gradient to flow",
        size=[1],
        dtype="float32",
        backend=BEST,
        data="noise",
        error=0.1,
        tolerance=1e-6,
    )
    refused = exactness.refused([failed])
    rows = {row.backend: row for row in speed.measure(case, 0.2, refused)}
    assert rows[BEST].median is None and "its gradients fail in this run" in rows[BEST].absent
    assert rows["torch, differences"].median > 0
    rows = {row.backend: row for row in speed.measure(case, 0.2, {})}
    assert rows[BEST].median > 0 and rows[BEST].fraction_of_copy > 0


def test_bytes_are_those_of_the_pages():
    def per_voxel(op, wanted, **options):
        case = Case("growth", op, wanted, (10, 10, 10), **options)
        return floor_bytes(case) / 1000, result_bytes(case) / 1000

    assert per_voxel("warp", ()) == (20, 4)
    assert per_voxel("warp", (1,)) == (52, 16)
    assert per_voxel("warp", (0, 1)) == (56, 20)
    assert per_voxel("lncc", ()) == (8, 0)
    assert per_voxel("lncc", (0, 1)) == (16, 8)
    assert per_voxel("integrate", (0,)) == (7 * 60, 24)
    assert per_voxel("smoothness", (0,)) == (24, 12)
    assert per_voxel("mind", ()) == (28, 24)
    assert per_voxel("mind", (0,), options=Options(kind="ssc")) == (52 + 56, 52)
    assert per_voxel("correlate", (), channels=16) == (236, 108)
    assert per_voxel("correlate", (0, 1), channels=16) == (236 + 364, 108 + 128)
    assert per_voxel("warp", (), channels=16, dtype="bfloat16")[0] == 16 * 4 + 12
    assert [x.shape[1] for x in inputs(Case("growth", "warp", (), (24, 24, 24), channels=4))] == [4, 3]
