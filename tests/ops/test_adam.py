"""Adam with a smoothed update in one sweep, against the specification and against PyTorch's Adam."""

import math

import pytest
import torch

from fastreg.backends import cpu, reference
from fastreg.backends.reference_fields import binomial
from fastreg.ops.adam import adam_step

# Axes shorter than the filter, one voxel long, and longer than a slab for eight threads.
SHAPES = [(1, 1, 1), (1, 5, 2), (4, 1, 3), (3, 3, 1), (2, 2, 2), (5, 7, 37), (1, 1, 1100), (70, 9, 6)]
RATES = (0.1, 0.9, 0.999, 1e-8)


def fields_of(shape, dtype=torch.float32, batch=2, ndim=3):
    """Velocity, gradient, mean and square in the middle of a run."""
    size = batch, ndim, *shape[3 - ndim :]
    velocity, grad, mean = (torch.randn(size, dtype=dtype) for _ in range(3))
    return [velocity, grad, 0.1 * mean, torch.rand(size, dtype=dtype)]


def stepped(backend, fields, *arguments):
    """Velocity, mean and square after a step; `fields` stay as they are."""
    velocity, grad, mean, square = (field.clone() for field in fields)
    backend.adam_step(velocity, grad, mean, square, *arguments)
    return velocity, mean, square


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_native_is_the_reference(isa, batch, shape, ndim, dtype):
    fields = fields_of(shape, dtype, batch, ndim)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    for passes in range(5):
        got = stepped(cpu, fields, 3, *RATES, passes)
        expected = stepped(reference, [field.double() for field in fields], 3, *RATES, passes)
        for ours, truth in zip(got, expected, strict=True):
            torch.testing.assert_close(ours.double(), truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(70, 9, 6), (1, 50, 7)])
@pytest.mark.parametrize("passes", range(5))
def test_bits_do_not_depend_on_threads(isa, threads, passes, shape):
    fields, results = fields_of(shape), []
    for count in (1, 2, 3, 5, 8, 40):
        threads(count)
        results.append(stepped(cpu, fields, 3, *RATES, passes))
    for result in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(result, results[0], strict=True))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_without_passes_it_is_adam(backend):
    ours = torch.randn(1, 3, 4, 5, 6, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.03, betas=(0.8, 0.95), eps=1e-6)
    mean, square = torch.zeros_like(ours), torch.zeros_like(ours)
    for count in range(1, 6):
        theirs.grad = torch.randn_like(ours)
        grad = theirs.grad.clone()
        optimiser.step()
        adam_step(ours, grad, mean, square, count, step=0.03, beta1=0.8, beta2=0.95, eps=1e-6, backend=backend)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_a_step_is_undone_by_the_moments_it_leaves():
    fields = fields_of((5, 7, 37), torch.float64)
    velocity, mean, square = stepped(cpu, fields, 3, *RATES, 2)
    update = reference.smoothed_update(mean, square, 3, *RATES[1:], 2)
    torch.testing.assert_close(velocity + RATES[0] * update, fields[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 21])
def test_many_short_filters_are_one_long_one_over_the_mirrored_axis(size, passes):
    """The filter is symmetric, and so is the axis about its border: what it makes of the one is symmetric again."""
    x = torch.randn(1, 1, 1, size, dtype=torch.float64)
    period = torch.cat([x, x.flip(3)], 3).flatten()
    taps = [math.comb(2 * passes, k) / 4**passes for k in range(2 * passes + 1)]
    at = torch.arange(size)
    expected = sum(tap * period[(at + k - passes) % (2 * size)] for k, tap in enumerate(taps))
    torch.testing.assert_close(binomial(x, passes).flatten(), expected, rtol=0, atol=1e-13)


def test_the_filter_keeps_constants_and_each_component_to_itself(isa):
    size = (1, 3, 6, 7, 20)
    zeros = torch.zeros(size)
    grad = torch.zeros(size)
    grad[:, 1] = 2
    velocity, *_ = stepped(cpu, [zeros, grad, zeros, zeros], 1, 0.5, 0.9, 0.999, 0.0, 4)
    assert velocity[:, 0].isnan().all()  # 0 / 0: eps is 0
    torch.testing.assert_close(velocity[:, 1], torch.full(size, -0.5)[:, 1])


def test_what_a_nan_reaches(isa):
    fields = fields_of((9, 9, 37))
    fields[1][0, 1, 4, 4, 20] = float("nan")
    velocity, mean, square = stepped(cpu, fields, 3, *RATES, 2)
    hit = torch.zeros_like(velocity, dtype=torch.bool)
    hit[0, 1, 2:7, 2:7, 18:23] = True
    assert torch.equal(velocity.isnan(), hit) and mean.isnan().sum() == 1 and square.isnan().sum() == 1


def test_opcheck_and_compile():
    fields = fields_of((3, 4, 5))
    torch.library.opcheck(torch.ops.fastreg.adam_step_, (*fields, 3, *RATES, 1, "native"))
    torch._dynamo.reset()

    def step(*given):
        adam_step(*given, 3, step=0.1, passes=2)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    ours, theirs = ([field.clone() for field in fields] for _ in range(2))
    compiled(*ours)
    step(*theirs)
    for k in (0, 2, 3):
        torch.testing.assert_close(ours[k], theirs[k])


def test_wrong_arguments():
    v, g, m, s = fields_of((3, 4, 5))
    adam_step(v.requires_grad_(), g, m, s, 1, step=0.1)  # no autograd
    v.requires_grad_(False)
    with pytest.raises(ValueError, match="mean must be contiguous: it is changed in place"):
        adam_step(v, g, torch.zeros(2, 3, 5, 4, 3).transpose(2, 4), s, 1, step=0.1)
    with pytest.raises(ValueError, match=r"square must be like velocity, \[2, 3, 3, 4, 5\] torch.float32, got"):
        adam_step(v, g, m, s[:1], 1, step=0.1)
    with pytest.raises(TypeError, match=r"velocity must be float32 or float64, got torch\.bfloat16"):
        adam_step(v.bfloat16(), g, m, s, 1, step=0.1)
    for wrong, message in [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"passes": 5}, "passes must be at most 4, got 5"),
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1, got 1.0"),
        ({"eps": -1.0}, "eps must be at least 0 and finite, got -1.0"),
        ({"step": float("nan")}, "step must be finite, got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            adam_step(v, g, m, s, **({"count": 1, "step": 0.1} | wrong))
