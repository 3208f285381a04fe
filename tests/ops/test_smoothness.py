"""The diffusion penalty: value and gradient in one sweep, against the specification."""

import pytest
import torch
from torch.func import grad, vmap

from fastreg.backends import cpu, reference
from fastreg.ops.smoothness import smoothness_l2

SHAPES = [(1, 1, 1), (1, 5, 2), (4, 1, 3), (3, 3, 1), (2, 2, 2), (5, 7, 37), (1, 1, 1100)]


def flow_of(shape, dtype=torch.float32, batch=2, ndim=3):
    return torch.randn(batch, ndim, *shape[3 - ndim :], generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_native_is_the_reference(isa, batch, shape, ndim, dtype):
    flow = flow_of(shape, dtype, batch, ndim)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6  # sums of at most 512 float32 squares
    value, gradient = cpu.smoothness(flow, True)
    expected, slope = reference.smoothness(flow, True)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(
        gradient, slope, rtol=tolerance, atol=tolerance * slope.abs().max().item() if batch else 0
    )
    alone, nothing = cpu.smoothness(flow, False)
    assert nothing is None
    torch.testing.assert_close(alone, expected, rtol=tolerance, atol=0)


def test_bits_do_not_depend_on_threads(isa):
    flow, before, results = flow_of((5, 7, 37)), torch.get_num_threads(), []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        results.append(cpu.smoothness(flow, True))
    torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


def test_a_constant_field_costs_nothing_and_a_ramp_its_slope(isa):
    flow = torch.full((1, 3, 4, 5, 20), 1e4)
    value, gradient = cpu.smoothness(flow, True)
    assert value == 0 and gradient.count_nonzero() == 0
    ramp = flow + 3 * torch.arange(20.0)
    assert cpu.smoothness(ramp, False)[0] == pytest.approx(9 / 3)


def test_gradient_to_nan_is_nan(isa):
    flow = flow_of((5, 7, 37))
    flow[0, 0, 2, 3, 20] = float("nan")
    value, gradient = cpu.smoothness(flow, True)
    assert value.isnan() and gradient.isnan().sum() == 7


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck(ndim):
    flow = flow_of((3, 4, 5), torch.float64, ndim=ndim).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: smoothness_l2(u, backend="native") * 3, flow, fast_mode=True)


def test_opcheck():
    flow = flow_of((5, 7, 37)).requires_grad_()
    # The second result is the gradient, and asking for a gradient of that is an error: no differentiating check.
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(torch.ops.fastreg.smoothness, (flow, True, "native"), test_utils=checks)


def test_compile_half_strides_and_transforms():
    flow = flow_of((5, 7, 37)).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(lambda u: smoothness_l2(u) * 2, fullgraph=True, dynamic=True, backend="aot_eager")
    for u in (flow, flow[..., :30]):
        torch.testing.assert_close(compiled(u), smoothness_l2(u) * 2)
    flow = flow.detach()
    assert torch.equal(smoothness_l2(flow.transpose(2, 4).contiguous().transpose(2, 4)), smoothness_l2(flow))
    assert smoothness_l2(flow.half()).dtype == torch.float32
    torch.testing.assert_close(grad(smoothness_l2)(flow), cpu.smoothness(flow, True)[1])
    each = vmap(lambda u: smoothness_l2(u[None]))(flow)
    torch.testing.assert_close(each.mean(), smoothness_l2(flow))


def test_double_backward_says_that_there_is_none():
    flow = flow_of((2, 3, 4)).requires_grad_()
    (first,) = torch.autograd.grad(smoothness_l2(flow), flow, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg\.smoothness has no second derivative"):
        first.sum().backward()
