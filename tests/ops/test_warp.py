"""`fastreg.warp`: the native backend against the specification, at every instruction set, and as a PyTorch op."""

import itertools

import pytest
import torch
from helpers.native_isa import AVAILABLE
from torch.func import grad, jvp, vmap

import fastreg
from fastreg import _C
from fastreg.backends import compiled, cpu, reference
from fastreg.types import MODES, PADDINGS

SIZES = {2: (9, 37), 3: (6, 9, 37)}  # W leaves a tail in 8 and in 16 lanes
# What has vector code of its own: float32.
KERNELS = [
    *itertools.product(["baseline"], MODES, [torch.float64, torch.float32]),
    *itertools.product(AVAILABLE[1:], MODES, [torch.float32]),
]
SPECIAL = (float("nan"), float("inf"), -float("inf"), 1e38, -3e9, 2.0**30, 2.0**31, -1e-30, 16777216.0)


def problem(ndim, dtype, *, batch=2, channels=2, scale=2.0, grid=None, special=False, channels_last=False):
    generator = torch.Generator().manual_seed(ndim * 100 + batch * 10 + channels)
    vol = torch.randn(batch, channels, *SIZES[ndim], generator=generator, dtype=dtype)
    flow = torch.randn(batch, ndim, *(grid or SIZES[ndim]), generator=generator, dtype=dtype) * scale
    if special:
        flat = flow.view(-1)
        flat[::11] = flat[::11].round()
        flat[7 : 7 + 29 * len(SPECIAL) : 29] = torch.tensor(SPECIAL, dtype=dtype)
    if channels_last:
        flow = flow.movedim(1, -1).contiguous()
    out = torch.randn(batch, channels, *(grid or SIZES[ndim]), generator=generator, dtype=dtype)
    return vol, flow, out


def close(actual, expected, dtype, terms=1):
    # float32: 8 products of values of order 1, coordinates and weights good to half a unit in the last place.
    tolerance = (1e-12 if dtype == torch.float64 else 2e-5) * terms
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("isa, mode, dtype", KERNELS, indirect=["isa"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("padding", PADDINGS)
def test_native_is_the_reference(isa, mode, padding, ndim, dtype):
    cases = itertools.product((False, True), (None, (4, 11, 21)[3 - ndim :]), (0.05, 2.0, 30.0), (False, True))
    for channels_last, grid, scale, special in cases:
        vol, flow, out = problem(ndim, dtype, scale=scale, grid=grid, special=special, channels_last=channels_last)
        options = mode, padding, channels_last
        close(cpu.warp_forward(vol, flow, *options), reference.warp_forward(vol, flow, *options), dtype)
        expected = reference.warp_backward(out, vol, flow, *options, True, True)
        for need_vol, need_flow in ((True, False), (False, True), (True, True)):
            actual = cpu.warp_backward(out, vol, flow, *options, need_vol, need_flow)
            assert (actual[0] is not None, actual[1] is not None) == (need_vol, need_flow)
            for ours, theirs in zip(actual, expected, strict=True):
                if ours is not None:  # many points may end in one voxel of the border
                    close(ours, theirs, dtype, terms=10)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (4, 1, 3), (3, 3, 1), (2, 2, 2), (1, 1, 40)])
@pytest.mark.parametrize("batch, channels", [(0, 1), (1, 1), (3, 5)])
def test_thin_and_empty(isa, batch, channels, shape, padding):
    generator = torch.Generator().manual_seed(0)
    vol = torch.randn(batch, channels, *shape, generator=generator)
    flow = torch.randn(batch, 3, *shape, generator=generator) * 2
    close(
        cpu.warp_forward(vol, flow, "linear", padding, False),
        reference.warp(vol, flow, "linear", padding, False),
        vol.dtype,
    )
    actual = cpu.warp_backward(vol, vol, flow, "linear", padding, False, True, True)
    expected = reference.warp_backward(vol, vol, flow, "linear", padding, False, True, True)
    for ours, theirs in zip(actual, expected, strict=True):
        close(ours, theirs, vol.dtype, terms=10)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_identity_keeps_a_bad_voxel_to_itself(isa, value, ndim):
    vol = problem(ndim, torch.float32)[0]
    vol.view(-1)[::53] = value
    flow = torch.zeros(2, ndim, *SIZES[ndim])
    for padding in PADDINGS:
        assert torch.equal(fastreg.warp(vol, flow, padding=padding).nan_to_num(7.0), vol.nan_to_num(7.0))


def test_a_tiny_step_back_rounds_to_the_voxel(isa):
    """u = -1e-30 has the fraction 1 in floating point: the voxel before has weight 0 and may be NaN."""
    vol = torch.arange(40.0).repeat(4, 4, 1)[None, None]
    vol[..., ::2] = float("nan")
    flow = torch.full((1, 3, 4, 4, 40), -1e-30)
    inside = (slice(None), slice(None), slice(1, None), slice(1, None), slice(1, None))
    assert torch.equal(fastreg.warp(vol, flow)[inside].nan_to_num(-1.0), vol[inside].nan_to_num(-1.0))


@pytest.mark.parametrize("padding", PADDINGS)
def test_right_hand_slope_at_every_voxel(isa, padding):
    """At whole coordinates, borders included, the slope is f(p + 1) - f(p) with f as the padding continues it."""
    vol = problem(3, torch.float32, batch=1, channels=1)[0]
    flow = torch.zeros(1, 3, *SIZES[3])
    slope = cpu.warp_backward(torch.ones_like(vol), vol, flow, "linear", padding, False, False, True)[1]
    for axis in range(3):
        last = vol.shape[2 + axis] - 1
        after = {"zeros": torch.zeros_like(vol), "reflection": vol.roll(2, 2 + axis)}.get(padding, vol)
        following = torch.cat(
            [
                vol.narrow(2 + axis, 1, last),
                (vol.roll(1, 2 + axis) if padding == "reflection" else after).narrow(2 + axis, last, 1),
            ],
            2 + axis,
        )
        torch.testing.assert_close(slope[:, axis], (following - vol)[:, 0], rtol=0, atol=1e-6)


def test_nan_coordinate_stays_where_it_is(isa):
    vol, flow, out = problem(3, torch.float32, batch=1)
    flow[0, 1, 2, 3, 20] = float("nan")
    lost = torch.zeros(SIZES[3], dtype=torch.bool)
    lost[2, 3, 20] = True
    for padding in PADDINGS:
        moved = cpu.warp_forward(vol, flow, "linear", padding, False)
        grad_vol, grad_flow = cpu.warp_backward(out, vol, flow, "linear", padding, False, True, True)
        assert torch.equal(moved[0].isnan(), lost.expand(2, -1, -1, -1))
        assert torch.equal(grad_flow[0].isnan(), lost.expand(3, -1, -1, -1))
        assert grad_vol.isfinite().all()


@pytest.mark.parametrize("ndim, scale", [(2, 3.0), (3, 0.1), (3, 3.0), (3, 30.0)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_bits_do_not_depend_on_threads(isa, threads, padding, ndim, scale):
    vol, flow, out = problem(ndim, torch.float32, scale=scale, special=True)
    results = []
    for count in (1, 2, 3, 5, 16):
        threads(count)
        both = cpu.warp_backward(out, vol, flow, "linear", padding, False, True, True)
        results.append((cpu.warp_forward(vol, flow, "linear", padding, False), *both))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_volume_gradient_is_the_same_alone_and_together(isa):
    vol, flow, out = problem(3, torch.float32)
    alone = cpu.warp_backward(out, vol, flow, "linear", "zeros", False, True, False)[0]
    together = cpu.warp_backward(out, vol, flow, "linear", "zeros", False, True, True)[0]
    assert torch.equal(alone, together)


def test_backward_writes_every_element(isa):
    """Outputs come uninitialised: what lies in them must not matter."""
    vol, flow, out = problem(3, torch.float32)
    args = compiled.warp_args(vol, flow, "linear", "zeros", False)
    poisoned = [torch.full_like(tensor, float("nan")) for tensor in (out, vol, flow)]
    args.out, args.grad_out = poisoned[0].data_ptr(), out.data_ptr()
    args.grad_vol, args.grad_flow = poisoned[1].data_ptr(), poisoned[2].data_ptr()
    _C.cpu.warp_forward(args)
    _C.cpu.warp_backward(args)
    assert all(tensor.isfinite().all() for tensor in poisoned)


def test_rows_longer_than_a_run(isa):
    """A row is done in runs of 256 points."""
    generator = torch.Generator().manual_seed(3)
    vol, flow = torch.randn(1, 1, 3, 4, 700, generator=generator), torch.randn(1, 3, 3, 4, 700, generator=generator)
    for channels_last in (False, True):
        u = flow.movedim(1, -1).contiguous() if channels_last else flow
        options = "linear", "border", channels_last
        close(cpu.warp_forward(vol, u, *options), reference.warp(vol, u, *options), vol.dtype)
        actual = cpu.warp_backward(vol, vol, u, *options, True, True)
        for ours, theirs in zip(actual, reference.warp_backward(vol, vol, u, *options, True, True), strict=True):
            close(ours, theirs, vol.dtype, terms=10)


# ---------------------------------------------------------------- the op


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck(padding, ndim):
    shape = (3, 4, 5)[3 - ndim :]
    generator = torch.Generator().manual_seed(1)
    vol = torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    flow = (
        torch.rand(2, ndim, *shape, generator=generator, dtype=torch.float64) * 0.8
        + 0.1
        + torch.randint(-3, 3, (1,), generator=generator)
    ).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, u: fastreg.warp(v, u, padding=padding, backend="native"), (vol, flow), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda v: fastreg.warp(v, flow.detach(), mode="nearest", padding=padding), (vol,), fast_mode=True
    )


@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode):
    vol, flow, out = problem(3, torch.float32)
    vol.requires_grad_(), flow.requires_grad_()
    torch.library.opcheck(torch.ops.fastreg.warp, (vol, flow, mode, "zeros", False, "native"))
    inputs = out, vol.detach(), flow.detach(), mode, "zeros", False, True, True, "native"
    torch.library.opcheck(torch.ops.fastreg.warp_backward, inputs)


def test_any_strides():
    vol, flow, _ = problem(3, torch.float32)
    expected = fastreg.warp(vol, flow)
    strided = vol.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    expanded = flow[:1].expand(2, -1, -1, -1, -1)
    assert torch.equal(fastreg.warp(strided, flow), expected)
    assert torch.equal(fastreg.warp(vol, flow.movedim(1, -1), channels_last=True), expected)
    assert torch.equal(fastreg.warp(vol, expanded), fastreg.warp(vol, expanded.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_volume_keeps_float32_coordinates(dtype):
    vol, flow, _ = problem(3, torch.float32)
    low = vol.to(dtype).requires_grad_()
    u = flow.clone().requires_grad_()
    moved = fastreg.warp(low, u)
    assert moved.dtype == dtype
    assert torch.equal(moved, fastreg.warp(low.float(), flow).to(dtype))
    moved.float().sum().backward()
    assert low.grad.dtype == dtype and u.grad.dtype == torch.float32


@pytest.mark.slow
def test_compile_and_autocast():
    vol, flow, out = problem(3, torch.float32)
    flow.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fastreg.warp(vol, flow).dtype == torch.float32
    torch._dynamo.reset()
    compiled = torch.compile(lambda v, u: fastreg.warp(v, u) * 2, fullgraph=True, dynamic=True, backend="aot_eager")
    for v, u, g in ((vol, flow, out), (vol[..., :30], flow[..., :30], out[..., :30])):
        torch.testing.assert_close(compiled(v, u), fastreg.warp(v, u) * 2)
        (actual,) = torch.autograd.grad(compiled(v, u), u, g)
        torch.testing.assert_close(actual, torch.autograd.grad(fastreg.warp(v, u) * 2, u, g)[0])


def test_function_transforms():
    vol, flow, _ = problem(2, torch.float64)
    expected = torch.autograd.grad(fastreg.warp(vol, flow.requires_grad_()).square().sum(), flow)[0]
    flow = flow.detach()
    torch.testing.assert_close(grad(lambda u: fastreg.warp(vol, u).square().sum())(flow), expected)
    stacked = vmap(lambda v, u: fastreg.warp(v[None], u[None])[0])(vol, flow)
    torch.testing.assert_close(stacked, fastreg.warp(vol, flow))
    _, tangent = jvp(lambda u: fastreg.warp(vol, u).square().sum(), (flow,), (torch.ones_like(flow),))
    torch.testing.assert_close(tangent, expected.sum())


def test_double_backward_says_that_there_is_none():
    vol, flow, _ = problem(2, torch.float64)
    flow.requires_grad_()
    (first,) = torch.autograd.grad(fastreg.warp(vol, flow).square().sum(), flow, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg\.warp has no second derivative"):
        first.sum().backward()


VOL, FLOW = torch.zeros(2, 1, 4, 5, 6), torch.zeros(2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((VOL.numpy(), FLOW), {}, TypeError, r"vol must be a torch.Tensor, got ndarray"),
        ((VOL, FLOW.int()), {}, TypeError, r"flow must be float16, .*got torch.int32"),
        ((VOL[0], FLOW), {}, ValueError, r"vol must be .*got \[1, 4, 5, 6\]|flow must be"),
        (
            (VOL, FLOW[:, :2]),
            {},
            ValueError,
            r"flow must be \[batch, 3, D, H, W\] to match vol .*got \[2, 2, 4, 5, 6\]",
        ),
        ((VOL, FLOW[:1].expand(3, -1, -1, -1, -1)), {}, ValueError, r"flow must be .* got \[3, 3, 4, 5, 6\]"),
        ((VOL, FLOW), {"channels_last": True}, ValueError, r"flow must be \[batch, D, H, W, 3\]"),
        ((VOL[..., :0], FLOW), {}, ValueError, r"vol must not have empty axes"),
        ((VOL, FLOW), {"mode": "cubic"}, ValueError, r"mode must be one of linear, nearest, bspline, got 'cubic'"),
        ((VOL, FLOW), {"padding": "wrap"}, ValueError, r"padding must be one of .*got 'wrap'"),
        ((VOL, FLOW), {"backend": "opencl"}, ValueError, r"backend must be one of .*got 'opencl'"),
        ((VOL, FLOW.to("meta")), {}, ValueError, r"flow must be on the device of vol, cpu, got meta"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        fastreg.warp(*arguments, **options)


def test_set_isa_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="isa must be baseline, avx2 or avx512, got sse9"):
        _C.cpu.set_isa("sse9")
