import math

import numpy as np
import pytest
import torch

import fastreg
from fastreg.geometry import fields


def smooth_field(ndim: int = 3, size: int = 24, amplitude: float = 2.0) -> torch.Tensor:
    coarse = torch.randn(1, ndim, *[5] * ndim, dtype=torch.float64)
    field = torch.nn.functional.interpolate(
        coarse, size=[size] * ndim, mode="trilinear" if ndim == 3 else "bilinear", align_corners=True
    )
    return amplitude * field / field.abs().max()


@pytest.mark.parametrize("ndim", [2, 3])
def test_compose_is_inner_then_outer(ndim):
    """Linear fields compose as matrices: (I + B)(I + A) - I = A + B + B A."""
    size = 9
    a, b = (0.02 * torch.randn(ndim, ndim, dtype=torch.float64) for _ in range(2))
    grid = torch.stack(torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * ndim, indexing="ij"))

    def field(matrix):
        return torch.einsum("rc,c...->r...", matrix, grid - 4)[None]

    expected = field(a + b + b @ a)
    inner = (slice(None), slice(None), *[slice(1, -1)] * ndim)
    torch.testing.assert_close(fields.compose(field(b), field(a))[inner], expected[inner])


def test_invert():
    flow = smooth_field()
    inverse = fields.invert(flow, tolerance=1e-8)
    inside = fields.compose(flow, inverse)[..., 4:-4, 4:-4, 4:-4]
    assert inside.abs().max() < 1e-6
    assert fields.invert(flow[:0]).shape == flow[:0].shape


def test_integrate_has_its_inverse():
    velocity = smooth_field(amplitude=0.5)
    there, back = fields.integrate(velocity, padding="border"), fields.integrate(-velocity, padding="border")
    assert fields.compose(there, back)[..., 4:-4, 4:-4, 4:-4].abs().max() < 0.02


def test_resize_keeps_the_deformation():
    """The same linear map on a finer grid whose corners coincide."""
    matrix = torch.tensor([[0.1, 0.02, 0], [0, -0.05, 0.1], [0.03, 0, 0.2]], dtype=torch.float64)

    def field(size, scale):
        axes = [torch.linspace(0, 6, n, dtype=torch.float64) for n in size]
        return torch.einsum("rc,c...->r...", matrix, torch.stack(torch.meshgrid(*axes, indexing="ij")))[None] * scale

    coarse = field((7, 7, 7), 1.0)
    torch.testing.assert_close(fields.resize(coarse, (13, 13, 13)), field((13, 13, 13), 2.0))
    assert fields.resize(coarse, (7, 7, 7)) is coarse


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scheme", fields.SCHEMES)
def test_jacobian_of_a_linear_map_is_its_determinant(ndim, scheme):
    matrix = 0.2 * torch.randn(ndim, ndim, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(6, dtype=torch.float64)] * ndim, indexing="ij"))
    det = fields.jacobian_determinant(torch.einsum("rc,c...->r...", matrix, grid)[None], scheme=scheme)
    assert det.shape == (1, *[5 if scheme == "forward" else 6] * ndim)
    expected = torch.linalg.det(torch.eye(ndim, dtype=torch.float64) + matrix)
    torch.testing.assert_close(det, expected.expand_as(det))


def test_central_jacobian_is_numpys_gradient():
    flow = torch.randn(1, 3, 6, 7, 8, dtype=torch.float64)
    j = np.stack([np.stack(np.gradient(flow[0, c].numpy())) for c in range(3)], 1) + np.eye(3)[:, :, None, None, None]
    expected = np.linalg.det(np.moveaxis(j, (0, 1), (-1, -2)))
    np.testing.assert_allclose(fields.jacobian_determinant(flow)[0].numpy(), expected, atol=1e-12)


def test_a_fold_is_seen():
    flow = torch.zeros(1, 2, 9, 9)
    flow[0, 0, 4:] = -3.0
    assert (fields.jacobian_determinant(flow, scheme="forward") <= 0).any()


def test_penalties_of_known_fields():
    grid = torch.arange(8, dtype=torch.float64)
    ramp = torch.zeros(1, 3, 8, 8, 8, dtype=torch.float64)
    ramp[:, 0] = 2 * grid.view(8, 1, 1)
    assert fields.smoothness(ramp).item() == pytest.approx(4 / 3 / 3)
    assert fields.smoothness(ramp, penalty="l1").item() == pytest.approx(2 / 3 / 3)
    assert fields.smoothness(ramp, penalty="bending").item() == pytest.approx(0)
    bowl = torch.zeros_like(ramp)
    bowl[:, 1] = (grid**2).view(8, 1, 1)
    assert fields.smoothness(bowl, penalty="bending").item() == pytest.approx(4 / 3)
    twist = torch.zeros_like(ramp)
    twist[:, 2] = grid.view(8, 1, 1) * grid.view(1, 8, 1)
    assert fields.smoothness(twist, penalty="bending").item() == pytest.approx(2 / 3)


def test_edge_aware_forgives_at_edges():
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, :, 4:] = 1.0
    flat, edge = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    edge[:, :, 4:] = 3.0
    without = fields.smoothness(flow, penalty="edge_aware", image=flat)
    with_edge = fields.smoothness(flow, penalty="edge_aware", image=edge)
    assert with_edge.item() == pytest.approx(without.item() * math.exp(-3.0), rel=1e-5)


@pytest.mark.parametrize("penalty", ["l2", "l1", "bending"])
def test_penalty_gradients(penalty):
    flow = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: fields.smoothness(u, penalty=penalty), (flow,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: fields.compose(u, u[..., 1:]), "inner must have the shape of outer"),
        (lambda u: fields.smoothness(u, penalty="l3"), "penalty must be one of l2, l1, bending, edge_aware, got 'l3'"),
        (lambda u: fields.smoothness(u, penalty="edge_aware"), "image is missing for penalty 'edge_aware'"),
        (lambda u: fields.resize(u, (4, 4)), "size must name 3 axes"),
        (lambda u: fields.jacobian_determinant(u[..., :1]), "at least 2 voxels along every axis"),
        (lambda u: fields.invert(u[:, :2]), "flow must be .batch, 3, D, H, W. or .batch, 2, H, W., got"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 3, 4, 4, 4))


def test_public_names_are_these():
    assert fastreg.compose is fields.compose and fastreg.smoothness is fields.smoothness
