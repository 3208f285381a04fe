"""What other people's code hands over: tensor subclasses, labels in integers, one field for a batch, a first call."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.func import vmap

import fastreg
from fastreg import losses
from fastreg.backends import cuda, reference
from fastreg.types import MODES, PADDINGS

SHAPE = {2: (7, 9), 3: (5, 6, 7)}
GRID = {2: (4, 6), 3: (3, 4, 6)}
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64]


class Tracked(torch.Tensor):
    """As MONAI's MetaTensor: what is computed from it is one, too, and `new_empty` takes the size as one tuple."""

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        made = self.as_subclass(torch.Tensor).new_empty(size, dtype=dtype, device=device, requires_grad=requires_grad)
        return made.as_subclass(Tracked)


def tracked(*shape):
    return torch.rand(*shape).as_subclass(Tracked)


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_op_keeps_the_subclass(ndim):
    a, b = tracked(2, 1, *SHAPE[ndim]), tracked(2, 1, *SHAPE[ndim])
    flow = tracked(2, ndim, *SHAPE[ndim]) - 0.5
    ops = {
        "warp": lambda a, b, u: fastreg.warp(a, u),
        "nearest": lambda a, b, u: fastreg.warp(a, u, mode="nearest"),
        "shared field": lambda a, b, u: fastreg.warp(a, u[:1]),
        "shared volume": lambda a, b, u: fastreg.warp(a[:1], u),
        "labels": lambda a, b, u: fastreg.warp((a * 9).int(), u, mode="nearest"),
        "lncc": lambda a, b, u: fastreg.lncc(a, b, window=5),
        "lncc map": lambda a, b, u: fastreg.lncc(a, b, window=5, reduction="none"),
        "integrate": lambda a, b, u: fastreg.integrate(u),
        "compose": lambda a, b, u: fastreg.compose(u, u),
        "smoothness": lambda a, b, u: fastreg.smoothness(u),
        "bending": lambda a, b, u: fastreg.smoothness(u, penalty="bending"),
        "determinant": lambda a, b, u: fastreg.jacobian_determinant(u),
        "mind": lambda a, b, u: fastreg.mind(a),
        "correlate": lambda a, b, u: fastreg.correlate(a, b),
        "correlate mean": lambda a, b, u: fastreg.correlate(u, u.flip(-1), measure="ssd", sharpness=2.0),
        "LNCC": lambda a, b, u: losses.LNCC(5)(a, b),
        "MSE": lambda a, b, u: losses.MSE()(a, b),
        "MI": lambda a, b, u: losses.MI()(a, b),
        "Dice": lambda a, b, u: losses.Dice()(a, b),
        "Smoothness": lambda a, b, u: losses.Smoothness()(u),
    }
    for name, op in ops.items():
        plain = op(*(x.as_subclass(torch.Tensor) for x in (a, b, flow)))
        for inputs in ((a, b, flow), (a, b, flow.detach().requires_grad_())):
            found = op(*inputs)
            assert type(found) is Tracked, name
            torch.testing.assert_close(found.as_subclass(torch.Tensor), plain)
            if found.requires_grad:
                found.sum().backward()
                assert torch.isfinite(inputs[2].grad).all(), name


@pytest.mark.parametrize("options", [{}, {"name": "match"}, {"diffeomorphic": True}])
def test_networks_take_a_subclass(options):
    net = fastreg.RegistrationNet(ndim=2, **options)
    moving, fixed = tracked(1, 1, 16, 16), tracked(1, 1, 16, 16)
    plain = net(moving.as_subclass(torch.Tensor), fixed.as_subclass(torch.Tensor))
    found = net(moving, fixed)
    assert isinstance(found.moved, Tracked)
    torch.testing.assert_close(found.moved.as_subclass(torch.Tensor), plain.moved)
    (losses.LNCC(5)(found.moved, fixed) + losses.Smoothness()(found.flow)).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)


# ---------------------------------------------------------------- labels


def some_labels(dtype, *shape):
    if dtype == torch.bool:
        return torch.rand(*shape) > 0.5
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32}.get(dtype, dtype)
    info = torch.iinfo(signed)
    labels = torch.randint(info.min, info.max, shape, dtype=signed)
    labels.view(-1)[::5] = info.max  # all bits
    labels.view(-1)[1::5] = info.min
    return labels.view(dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_labels_are_exact(dtype, padding, backend):
    labels = some_labels(dtype, 2, 2, *SHAPE[3])
    flow = torch.randn(2, 3, *GRID[3]) * 2
    flow[0, 1, 2, 3, 4] = float("nan")
    at = torch.arange(labels.numel(), dtype=torch.float64).reshape(labels.shape) + 1
    read = reference.warp(at, flow.double(), "nearest", padding, False).nan_to_num(0.0).long()  # 0: no voxel
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32}.get(dtype, dtype)
    expected = torch.cat([labels.new_zeros(1).view(signed), labels.view(signed).flatten()])[read]
    moved = fastreg.warp(labels, flow.double(), mode="nearest", padding=padding, backend=backend)
    assert moved.dtype == dtype and torch.equal(moved.view(signed), expected)
    assert torch.equal(fastreg.warp(labels, flow, mode="nearest", padding=padding).view(signed), expected)


def test_labels_have_no_gradient_and_follow_transforms():
    labels, flow = some_labels(torch.int64, 2, 1, *SHAPE[2]), torch.randn(2, 2, *SHAPE[2], requires_grad=True)
    moved = fastreg.warp(labels, flow, mode="nearest")
    assert not moved.requires_grad
    stacked = vmap(lambda v, u: fastreg.warp(v[None], u[None], mode="nearest")[0])(labels, flow.detach())
    assert torch.equal(stacked, moved)
    assert torch.equal(
        fastreg.warp(labels[:1], flow, mode="nearest")[1:], fastreg.warp(labels[:1], flow[1:], mode="nearest")
    )
    torch.library.opcheck(torch.ops.fastreg.warp_labels, (labels, flow.detach(), "border", False, "native"))
    with pytest.raises(TypeError, match=r"vol of integers needs mode 'nearest', got torch.int64 and mode 'linear'"):
        fastreg.warp(labels, flow)


# ---------------------------------------------------------------- one for a batch


@pytest.fixture(params=["native", "reference"])
def backend(request):
    return request.param


@pytest.mark.parametrize("mode, ndim", [*itertools.product(MODES, [2, 3])])
@pytest.mark.parametrize("shared, expanded", [*itertools.product(["vol", "flow"], [False, True])])
def test_what_a_batch_shares(shared, expanded, mode, ndim, backend, isa, threads):
    batch = 3
    vol = torch.randn(1 if shared == "vol" else batch, 2, *SHAPE[ndim])
    flow = torch.randn(1 if shared == "flow" else batch, ndim, *GRID[ndim]) * 2
    above = torch.randn(batch, 2, *GRID[ndim])

    def run(each, *options):
        v, u = vol.clone().requires_grad_(), flow.clone().requires_grad_()
        fit = [x.expand(batch, *x.shape[1:]) for x in (v, u)] if expanded or each else [v, u]
        if each:
            moved = torch.cat([fastreg.warp(fit[0][k : k + 1], fit[1][k : k + 1], mode=mode) for k in range(batch)])
        else:
            moved = fastreg.warp(*fit, mode=mode, backend=backend)
        return moved, *torch.autograd.grad(moved, (v, u), above, allow_unused=True)

    found, expected = run(False), run(True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for count in (1, 3, 16):
        threads(count)
        for ours, theirs in zip(run(False), found, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shared", ["vol", "flow"])
def test_gradcheck_of_what_a_batch_shares(shared):
    vol = torch.randn(1 if shared == "vol" else 2, 2, *SHAPE[2], dtype=torch.float64, requires_grad=True)
    flow = torch.rand(1 if shared == "flow" else 2, 2, *GRID[2], dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(lambda v, u: fastreg.warp(v, u), (vol, flow.requires_grad_()), fast_mode=True)
    torch.library.opcheck(
        torch.ops.fastreg.warp, (vol[:1], flow.expand(2, -1, -1, -1), "linear", "zeros", False, "native")
    )


def test_an_empty_batch_with_one_for_all():
    vol, flow = torch.randn(1, 2, *SHAPE[3], requires_grad=True), torch.randn(0, 3, *GRID[3])
    moved = fastreg.warp(vol, flow)
    moved.sum().backward()
    assert moved.shape == (0, 2, *GRID[3]) and torch.equal(vol.grad, torch.zeros_like(vol))
    assert fastreg.warp(vol[:0], torch.randn(1, 3, *GRID[3])).shape == moved.shape


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match=r"flow must be \[batch, 2, H, W\] to match vol \[2, 1, 7, 9\], got \[3, 2, 7"):
        fastreg.warp(torch.zeros(2, 1, 7, 9), torch.zeros(3, 2, 7, 9))


# ---------------------------------------------------------------- the first call


def test_the_first_call_imports_no_compiler():
    """torch._dynamo alone takes longer to import than the rest of torch."""
    code = """
import sys, torch, fastreg
a, u = torch.rand(1, 1, 6, 6, 6), torch.zeros(1, 3, 6, 6, 6, requires_grad=True)
known = set(sys.modules)
loss = fastreg.lncc(fastreg.warp(a, fastreg.integrate(u)), a) + fastreg.smoothness(u)
loss.backward()
fastreg.warp(a.int(), u, mode="nearest")
fastreg.jacobian_determinant(u.detach())
more = sorted({name.split(".")[0] for name in set(sys.modules) - known} | ({"torch._dynamo"} & set(sys.modules)))
print(*more)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch._dynamo", "sympy", "scipy", "nibabel", "matplotlib", "triton"} & set(found), found


def test_the_marker_is_that_of_torch():
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(marked).items() <= vars(cuda._why_not_device).items()
