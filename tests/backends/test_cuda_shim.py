"""The CUDA kernels without a GPU: run on the CPU through tests/cuda_shim, under sanitizers, and compiled by nvcc."""

import contextlib
import itertools
import os
import shutil
import subprocess

import pytest
import torch
from cuda_shim import build as shim
from helpers.lncc_family import BOXES

from bench.cuda import sass
from fastreg import _C
from fastreg.backends import cuda, reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form
from fastreg.types import PADDINGS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shim.COMPILER is None, reason="no C++ compiler")]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """`fastreg.backends.cuda` on CPU tensors."""
    module = shim.build_module(tmp_path_factory.mktemp("cuda_shim"))

    @contextlib.contextmanager
    def launching(tensor):
        yield 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_C, "cuda", module, raising=False)
        patch.setattr(cuda, "_launching", launching)
        yield cuda


def close(ours, truth, tolerance, at_least=0.0):
    """Equal up to `tolerance` of the largest magnitude; NaN and infinities at the same places."""
    assert ours.shape == truth.shape
    ours, truth = ours.double(), truth.double()
    finite = truth.isfinite()
    assert torch.equal(ours[~finite].nan_to_num(7.0), truth[~finite].nan_to_num(7.0))
    scale = truth[finite].abs().max().clamp_min(at_least) if finite.any() else torch.tensor(1.0)
    assert (ours[finite] - truth[finite]).abs().max() <= tolerance * scale if finite.any() else True


TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def warp_case(size, grid, dtype, channels=2, batch=2, reach=3.0, channels_last=False):
    ndim = len(size)
    vol = torch.rand(batch, channels, *size).to(dtype)
    flow = reach * torch.randn(batch, ndim, *grid)
    flow = flow.to(torch.float64 if dtype == torch.float64 else torch.float32)
    if channels_last:
        flow = flow.movedim(1, -1).contiguous()
    grad = torch.randn(batch, channels, *grid).to(dtype)
    return vol, flow, grad


def check_warp(kernels, vol, flow, grad, mode, padding, channels_last, align=None):
    tolerance = TOLERANCE[vol.dtype]
    options = (mode, padding, channels_last)
    wide = [tensor.double() for tensor in (vol, flow, grad)]
    close(
        kernels.warp_forward(vol, flow, *options, align), reference.warp_forward(*wide[:2], *options, align), tolerance
    )
    truth = reference.warp_backward(wide[2], wide[0], wide[1], *options, True, True, align)
    both = kernels.warp_backward(grad, vol, flow, *options, True, True, align)
    alone = kernels.warp_backward(grad, vol, flow, *options, False, True, align)
    volume = kernels.warp_backward(grad, vol, flow, *options, True, False, align)
    assert alone[0] is None and volume[1] is None
    # Slopes and sums of float32 products: an error of a few roundings of the largest.
    for ours in (both[0], volume[0]):
        close(ours, truth[0], 4 * tolerance)
    for ours in (both[1], alone[1]):
        close(ours, truth[1], 4 * min(tolerance, 1e-5))


SIZES = [
    ((9, 10, 37), (9, 10, 37)),
    ((5, 1, 33), (6, 9, 65)),
    ((1, 4, 3), (3, 3, 3)),
    ((12, 40), (12, 40)),
    ((1, 7), (9, 33)),
]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_warp(kernels, dtype, mode, padding):
    for (size, grid), channels_last in itertools.product(SIZES, (False, True)):
        # In float32, at + u rounds; multiples of 1/8 do not, and ties are among them.
        vol, flow, grad = warp_case(size, grid, dtype, channels_last=channels_last)
        flow = (8 * flow).round() / 8 if mode == "nearest" else flow
        check_warp(kernels, vol, flow, grad, mode, padding, channels_last)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_warp_by_places(kernels, dtype, mode, padding):
    """The grid of `grid_sample`, on a lattice that float32 holds and on which no place is a voxel or a tie."""
    for (size, grid), align in itertools.product([((8, 16, 32), (9, 10, 37)), ((16, 32), (12, 40))], (False, True)):
        size = tuple(n + align for n in size)
        vol, flow, grad = warp_case(size, grid, dtype, channels_last=True)
        half = torch.tensor([(n - align) / 2 for n in reversed(size)], dtype=flow.dtype)
        voxels = (8 * (4 * flow * half).round() / 32 + 1 / 64).clamp(-3 * half, 3 * half)
        check_warp(kernels, vol, voxels / half, grad, mode, padding, True, align)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_warp_of_coordinates_that_are_no_voxels(kernels, dtype, padding):
    vol, flow, grad = warp_case((6, 7, 40), (6, 7, 40), dtype, channels=1, batch=1)
    for index, value in enumerate([float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 2.0**30, -(2.0**31), 0.0]):
        flow[0, index % 3, 2, 3, 4 * index] = value
    check_warp(kernels, vol, flow, grad, "linear", padding, False)
    check_warp(kernels, vol, flow, grad, "nearest", padding if padding in ("zeros", "itk") else "border", False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_warp_of_one_volume_by_a_batch_of_fields(kernels, dtype, deterministic):
    torch.use_deterministic_algorithms(deterministic)
    try:
        for size, grid in SIZES:
            vol, flow, grad = warp_case(size, grid, dtype, batch=3)
            check_warp(kernels, vol[:1], flow, grad, "linear", "border", False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_warp_by_integers_is_exact_and_keeps_nan_in_its_place(kernels):
    vol = torch.rand(1, 1, 6, 9, 35)
    vol[0, 0, 2, 4, 7] = float("nan")
    vol[0, 0, 3, 4, 20] = float("inf")
    moved = kernels.warp_forward(vol, torch.zeros(1, 3, 6, 9, 35), "linear", "zeros", False)
    assert torch.equal(moved.nan_to_num(7.0), vol.nan_to_num(7.0))
    flow = torch.zeros(1, 3, 6, 9, 35)
    flow[:, 2] = 1
    moved = kernels.warp_forward(vol, flow, "linear", "border", False)
    assert torch.equal(moved[..., :-1].nan_to_num(7.0), vol[..., 1:].nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_deterministic_gradient_of_the_volume(kernels, dtype):
    vol, flow, grad = warp_case((9, 10, 37), (9, 10, 37), dtype, reach=6)
    truth = reference.warp_backward(grad.double(), vol.double(), flow.double(), "linear", "border", False, True, True)
    arguments = (vol, flow, "linear", "border", False, True, True)

    def in_two_orders():
        results = []
        for reverse in (False, True):
            kernels._C.cuda.run_last_block_first(reverse)
            results.append(kernels.warp_backward(grad, *arguments)[0])
        kernels._C.cuda.run_last_block_first(False)
        return results

    torch.use_deterministic_algorithms(True)
    try:
        one, other = in_two_orders()
        close(one, truth[0], {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 8e-3}[dtype])
        assert torch.equal(one, other)
        infinite = grad.clone()
        infinite[0, 0, 0, 0, 0] = float("inf")
        assert kernels.warp_backward(infinite, *arguments)[0].isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)
    if dtype != torch.bfloat16:  # the order is seen otherwise, so the test above can fail
        assert not torch.equal(*in_two_orders())


def test_warp_of_an_empty_batch(kernels):
    vol, flow, grad = warp_case((4, 5, 6), (4, 5, 6), torch.float32, batch=0)
    assert kernels.warp_forward(vol, flow, "linear", "zeros", False).shape == (0, 2, 4, 5, 6)
    grads = kernels.warp_backward(grad, vol, flow, "linear", "zeros", False, True, True)
    assert [tuple(g.shape) for g in grads] == [(0, 2, 4, 5, 6), (0, 3, 4, 5, 6)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(9, 10, 37), (12, 40)], ids=str)
def test_integrate(kernels, size, dtype, padding):
    velocity = (2 * torch.randn(2, len(size), *size)).to(dtype)
    grad = torch.randn(2, len(size), *size).to(dtype)
    for steps in (0, 1, 4):
        truth, _ = reference.integrate_forward(velocity.double(), steps, padding, True)
        tolerance = 10 * TOLERANCE[dtype]
        close(kernels.integrate_forward(velocity, steps, padding, False)[0], truth, tolerance)
        flow, saved = kernels.integrate_forward(velocity, steps, padding, True)
        close(flow, truth, tolerance)
        # Backward from one and the same fields: a kink between them would be no error of the gradient.
        fields = saved.double() if steps else saved
        truth = reference.integrate_backward(grad.double(), velocity.double(), fields, steps, padding)
        close(kernels.integrate_backward(grad, velocity, saved, steps, padding), truth, tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [(9, 10, 37), (1, 4, 5), (12, 40), (1, 1)], ids=str)
def test_smoothness(kernels, size, dtype):
    flow = torch.randn(2, len(size), *size).to(dtype)
    truth, slope = reference.smoothness(flow.double(), True)
    value, grad = kernels.smoothness(flow, True)
    close(value, truth, 1e-6)
    close(grad, slope, TOLERANCE[dtype])
    alone, nothing = kernels.smoothness(flow, False)
    assert nothing is None and torch.equal(alone, value)


# Axes of one voxel, shorter than the filter, and of several tiles and chunks of planes.
FIELD_SIZES = [(9, 10, 37), (1, 4, 5), (70, 3, 5), (2, 2, 2), (12, 70), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", FIELD_SIZES, ids=str)
def test_penalty(kernels, size, dtype):
    velocity, known = torch.randn(2, len(size), *size, dtype=dtype), torch.randn(2, 1, *size, dtype=dtype)
    for weights in ((0.3, 0.7), (0.0, 0.7), (0.3, 0.0), (0.0, 0.0)):
        for given in (known, None):
            grad = torch.ones_like(velocity)
            slope = grad.double()
            truth = reference.penalty(velocity.double(), given, *weights, slope)
            close(kernels.penalty(velocity, given, *weights, grad), truth, TOLERANCE[dtype])
            close(grad, slope, TOLERANCE[dtype])
            close(kernels.penalty(velocity, given, *weights, None), truth, TOLERANCE[dtype])
    assert kernels.penalty(velocity[:0], known[:0], 1.0, 1.0, velocity[:0]) == 0


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", FIELD_SIZES, ids=str)
def test_adam_step(kernels, size, dtype, passes):
    velocity, grad, mean = (torch.randn(2, len(size), *size, dtype=dtype) for _ in range(3))
    ours = [velocity, grad, mean, torch.rand_like(velocity)]
    theirs = [field.double() for field in ours]
    for fields, backend in ((ours, kernels), (theirs, reference)):
        backend.adam_step(*fields, 3, 0.1, 0.9, 0.999, 1e-8, passes)
    for k in (0, 2, 3):
        close(ours[k], theirs[k], TOLERANCE[dtype])


@pytest.mark.parametrize("scheme", ["central", "least"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [(9, 10, 37), (2, 2, 2), (12, 70)], ids=str)
def test_determinant(kernels, size, dtype, scheme):
    flow = torch.randn(2, len(size), *size).to(dtype)
    flow[0, 1].view(-1)[3] = float("nan")
    ours = kernels.determinant(flow, scheme)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(ours, reference.determinant(flow.double(), scheme), TOLERANCE[ours.dtype])


@pytest.mark.parametrize("kind", ["mind", "ssc"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [(9, 10, 37), (2, 1, 2), (12, 70), (1, 3)], ids=str)
def test_mind(kernels, size, dtype, kind):
    image = torch.randn(2, 2, *size)
    image[..., : size[-1] // 2] *= 1e-2
    image = image.to(dtype)
    out, floor = kernels.mind(image, kind)
    truth, least = reference.mind(image.double(), kind)
    assert out.dtype == dtype and floor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(out, truth, TOLERANCE[dtype])
    close(floor, least, TOLERANCE[floor.dtype], at_least=1e-30)
    grad = torch.randn_like(out)
    slope = reference.mind_backward(grad.double(), image.double(), floor.double(), kind)
    close(kernels.mind_backward(grad, image, floor, kind), slope, 4 * TOLERANCE[dtype], at_least=0.1)
    flat = torch.full_like(image, 3)
    out, floor = kernels.mind(flat, kind)
    assert (out == 1).all() and kernels.mind_backward(1e4 * grad, flat, floor, kind).count_nonzero() == 0
    assert kernels.mind(image[:0], kind)[0].shape == out[:0].shape
    assert kernels.mind_backward(grad[:0], image[:0], floor[:0], kind).shape == image[:0].shape


@pytest.mark.parametrize("sharpness", [None, 2.5])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("measure", ["dot", "ssd"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_correlate(kernels, dtype, measure, padding, sharpness):
    for size, radius in (((5, 6, 37), 1), ((1, 2, 3), 2), ((9, 40), 1), ((4, 3), 3), ((2, 3, 4), 0)):
        a, b = (torch.randn(2, 3, *size).to(dtype) for _ in range(2))
        options = radius, measure, padding, sharpness
        out = kernels.correlate_forward(a, b, *options)
        close(out, reference.correlate(a.double(), b.double(), *options), 2 * TOLERANCE[out.dtype], at_least=1.0)
        slope = torch.randn_like(out)
        truth = reference.correlate_backward(slope.double(), a.double(), b.double(), *options, True, True)
        ours = kernels.correlate_backward(slope, a, b, *options, True, True)
        for x, y in zip(ours, truth, strict=True):
            close(x, y, 4 * TOLERANCE[dtype], at_least=1.0)
        assert kernels.correlate_backward(slope, a, b, *options, True, False)[1] is None
        assert kernels.correlate_backward(slope, a, b, *options, False, True)[0] is None


def lncc_pair(size, dtype=torch.float32, batch=1, channels=1):
    a = torch.rand(batch, channels, *size)
    return a.to(dtype), (0.5 * a + 0.5 * torch.rand_like(a)).to(dtype)


def check_lncc(kernels, a, b, form, tolerance, weight=None, gradient_tolerance=None):
    gradient_tolerance = gradient_tolerance or tolerance
    scale = 1 / a.numel()
    wide = [None if tensor is None else tensor.double() for tensor in (a, b, weight)]
    value, grad_a, grad_b, cc = reference.lncc(*wide, form, scale, True, True, True)
    ours = kernels.lncc(a, b, weight, form, scale, True, True, True)
    close(ours[0], value, tolerance)
    close(ours[1], grad_a, gradient_tolerance)
    close(ours[2], grad_b, gradient_tolerance)
    close(ours[3], cc, max(tolerance, TOLERANCE[a.dtype]))
    only_a = kernels.lncc(a, b, weight, form, scale, True, False, False)
    only_b = kernels.lncc(a, b, weight, form, scale, False, True, False)
    alone = kernels.lncc(a, b, weight, form, scale, False, False, False)
    for other in (only_a, only_b, alone):
        close(other[0], value, tolerance)
    close(only_a[1], grad_a, gradient_tolerance)
    close(only_b[2], grad_b, gradient_tolerance)
    assert only_a[2] is None and only_b[1] is None and alone[1] is None and alone[3] is None


LNCC_SIZES = [(11, 27, 132), (7, 9, 30), (1, 3, 5), (30, 125), (9, 1)]


@pytest.mark.parametrize("window", [3, 5, 7, 9])
@pytest.mark.parametrize("size", LNCC_SIZES, ids=str)
def test_lncc(kernels, size, window):
    a, b = lncc_pair(size, batch=2)
    # Where nearly all of the window is padding, a constant away from the image, float32 keeps fewer digits.
    tolerance = 1e-4 if 2 * min(size) < window else 1e-5
    check_lncc(kernels, a, b, lncc_form("fastreg", [window] * len(size), 1e-5), tolerance)


@pytest.mark.parametrize("window", [1, 3, 9, 11, 15])
@pytest.mark.parametrize("size", [(7, 9, 30), (20, 45)], ids=str)
def test_lncc_in_float64_and_any_window(kernels, size, window):
    form = lncc_form("fastreg", [window] * len(size), 1e-5)
    check_lncc(kernels, *lncc_pair(size, torch.float64, channels=2), form, 1e-11)
    check_lncc(kernels, *lncc_pair(size, torch.float32, channels=2), form, 1e-5)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_lncc_of_every_definition_with_weights(kernels, definition):
    a, b = lncc_pair((7, 9, 30), channels=2)
    form = lncc_form(definition, [5] * 3, 1e-5)
    weights = (torch.rand(1, 1, 7, 9, 30) > 0.4).float()
    check_lncc(kernels, a, b, form, 2e-5, weights)
    check_lncc(kernels, a.double(), b.double(), form, 1e-10, torch.rand(1, 2, 7, 9, 30).double())


@pytest.mark.parametrize("form", BOXES.values(), ids=BOXES)
def test_lncc_of_the_family(kernels, form):
    a, b = lncc_pair((7, 9, 30), channels=2)
    check_lncc(kernels, a, b, form, 5e-5)
    check_lncc(kernels, a.double(), b.double(), form, 1e-10, torch.rand(1, 2, 7, 9, 30).double())


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_lncc_of_every_definition_with_a_mask(kernels, definition):
    for size in ((7, 9, 30), (3, 30, 125), (12, 40)):
        for dtype in (torch.float32, torch.float64):
            a, b = lncc_pair(size, dtype, channels=2)
            form = lncc_form(definition, [5] * len(size), 1e-5)
            mask = (torch.rand(1, 1, *size) > 0.4).to(dtype)
            hidden = torch.where(mask > 0, a, float("nan"))
            wide = [tensor.double() for tensor in (hidden, b)]
            for weight, needs in ((mask, (True, True, False)), (torch.rand_like(a), (True, False, True))):
                ours = kernels.lncc(hidden, b, weight, form, 0.5, *needs, mask)
                truth = reference.lncc(*wide, weight.double(), form, 0.5, *needs, mask.double())
                for got, expected in zip(ours, truth, strict=True):
                    assert (got is None) == (expected is None)
                    if got is not None:
                        close(got, expected, 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(7, 9, 40), (7, 9, 30)], ids=str)
def test_lncc_in_half_precision(kernels, size, dtype):
    a, b = lncc_pair(size, dtype)
    # float16 gradients of a mean would underflow: the scale is 1 there as in a sum.
    form = lncc_form("fastreg", [7] * 3, 1e-5)
    truth = reference.lncc(a.double(), b.double(), None, form, 1.0, True, True, False)
    ours = kernels.lncc(a, b, None, form, 1.0, True, True, False)
    close(ours[0], truth[0], 1e-5)
    close(ours[1], truth[1], TOLERANCE[dtype])
    close(ours[2], truth[2], TOLERANCE[dtype])


def hounsfield(size, noise):
    """Air, soft tissue and bone in Hounsfield units; the air is flat to `noise`."""
    a = torch.full((1, 1, *size), -1000.0)
    a[..., size[1] // 3 :, :] = 40
    a[..., size[1] // 2 :, size[2] // 2 :] = 1200
    return a + noise * torch.randn_like(a)


# The gradient's error is that of float32 derivatives: intensity above background over the windows' standard deviation.
@pytest.mark.parametrize(("noise", "gradient_tolerance"), [(20.0, 2e-5), (1.0, 5e-4)])
def test_lncc_of_hounsfield_units_equals_float64(kernels, noise, gradient_tolerance):
    a = hounsfield((9, 26, 132), noise)
    b = hounsfield((9, 26, 132), noise) + 0.3 * a
    for window in (5, 9):
        form, scale = lncc_form("fastreg", [window] * 3, 1e-5), 1 / a.numel()
        truth = reference.lncc(a, b, None, form, scale, True, True, True)
        ours = kernels.lncc(a, b, None, form, scale, True, True, True)
        close(ours[0], truth[0], 1e-7)
        close(ours[3], truth[3], 2e-5)
        for x, y in zip(ours[1:3], truth[1:3], strict=True):
            close(x, y, gradient_tolerance)


def test_lncc_of_flat_air_beside_bone_equals_float64(kernels):
    a = hounsfield((9, 26, 132), 0.0)
    b = hounsfield((9, 26, 132), 0.0) + 0.3 * a
    form = lncc_form("fastreg", [9] * 3, 1e-5)
    truth = reference.lncc(a, b, None, form, 1.0, True, True, True)
    ours = kernels.lncc(a, b, None, form, 1.0, False, False, True)
    close(ours[0], truth[0], 1e-7)
    close(ours[3], truth[3], 1e-5)


def test_lncc_of_flat_images_is_0_and_of_an_offset_is_right(kernels):
    form = lncc_form("fastreg", [9] * 3, 1e-5)
    a, b = lncc_pair((7, 26, 132))
    flat = torch.full_like(a, 0.7)
    value, grad, *_ = kernels.lncc(flat[..., 8:-8], flat[..., 8:-8], None, form, 1.0, True, False, False)
    truth = reference.lncc(flat[..., 8:-8].double(), flat[..., 8:-8].double(), None, form, 1.0, True, False, False)
    close(value, truth[0], 1e-6)
    close(grad, truth[1], 1e-6, at_least=1.0)  # all cancels
    check_lncc(kernels, a + 1000, b, form, 2e-5, gradient_tolerance=5e-5)


def test_lncc_keeps_a_nan_in_its_windows(kernels):
    a, b = lncc_pair((30, 26, 40))
    a[0, 0, 5, 6, 7] = float("nan")
    form = lncc_form("fastreg", [5] * 3, 1e-5)
    truth = reference.lncc_map(a, b, form)
    ours = kernels.lncc(a, b, None, form, 1.0, False, False, True)
    assert ours[0].isnan()
    hit = torch.zeros_like(a, dtype=torch.bool)
    hit[..., 3:8, 4:9, 5:10] = True
    assert torch.equal(ours[3].isnan(), hit)
    clean = reference.lncc_map(a.nan_to_num(0.5), b, form)
    close(ours[3][~hit], clean[~hit], 1e-5)
    assert truth.isnan().any()
    # Nor may it be lost where all else is as flat as background.
    flat = torch.zeros_like(a)
    flat[0, 0, 20, 6, 7] = float("nan")
    assert kernels.lncc(flat, b, None, form, 1.0, False, False, False)[0].isnan()


def test_lncc_in_slabs_and_with_little_shared_memory(kernels, monkeypatch):
    a, b = lncc_pair((40, 9, 30), channels=3)
    form = lncc_form("fastreg", [5] * 3, 1e-5)
    whole = kernels.lncc(a, b, None, form, 1.0, True, True, True)
    wide = kernels.lncc(a.double(), b.double(), None, form, 1.0, True, True, True)
    # One image after the other, then planes of one image, then the least that windows of 5 can do with.
    for planes in (100, 40, 22, 1):
        monkeypatch.setattr(cuda, "LNCC_WORKSPACE", planes * 5 * 9 * 30 * 4)
        for ours, theirs in zip(kernels.lncc(a, b, None, form, 1.0, True, True, True), whole, strict=True):
            close(ours, theirs, 2e-6)
        for ours, theirs in zip(
            kernels.lncc(a.double(), b.double(), None, form, 1.0, True, True, True), wide, strict=True
        ):
            close(ours, theirs, 1e-12)
    mask = (torch.rand(1, 1, 40, 9, 30) > 0.3).float()
    monkeypatch.setattr(cuda, "LNCC_WORKSPACE", 22 * 5 * 9 * 30 * 4)
    truth = reference.lncc(*(x.double() for x in (a, b, mask)), form, 1.0, True, True, False, mask.double())
    for ours, theirs in zip(kernels.lncc(a, b, mask, form, 1.0, True, True, False, mask)[:3], truth[:3], strict=True):
        close(ours, theirs, 1e-5)
    kernels._C.cuda.limit_shared_memory(99 * 1024)
    try:
        for ours, theirs in zip(kernels.lncc(a, b, None, form, 1.0, True, True, True), whole, strict=True):
            close(ours, theirs, 2e-6)
        large = lncc_form("fastreg", [33] * 3, 1e-5)
        check_lncc(kernels, a[:, :1, :9], b[:, :1, :9], large, 1e-5)  # its columns do not fit: in device memory
    finally:
        kernels._C.cuda.limit_shared_memory(227 * 1024)


def test_lncc_repeats_bitwise(kernels):
    a, b = lncc_pair((20, 26, 132))
    form = lncc_form("fastreg", [9] * 3, 1e-5)
    once = kernels.lncc(a, b, None, form, 1.0, True, True, False)[:3]
    kernels._C.cuda.run_last_block_first(True)
    again = kernels.lncc(a, b, None, form, 1.0, True, True, False)[:3]
    kernels._C.cuda.run_last_block_first(False)
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))


def test_lncc_of_an_empty_batch(kernels):
    a, b = lncc_pair((4, 5, 6), batch=0)
    value, grad, *_ = kernels.lncc(a, b, None, lncc_form("fastreg", [5] * 3, 1e-5), 1.0, True, False, False)
    assert value == 0 and grad.shape == a.shape


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((9, 0), "80,90,90-virtual", True),
        ((8, 6), "80,90,90-virtual", True),
        ((7, 5), "80,90,90-virtual", False),
        ((10, 0), "80,90,90-virtual", True),
        ((10, 0), "80,90,120,120-virtual", False),
        ((12, 1), "80,90,120,120-virtual", True),
    ],
)
def test_a_binary_of_other_architectures_is_refused(capability, architectures, fits):
    why = cuda._why_not_architecture(capability, architectures)
    assert (why is None) == fits
    if not fits:
        assert why.startswith(f"this GPU is sm_{capability[0]}{capability[1]}, the binary has sm_80, sm_90")


SANITIZERS = {
    "address": (["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"], ["short", "cast"]),
    "thread": (["-fsanitize=thread"], ["race"]),
}
REPORTS = {"short": "heap-buffer-overflow", "cast": "outside the range of representable values", "race": "data race"}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing_but_what_was_planted(tmp_path, sanitizer):
    flags, bugs = SANITIZERS[sanitizer]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    try:
        shim.build(tmp_path / "probe", [probe], flags)
    except AssertionError:
        pytest.skip(f"the compiler has no {sanitizer} sanitizer")
    program = shim.build(tmp_path / "sanitize", [shim.SHIM / "sanitize.cpp", *shim.kernels()], ["-O1", "-g1", *flags])
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr[:4000]) == (0, "done\n", "")
    first_only = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}  # one report proves it; a thousand take minutes
    for bug in bugs:
        done = subprocess.run([program, bug], capture_output=True, text=True, env=first_only, timeout=60)
        assert done.returncode != 0 and REPORTS[bug] in done.stderr, f"planted {bug}, reported {done.stderr[:4000]!r}"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_kernels_compile_for_a_gpu_without_spills(tmp_path):
    """One architecture and the kernels that matter most; `python -m bench sass` does all of them."""
    rows = sass.compile_all(tmp_path, ["90"], ["warp", "warp_backward", "lncc_backward"])
    assert len(rows) > 20 and {row.architecture for row in rows} == {"90"}
    assert [row for row in rows if row.spills()] == []
    assert max(row.registers for row in rows if row.kernel.startswith("warp_forward_near_kernel")) <= 64
