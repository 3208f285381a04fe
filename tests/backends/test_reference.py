"""The specification against autograd and brute force; every other backend is tested against the specification."""

import itertools
import math

import pytest
import torch
from helpers.lncc_family import FAMILY

from fastreg.backends import reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form
from fastreg.types import PADDINGS


def brute_force(vol, flow, padding):
    """One point at a time, in Python floats."""
    ndim = vol.ndim - 2
    size = vol.shape[2:]
    out = torch.zeros(*vol.shape[:2], *flow.shape[2:], dtype=torch.float64)

    def read(volume, index):
        if padding == "zeros" and any(not 0 <= i < n for i, n in zip(index, size, strict=True)):
            return 0.0
        if padding == "reflection":
            index = [
                0 if n == 1 else (n - 1) - abs((i % (2 * n - 2)) - (n - 1)) for i, n in zip(index, size, strict=True)
            ]
        if padding == "symmetric":
            index = [min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i, n in zip(index, size, strict=True)]
        return volume[tuple(min(max(i, 0), n - 1) for i, n in zip(index, size, strict=True))].item()

    for b, c in itertools.product(range(vol.shape[0]), range(vol.shape[1])):
        for point in itertools.product(*[range(n) for n in flow.shape[2:]]):
            place = [point[k] + flow[(b, k, *point)].item() for k in range(ndim)]
            low = [math.floor(x) for x in place]
            total = 0.0
            if padding == "itk" and not all(-0.5 <= x < n - 0.5 for x, n in zip(place, size, strict=True)):
                continue
            for corner in itertools.product((0, 1), repeat=ndim):
                weight = math.prod(x - i if k else 1 - (x - i) for x, i, k in zip(place, low, corner, strict=True))
                total += weight * read(vol[b, c], [i + k for i, k in zip(low, corner, strict=True)])
            out[(b, c, *point)] = total
    return out


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(5, 4), (4, 3, 5), (1, 4, 3)])
def test_warp_is_the_definition(size, padding):
    vol = torch.randn(2, 2, *size, dtype=torch.float64)
    flow = 4 * torch.randn(2, len(size), *size, dtype=torch.float64)
    torch.testing.assert_close(
        reference.warp(vol, flow, "linear", padding, False), brute_force(vol, flow, padding), rtol=0, atol=1e-12
    )


def test_warp_is_grid_sample_inside():
    vol, flow = torch.randn(1, 2, 7, 8, 9, dtype=torch.float64), torch.randn(1, 3, 7, 8, 9, dtype=torch.float64)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (7, 8, 9)], indexing="ij")
    place = torch.stack([(2 * (a + u) / (n - 1) - 1) for a, u, n in zip(axes, flow[0], (7, 8, 9), strict=True)], -1)
    for padding in ("zeros", "border", "reflection"):
        expected = torch.nn.functional.grid_sample(
            vol, place.flip(-1)[None], padding_mode=padding, align_corners=True, mode="bilinear"
        )
        torch.testing.assert_close(reference.warp(vol, flow, "linear", padding, False), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(5, 4), (4, 3, 5)])
def test_written_gradients_are_autograds(size, padding, channels_last):
    vol = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    flow = (2 * torch.randn(2, len(size), *size[:-1], 6, dtype=torch.float64)).requires_grad_()
    given = flow.movedim(1, -1) if channels_last else flow
    out = reference.warp(vol, given, "linear", padding, channels_last)
    upstream = torch.randn_like(out)
    expected = torch.autograd.grad(out, (vol, given), upstream)
    found = reference.warp_backward(
        upstream, vol.detach(), given.detach(), "linear", padding, channels_last, True, True
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_slope_at_integers_is_the_right_hand_difference(padding):
    vol = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    flow = torch.randint(-2, 3, (1, 2, 4, 5)).double()
    _, slope = reference.warp_backward(torch.ones_like(vol), vol, flow, "linear", padding, False, False, True)
    h = 1e-6
    for axis in range(2):
        moved = flow.clone()
        moved[:, axis] += h
        right = (brute_force(vol, moved, padding) - brute_force(vol, flow, padding)) / h
        torch.testing.assert_close(slope[:, axis], right[:, 0], rtol=1e-5, atol=1e-5)


def test_nan_and_infinity():
    vol = torch.randn(1, 1, 4, 4)
    flow = torch.zeros(1, 2, 4, 4)
    flow[0, 0, 1, 2], flow[0, 1, 2, 2], flow[0, 0, 3, 3] = math.nan, math.inf, 1e38
    out = reference.warp(vol, flow, "linear", "zeros", False)
    assert out.isnan().sum() == 1 and out[0, 0, 1, 2].isnan()
    assert out[0, 0, 2, 2] == 0 and out[0, 0, 3, 3] == 0
    border = reference.warp(vol, flow, "linear", "border", False)
    assert border[0, 0, 2, 2] == vol[0, 0, 2, 3] and border[0, 0, 3, 3] == vol[0, 0, 3, 3]


def test_a_nan_voxel_stays_where_it_is():
    vol = torch.randn(1, 1, 4, 4)
    vol[0, 0, 1, 1] = math.nan
    out = reference.warp(vol, torch.zeros(1, 2, 4, 4), "linear", "zeros", False)
    torch.testing.assert_close(out, vol, equal_nan=True, rtol=0, atol=0)


def weight_by_formula(form, axis, offset):
    """Of a voxel so far from the middle of a window, as docs/math.md has it."""
    if form.kernel == "gaussian":
        return math.exp(-(offset**2) / (2 * form.sigma[axis] ** 2))
    if form.kernel == "triangular":
        m = {3: 1, 5: 3, 7: 3, 9: 5}[form.window[axis]]
        return max(0, m - abs(offset)) / m**2
    return 1.0


@pytest.mark.parametrize("form", FAMILY.values(), ids=FAMILY)
@pytest.mark.parametrize("masked", [False, True])
def test_the_family_is_its_definition_and_its_gradients_are_autograds(form, masked):
    a, b = (torch.rand(1, 1, 4, 5, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        a[:, :, :2] = 0.25  # some windows are flat
        b[:, :, 3:] = 0.5
    mask = (torch.rand(1, 1, 4, 5, 6) > 0.3).double() * torch.rand(1, 1, 4, 5, 6) if masked else None
    weight = torch.rand(1, 1, 4, 5, 6, dtype=torch.float64) if mask is None else mask
    found = reference.lncc_map(a, b, form, mask)
    expected = lncc_by_loops(a.detach()[0, 0], b.detach()[0, 0], form, None if mask is None else mask[0, 0])
    torch.testing.assert_close(found[0, 0][weight[0, 0] > 0], expected[weight[0, 0] > 0], rtol=1e-9, atol=1e-9)
    slopes = torch.autograd.grad((weight * found).sum() * 0.7, (a, b))
    value, *written, cc = reference.lncc(a.detach(), b.detach(), weight, form, 0.7, True, True, True, mask)
    torch.testing.assert_close(value, (weight * cc).sum())
    for one, other in zip(written, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def lncc_by_loops(a, b, form, mask=None):
    """Window by window from the definition of covariance, in exact order, one channel of one image."""
    size = a.shape
    out = torch.zeros_like(a)
    for point in itertools.product(*[range(n) for n in size]):
        values, weights = [[], []], []
        for offset in itertools.product(*[range(-(w // 2), w // 2 + 1) for w in form.window]):
            place = tuple(p + o for p, o in zip(point, offset, strict=True))
            inside = all(0 <= p < n for p, n in zip(place, size, strict=True))
            if mask is not None and inside and mask[place] <= 0:
                continue
            if inside or not form.count:
                values[0].append(a[place].item() if inside else 0.0)
                values[1].append(b[place].item() if inside else 0.0)
                weights.append(math.prod(weight_by_formula(form, axis, o) for axis, o in enumerate(offset)))
        n = math.fsum(weights) or 1
        mean_a, mean_b = (math.fsum(w * x for w, x in zip(weights, v, strict=True)) / n for v in values)
        unit = n if form.mean else 1
        c = math.fsum(w * (x - mean_a) * (y - mean_b) for w, x, y in zip(weights, *values, strict=True)) / unit
        var_a = math.fsum(w * (x - mean_a) ** 2 for w, x in zip(weights, values[0], strict=True)) / unit
        var_b = math.fsum(w * (y - mean_b) ** 2 for w, y in zip(weights, values[1], strict=True)) / unit
        if form.flat_eps >= 0 and abs(var_a * var_b) <= form.flat_eps:
            out[point] = form.flat
            continue
        floors = {
            "none": lambda v: v,
            "max": lambda v: max(v, form.floor_eps),
            "add": lambda v: max(v, 0) + form.floor_eps,
        }
        if form.cross_floor:
            c = max(c, form.floor_eps)
        product = floors[form.floor](var_a) * floors[form.floor](var_b)
        if form.squared:
            value = (c * c + form.num_eps) / (product + form.den_eps)
        else:
            value = (c + form.num_eps) / (math.sqrt(max(product, 0)) + form.den_eps)
        out[point] = min(value, 1) if form.clamp else value
    return out


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
@pytest.mark.parametrize("size", [(6, 7), (4, 5, 6)])
def test_lncc_is_the_definition(definition, size):
    a, b = torch.rand(2, 1, 1, *size, dtype=torch.float64)
    a[:, :, :3] = 0.25  # some windows are flat
    form = lncc_form(definition, [3] * len(size), 1e-5)
    expected = lncc_by_loops(a[0, 0], b[0, 0], form)
    torch.testing.assert_close(reference.lncc_map(a, b, form)[0, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
@pytest.mark.parametrize("size", [(6, 7), (4, 5, 6)])
def test_lncc_with_a_mask_is_the_definition_over_what_counts(definition, size):
    a, b = torch.rand(2, 1, 1, *size, dtype=torch.float64)
    mask = (torch.rand(size) > 0.3).double() * torch.rand(size)
    form = lncc_form(definition, [3] * len(size), 1e-5)
    expected = lncc_by_loops(a[0, 0], b[0, 0], form, mask)
    hidden = torch.where(mask > 0, a, float("nan"))
    got = reference.lncc_map(hidden, b, form, mask[None, None])
    torch.testing.assert_close(got[0, 0][mask > 0], expected[mask > 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_gradients_of_lncc_with_a_mask_are_those_of_autograd(definition):
    a, b = (torch.rand(2, 2, 5, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    mask = (torch.rand(2, 1, 5, 6) > 0.4).double() * torch.rand(2, 1, 5, 6)
    form = lncc_form(definition, [3] * 2, 1e-5)
    value, grad_a, grad_b, _ = reference.lncc(a.detach(), b.detach(), mask, form, 0.5, True, True, False, mask)
    by_map = (reference.lncc_map(a, b, form, mask) * mask).sum()
    (0.5 * by_map).backward()
    torch.testing.assert_close(value, by_map.detach())
    torch.testing.assert_close(grad_a, a.grad)
    torch.testing.assert_close(grad_b, b.grad)
    assert (grad_a[mask.expand_as(a) == 0] == 0).all()


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_written_lncc_gradients_are_autograds(definition):
    a, b = (torch.rand(2, 2, 6, 7, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        a[:, :, :3] = 0.3
    weight = torch.rand(2, 1, 6, 7, 5, dtype=torch.float64)
    form = lncc_form(definition, [5] * 3, 1e-5)
    expected = torch.autograd.grad((weight * reference.lncc_map(a, b, form)).sum() * 0.7, (a, b))
    value, *found, cc = reference.lncc(a.detach(), b.detach(), weight, form, 0.7, True, True, True)
    torch.testing.assert_close(value, (weight * cc).sum())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("definition", ["fastreg", "voxelmorph", "ants"])
def test_lncc_does_not_notice_an_offset_inside(definition):
    """Away from the border the value is that of the images without the offset, on CT-like numbers too."""
    a, b = torch.rand(2, 1, 1, 24, 24, dtype=torch.float64)
    form = lncc_form(definition, [5] * 2, 1e-5)
    inner = (..., slice(2, -2), slice(2, -2))
    shifted = reference.lncc_map(a + 10000, b - 3000, form)
    torch.testing.assert_close(shifted[inner], reference.lncc_map(a, b, form)[inner], rtol=1e-6, atol=1e-8)


def test_integrate_gradient_is_autograds():
    velocity = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    flow, saved = reference.integrate_forward(velocity, 4, "zeros", True)
    upstream = torch.randn_like(flow)
    expected = torch.autograd.grad(flow, velocity, upstream)[0]
    found = reference.integrate_backward(upstream, velocity.detach(), saved.detach(), 4, "zeros")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_smoothness_gradient_is_autograds():
    flow = torch.randn(2, 3, 4, 1, 5, dtype=torch.float64, requires_grad=True)
    value, grad = reference.smoothness(flow, True)
    torch.testing.assert_close(grad, torch.autograd.grad(value, flow)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 1, 5), (3, 4, 5), (2, 6), (1, 3)])
def test_penalty_gradient_is_autograds(size):
    velocity = torch.randn(2, len(size), *size, dtype=torch.float64, requires_grad=True)
    known = torch.randn(2, 1, *size, dtype=torch.float64)
    before = torch.randn_like(velocity).detach()
    grad = before.clone()
    value = reference.penalty(velocity.detach(), known, 0.3, 0.7, grad)
    differences = [velocity.diff(dim=axis) for axis in range(2, velocity.ndim)]
    rough = sum((d.square().mean() for d in differences if d.numel()), velocity.new_zeros(())) / len(size)
    truth = 0.3 * rough + 0.7 * reference.volume(velocity, known)
    torch.testing.assert_close(value, truth.detach())
    torch.testing.assert_close(grad - before, torch.autograd.grad(truth, velocity)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 1, 5), (5, 4)])
def test_volume_is_the_definition(size):
    velocity, known = torch.randn(1, len(size), *size).double(), torch.randn(1, 1, *size).double()
    total = 0.0
    for point in itertools.product(*[range(n) for n in size]):
        d = known[(0, 0, *point)].item()
        for axis, n in enumerate(size):
            if 0 < point[axis] < n - 1:
                ends = [[p + step * (k == axis) for k, p in enumerate(point)] for step in (1, -1)]
                d += (velocity[(0, axis, *ends[0])] - velocity[(0, axis, *ends[1])]).item() / 2
        total += d * d
    assert reference.volume(velocity, known).item() == pytest.approx(total / math.prod(size))


@pytest.mark.parametrize("kernel", ["triangular", "gaussian"])
@pytest.mark.parametrize("shape", [(2, 1, 4, 12, 9), (1, 2, 3, 20)])
def test_weighted_windows_by_matrices_are_those_by_slices(kernel, shape):
    """A NaN anywhere takes the way by slices, on which it stays in its windows."""
    a, b = torch.rand(2, *shape, dtype=torch.float64)
    form = lncc_form("monai", (3, 7, 9)[5 - len(shape) :], 1e-3, kernel=kernel)
    value, grad_a, grad_b, cc = reference.lncc(a, b, None, form, 1.0, True, True, True)
    a.view(-1)[0] = math.nan
    spoilt = reference.lncc(a, b, None, form, 1.0, True, True, True)
    assert value.isfinite() and spoilt[0].isnan()
    for by_matrices, by_slices in zip((grad_a, grad_b, cc), spoilt[1:], strict=True):
        kept = by_slices.isfinite()
        assert 0.2 < kept.double().mean() < 1
        torch.testing.assert_close(by_matrices[kept], by_slices[kept], rtol=1e-9, atol=1e-11)
