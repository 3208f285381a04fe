"""`fastreg.grid_sample` against torch's, and the paddings that came with it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers.native_isa import AVAILABLE
from torch.func import grad, vmap

import fastreg
from fastreg.backends import cpu, reference
from fastreg.types import MODES

SIZES = {2: (9, 37), 3: (6, 9, 37)}  # W leaves a tail in 8 and in 16 lanes
PADDINGS = ("zeros", "border", "reflection")
NINE = [*itertools.product(("bilinear", "nearest"), PADDINGS, (True, False))]
KERNELS = [
    *itertools.product(["baseline"], MODES, [torch.float64, torch.float32]),
    *itertools.product(AVAILABLE[1:], MODES, [torch.float32]),
]


def problem(ndim, dtype=torch.float64, *, batch=2, channels=2, reach=1.6, size=None, grid=None):
    """Places inside and up to more than an image away, none of them whole voxels."""
    vol = torch.randn(batch, channels, *(size or SIZES[ndim]), dtype=torch.float64)
    places = reach * (2 * torch.rand(batch, *(grid or SIZES[ndim]), ndim, dtype=torch.float64) - 1)
    above = torch.randn(batch, channels, *(grid or SIZES[ndim]), dtype=torch.float64)
    return vol.to(dtype), places.to(dtype), above.to(dtype)


def values_and_gradients(call, vol, places, above):
    v, g = vol.clone().requires_grad_(), places.clone().requires_grad_()
    moved = call(v, g)
    return moved, *torch.autograd.grad(moved, (v, g), above)


def assert_torchs(vol, places, above, mode, padding, align, tolerance, backend="native"):
    options = {"mode": mode, "padding_mode": padding, "align_corners": align}
    ours = values_and_gradients(lambda v, g: fastreg.grid_sample(v, g, backend=backend, **options), vol, places, above)
    wide = (vol.double(), places.double(), above.double())
    theirs = values_and_gradients(lambda v, g: F.grid_sample(v, g, **options), *wide)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == vol.dtype
        assert (mine.double() - other).abs().max() <= tolerance * other.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("mode, padding, align", NINE)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_equals_torch_in_float64(mode, padding, align, ndim, backend):
    for reach, grid in ((0.9, None), (4.0, (4, 11, 21)[3 - ndim :])):
        assert_torchs(*problem(ndim, reach=reach, grid=grid), mode, padding, align, 1e-11, backend)


@pytest.mark.parametrize("mode, padding, align", NINE)
@pytest.mark.parametrize("ndim", [2, 3])
def test_equals_torch_in_float32(mode, padding, align, ndim, isa):
    """On a lattice that float32 holds exactly, 64th parts of a voxel: nothing rounds, no place is a voxel or a tie."""
    size = (5, 9, 33)[3 - ndim :] if align else (4, 8, 32)[3 - ndim :]
    vol, places, above = problem(ndim, torch.float32, size=size)
    half = torch.tensor([(n - align) / 2 for n in reversed(size)])
    voxels = (places * half * 32).round() / 32 + 1 / 64
    assert_torchs(vol, voxels / half, above, mode, padding, align, 2e-5)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
def test_ties_and_edges_are_torchs_voxel(padding, align):
    size = (4, 8) if not align else (5, 9)
    vol = torch.randn(1, 1, *size, dtype=torch.float64)
    half = torch.tensor([(n - align) / 2 for n in reversed(size)], dtype=torch.float64)
    voxels = torch.stack(torch.meshgrid(*[torch.arange(-30, 50) / 2] * 2, indexing="ij"), -1)[None].double()
    centre = torch.tensor([(n - 1) / 2 for n in reversed(size)], dtype=torch.float64)
    places = (voxels - centre) / half
    for backend in ("native", "reference"):
        ours = fastreg.grid_sample(vol, places, "nearest", padding, align, backend=backend)
        assert torch.equal(ours, F.grid_sample(vol, places, "nearest", padding, align))


@pytest.mark.parametrize("isa, mode, dtype", KERNELS, indirect=["isa"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", "symmetric", "itk"])
@pytest.mark.parametrize("align", [None, True, False])
def test_native_is_the_reference(isa, mode, dtype, padding, align):
    for ndim, reach in itertools.product((2, 3), (0.3, 1.2, 6.0)):
        vol, places, above = problem(ndim, dtype, reach=reach, grid=(4, 11, 270)[3 - ndim :])
        places.view(-1)[::97] = float("nan")
        places.view(-1)[1::97] = float("inf")
        places.view(-1)[2::97] = -1e30
        if align is None:
            places = places * 20
        if mode == "nearest":  # rounding places must not decide
            places = (64 * places).round() / 64 + 1 / 256
        options = mode, padding, True
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        found = cpu.warp_forward(vol, places, *options, align)
        expected = reference.warp_forward(vol, places, *options, align)
        close(found, expected, tolerance)
        truth = reference.warp_backward(above, vol, places, *options, True, True, align)
        for need_vol, need_flow in ((True, False), (False, True), (True, True)):
            actual = cpu.warp_backward(above, vol, places, *options, need_vol, need_flow, align)
            for ours, theirs in zip(actual, truth, strict=True):
                if ours is not None:
                    close(ours, theirs, tolerance)


def close(found, expected, tolerance):
    """Up to `tolerance` of the largest: a place at a voxel may round to either side of it."""
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = found.nan_to_num(0.0), expected.nan_to_num(0.0)
    off = (found - expected).abs() > tolerance * expected.abs().max().clamp_min(1e-3)
    assert off.double().mean() <= (0 if found.dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("align", [True, False])
def test_bits_do_not_depend_on_threads(align, isa, threads):
    vol, places, above = problem(3, torch.float32, batch=1)
    for padding in ("zeros", "border", "symmetric", "itk"):
        results = []
        for count in (1, 2, 3, 16):
            threads(count)
            results.append(cpu.warp_backward(above, vol, places, "linear", padding, True, True, True, align))
        for result in results[1:]:
            assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


# ---------------------------------------------------------------- the paddings


@pytest.mark.parametrize("ndim", [2, 3])
def test_symmetric_is_the_image_beside_its_mirror_images(ndim, isa):
    vol = torch.randn(1, 2, *SIZES[ndim])
    wide = vol
    for axis in range(2, 2 + ndim):
        wide = torch.cat([wide.flip(axis), wide, wide.flip(axis)], axis)
    flow = (5 * torch.randn(1, ndim, *SIZES[ndim])).clamp(-5.9, 5.9)  # not beyond the first mirror image
    shifted = flow + torch.tensor(SIZES[ndim]).view(1, ndim, *[1] * ndim)
    for mode in MODES:
        torch.testing.assert_close(
            fastreg.warp(vol, flow, mode=mode, padding="symmetric"),
            fastreg.warp(wide, shifted, mode=mode),
            atol=1e-4,
            rtol=0,
        )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_itk_is_border_up_to_half_a_voxel_and_zero_beyond(ndim, mode, isa):
    vol = torch.randn(1, 1, *SIZES[ndim])
    flow = (3 * torch.randn(1, ndim, *SIZES[ndim]) * 4).round() / 4  # half voxels among them
    places = flow + torch.stack(torch.meshgrid(*[torch.arange(n) for n in SIZES[ndim]], indexing="ij"))
    ends = torch.tensor(SIZES[ndim]).view(ndim, *[1] * ndim)
    inside = ((places >= -0.5) & (places < ends - 0.5)).all(1, keepdim=True)
    expected = torch.where(inside, fastreg.warp(vol, flow, mode=mode, padding="border"), 0.0)
    assert torch.equal(fastreg.warp(vol, flow, mode=mode, padding="itk"), expected)
    assert (inside & (fastreg.warp(torch.ones_like(vol), flow) < 1)).any()  # the rim is there


@pytest.mark.parametrize("padding", ["symmetric", "itk"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck_of_the_paddings(padding, ndim):
    vol = torch.randn(1, 2, *(3, 4, 5)[3 - ndim :], dtype=torch.float64, requires_grad=True)
    flow = torch.randint(-2, 2, (1, ndim, *vol.shape[2:])) + 0.05 + 0.4 * torch.rand(1, ndim, *vol.shape[2:])
    flow = flow.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u: fastreg.warp(v, u, padding=padding), (vol, flow), fast_mode=True)


# ---------------------------------------------------------------- the op


@pytest.mark.parametrize("padding, align", [*itertools.product((*PADDINGS, "itk"), (True, False))])
def test_gradcheck(padding, align):
    vol, places, _ = problem(3, size=(3, 4, 5), grid=(2, 3, 4))
    half = torch.tensor([(n - align) / 2 for n in (5, 4, 3)], dtype=torch.float64)
    voxels = (places * half).floor() + 0.05 + 0.4 * torch.rand_like(places)
    places = (voxels - torch.tensor([2, 1.5, 1]) % 1) / half
    assert torch.autograd.gradcheck(
        lambda v, g: fastreg.grid_sample(v, g, padding_mode=padding, align_corners=align),
        (vol.requires_grad_(), places.requires_grad_()),
        fast_mode=True,
    )


def test_shared_batches_labels_transforms_and_compile():
    vol, places, _ = problem(3, torch.float32)
    for v, g in ((vol[:1], places), (vol, places[:1]), (vol[:1].expand(2, -1, -1, -1, -1), places)):
        fit = [x.expand(2, *x.shape[1:]) for x in (v, g)]
        torch.testing.assert_close(
            fastreg.grid_sample(v, g), F.grid_sample(*fit, align_corners=False), atol=1e-4, rtol=0
        )
    labels = torch.randint(0, 2**40, (2, 1, *SIZES[3]))
    moved = fastreg.grid_sample(labels, places, "nearest", "border")
    assert moved.dtype == torch.int64
    assert torch.equal(moved.double(), F.grid_sample(labels.double(), places.double(), "nearest", "border", False))
    stacked = vmap(lambda v, g: fastreg.grid_sample(v[None], g[None])[0])(vol, places)
    torch.testing.assert_close(stacked, fastreg.grid_sample(vol, places), atol=1e-5, rtol=0)
    slope = grad(lambda g: fastreg.grid_sample(vol.double(), g).square().sum())(places.double())
    g = places.double().requires_grad_()
    fastreg.grid_sample(vol.double(), g).square().sum().backward()
    torch.testing.assert_close(slope, g.grad)
    compiled = torch.compile(
        lambda v, g: fastreg.grid_sample(v, g, align_corners=True), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(vol, places), fastreg.grid_sample(vol, places, align_corners=True))


def test_opcheck():
    vol, places, above = (x.requires_grad_() for x in problem(2, torch.float32))
    torch.library.opcheck(torch.ops.fastreg.warp, (vol, places, "linear", "symmetric", True, "native", False))
    inputs = above.detach(), vol.detach(), places.detach(), "linear", "itk", True, True, True, "native", True
    torch.library.opcheck(torch.ops.fastreg.warp_backward, inputs)


def test_the_identity_keeps_the_image():
    vol = torch.randn(1, 1, 5, 9, 17)
    identity = F.affine_grid(torch.eye(3, 4)[None], list(vol.shape), align_corners=True)
    torch.testing.assert_close(fastreg.grid_sample(vol, identity, align_corners=True), vol, atol=1e-5, rtol=0)


VOL, GRID = torch.zeros(2, 1, 4, 5, 6), torch.zeros(2, 4, 5, 6, 3)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((VOL.numpy(), GRID), {}, TypeError, "vol must be a torch.Tensor, got ndarray"),
        ((VOL, GRID.int()), {}, TypeError, "grid must be float16, .*got torch.int32"),
        ((VOL.int(), GRID), {}, TypeError, "vol of integers needs mode 'nearest', got torch.int32 and mode 'bilinear'"),
        (
            (VOL, GRID[..., :2]),
            {},
            ValueError,
            r"grid must be \[batch, D, H, W, 3\] to match vol .*got \[2, 4, 5, 6, 2\]",
        ),
        ((VOL, GRID[:1].expand(3, -1, -1, -1, -1)), {}, ValueError, r"grid must be .* got \[3, 4, 5, 6, 3\]"),
        ((VOL, GRID), {"mode": "bicubic"}, ValueError, "mode must be one of bilinear, nearest, got 'bicubic'"),
        ((VOL, GRID), {"padding_mode": "wrap"}, ValueError, "padding_mode must be one of .*got 'wrap'"),
        ((VOL, GRID.to("meta")), {}, ValueError, "grid must be on the device of vol, cpu, got meta"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        fastreg.grid_sample(*arguments, **options)
