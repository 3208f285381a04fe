"""The local cost volume, against its definition voxel by voxel, its gradients, and what PyTorch does with an op."""

import itertools

import numpy as np
import pytest
import torch
from torch.func import grad, jvp, vmap

import fastreg
from fastreg.backends import cpu, reference
from fastreg.ops.correlate import PADDINGS
from fastreg.types import MEASURES

SHAPES = [(3, 5, 37), (1, 1, 1), (2, 1, 16), (13, 21), (30, 1)]
OPTIONS = list(itertools.product(MEASURES, PADDINGS, (None, 2.5)))
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def pair(shape, dtype=torch.float32, batch=2, channels=3):
    return torch.randn(2, batch, channels, *shape).to(dtype).unbind()


def close(ours, truth, tolerance):
    assert ours.shape == truth.shape
    scale = max(truth.abs().max().item(), 1.0) if truth.numel() else 1.0
    torch.testing.assert_close(ours.double(), truth.double(), rtol=0, atol=tolerance * scale)


def by_voxels(a, b, radius, measure, padding):
    """The scores of one pair, [displacements, *grid], in loops."""
    grid = a.shape[1:]
    displacements = list(itertools.product(range(-radius, radius + 1), repeat=len(grid)))
    out = np.zeros((len(displacements), *grid))
    for k, d in enumerate(displacements):
        for p in np.ndindex(*grid):
            q = np.add(p, d)
            inside = np.clip(q, 0, np.subtract(grid, 1))
            there = b[(slice(None), *inside)]
            if padding == "zeros" and (q != inside).any():
                there = np.zeros_like(there)
            here = a[(slice(None), *p)]
            out[(k, *p)] = (here * there if measure == "dot" else (here - there) ** 2).mean()
    return out, np.array(displacements)


@pytest.mark.parametrize("measure, padding, sharpness", OPTIONS)
@pytest.mark.parametrize("shape, radius", [((2, 3, 4), 1), ((4, 3), 2)])
def test_is_its_definition(shape, radius, measure, padding, sharpness):
    a, b = pair(shape, torch.float64, batch=1)
    expected, d = by_voxels(a[0].numpy(), b[0].numpy(), radius, measure, padding)
    if sharpness is not None:
        scores = sharpness * expected * (1 if measure == "dot" else -1)
        weights = np.exp(scores - scores.max(0))
        expected = np.einsum("kc,k...->c...", d, weights / weights.sum(0))
    for backend in ("native", "reference"):
        found = fastreg.correlate(a, b, radius, measure, padding, sharpness, backend=backend)
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("measure, padding, sharpness", OPTIONS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_native_is_the_reference(isa, dtype, measure, padding, sharpness):
    for shape in SHAPES:
        for radius in (0, 1, 2) if dtype == torch.float32 else (1,):
            a, b = pair(shape, dtype)
            options = radius, measure, padding, sharpness
            out = cpu.correlate_forward(a, b, *options)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            assert out.dtype == (dtype if sharpness is None else wide)
            tolerance = TOLERANCE[dtype] if sharpness is None else TOLERANCE[wide]
            close(out, reference.correlate(a.double(), b.double(), *options), tolerance)
            slope = torch.randn_like(out)
            truth = reference.correlate_backward(slope.double(), a.double(), b.double(), *options, True, True)
            ours = cpu.correlate_backward(slope, a, b, *options, True, True)
            for x, y in zip(ours, truth, strict=True):
                assert x.dtype == dtype
                close(x, y, 2 * TOLERANCE[dtype])
            only_a = cpu.correlate_backward(slope, a, b, *options, True, False)
            only_b = cpu.correlate_backward(slope, a, b, *options, False, True)
            assert torch.equal(only_a[0], ours[0]) and only_a[1] is None
            assert torch.equal(only_b[1], ours[1]) and only_b[0] is None


def test_wide_rows_and_many_channels(isa):
    """Several tiles, vectors without a border, a radius beyond the image."""
    for shape, channels, radius in (((9, 40, 64), 16, 1), ((40, 112), 33, 4), ((2, 3, 5), 2, 3)):
        a, b = pair(shape, batch=1, channels=channels)
        for padding in PADDINGS:
            out = cpu.correlate_forward(a, b, radius, "dot", padding, None)
            close(out, reference.correlate(a.double(), b.double(), radius, "dot", padding, None), 1e-6)
            slope = torch.randn_like(out)
            truth = reference.correlate_backward(
                slope.double(), a.double(), b.double(), radius, "dot", padding, None, True, True
            )
            for x, y in zip(
                cpu.correlate_backward(slope, a, b, radius, "dot", padding, None, True, True), truth, strict=True
            ):
                close(x, y, 1e-6)


@pytest.mark.parametrize("measure, padding, sharpness", OPTIONS)
def test_reference_backward_is_autograd(measure, padding, sharpness):
    a, b = (x.requires_grad_() for x in pair((2, 4, 3), torch.float64))
    out = reference.correlate(a, b, 1, measure, padding, sharpness)
    slope = torch.randn_like(out)
    truth = torch.autograd.grad(out, (a, b), slope)
    ours = reference.correlate_backward(slope, a.detach(), b.detach(), 1, measure, padding, sharpness, True, True)
    for x, y in zip(ours, truth, strict=True):
        close(x, y, 1e-12)


@pytest.mark.parametrize("measure, padding, sharpness", OPTIONS)
def test_gradcheck(measure, padding, sharpness):
    a, b = (x.requires_grad_() for x in pair((2, 3, 4), torch.float64, batch=1, channels=2))
    assert torch.autograd.gradcheck(lambda a, b: fastreg.correlate(a, b, 1, measure, padding, sharpness), (a, b))
    assert torch.autograd.gradcheck(lambda b: fastreg.correlate(a.detach(), b, 1, measure, padding, sharpness), (b,))


@pytest.mark.parametrize("sharpness", [None, 3.0])
def test_the_same_bits_for_every_number_of_threads(isa, threads, sharpness):
    a, b = pair((11, 37, 40), batch=1, channels=5)
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        out = cpu.correlate_forward(a, b, 1, "ssd", "border", sharpness)
        results.append((out, *cpu.correlate_backward(torch.cos(out), a, b, 1, "ssd", "border", sharpness, True, True)))
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(other, results[0], strict=True))


def test_a_shift_is_found():
    """d is a displacement as the flows have it: moved(p) = moving(p + d)."""
    fixed = torch.randn(1, 8, 12, 12, 12)
    moving = torch.roll(fixed, (1, -1, 0), (2, 3, 4))
    flow = fastreg.correlate(fixed, moving, measure="ssd", sharpness=100.0)[..., 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(flow, torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1, 1).expand_as(flow), rtol=0, atol=1e-2)
    moved = fastreg.warp(moving, fastreg.correlate(fixed, moving, measure="ssd", sharpness=1e4))
    torch.testing.assert_close(moved[..., 2:-2, 2:-2, 2:-2], fixed[..., 2:-2, 2:-2, 2:-2])


def test_large_scores_do_not_overflow():
    a, b = pair((3, 4, 20))
    flow = fastreg.correlate(1e3 * a, 1e3 * b, sharpness=100.0)
    assert flow.isfinite().all()
    torch.testing.assert_close(flow, flow.round(), rtol=0, atol=1e-6)


def test_of_nan_is_nan_where_it_is_read(isa):
    a, b = pair((5, 6, 40), batch=1)
    b[0, 1, 2, 3, 20] = float("nan")
    out = cpu.correlate_forward(a, b, 1, "dot", "zeros", None)
    truth = reference.correlate(a, b, 1, "dot", "zeros", None)
    assert torch.equal(out.isnan(), truth.isnan()) and out.isnan().sum() == 27
    field = cpu.correlate_forward(a, b, 1, "dot", "zeros", 1.0)
    assert torch.equal(field.isnan(), reference.correlate(a, b, 1, "dot", "zeros", 1.0).isnan())
    a, b = pair((5, 6, 40), batch=1)
    slope = torch.zeros(1, 27, 5, 6, 40)
    slope[0, 0, 2, 3, 0] = slope[0, 26, 2, 3, 39] = float("nan")  # at the ends of a row: not into the next one
    for padding in PADDINGS:
        ours = cpu.correlate_backward(slope, a, b, 1, "dot", padding, None, True, True)
        truth = reference.correlate_backward(slope, a, b, 1, "dot", padding, None, True, True)
        assert torch.equal(ours[0].isnan(), truth[0].isnan())
        near = truth[1].isnan() | torch.zeros_like(b, dtype=torch.bool)
        assert not (ours[1].isnan() & ~near).any()


def test_strides_batches_and_meta():
    a, b = pair((4, 5, 6))
    expected = fastreg.correlate(a, b)
    last = [x.contiguous(memory_format=torch.channels_last_3d) for x in (a, b)]
    assert torch.equal(fastreg.correlate(*last), expected)
    assert torch.equal(fastreg.correlate(a.transpose(2, 4).contiguous().transpose(2, 4), b), expected)
    for sharpness, components in ((None, 27), (1.0, 3)):
        empty = torch.zeros(0, 3, 4, 5, 6, requires_grad=True)
        out = fastreg.correlate(empty, empty, sharpness=sharpness)
        out.sum().backward()
        assert out.shape == (0, components, 4, 5, 6) and empty.grad.shape == empty.shape
        assert fastreg.correlate(a.to("meta"), b.to("meta"), sharpness=sharpness).shape == (2, components, 4, 5, 6)


@pytest.mark.parametrize("sharpness", [None, 2.0])
def test_transforms(sharpness):
    a, b = pair((3, 4, 5), torch.float64)

    def run(a, b):
        return fastreg.correlate(a, b, measure="ssd", padding="border", sharpness=sharpness)

    close(vmap(lambda a, b: run(a[None], b[None])[0])(a, b), run(a, b), 1e-12)
    leaf = a.clone().requires_grad_()
    run(leaf, b).square().sum().backward()
    close(grad(lambda a: run(a, b).square().sum())(a), leaf.grad, 1e-12)
    step = 1e-6 * torch.randn_like(a)
    close(jvp(lambda a: run(a, b), (a,), (step,))[1], (run(a + step, b) - run(a - step, b)) / 2, 1e-9)


@pytest.mark.parametrize("sharpness", [None, 2.0])
def test_opcheck_and_compile(sharpness):
    a, b = (x.requires_grad_() for x in pair((3, 4, 5)))
    torch.library.opcheck(torch.ops.fastreg.correlate, (a, b, 1, "dot", "zeros", sharpness, "native"))
    torch._dynamo.reset()
    compiled = torch.compile(fastreg.correlate, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(a, b, 1, "dot", "zeros", sharpness), fastreg.correlate(a, b, sharpness=sharpness)
    )
    out = fastreg.correlate(a, b, sharpness=sharpness)
    (slope,) = torch.autograd.grad(out.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg\.correlate has no second derivative"):
        slope.sum().backward()


def test_wrong_arguments():
    a, b = pair((3, 4, 5))
    for arguments, message in (
        ((a, b[:, :2]), r"b must be like a, \[2, 3, 3, 4, 5\] torch.float32, got \[2, 2, 3, 4, 5\] torch.float32"),
        ((a, b.double()), r"got \[2, 3, 3, 4, 5\] torch.float64"),
        ((a, b, -1), "radius must be at least 0, got -1"),
        ((a, b, 16), "radius must be at most 15, got 16"),
        ((a, b, 1, "ncc"), "measure must be one of dot, ssd, got 'ncc'"),
        ((a, b, 1, "dot", "reflection"), "padding must be one of zeros, border, got 'reflection'"),
        ((a, b, 1, "dot", "zeros", 0.0), "sharpness must be positive and finite, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            fastreg.correlate(*arguments)
    with pytest.raises(TypeError, match="radius must be an integer, got float"):
        fastreg.correlate(a, b, 1.0)
