"""`fastreg.integrate`: scaling and squaring against the specification and against what it must be."""

import pytest
import torch
from helpers.native_isa import AVAILABLE
from torch.func import grad, jvp

import fastreg
from fastreg.backends import cpu, reference
from fastreg.types import PADDINGS

SIZES = {2: (9, 37), 3: (6, 9, 37)}


def velocity_of(ndim, dtype=torch.float32, batch=2, scale=2.0):
    generator = torch.Generator().manual_seed(ndim + batch)
    return torch.randn(batch, ndim, *SIZES[ndim], generator=generator, dtype=dtype) * scale


@pytest.mark.slow
@pytest.mark.parametrize(
    "isa, dtype", [("baseline", torch.float64), *((level, torch.float32) for level in AVAILABLE)], indirect=["isa"]
)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_native_is_the_reference(isa, steps, padding, ndim, dtype):
    # A rough field is compressed and stretched at each squaring, and the errors of float32 with it.
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for batch, scale in ((2, 2.0), (1, 0.1), (0, 1.0)):
        velocity = velocity_of(ndim, dtype, batch, scale)
        flow, saved = cpu.integrate_forward(velocity, steps, padding, True)
        expected, kept = reference.integrate_forward(velocity, steps, padding, True)
        torch.testing.assert_close(flow, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(saved.view_as(kept), kept, rtol=tolerance, atol=tolerance)
        assert torch.equal(cpu.integrate_forward(velocity, steps, padding, False)[0], flow)
        upstream = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
        torch.testing.assert_close(
            cpu.integrate_backward(upstream, velocity, kept, steps, padding),
            reference.integrate_backward(upstream, velocity, kept, steps, padding),
            rtol=tolerance,
            atol=tolerance,
        )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (4, 1, 3), (3, 3, 1)])
def test_thin(isa, shape):
    velocity = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    expected, saved = reference.integrate_forward(velocity, 3, "border", True)
    torch.testing.assert_close(cpu.integrate_forward(velocity, 3, "border", True)[0], expected)
    torch.testing.assert_close(
        cpu.integrate_backward(velocity, velocity, saved, 3, "border"),
        reference.integrate_backward(velocity, velocity, saved, 3, "border"),
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_bits_do_not_depend_on_threads(isa, threads, ndim):
    velocity = velocity_of(ndim, scale=3.0)
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        flow, saved = cpu.integrate_forward(velocity, 4, "zeros", True)
        results.append((flow, cpu.integrate_backward(flow, velocity, saved, 4, "zeros")))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


def test_nan_velocity_is_not_hidden(isa):
    velocity = torch.zeros(1, 3, 6, 9, 37)
    velocity[0, 0, 3, 4, 20] = float("nan")
    flow = fastreg.integrate(velocity, steps=2)
    assert flow[0, :, 3, 4, 20].isnan().all()
    assert flow.isnan().sum() == 3


def test_constant_velocity_with_border_is_a_translation():
    velocity = torch.tensor([1.5, -2.0, 0.25]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 9, 37)
    torch.testing.assert_close(fastreg.integrate(velocity, padding="border"), velocity.contiguous())


def test_inverse():
    """exp(v) after exp(-v) is the identity, inside and to the accuracy of linear interpolation."""
    axes = [torch.linspace(0, torch.pi, n) for n in (24, 24, 24)]
    bump = torch.sin(axes[0])[:, None, None] * torch.sin(axes[1])[:, None] * torch.sin(axes[2])
    velocity = torch.stack([bump, -0.5 * bump, 0.8 * bump])[None]
    there, back = fastreg.integrate(velocity), fastreg.integrate(-velocity)
    residual = back + fastreg.warp(there, back, padding="border")
    assert residual[..., 3:-3, 3:-3, 3:-3].abs().max() < 0.02
    assert there.abs().max() > 0.5


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck(ndim):
    velocity = torch.randn(
        1, ndim, *(3, 4, 5)[3 - ndim :], generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda v: fastreg.integrate(v, steps=3, backend="native"), velocity.requires_grad_(), fast_mode=True
    )


def test_opcheck():
    velocity = velocity_of(3).requires_grad_()
    torch.library.opcheck(torch.ops.fastreg.integrate, (velocity, 3, "zeros", True, "native"))
    velocity = velocity.detach()
    saved = reference.integrate_forward(velocity, 3, "zeros", True)[1]
    inputs = velocity, velocity, saved, 3, "zeros", "native"
    torch.library.opcheck(torch.ops.fastreg.integrate_backward, inputs)


def test_backward_twice_through_one_graph():
    """The saved fields are read, not used up."""
    velocity = velocity_of(3).requires_grad_()
    flow = fastreg.integrate(velocity, steps=3)
    first = torch.autograd.grad(flow.square().sum(), velocity, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(flow.square().sum(), velocity)[0])


@pytest.mark.slow
def test_compile_half_and_strides():
    velocity = velocity_of(3).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda v: fastreg.integrate(v, steps=3) * 2, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for v in (velocity, velocity[..., :30]):
        torch.testing.assert_close(compiled(v), fastreg.integrate(v, steps=3) * 2)
    half = velocity.detach().to(torch.bfloat16)
    assert torch.equal(fastreg.integrate(half), fastreg.integrate(half.float()).to(torch.bfloat16))
    strided = velocity.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(fastreg.integrate(strided), fastreg.integrate(velocity.detach()))


@pytest.mark.slow
def test_function_transforms():
    velocity = velocity_of(2, torch.float64)
    leaf = velocity.clone().requires_grad_()
    expected = torch.autograd.grad(fastreg.integrate(leaf, steps=3).square().sum(), leaf)[0]
    torch.testing.assert_close(grad(lambda v: fastreg.integrate(v, steps=3).square().sum())(velocity), expected)
    _, tangent = jvp(lambda v: fastreg.integrate(v, steps=3).square().sum(), (velocity,), (torch.ones_like(velocity),))
    torch.testing.assert_close(tangent, expected.sum())


def test_double_backward_says_that_there_is_none():
    velocity = velocity_of(2, torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(fastreg.integrate(velocity).square().sum(), velocity, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg\.integrate has no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"velocity": torch.zeros(1, 2, 4, 5, 6)},
            ValueError,
            r"velocity must be \[batch, 3, D, H, W\] .*got \[1, 2, 4, 5, 6\]",
        ),
        ({"velocity": torch.zeros(1, 3, 4, 5, 6).long()}, TypeError, r"velocity must be float16, .*got torch.int64"),
        ({"steps": -1}, ValueError, r"steps must be at least 0, got -1"),
        ({"steps": 2.0}, TypeError, r"steps must be an integer, got float"),
        ({"padding": "wrap"}, ValueError, r"padding must be one of .*got 'wrap'"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        fastreg.integrate(**{"velocity": torch.zeros(1, 3, 4, 5, 6), **options})
