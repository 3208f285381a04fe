"""What the Triton kernels must do. test_triton.py runs this file in a process of its own, interpreted or on a GPU."""

import pytest
import torch
from helpers.lncc_family import BOXES

import fastreg
from fastreg import backends
from fastreg.backends import reference, triton
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form

DEVICE = "cpu" if triton.INTERPRETED else "cuda"
SHAPES = [(3, 4, 5), (6, 7)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype)


def awkward_flow(grid: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Displacements across every border, at integers, far outside, infinite and NaN."""
    flow = 2 * random(1, len(grid), *grid, dtype=dtype)
    flow[0, 0].view(-1)[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e-30])
    flow[0, 1].view(-1)[6:12] = torch.tensor([0, 1.0, -2.0, 0.5, -0.5, 2.5])
    return flow


def assert_close(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """`tolerance` is relative to the largest expected value; NaN in the same places."""
    assert got.shape == expected.shape
    assert torch.equal(got.isnan(), expected.isnan())
    got, expected = got.double().nan_to_num(0), expected.double().nan_to_num(0)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-3)


def rounding(dtype: torch.dtype) -> float:
    """A few units in the last place: the interpreter truncates to bfloat16 where a GPU rounds."""
    return 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("mode", "padding", "channels_last", "dtype", "size"),
    [
        ("linear", "zeros", False, torch.float32, SHAPES[0]),
        ("linear", "border", True, torch.float64, SHAPES[0]),
        ("linear", "reflection", False, torch.bfloat16, SHAPES[0]),
        ("linear", "zeros", True, torch.float16, SHAPES[1]),
        ("linear", "border", False, torch.float32, SHAPES[1]),
        ("linear", "reflection", True, torch.float64, SHAPES[1]),
        ("linear", "reflection", False, torch.float32, (1, 5, 1)),
        ("nearest", "zeros", True, torch.float32, SHAPES[0]),
        ("nearest", "border", False, torch.float16, SHAPES[0]),
        ("nearest", "reflection", False, torch.float64, SHAPES[1]),
    ],
)
def test_warp_matches_the_reference(mode, padding, channels_last, dtype, size):
    vol = random(1, 2, *size, dtype=dtype)
    flow = awkward_flow((2, *size[1:-1], 7), torch.float64 if dtype == torch.float64 else torch.float32)
    if channels_last:
        flow = flow.movedim(1, -1)
    options = mode, padding, channels_last
    out = triton.warp_forward(vol, flow, *options)
    assert out.dtype == dtype
    assert_close(out, reference.warp_forward(vol, flow, *options), rounding(dtype))
    grad = random(*out.shape, dtype=dtype)
    got = triton.warp_backward(grad, vol, flow, *options, True, True)
    expected = reference.warp_backward(grad, vol, flow, *options, True, True)
    assert got[0].dtype == dtype and got[1].dtype == flow.dtype
    assert_close(got[0], expected[0], rounding(dtype))
    assert_close(got[1], expected[1], rounding(flow.dtype))


def test_warp_of_a_batch_gives_one_gradient_alone():
    vol, flow, grad = random(2, 3, 4, 5), random(2, 2, 4, 5), random(2, 3, 4, 5)
    expected = reference.warp_backward(grad, vol, flow, "linear", "zeros", False, True, True)
    grad_vol, nothing = triton.warp_backward(grad, vol, flow, "linear", "zeros", False, True, False)
    assert nothing is None
    assert_close(grad_vol, expected[0], 1e-6)
    nothing, grad_flow = triton.warp_backward(grad, vol, flow, "linear", "zeros", False, False, True)
    assert nothing is None
    assert_close(grad_flow, expected[1], 1e-6)


@pytest.mark.parametrize(
    ("mode", "padding", "align", "dtype", "size"),
    [
        ("linear", "zeros", True, torch.float32, SHAPES[0]),
        ("linear", "symmetric", False, torch.float64, SHAPES[0]),
        ("linear", "itk", True, torch.float64, SHAPES[1]),
        ("linear", "reflection", True, torch.float32, SHAPES[1]),
        ("nearest", "symmetric", False, torch.float64, SHAPES[1]),
        ("nearest", "itk", False, torch.float64, SHAPES[0]),
        ("nearest", "border", True, torch.float64, SHAPES[0]),
    ],
)
def test_warp_by_places_matches_the_reference(mode, padding, align, dtype, size):
    vol, grad = random(2, 2, *size, dtype=dtype), random(2, 2, 2, *size[1:-1], 7, dtype=dtype)
    places = random(2, 2, *size[1:-1], 7, len(size), dtype=dtype)
    if len(size) == 2:
        places, grad = random(2, 5, 7, 2, dtype=dtype), random(2, 2, 5, 7, dtype=dtype)
    places[0, 0, 0, 0] = float("nan")
    options = mode, padding, True
    found = triton.warp_forward(vol, places, *options, align)
    assert_close(found, reference.warp_forward(vol, places, *options, align), 100 * rounding(dtype))
    got = triton.warp_backward(grad, vol, places, *options, True, True, align)
    expected = reference.warp_backward(grad, vol, places, *options, True, True, align)
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs, 100 * rounding(dtype))


@pytest.mark.parametrize("padding", ["symmetric", "itk"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_warp_with_the_paddings_of_files(padding, mode):
    vol, flow = random(1, 2, 3, 4, 5, dtype=torch.float64), awkward_flow((3, 4, 5), torch.float64)
    found = triton.warp_forward(vol, flow, mode, padding, False)
    assert_close(found, reference.warp_forward(vol, flow, mode, padding, False), 1e-12)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_warp_of_one_volume_by_a_batch_of_fields(mode):
    vol, flow, grad = random(1, 3, 4, 5), random(2, 2, 4, 5), random(2, 3, 4, 5)
    options = mode, "zeros", False
    assert_close(triton.warp_forward(vol, flow, *options), reference.warp_forward(vol, flow, *options), 1e-6)
    got = triton.warp_backward(grad, vol, flow, *options, True, True)
    for mine, expected in zip(got, reference.warp_backward(grad, vol, flow, *options, True, True), strict=True):
        assert_close(mine, expected, 1e-6)


def test_nan_voxel_stays_where_it_is_under_the_identity():
    vol = random(1, 1, 3, 4)
    vol[0, 0, 1, 2] = float("nan")
    out = triton.warp_forward(vol, torch.zeros(1, 2, 3, 4, device=DEVICE), "linear", "zeros", False)
    assert torch.equal(out.isnan(), vol.isnan()) and torch.equal(out.nan_to_num(0), vol.nan_to_num(0))


def test_deterministic_volume_gradient(deterministic):
    vol, flow, grad = random(1, 2, 4, 5), 3 * random(1, 2, 4, 5), random(1, 2, 4, 5)
    options = "linear", "border", False, True, False
    got = [triton.warp_backward(grad, vol, flow, *options)[0] for _ in range(2)]
    assert torch.equal(*got)
    expected = reference.warp_backward(grad.double(), vol.double(), flow.double(), *options)
    assert_close(got[0], expected[0], 1e-6)
    grad[0, 0, 0, 0] = float("inf")
    assert triton.warp_backward(grad, vol, flow, *options)[0].isnan().all()


@pytest.mark.parametrize("form", BOXES.values(), ids=BOXES)
def test_lncc_of_the_family_matches_the_reference(form):
    a, b = random(1, 2, 3, 4, 5, dtype=torch.float64), random(1, 2, 3, 4, 5, dtype=torch.float64)
    mask = (random(1, 1, 3, 4, 5, dtype=torch.float64) > -0.5).double()
    for weights in ((None, None), (mask, mask)):
        got = triton.lncc(a, b, weights[0], form, 0.3, True, True, True, weights[1])
        expected = reference.lncc(a, b, weights[0], form, 0.3, True, True, True, weights[1])
        for mine, theirs in zip(got, expected, strict=True):
            assert_close(mine, theirs, 1e-10)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_lncc_matches_the_reference(definition):
    a, b, weight = 3 * random(1, 2, 3, 4, 5) + 10, random(1, 2, 3, 4, 5), random(1, 1, 3, 4, 5).abs()
    a, b = a.double(), (b + a / 2).double()
    form = lncc_form(definition, [3] * 3, 1e-5)
    got = triton.lncc(a, b, weight, form, 0.3, True, True, True)
    assert got[0].dtype == torch.float64
    for mine, expected in zip(got, reference.lncc(a, b, weight, form, 0.3, True, True, True), strict=True):
        assert_close(mine, expected, 1e-12)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
@pytest.mark.parametrize("size", [(3, 4, 5), (5, 6)], ids=str)
def test_lncc_with_a_mask_matches_the_reference(definition, size):
    a, b, weight = random(1, 2, *size).double() + 10, random(1, 2, *size).double(), random(1, 2, *size).abs().double()
    b = b + a / 2
    mask = (random(1, 1, *size) > -0.4).double() * random(1, 1, *size).abs()
    hidden = torch.where(mask > 0, a, float("nan"))
    form = lncc_form(definition, [3] * len(size), 1e-5)
    for windows, needs in ((mask, (True, True, False)), (weight, (False, True, True))):
        got = triton.lncc(hidden, b, windows, form, 0.3, *needs, mask)
        for mine, expected in zip(got, reference.lncc(hidden, b, windows, form, 0.3, *needs, mask), strict=True):
            assert (mine is None) == (expected is None)
            if mine is not None:
                assert_close(mine, expected, 1e-12)


@pytest.mark.parametrize("definition", ["fastreg", "ants"])
def test_lncc_in_two_dimensions_with_one_gradient(definition):
    a = random(2, 1, 6, 7, dtype=torch.float16)
    b = random(2, 1, 6, 7, dtype=torch.bfloat16) + a.bfloat16()
    form = lncc_form(definition, [5] * 2, 1e-5)
    value, nothing, grad_b, cc = triton.lncc(a, b, None, form, 1.0, False, True, True)
    expected = reference.lncc(a.double(), b.double(), None, form, 1.0, False, True, True)
    assert nothing is None and grad_b.dtype == b.dtype and cc.dtype == torch.float32
    assert_close(value, expected[0], 1e-6)
    assert_close(grad_b, expected[2], rounding(b.dtype))
    assert_close(cc, expected[3], 2e-6)


def test_lncc_in_slabs_gives_the_same_bits(monkeypatch):
    from fastreg.kernels import lncc

    a, b = random(1, 2, 5, 3, 4), random(1, 2, 5, 3, 4)
    arguments = None, lncc_form("fastreg", [3] * 3, 1e-5), 1.0, True, True, True
    mask = (random(1, 1, 5, 3, 4) > -0.4).float()
    whole, masked = triton.lncc(a, b, *arguments), triton.lncc(a, b, *arguments, mask)
    planes = 4
    monkeypatch.setattr(lncc, "WORKSPACE_BYTES", planes * 3 * 4 * lncc.WORKSPACE_PER_VOXEL * 4)
    for expected, given in ((whole, ()), (masked, (mask,))):
        slabs = triton.lncc(a, b, *arguments, *given)
        assert_close(slabs[0], expected[0], 1e-7)
        assert all(torch.equal(*pair) for pair in zip(slabs[1:], expected[1:], strict=True))


@pytest.mark.parametrize(("noise", "limit"), [(20.0, 2e-5), (0.0, 2e-4)])
def test_lncc_is_close_to_float64_on_hounsfield_units(noise, limit):
    """A body in air: its edge is 1000 units high; the air has noise or none."""
    size = (5, 8, 9)
    body = torch.zeros(size, device=DEVICE)
    body[1:4, 2:6, 3:7] = 1
    a = -1000 + body * (1040 + 10 * random(*size)) + noise * random(*size)
    b = -1000 + body * (1040 + 12 * random(*size)) + noise * random(*size)
    a, b = a[None, None], b[None, None]
    form = lncc_form("fastreg", [5] * 3, 1e-5)
    got = triton.lncc(a, b, None, form, 1.0, True, True, True)
    expected = reference.lncc(a.double(), b.double(), None, form, 1.0, True, True, True)
    assert_close(got[0], expected[0], 1e-6)
    assert_close(got[1], expected[1], limit)
    assert_close(got[2], expected[2], limit)
    assert_close(got[3], expected[3], 5e-6)


@pytest.mark.parametrize(
    ("size", "padding", "dtype"),
    [((3, 4, 5), "zeros", torch.float32), ((5, 6), "border", torch.float64), ((1, 6, 2), "reflection", torch.float16)],
)
def test_integrate_matches_the_reference(size, padding, dtype):
    velocity = 2 * random(1, len(size), *size, dtype=dtype)
    flow, saved = triton.integrate_forward(velocity, 2, padding, True)
    expected, kept = reference.integrate_forward(velocity, 2, padding, True)
    assert flow.dtype == dtype and saved.dtype == kept.dtype
    assert_close(flow, expected, rounding(dtype))
    grad = random(*flow.shape, dtype=dtype)
    got = triton.integrate_backward(grad, velocity, kept, 2, padding)
    assert_close(got, reference.integrate_backward(grad, velocity, kept, 2, padding), 4 * rounding(dtype))


def test_integrate_backward_is_deterministic_where_asked(deterministic):
    velocity, grad = 3 * random(1, 2, 4, 5), random(1, 2, 4, 5)
    _, kept = triton.integrate_forward(velocity, 2, "border", True)
    got = [triton.integrate_backward(grad, velocity, kept, 2, "border") for _ in range(2)]
    assert torch.equal(*got)
    expected = reference.integrate_backward(grad.double(), velocity.double(), kept.double(), 2, "border")
    assert_close(got[0], expected, 2e-6)


@pytest.mark.parametrize(
    ("size", "dtype"), [((3, 4, 5), torch.float64), ((6, 7), torch.float16), ((1, 5, 3), torch.float32)]
)
def test_smoothness_matches_the_reference(size, dtype):
    flow = random(2, len(size), *size, dtype=dtype)
    value, grad = triton.smoothness(flow, True)
    expected, slope = reference.smoothness(flow.double(), True)
    assert grad.dtype == dtype and value.dtype == torch.float64
    assert_close(value, expected, rounding(torch.float64 if dtype == torch.float64 else torch.float32))
    assert_close(grad, slope, rounding(dtype))


@pytest.mark.parametrize(
    ("size", "dtype"), [((4, 5, 6), torch.float64), ((6, 7), torch.float32), ((1, 5, 2), torch.float32)]
)
def test_penalty_matches_the_reference(size, dtype):
    velocity, known = random(2, len(size), *size, dtype=dtype), random(2, 1, *size, dtype=dtype)
    for weights in ((0.3, 0.7), (0.0, 0.7), (0.3, 0.0), (0.0, 0.0)):
        for given in (known, None):
            grad = torch.ones_like(velocity)
            expected = grad.double()
            value = triton.penalty(velocity, given, *weights, grad)
            truth = reference.penalty(velocity.double(), given, *weights, expected)
            assert grad.dtype == dtype and value.dtype == torch.float64
            assert_close(value, truth, rounding(dtype))
            assert_close(grad, expected, rounding(dtype))
            assert_close(triton.penalty(velocity, given, *weights, None), truth, rounding(dtype))


@pytest.mark.parametrize(
    ("size", "dtype", "passes"),
    [
        ((4, 5, 6), torch.float64, 1),
        ((1, 2, 3), torch.float32, 4),
        ((6, 7), torch.float32, 2),
        ((6, 7), torch.float64, 0),
    ],
)
def test_adam_step_matches_the_reference(size, dtype, passes):
    fields = [random(2, len(size), *size, dtype=dtype) for _ in range(4)]
    fields[3].abs_()
    expected = [field.double() for field in fields]
    for count in (1, 2):
        triton.adam_step(*fields, count, 0.1, 0.9, 0.999, 1e-8, passes)
        reference.adam_step(*expected, count, 0.1, 0.9, 0.999, 1e-8, passes)
        for k in (0, 2, 3):
            assert_close(fields[k], expected[k], rounding(dtype))
        for field in (fields[1], expected[1]):
            field.fill_(0.5)


@pytest.mark.parametrize("scheme", ["central", "least"])
@pytest.mark.parametrize(
    ("size", "dtype"), [((2, 3, 5), torch.float64), ((4, 5), torch.float32), ((3, 2, 4), torch.float16)]
)
def test_determinant_matches_the_reference(size, dtype, scheme):
    flow = random(2, len(size), *size, dtype=dtype)
    flow[0, 1].view(-1)[3] = float("nan")
    got, expected = triton.determinant(flow, scheme), reference.determinant(flow.double(), scheme)
    assert got.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert_close(got, expected, rounding(got.dtype))


@pytest.mark.parametrize(
    ("kind", "size", "dtype"),
    [
        ("mind", (2, 3, 4), torch.float32),
        ("ssc", (1, 3, 4), torch.float64),
        ("mind", (4, 5), torch.float64),
        ("ssc", (3, 40), torch.float32),
    ],
)
def test_mind_matches_the_reference(kind, size, dtype):
    image = random(*(1, 1) if len(size) == 3 else (2, 2), *size, dtype=dtype)
    image[..., : size[-1] // 2] *= 1e-2
    out, floor = triton.mind(image, kind)
    expected, least = reference.mind(image.double(), kind)
    assert out.dtype == dtype and floor.shape == image.shape[:2]
    assert_close(out, expected, 4 * rounding(dtype))
    torch.testing.assert_close(floor.double(), least, rtol=1e-5, atol=0)
    grad = torch.randn_like(out)
    slope = reference.mind_backward(grad.double(), image.double(), floor.double(), kind)
    assert_close(triton.mind_backward(grad, image, floor, kind), slope, 16 * rounding(dtype))


def test_mind_in_half_precision_and_of_constant_images():
    image = random(1, 1, 4, 5, dtype=torch.float16)
    out, floor = triton.mind(image, "mind")
    assert out.dtype == torch.float16 and floor.dtype == torch.float32
    assert_close(out, reference.mind(image.double(), "mind")[0], rounding(torch.float16))
    flat = torch.full_like(image, 3)
    out, floor = triton.mind(flat, "mind")
    assert (out == 1).all() and triton.mind_backward(out, flat, floor, "mind").count_nonzero() == 0


@pytest.mark.parametrize("sharpness", [None, 2.0])
@pytest.mark.parametrize(
    ("size", "radius", "measure", "padding", "dtype"),
    [
        ((2, 3, 4), 1, "dot", "zeros", torch.float32),
        ((3, 5), 1, "ssd", "border", torch.float64),
        ((4, 5), 1, "dot", "zeros", torch.float16),
    ],
)
def test_correlate_matches_the_reference(size, radius, measure, padding, dtype, sharpness):
    a, b = random(1, 2, *size, dtype=dtype), random(1, 2, *size, dtype=dtype)
    options = radius, measure, padding, sharpness
    out = triton.correlate_forward(a, b, *options)
    assert_close(out, reference.correlate(a.double(), b.double(), *options), 2 * rounding(out.dtype))
    slope = random(*out.shape, dtype=out.dtype)
    truth = reference.correlate_backward(slope.double(), a.double(), b.double(), *options, True, True)
    for got, expected in zip(triton.correlate_backward(slope, a, b, *options, True, True), truth, strict=True):
        assert_close(got, expected, 4 * rounding(dtype))


def test_empty_batch():
    vol, flow = random(0, 1, 3, 4), random(0, 2, 3, 4)
    assert triton.warp_forward(vol, flow, "linear", "zeros", False).shape == vol.shape
    assert triton.warp_backward(vol, vol, flow, "linear", "zeros", False, True, True)[1].shape == flow.shape
    assert triton.lncc(vol, vol, None, lncc_form("fastreg", [3] * 2, 1e-5), 1.0, True, False, False)[0] == 0
    assert triton.integrate_forward(flow, 2, "zeros", True)[0].shape == flow.shape
    assert triton.smoothness(flow, True)[0] == 0
    assert triton.penalty(flow, None, 1.0, 1.0, flow) == 0
    triton.adam_step(flow, flow, flow, flow, 1, 0.1, 0.9, 0.999, 1e-8, 1)
    assert triton.determinant(flow, "least").shape == (0, 3, 4)
    assert triton.correlate_forward(vol, vol, 1, "dot", "zeros", None).shape == (0, 9, 3, 4)
    assert triton.correlate_backward(flow, vol, vol, 1, "dot", "zeros", 1.0, True, True)[1].shape == vol.shape
    assert triton.mind(vol, "ssc")[0].shape == (0, 4, 3, 4)


def test_public_ops_by_name_with_gradients():
    vol, flow = random(1, 1, 4, 5).requires_grad_(), random(1, 2, 4, 5).requires_grad_()
    fixed = random(1, 1, 4, 5)
    gradients = []
    for name in ("triton", "reference"):
        loss = fastreg.lncc(fastreg.warp(vol, flow, backend=name), fixed, window=3, backend=name)
        gradients.append(torch.autograd.grad(loss, (vol, flow)))
    for mine, expected in zip(*gradients, strict=True):
        assert_close(mine, expected, 1e-5)


def test_the_interpreter_is_not_chosen_by_itself():
    tensor = random(1, 1, 3, 4)
    assert (backends.choose(None, tensor) == "triton") == (not triton.INTERPRETED)
    assert backends.choose("triton", tensor) == "triton"
