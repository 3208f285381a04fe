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


def ramps(size, slopes):
    """A field whose component k is a linear function of the place with these slopes, at the voxels of `size`."""
    ndim = len(size)
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij"))
    return (torch.einsum("kc,c...->k...", torch.tensor(slopes, dtype=torch.float64)[:ndim, :ndim], index) + 1.5)[None]


SLOPES = [[0.02, -0.05, 0.03], [0.04, 0.01, -0.02], [-0.03, 0.02, 0.05]]


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(16, 20, 12), (17, 13, 11), (30, 27)], ids=str)
def test_coarsened_is_the_field_at_the_centres_of_cubes(size, factor):
    """In voxels of the coarser grid; a cube that the border cuts is centred in what is left of it."""
    field = ramps(size, SLOPES)
    found = fields.coarsened(field, factor)
    assert tuple(found.shape[2:]) == tuple(-(-n // factor) for n in size)
    centres = [torch.stack([part.double().mean() for part in torch.arange(n).split(factor)]) for n in size]
    at = torch.stack(torch.meshgrid(*centres, indexing="ij"))
    slopes = torch.tensor(SLOPES, dtype=torch.float64)[: len(size), : len(size)]
    torch.testing.assert_close(found[0], (torch.einsum("kc,c...->k...", slopes, at) + 1.5) / factor)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("size", [(32, 24, 40), (33, 26, 29), (50, 41)], ids=str)
def test_refined_gives_linear_fields_back(size, factor):
    """Constant ones everywhere, others where the coarser grid lies on both sides and no cube is cut."""
    ndim = len(size)
    constant = torch.arange(1.0, ndim + 1, dtype=torch.float64).view(1, ndim, *[1] * ndim).expand(1, ndim, *size)
    torch.testing.assert_close(fields.refined(fields.coarsened(constant, factor), size, factor), constant)
    field = ramps(size, SLOPES)
    found = fields.refined(fields.coarsened(field, factor), size, factor)
    assert found.shape == field.shape and found.is_contiguous()
    inner = (..., *[slice(factor, n // factor * factor - 2 * factor) for n in size])
    torch.testing.assert_close(found[inner], field[inner], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(9, 2, 12), (3, 21), (1, 10, 9)], ids=str)
def test_axes_shorter_than_the_cube_stay_whole(size):
    """Their edge is their length: displacements along them are counted in it."""
    field = torch.ones(1, len(size), *size)
    found = fields.coarsened(field, 4)
    assert tuple(found.shape[2:]) == tuple(max(1, -(-n // 4)) for n in size)
    for axis, length in enumerate(size):
        torch.testing.assert_close(found[:, axis], torch.full_like(found[:, axis], 1 / min(4, length)))
    torch.testing.assert_close(fields.refined(found, size, 4), field)


@pytest.mark.parametrize("size", [(16, 12, 20), (24, 32)], ids=str)
def test_a_warp_on_the_coarser_grid_is_that_on_the_finer(size):
    """What a stage sees: pooling the moved image is moving the pooled one, for a shift by whole cubes."""
    image = torch.rand(1, 1, *size)
    shift = torch.zeros(1, len(size), *size)
    shift[:, 0], shift[:, -1] = 4, -8
    moved = fields.pooled(fastreg.warp(image, shift, padding="border"), 4)
    coarse = fastreg.warp(fields.pooled(image, 4), fields.coarsened(shift, 4), padding="border")
    inner = (..., *[slice(None, -1), *[slice(None)] * (len(size) - 2), slice(2, None)])
    torch.testing.assert_close(coarse[inner], moved[inner])
