"""Roughness and change of volume in one sweep, against the specification."""

import pytest
import torch
from torch.func import grad, vmap

from fastreg.backends import cpu, reference
from fastreg.ops.penalty import penalty_, volume_l2

# Axes of 1 and 2 voxels have no central difference; planes and rows beyond one tile of the sweep.
SHAPES = [(1, 1, 1), (1, 5, 2), (4, 1, 3), (3, 3, 1), (2, 2, 2), (5, 7, 37), (1, 1, 1100), (37, 11, 4), (3, 20, 700)]
WEIGHTS = [(1.3, 0.7), (0.0, 2.0), (2.0, 0.0), (0.0, 0.0)]


def field_of(shape, dtype=torch.float32, batch=2, ndim=3, channels=None):
    return torch.randn(batch, channels or ndim, *shape[3 - ndim :], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_native_is_the_reference(isa, batch, shape, ndim, dtype):
    velocity, before = (field_of(shape, dtype, batch, ndim) for _ in range(2))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6  # sums of at most 512 float32 squares
    for weights in WEIGHTS:
        for known in (None, field_of(shape, dtype, batch, ndim, channels=1)):
            gradient, expected = before.clone(), before.double()
            value = cpu.penalty(velocity, known, *weights, gradient)
            truth = reference.penalty(velocity.double(), known, *weights, expected)
            assert value.dtype == torch.float64
            torch.testing.assert_close(value, truth, rtol=tolerance, atol=0)
            atol = tolerance * expected.abs().max().item() if batch else 0
            torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=atol)
            torch.testing.assert_close(cpu.penalty(velocity, known, *weights, None), truth, rtol=tolerance, atol=0)


def test_bits_do_not_depend_on_threads(isa, threads):
    velocity, known, results = field_of((37, 20, 400)), field_of((37, 20, 400), channels=1), []
    for count in (1, 2, 3, 8):
        threads(count)
        gradient = torch.zeros_like(velocity)
        results.append((cpu.penalty(velocity, known, 1.0, 1.0, gradient), gradient))
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


def test_a_rotation_keeps_its_volume_and_a_dilation_pays(isa):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (6, 7, 8)], indexing="ij")
    z, y, x = axes
    assert volume_l2(torch.stack([-y, z, 0 * x])[None], backend="native") == 0
    spread = cpu.penalty(0.1 * torch.stack(axes)[None], None, 0.0, 1.0, None)
    planes = [torch.arange(n) % (n - 1) > 0 for n in (6, 7, 8)]  # those with a central difference
    inside = sum(plane.double().view([-1 if k == axis else 1 for k in range(3)]) for axis, plane in enumerate(planes))
    torch.testing.assert_close(spread, (0.1 * inside).square().mean())


def test_what_a_nan_reaches(isa):
    velocity = torch.randn(1, 3, 5, 7, 37)
    velocity[0, 0, 2, 3, 20] = float("nan")  # reaches the divergence at two voxels, and through it six others
    gradient, expected = torch.zeros_like(velocity), torch.zeros_like(velocity)
    value = cpu.penalty(velocity, None, 1.0, 1.0, gradient)
    reference.penalty(velocity, None, 1.0, 1.0, expected)
    assert value.isnan() and torch.equal(gradient.isnan(), expected.isnan())
    border = torch.randn(1, 3, 5, 7, 37)
    border[0, 0, 0, 3, 20] = float("nan")
    gradient.zero_()
    cpu.penalty(border, None, 0.0, 1.0, gradient)
    assert torch.equal(gradient.isnan(), reference_nans(border))


def reference_nans(velocity):
    expected = torch.zeros_like(velocity)
    reference.penalty(velocity, None, 0.0, 1.0, expected)
    return expected.isnan()


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck(ndim):
    velocity = field_of((4, 5, 6), torch.float64, ndim=ndim).requires_grad_()
    known = field_of((4, 5, 6), torch.float64, ndim=ndim, channels=1)
    assert torch.autograd.gradcheck(lambda v: 3 * volume_l2(v, known, "native"), velocity, fast_mode=True)


def test_opcheck():
    velocity, known = field_of((3, 4, 5)), field_of((3, 4, 5), channels=1)
    torch.library.opcheck(torch.ops.fastreg.penalty_, (velocity, known, 1.0, 2.0, torch.zeros_like(velocity), "native"))
    # The second result is the gradient, and asking for a gradient of that is an error: no differentiating check.
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    arguments = (velocity.requires_grad_(), known, True, "native")
    torch.library.opcheck(torch.ops.fastreg.volume, arguments, test_utils=checks)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_gradient_is_added_whatever_the_strides_of_the_velocity(backend):
    velocity, known = field_of((3, 4, 5)), field_of((3, 4, 5), channels=1)
    gradient, expected = torch.ones_like(velocity), torch.ones_like(velocity)
    strided = velocity.transpose(2, 4).contiguous().transpose(2, 4)
    value = penalty_(strided.requires_grad_(), gradient, known, smoothness=0.3, volume=0.5, backend=backend)
    truth = reference.penalty(velocity, known, 0.3, 0.5, expected)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(gradient, expected)


def test_compile_half_and_transforms():
    velocity, known = field_of((3, 4, 5)), field_of((3, 4, 5), channels=1)
    torch._dynamo.reset()
    compiled = torch.compile(lambda v, k: volume_l2(v, k) * 2, fullgraph=True, dynamic=True, backend="aot_eager")
    for v in (velocity.clone().requires_grad_(), velocity[..., :4].clone().requires_grad_()):
        part = known[..., : v.shape[-1]]
        torch.testing.assert_close(compiled(v, part), volume_l2(v, part) * 2)

    def step(v, g):
        return penalty_(v, g, smoothness=1.0, volume=1.0)

    gradients = torch.zeros_like(velocity), torch.zeros_like(velocity)
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(velocity, gradients[0]), step(velocity, gradients[1]))
    torch.testing.assert_close(*gradients)
    half = velocity.half().requires_grad_()
    value = volume_l2(half, known)
    assert value.dtype == torch.float32 and torch.autograd.grad(value, half)[0].dtype == torch.float16
    slope = torch.zeros_like(velocity)
    cpu.penalty(velocity, known, 0.0, 1.0, slope)
    torch.testing.assert_close(grad(volume_l2)(velocity, known), slope)
    each = vmap(lambda v, k: volume_l2(v[None], k[None]))(velocity, known)
    torch.testing.assert_close(each.mean(), volume_l2(velocity, known))


def test_double_backward_says_that_there_is_none():
    velocity = field_of((3, 4, 5)).requires_grad_()
    (first,) = torch.autograd.grad(volume_l2(velocity), velocity, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg\.volume_l2 has no second derivative"):
        first.sum().backward()


def test_wrong_arguments():
    v, known = field_of((3, 4, 5)), field_of((3, 4, 5), channels=1)
    weights = {"smoothness": 1.0, "volume": 1.0}
    with pytest.raises(ValueError, match="grad must be contiguous: it is changed in place"):
        penalty_(v, torch.zeros(2, 3, 5, 4, 3).transpose(2, 4), **weights)
    with pytest.raises(ValueError, match=r"grad must be like velocity, \[2, 3, 3, 4, 5\] torch.float32, got"):
        penalty_(v, torch.zeros_like(v).double(), **weights)
    with pytest.raises(TypeError, match=r"grad must be float32 or float64, got torch\.float16"):
        penalty_(v.half(), torch.zeros_like(v).half(), **weights)
    with pytest.raises(ValueError, match=r"known must be \[2, 1, 3, 4, 5\] to match velocity"):
        penalty_(v, torch.zeros_like(v), v, **weights)
    with pytest.raises(ValueError, match="volume must be at least 0 and finite, got -1"):
        penalty_(v, torch.zeros_like(v), smoothness=1.0, volume=-1.0)
    with pytest.raises(ValueError, match="known has no gradient here: detach it"):
        volume_l2(v, known.requires_grad_())
    with pytest.raises(ValueError, match=r"velocity must be \[batch, 3, D, H, W\]"):
        volume_l2(v[:, :2])
