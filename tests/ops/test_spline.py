"""Cubic B-splines against SciPy, a direct sum over all taps in float64, and finite differences."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

import fastreg
from fastreg.ops.spline import bspline_at, bspline_coefficients, bspline_sum
from fastreg.types import PADDINGS

SIZES = {2: (9, 13), 3: (6, 9, 11)}


def problem(ndim, dtype=torch.float64, scale=2.0, grid=None):
    generator = torch.Generator().manual_seed(ndim)
    vol = torch.randn(2, 3, *SIZES[ndim], generator=generator, dtype=torch.float64).to(dtype)
    flow = torch.randn(2, ndim, *(grid or SIZES[ndim]), generator=generator, dtype=torch.float64) * scale
    return vol, flow.to(dtype)


def places_of(flow):
    """[points, ndim]"""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in flow.shape[1:]], indexing="ij"))
    return (flow.double().numpy() + grid).reshape(len(grid), -1).T


def cubic(x):
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))


def direct(coefficients, place):
    """The sum over every tap of a mirrored grid, one place at a time."""
    total = 0.0
    first = np.floor(place).astype(int) - 1
    for step in itertools.product(range(4), repeat=len(place)):
        at = first + step
        last = np.array(coefficients.shape) - 1
        total += coefficients[tuple(last - np.abs(last - at % (2 * last)))] * np.prod(cubic(place - at))
    return total


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (2, 40, 1), (5, 4), (300, 2), (7, 8, 9)])
def test_coefficients_are_scipys(shape):
    vol = torch.randn(2, 1, *shape, dtype=torch.float64)
    expected = np.stack([ndimage.spline_filter(v[0].numpy(), 3, mode="mirror") for v in vol])[:, None]
    np.testing.assert_allclose(bspline_coefficients(vol).numpy(), expected, rtol=1e-11, atol=1e-11)
    single = bspline_coefficients(vol.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_sum_is_the_direct_sum(ndim):
    rng = np.random.default_rng(ndim)
    coefficients = torch.from_numpy(rng.normal(size=(1, 2, *SIZES[ndim])))
    places = np.concatenate([rng.uniform(-3, 14, (40, ndim)), rng.integers(-1, 6, (10, ndim))])
    expected = [[direct(c.numpy(), place) for c in coefficients[0]] for place in places]
    np.testing.assert_allclose(bspline_at(coefficients, places), expected, atol=1e-12)
    grid = places[:48].reshape(6, 4, 2, 3) if ndim == 3 else places[:48].reshape(6, 8, 2)
    np.testing.assert_allclose(bspline_at(coefficients, grid).reshape(-1, 2), expected[:48], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ndim", [2, 3])
def test_warp_is_scipys(ndim, dtype):
    """Everywhere for "reflection"; inside the image whatever the padding."""
    vol, flow = problem(ndim, dtype, scale=4.0, grid=(5, 7, 4)[3 - ndim :])
    size = np.array(SIZES[ndim])
    for padding in PADDINGS:
        moved = fastreg.warp(vol, flow, mode="bspline", padding=padding)
        assert moved.dtype == dtype and moved.shape == (2, 3, *flow.shape[2:])
        for item in range(2):
            places = places_of(flow[item])
            inside = ((places >= 0) & (places <= size - 1)).all(1) | (padding == "reflection")
            assert inside.sum() > 2
            for channel in range(3):
                expected = ndimage.map_coordinates(vol[item, channel].double(), places.T, order=3, mode="mirror")
                actual = moved[item, channel].reshape(-1).numpy()
                np.testing.assert_allclose(
                    actual[inside], expected[inside], atol=1e-10 if dtype == torch.float64 else 2e-5
                )


@pytest.mark.parametrize("ndim", [2, 3])
def test_outside_is_linears(ndim):
    """At the outermost voxels and beyond an image that changes along no axis but the first the two modes agree."""
    size = SIZES[ndim]
    vol = torch.randn(size[0], dtype=torch.float64).view(1, 1, -1, *[1] * (ndim - 1)).expand(1, 1, *size)
    _, flow = problem(ndim, scale=8.0)
    flow = flow[:1].clone()
    flow[:, 0] = flow[:, 0].round()  # whole coordinates: what is between the voxels does not count
    for padding in ("zeros", "border", "reflection", "symmetric"):
        expected = fastreg.warp(vol, flow, padding=padding)
        torch.testing.assert_close(fastreg.warp(vol, flow, mode="bspline", padding=padding), expected)


def test_itk_padding_ends_half_a_voxel_outside():
    vol = torch.randn(1, 1, 6, 9, dtype=torch.float64)
    rows = torch.tensor([-0.6, -0.5, -0.3, 5.3, 5.49, 5.5], dtype=torch.float64)
    flow = torch.zeros(1, 2, 6, 9, dtype=torch.float64)
    flow[0, 0] = (rows - torch.arange(6))[:, None]
    moved = fastreg.warp(vol, flow, mode="bspline", padding="itk")[0, 0]
    expected = ndimage.map_coordinates(vol[0, 0], places_of(flow[0]).T, order=3, mode="mirror").reshape(6, 9)
    np.testing.assert_allclose(moved[1:5], expected[1:5], atol=1e-12)
    assert (moved[[0, 5]] == 0).all()


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients(padding):
    generator = torch.Generator().manual_seed(3)
    vol = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    flow = (torch.rand(2, 2, 3, 4, dtype=torch.float64, generator=generator) * 6 - 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: fastreg.warp(v, f, mode="bspline", padding=padding), (vol, flow))


def test_gradients_in_three_dimensions():
    vol = torch.randn(1, 1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 3, 2, 2, 3, dtype=torch.float64) * 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: fastreg.warp(v, f, mode="bspline"), (vol, flow))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_special_displacements(value):
    """NaN gives NaN there and only there; what is far is outside."""
    vol, flow = problem(3, torch.float32, scale=0.3)
    calm = fastreg.warp(vol, flow, mode="bspline")
    flow[0, 1, 2, 3, 4] = value
    moved = fastreg.warp(vol, flow, mode="bspline")
    there = moved[0, :, 2, 3, 4]
    assert there.isnan().all() if value != value else (there == 0).all()
    moved[0, :, 2, 3, 4] = calm[0, :, 2, 3, 4]
    assert (moved == calm).all()
    assert fastreg.warp(vol, flow, mode="bspline", padding="border").isfinite().all() or value != value


def test_layouts_dtypes_and_refusals():
    vol, flow = problem(3, torch.float32)
    expected = fastreg.warp(vol, flow, mode="bspline")
    last = flow.movedim(1, -1).contiguous()
    assert (fastreg.warp(vol, last, mode="bspline", channels_last=True) == expected).all()
    assert (fastreg.nn.Warp("bspline")(vol, flow) == expected).all()
    half = fastreg.warp(vol.half(), flow, mode="bspline")
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=5e-3, rtol=5e-3)
    one = fastreg.warp(vol[:1], flow, mode="bspline")
    torch.testing.assert_close(one[0], expected[0])
    torch.testing.assert_close(
        fastreg.warp(vol, flow, mode="bspline", backend="reference"), expected, atol=1e-5, rtol=0
    )
    with pytest.raises(TypeError, match="nearest"):
        fastreg.warp(vol.long(), flow, mode="bspline")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fastreg.warp(vol, flow, mode="bspline"), expected)


def test_sum_reproduces_a_polynomial():
    """Cubic B-splines of coefficients on a straight line give the line: no smoothing of what is linear."""
    line = torch.arange(12.0, dtype=torch.float64).view(1, 1, 12, 1).expand(1, 1, 12, 5)
    flow = torch.rand(1, 2, 7, 5, dtype=torch.float64) + 2
    torch.testing.assert_close(bspline_sum(line, flow), line[..., :7, :] + flow[:, :1])


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_compile_and_transforms(ndim):
    vol, flow = problem(ndim)
    expected = fastreg.warp(vol, flow, mode="bspline")

    def loss(v, u):
        return fastreg.warp(v, u, mode="bspline").square().sum()

    compiled = torch.compile(
        lambda v, u: fastreg.warp(v, u, mode="bspline"), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(vol, flow), expected)
    leaves = [x.clone().requires_grad_() for x in (vol, flow)]
    loss(*leaves).backward()
    (compiled(*(again := [x.clone().requires_grad_() for x in (vol, flow)]))).square().sum().backward()
    for transformed, compiled_leaf, leaf in zip(
        torch.func.grad(loss, argnums=(0, 1))(vol, flow), again, leaves, strict=True
    ):
        torch.testing.assert_close(transformed, leaf.grad)
        torch.testing.assert_close(compiled_leaf.grad, leaf.grad)
    mapped = torch.func.vmap(lambda v, u: fastreg.warp(v[None], u[None], mode="bspline")[0])(vol, flow)
    torch.testing.assert_close(mapped, expected)
