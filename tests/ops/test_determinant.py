"""det(I + grad u) by both schemes, against the specification and against NumPy."""

import itertools

import numpy as np
import pytest
import torch
from torch.func import vmap

from fastreg.backends import cpu, reference
from fastreg.geometry import fields
from fastreg.ops.determinant import SCHEMES, determinant

SHAPES = [(2, 2, 2), (3, 2, 4), (5, 7, 37), (2, 3, 1100)]


def flow_of(shape, dtype=torch.float32, batch=2, ndim=3):
    return torch.randn(batch, ndim, *shape[3 - ndim :], dtype=dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_native_is_the_reference(isa, batch, shape, ndim, dtype, scheme):
    flow = flow_of(shape, dtype, batch, ndim)
    got, expected = cpu.determinant(flow, scheme), reference.determinant(flow.double(), scheme)
    assert got.dtype == dtype and got.shape == expected.shape
    tolerance = (1e-14 if dtype == torch.float64 else 1e-6) * (expected.abs().max().item() if batch else 0)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def by_corners(flow):
    """The smallest over all choices of neighbours that are there, voxel by voxel."""
    ndim, *size = flow.shape
    out = np.full(size, np.inf)
    for point in np.ndindex(*size):
        for steps in itertools.product((1, -1), repeat=ndim):
            jacobian = np.eye(ndim)
            for axis, step in enumerate(steps):
                neighbour = list(point)
                neighbour[axis] += step
                if not 0 <= neighbour[axis] < size[axis]:
                    break
                jacobian[:, axis] += step * (flow[(slice(None), *neighbour)] - flow[(slice(None), *point)])
            else:
                out[point] = min(out[point], np.linalg.det(jacobian))
    return out


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5), (2, 2, 2)])
def test_least_is_the_definition(size):
    flow = torch.randn(1, len(size), *size, dtype=torch.float64)
    for backend in ("native", "reference"):
        got = determinant(flow, "least", backend)[0].numpy()
        np.testing.assert_allclose(got, by_corners(flow[0].numpy()), atol=1e-12)


def test_least_sees_the_fold_that_central_differences_step_over():
    flow = torch.zeros(1, 2, 5, 5)
    flow[0, 1, :, 2] = 1.5  # a column of voxels beyond the next
    assert (determinant(flow) > 0).all() and determinant(flow, "least").min() == -0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_of_nan_is_nan(isa, ndim, scheme):
    for place in itertools.product((0, 2, -1), repeat=ndim):
        for component in range(ndim):
            flow = flow_of((5, 6, 37), ndim=ndim, batch=1)
            flow[(0, component, *place)] = float("nan")
            got, expected = cpu.determinant(flow, scheme), reference.determinant(flow, scheme)
            assert torch.equal(got.isnan(), expected.isnan()) and got.isnan().any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strides_half_threads_and_transforms(threads, scheme):
    flow, results = flow_of((5, 7, 37)), []
    for count in (1, 2, 3, 8):
        threads(count)
        results.append(determinant(flow, scheme))
    assert all(torch.equal(result, results[0]) for result in results[1:])
    assert torch.equal(determinant(flow.transpose(2, 4).contiguous().transpose(2, 4), scheme), results[0])
    half = determinant(flow.half(), scheme)
    assert half.dtype == torch.float32 and torch.equal(half, determinant(flow.half().float(), scheme))
    assert determinant(flow.half(), scheme, "reference").dtype == torch.float32
    torch.testing.assert_close(vmap(lambda u: determinant(u[None], scheme)[0])(flow), results[0])


def test_opcheck_and_compile():
    flow = flow_of((3, 4, 5))
    torch.library.opcheck(torch.ops.fastreg.determinant, (flow, "least", "native"))
    torch._dynamo.reset()
    compiled = torch.compile(determinant, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(flow), determinant(flow))


def test_jacobian_determinant_takes_it_where_no_gradient_is_wanted():
    flow = flow_of((3, 4, 5), torch.float64)
    slow = fields.jacobian_determinant(flow.clone().requires_grad_())
    assert slow.requires_grad
    torch.testing.assert_close(fields.jacobian_determinant(flow), slow.detach())
    assert torch.equal(fields.jacobian_determinant(flow, scheme="least"), determinant(flow, "least"))
    with torch.no_grad():
        fields.jacobian_determinant(flow.requires_grad_(), scheme="least")
    with pytest.raises(ValueError, match='scheme "least" has no gradient: detach flow'):
        fields.jacobian_determinant(flow, scheme="least")


def test_wrong_arguments():
    flow = flow_of((3, 4, 5))
    with pytest.raises(ValueError, match=r"flow must have at least 2 voxels along every axis, got \[2, 3, 3, 4, 1\]"):
        determinant(flow[..., :1])
    with pytest.raises(ValueError, match="scheme must be one of central, least, got 'forward'"):
        determinant(flow, "forward")
