"""The CUDA backend on a real GPU: what tests/test_cuda_shim.py cannot see (streams, graphs, devices, sizes)."""

import pytest
import torch

import fastreg
from fastreg.backends import cuda, reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form

WHY = cuda.why_unavailable()
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"backend cuda: {WHY}")


def close(ours, truth, tolerance):
    ours, truth = ours.double().cpu(), truth.double().cpu()
    assert ours.shape == truth.shape
    assert (ours - truth).abs().max() <= tolerance * truth.abs().max()


def warp_case(dtype, size=(24, 33, 70), channels=2):
    vol = torch.rand(2, channels, *size, device="cuda").to(dtype)
    flow = 3 * torch.randn(2, len(size), *size, device="cuda")
    return vol, flow.double() if dtype == torch.float64 else flow, torch.randn_like(vol)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)],
    ids=str,
)
def test_warp(dtype, tolerance, channels_last, padding):
    for size in ((24, 33, 70), (40, 50)):
        vol, flow, grad = warp_case(dtype, size)
        options = ("linear", padding, False)
        truth = reference.warp_backward(grad.double(), vol.double(), flow.double(), *options, True, True)
        moved = reference.warp_forward(vol.double(), flow.double(), *options)
        given = flow.movedim(1, -1).contiguous() if channels_last else flow
        ours = cuda.warp_backward(grad, vol, given, "linear", padding, channels_last, True, True)
        close(cuda.warp_forward(vol, given, "linear", padding, channels_last), moved, tolerance)
        close(ours[0], truth[0], 4 * tolerance)
        close(ours[1].movedim(-1, 1) if channels_last else ours[1], truth[1], 4 * min(tolerance, 1e-5))


def test_the_deterministic_gradient_repeats():
    vol, flow, grad = warp_case(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [cuda.warp_backward(grad, vol, flow, "linear", "zeros", False, True, False)[0] for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(runs[0], run) for run in runs[1:])


@pytest.mark.parametrize("window", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("size", [(40, 50, 130), (9, 20, 64), (70, 125)], ids=str)
def test_lncc(size, window):
    a = torch.rand(2, 1, *size, device="cuda")
    b = a + torch.rand_like(a)
    form = lncc_form("fastreg", [window] * len(size), 1e-5)
    truth = reference.lncc(a, b, None, form, 1.0, True, True, True)
    ours = cuda.lncc(a, b, None, form, 1.0, True, True, True)
    for x, y in zip(ours, truth, strict=True):
        close(x, y, 2e-5)
    again = cuda.lncc(a, b, None, form, 1.0, True, True, True)
    assert all(torch.equal(x, y) for x, y in zip(ours, again, strict=True))


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_lncc_of_every_definition(definition):
    a = torch.rand(1, 2, 20, 30, 60, device="cuda")
    b = a + torch.rand_like(a)
    form, mask = lncc_form(definition, [5] * 3, 1e-5), (torch.rand_like(a[:, :1]) > 0.5).float()
    for x, y in zip(
        cuda.lncc(a, b, mask, form, 1.0, True, True, True),
        reference.lncc(a, b, mask, form, 1.0, True, True, True),
        strict=True,
    ):
        close(x, y, 3e-5)


def test_fields():
    velocity, grad = 2 * torch.randn(1, 3, 20, 30, 40, device="cuda"), torch.randn(1, 3, 20, 30, 40, device="cuda")
    flow, saved = cuda.integrate_forward(velocity, 5, "border", True)
    close(flow, reference.integrate_forward(velocity.double(), 5, "border", False)[0], 1e-4)
    truth = reference.integrate_backward(grad.double(), velocity.double(), saved.double(), 5, "border")
    close(cuda.integrate_backward(grad, velocity, saved, 5, "border"), truth, 1e-4)
    for x, y in zip(cuda.smoothness(velocity, True), reference.smoothness(velocity, True), strict=True):
        close(x, y, 1e-5)


@pytest.mark.parametrize("kind", ["mind", "ssc"])
@pytest.mark.parametrize("size", [(24, 33, 70), (40, 50)], ids=str)
def test_mind(size, kind):
    image = torch.rand(2, 2, *size, device="cuda")
    out, floor = cuda.mind(image, kind)
    truth, least = reference.mind(image.double(), kind)
    close(out, truth, 1e-5)
    close(floor, least, 1e-5)
    grad = torch.randn_like(out)
    slope = reference.mind_backward(grad.double(), image.double(), least, kind)
    close(cuda.mind_backward(grad, image, floor, kind), slope, 1e-4)
    assert torch.equal(cuda.mind(image, kind)[0], out)


@pytest.mark.parametrize("sharpness", [None, 2.0])
@pytest.mark.parametrize(("measure", "padding"), [("dot", "zeros"), ("ssd", "border")])
@pytest.mark.parametrize(("size", "radius"), [((24, 33, 70), 1), ((9, 10, 37), 2), ((40, 50), 3)], ids=str)
def test_correlate(size, radius, measure, padding, sharpness):
    a, b = torch.randn(2, 2, 16, *size, device="cuda").unbind()
    options = radius, measure, padding, sharpness
    out = cuda.correlate_forward(a, b, *options)
    close(out, reference.correlate(a.double(), b.double(), *options), 1e-5)
    grad = torch.randn_like(out)
    truth = reference.correlate_backward(grad.double(), a.double(), b.double(), *options, True, True)
    ours = cuda.correlate_backward(grad, a, b, *options, True, True)
    again = cuda.correlate_backward(grad, a, b, *options, True, True)
    for x, y, z in zip(ours, truth, again, strict=True):
        close(x, y, 4e-5)
        assert torch.equal(x, z)


def test_ops_in_a_cuda_graph_and_on_a_stream_of_their_own():
    fixed, moving = torch.rand(1, 1, 24, 32, 40, device="cuda"), torch.rand(1, 1, 24, 32, 40, device="cuda")
    flow = torch.zeros(1, 3, 24, 32, 40, device="cuda", requires_grad=True)
    mask = torch.rand_like(fixed)

    def step():
        moved = fastreg.warp(moving, fastreg.integrate(flow, steps=2, backend="cuda"), backend="cuda")
        similarity = fastreg.lncc(moved, fixed, backend="cuda") + fastreg.lncc(moved, fixed, mask=mask, backend="cuda")
        return torch.autograd.grad(fastreg.smoothness(flow, backend="cuda") - similarity, flow)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = step()
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        flow.add_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    moved = step()
    assert torch.equal(captured, moved) and not torch.equal(captured, expected)


def test_more_than_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GB of free GPU memory")
    vol = torch.rand(1, 1, 1300, 1300, 1300, device="cuda", dtype=torch.float16)
    flow = torch.full((1, 3, 2, 2, 2), 1297.5, device="cuda")
    moved = cuda.warp_forward(vol, flow, "linear", "zeros", False)
    corner = vol[:, :, -4:, -4:, -4:].float()
    close(moved[0, 0, 0, 0, 0], corner[0, 0, 1:3, 1:3, 1:3].mean(), 1e-3)


def test_a_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    vol = torch.rand(1, 1, 8, 9, 10, device="cuda:1")
    flow = torch.zeros(1, 3, 8, 9, 10, device="cuda:1")
    assert torch.equal(fastreg.warp(vol, flow, backend="cuda"), vol)
