"""The local correlation: the compiled sweep against the reference, and the definitions against their sources."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import fastreg
from fastreg.backends import cpu, reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form

_LEVELS = ("baseline", "avx2", "avx512")
_BEST = cpu.isa()
_AVAILABLE = _LEVELS[: _LEVELS.index(_BEST) + 1]
# odd widths, several segments, one-voxel axes, tiles cut in z and y, 2-D
_SHAPES = [(1, 1, 6, 7, 19), (2, 2, 5, 9, 16), (1, 1, 1, 7, 3), (1, 1, 9, 1, 1), (1, 1, 130, 5, 6), (1, 1, 3, 150, 9)]
_SHAPES += [(1, 2, 20, 33), (2, 1, 130, 24)]


@pytest.fixture(autouse=True)
def _restore():
    threads = torch.get_num_threads()
    yield
    fastreg._C.cpu.set_isa(_BEST)
    torch.set_num_threads(threads)


def _pair(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=torch.float64)
    b = a + torch.rand(shape, generator=generator, dtype=torch.float64)
    return a.to(dtype), b.to(dtype)


def _compare(got, expected, tolerance):
    for name, x, y in zip(("value", "grad a", "grad b", "map"), got, expected, strict=True):
        assert (x is None) == (y is None), name
        if y is not None:
            error = (x.double() - y.double()).abs().max() / y.double().abs().max().clamp_min(1e-30)
            assert error <= tolerance, f"{name}: {error}"


# ---------------------------------------------------------------- against the reference


@pytest.mark.slow
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_matches_reference(definition, shape):
    a, b = _pair(shape)
    generator = torch.Generator().manual_seed(1)
    for window in (3, 5, 9, 21):
        for channels in (0, 1, shape[1]):
            weight = (
                torch.randn(shape[0], channels, *shape[2:], generator=generator, dtype=a.dtype) if channels else None
            )
            form = lncc_form(definition, [window] * (a.ndim - 2), 1e-5)
            got = cpu.lncc(a, b, weight, form, 0.5, True, True, True)
            _compare(got, reference.lncc(a, b, weight, form, 0.5, True, True, True), 2e-11)


@pytest.mark.parametrize("isa", _AVAILABLE)
@pytest.mark.parametrize("needs", [(False, False), (True, False), (False, True), (True, True)])
def test_every_instruction_set_and_gradient(isa, needs):
    fastreg._C.cpu.set_isa(isa)
    assert cpu.isa() == isa
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        a, b = _pair((1, 2, 11, 60, 29), dtype=dtype)
        form = lncc_form("fastreg", [9] * 3, 1e-5)
        got = cpu.lncc(a, b, None, form, 1.0, *needs, False)
        expected = reference.lncc(a.double(), b.double(), None, form, 1.0, *needs, False)
        _compare(got, expected, tolerance)


def _masked_case(shape, dtype=torch.float64):
    a, b = _pair(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator, dtype=dtype)
    mask = torch.where(torch.rand(mask.shape, generator=generator) > 0.3, mask, 0)
    return a, b, mask


@pytest.mark.parametrize("isa", _AVAILABLE)
@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_a_mask_in_every_definition(definition, isa):
    fastreg._C.cpu.set_isa(isa)
    for shape, window in (((2, 2, 9, 10, 37), 5), ((2, 3, 12, 40), 7), ((1, 1, 3, 2, 5), 9)):
        form = lncc_form(definition, [window] * (len(shape) - 2), 1e-5)
        for dtype, tolerance in ((torch.float64, 2e-10), (torch.float32, 1e-6)):
            a, b, mask = _masked_case(shape, dtype)
            hidden = torch.where(mask > 0, a, float("nan"))
            for weight, needs in ((mask, (True, True, False)), (torch.rand_like(a), (False, True, True))):
                got = cpu.lncc(hidden, b, weight, form, 0.5, *needs, mask)
                wide = [x.double() for x in (hidden, b, weight)]
                _compare(got, reference.lncc(*wide, form, 0.5, *needs, mask.double()), tolerance)


@pytest.mark.parametrize("needs", [(False, False), (True, False), (True, True)])
def test_tiles_inside_outside_and_on_the_rim_of_a_mask(needs):
    """Large enough for tiles of all three kinds."""
    shape = (1, 1, 100, 200, 24)
    a, b = _pair(shape)
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[:, :, :60, 20:170] = 1
    form = lncc_form("fastreg", [5] * 3, 1e-5)
    got = cpu.lncc(a, b, mask, form, 1.0, *needs, False, mask)
    _compare(got, reference.lncc(a, b, mask, form, 1.0, *needs, False, mask), 1e-11)


def test_a_mask_of_ones_is_none():
    a, b = _pair((1, 2, 11, 60, 29), dtype=torch.float32)
    ones = torch.ones(1, 1, 11, 60, 29)
    for definition in LNCC_DEFINITIONS:
        form = lncc_form(definition, [7] * 3, 1e-5)
        got = cpu.lncc(a, b, ones, form, 1.0, True, True, True, ones)
        assert all(
            torch.equal(x, y) for x, y in zip(got, cpu.lncc(a, b, None, form, 1.0, True, True, True), strict=True)
        )


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_lies_under_a_mask_does_not_matter(backend):
    a, b, mask = _masked_case((1, 2, 9, 10, 12))
    results = []
    for hidden in (0.0, 1e9, float("nan"), -float("inf")):
        x, y = (torch.where(mask > 0, image, hidden).requires_grad_() for image in (a, b))
        for reduction in ("mean", "none"):
            value = fastreg.lncc(x, y, window=5, mask=mask, reduction=reduction, backend=backend)
            results.append([value.detach(), *torch.autograd.grad(value.sum(), (x, y))])
    for number, other in enumerate(results[2:]):
        for one, two in zip(results[number % 2], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    assert (results[0][1][(mask == 0).expand_as(a)] == 0).all()


def test_windows_without_weight_are_left_out_of_a_masked_sum():
    """A NaN in the open does no harm but to windows that hold it and count."""
    a, b, mask = _masked_case((1, 1, 9, 10, 30))
    mask[..., 12:20] = 0
    mask[0, 0, 4, 5, 15] = 1e-30  # alone: no other window that counts holds it
    a[0, 0, 4, 5, 15] = float("nan")
    form = lncc_form("fastreg", [3] * 3, 1e-5)
    weight = torch.where(mask > 1e-20, mask, 0)
    got = cpu.lncc(a, b, weight, form, 1.0, True, True, False, mask)
    assert got[0].isfinite() and got[1].isnan().sum() == got[2].isnan().sum() == 1  # where it lies itself
    expected = reference.lncc(a, b, weight, form, 1.0, True, True, False, mask)
    _compare(
        [x if x is None else x.nan_to_num(7.0) for x in got],
        [x if x is None else x.nan_to_num(7.0) for x in expected],
        1e-11,
    )


def test_one_voxel_windows_are_flat():
    a, b = _pair((1, 1, 5, 6, 7))
    for definition in ("fastreg", "voxelmorph", "monai", "fused-lncc"):
        assert fastreg.lncc(a, b, window=1, definition=definition) == 0
    assert fastreg.lncc(a, b, window=1, definition="ants") == 1


def test_a_window_beyond_the_image_is_cut_to_it():
    a, b = _pair((1, 1, 5, 6, 7))
    assert torch.equal(fastreg.lncc(a, b, window=100001), fastreg.lncc(a, b, window=13))


def test_batch_of_none():
    a = torch.rand(0, 1, 4, 5, 6, requires_grad=True)
    value = fastreg.lncc(a, torch.rand(0, 1, 4, 5, 6), reduction="sum")
    value.backward()
    assert value == 0 and a.grad.shape == a.shape


def test_bits_do_not_depend_on_threads():
    a, b = _pair((1, 2, 90, 120, 33), dtype=torch.float32)
    form = lncc_form("fastreg", [7] * 3, 1e-5)
    mask, wanted = (torch.rand(1, 1, 90, 120, 33) > 0.2).float(), (1.0, True, True, False)
    results = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        results.append([*cpu.lncc(a, b, None, form, 1.0, True, True, True), *cpu.lncc(a, b, mask, form, *wanted, mask)])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True) if x is not None)


# ---------------------------------------------------------------- numerics


def _half_flat(offset, noise):
    """Half air, constant but for `noise`, half tissue, in whole numbers like Hounsfield units; and the air's value."""
    generator = torch.Generator().manual_seed(2)
    shape = (2, 1, 1, 24, 26, 40)
    tissue = torch.randn(shape, generator=generator, dtype=torch.float64) * 40 + 1040
    tissue[1] += tissue[0]
    quiet = torch.randn(shape, generator=generator, dtype=torch.float64) * noise
    a, b = (torch.where(torch.arange(40) < 20, quiet, tissue) + offset).round()
    return a, b


def _exact(a, b, air, window):
    """The default definition by direct sums of whole numbers about the air's value: nothing is rounded in them."""
    half = window // 2
    kernel = torch.ones(1, 1, window, window, window, dtype=torch.float64)
    a, b = (F.pad(x - air, [half] * 6, value=-air) for x in (a, b))
    return [F.conv3d(x, kernel) for x in (a, b, a * a, b * b, a * b)]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0, 1e4, -1000.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_offsets_lose_nothing(offset, noise):
    a, b = (x.requires_grad_() for x in _half_flat(offset, noise))
    s_a, s_b, s_aa, s_bb, s_ab = _exact(a, b, offset, 9)
    n = 9**3
    c, v_a, v_b = s_ab - s_a * s_b / n, s_aa - s_a**2 / n, s_bb - s_b**2 / n
    cc = c**2 / (v_a.clamp_min(1e-5) * v_b.clamp_min(1e-5))
    cc.sum().backward()
    form = lncc_form("fastreg", [9] * 3, 1e-5)
    for dtype in (torch.float64, torch.float32):
        got = cpu.lncc(a.detach().to(dtype), b.detach().to(dtype), None, form, 1.0, True, True, True)
        _compare(got, (cc.sum().detach(), a.grad, b.grad, cc.detach()), 1e-6)


def test_unrelated_noise_at_an_offset_stays_in_range():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(1, 1, 20, 20, 20, generator=generator, dtype=torch.float64) + 1e4 for _ in range(2))
    got = fastreg.lncc(a, b, reduction="none")[..., 4:-4, 4:-4, 4:-4]
    inner = fastreg.lncc(a - 1e4, b - 1e4, reduction="none")[..., 4:-4, 4:-4, 4:-4]
    torch.testing.assert_close(got, inner, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
@pytest.mark.parametrize("values", [(0.0, 0.0), (0.7, -3.0), (-1000.0, 1e4)])
def test_constant_images_are_finite(definition, values):
    a, b = (torch.full((1, 1, 12, 13, 14), value, requires_grad=True) for value in values)
    value = fastreg.lncc(a, b, definition=definition)
    value.backward()
    assert value.isfinite() and a.grad.isfinite().all() and b.grad.isfinite().all()
    inner = fastreg.lncc(a, b, definition=definition, reduction="none")[..., 4:-4, 4:-4, 4:-4]
    # the covariance of constants is nothing, and no rounding of it may be amplified
    expected = {"voxelmorph-tf": 1.0, "ffdp": None, "fireants": None, "ants": 1.0}.get(definition, 0.0)
    if expected is not None:
        assert (inner == expected).all()


def test_flat_next_to_bright_is_not_noise():
    """What running sums keep of bright voxels that left the window must not pass for a variance."""
    a = torch.zeros(1, 1, 40, 40, 64)
    a[..., :16] = torch.rand(1, 1, 40, 40, 16, generator=torch.Generator().manual_seed(4)) * 3000
    b = torch.rand(1, 1, 40, 40, 64, generator=torch.Generator().manual_seed(5)) * 3000
    cc = fastreg.lncc(a, b, definition="voxelmorph", reduction="none")
    assert (cc[..., 24:] == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_voxel_poisons_its_windows_only(bad):
    a, b = _pair((1, 1, 30, 60, 40), dtype=torch.float32)
    a[0, 0, 11, 30, 17] = bad
    clean = a.clone()
    clean[0, 0, 11, 30, 17] = 0.5
    form = lncc_form("fastreg", [5] * 3, 1e-5)
    value, grad_a, grad_b, cc = cpu.lncc(a, b, None, form, 1.0, True, True, True)
    _, clean_a, clean_b, clean_cc = cpu.lncc(clean, b, None, form, 1.0, True, True, True)
    assert value.isnan()
    near = torch.zeros_like(a, dtype=torch.bool)
    near[..., 9:14, 28:33, 15:20] = True
    assert cc[near].isnan().all()
    torch.testing.assert_close(cc[~near], clean_cc[~near])
    reach = torch.zeros_like(near)
    reach[..., 7:16, 26:35, 13:22] = True
    assert grad_a[reach].isnan().all() and grad_b[reach].isnan().all()
    torch.testing.assert_close(grad_a[~reach], clean_a[~reach])
    torch.testing.assert_close(grad_b[~reach], clean_b[~reach])


# ---------------------------------------------------------------- the definitions, from their sources


def _conv_sums(a, b, window):
    kernel = torch.ones(1, 1, window, window, window, dtype=a.dtype)
    return [F.conv3d(x, kernel, padding=window // 2) for x in (a, b, a * a, b * b, a * b)]


def _moments(a, b, window):
    s_a, s_b, s_aa, s_bb, s_ab = _conv_sums(a, b, window)
    n = window**3
    return s_ab - s_a * s_b / n, s_aa - s_a**2 / n, s_bb - s_b**2 / n


def _voxelmorph(a, b, w):
    c, v_a, v_b = _moments(a, b, w)
    return c * c / (v_a * v_b + 1e-5)


def _voxelmorph_tf(a, b, w):
    c, v_a, v_b = (x.clamp_min(1e-5) for x in _moments(a, b, w))
    return (c / v_a) * (c / v_b)


def _monai(a, b, w):
    c, v_a, v_b = _moments(a, b, w)
    return c * c / (v_a.clamp_min(1e-5) * v_b.clamp_min(1e-5))


def _fused_lncc(a, b, w):
    c, v_a, v_b = _moments(a, b, w)
    return (c * c / ((v_a.relu() + 1e-5) * (v_b.relu() + 1e-5))).clamp_max(1)


def _ffdp(a, b, w):
    c, v_a, v_b = _moments(a, b, w)
    e = 1e-5 * w**3
    return ((c * c + e) / (v_a.clamp_min(e) * v_b.clamp_min(e) + e)).clamp_max(1)


def _fireants(a, b, w):
    c, v_a, v_b = (x / w**3 for x in _moments(a, b, w))
    return ((c * c + 1e-5) / (v_a.clamp_min(1e-5) * v_b.clamp_min(1e-5) + 1e-5)).clamp_max(1)


def _icon(a, b, w):
    c, v_a, v_b = (x / w**3 for x in _moments(a, b, w))
    return c * c / ((v_a.clamp_min(0) + 1e-5) * (v_b.clamp_min(0) + 1e-5))


def _ants(a, b, w):
    out = torch.empty_like(a)
    half = w // 2
    for index in torch.cartesian_prod(*[torch.arange(n) for n in a.shape[2:]]).tolist():
        box = (0, 0, *(slice(max(0, i - half), i + half + 1) for i in index))
        x, y = a[box] - a[box].mean(), b[box] - b[box].mean()
        v_a, v_b = (x * x).sum(), (y * y).sum()
        out[(0, 0, *index)] = (x * y).sum() ** 2 / (v_a * v_b) if v_a * v_b > 2.22e-16 else 1.0
    return out


_SOURCES = {
    "voxelmorph": _voxelmorph,
    "voxelmorph-tf": _voxelmorph_tf,
    "monai": _monai,
    "fused-lncc": _fused_lncc,
    "ffdp": _ffdp,
    "fireants": _fireants,
    "ants": _ants,
    "icon": _icon,
}


@pytest.mark.parametrize("definition", _SOURCES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_definition_is_that_of_its_source(definition, backend):
    a, b = _pair((1, 1, 6, 7, 9))
    got = fastreg.lncc(a, b, window=5, definition=definition, reduction="none", backend=backend)
    torch.testing.assert_close(got, _SOURCES[definition](a, b, 5), rtol=1e-9, atol=1e-9)


def test_same_number_as_monai():
    losses = pytest.importorskip("monai.losses")
    a, b = _pair((1, 1, 12, 13, 14), dtype=torch.float32)
    theirs = losses.LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=5)(a, b)
    torch.testing.assert_close(-fastreg.lncc(a, b, window=5, definition="monai"), theirs, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- as an op


@pytest.mark.slow
def test_gradcheck():
    a, b = (x.requires_grad_() for x in _pair((1, 2, 4, 5, 6)))
    mask = torch.rand(1, 1, 4, 5, 6, dtype=torch.float64)
    mask = torch.where(mask > 0.3, mask, 0)
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, y, r=reduction: fastreg.lncc(x, y, window=3, mask=mask, reduction=r, backend="native"), (a, b)
        )


def test_opcheck():
    a, b = (x.requires_grad_() for x in _pair((1, 1, 4, 5, 6)))
    options = "fastreg", (3, 3, 3), 1e-5, None, True, "box", ()
    torch.library.opcheck(
        torch.ops.fastreg.lncc,
        (a, b, None, *options, True, True, True, "native"),
        # not aot: it differentiates the kept gradients too, which is the second derivative that there is not
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    mask = (torch.rand(1, 1, 4, 5, 6) > 0.3).float()
    for given in (None, mask):
        torch.library.opcheck(torch.ops.fastreg.lncc_map, (a, b, given, *options, "native"))


def test_reductions_and_masks():
    a, b = _pair((2, 3, 6, 7, 8), dtype=torch.float32)
    for mask in (None, torch.rand(2, 1, 6, 7, 8) > 0.5, torch.rand(2, 3, 6, 7, 8), torch.rand(1, 1, 6, 7, 8)):
        weight = torch.ones(a.shape, dtype=torch.float64) if mask is None else mask.double().expand_as(a)
        cc = reference.lncc_map(a.double(), b.double(), lncc_form("fastreg", [3] * 3, 1e-5), weight)
        for reduction, expected in (("sum", (cc * weight).sum()), ("mean", (cc * weight).sum() / weight.sum())):
            got = fastreg.lncc(a, b, window=3, mask=mask, reduction=reduction)
            assert got.dtype == torch.float32 and got.shape == ()
            torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    assert fastreg.lncc(a, b, mask=torch.zeros(2, 1, 6, 7, 8)) == 0


def test_value_is_between_0_and_1_and_1_for_a_linear_change():
    a, _ = _pair((1, 1, 9, 9, 9))
    assert math.isclose(fastreg.lncc(a, a, window=3).item(), 1.0, rel_tol=1e-9)
    cc = fastreg.lncc(a, 5 - 3 * a, window=3, reduction="none")
    assert cc.max() <= 1 and (cc[..., 1:-1, 1:-1, 1:-1] > 1 - 1e-9).all()


def test_compiles():
    compiled = torch.compile(
        lambda x, y: fastreg.lncc(x, y, window=3), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for size in (5, 8):
        a, b = _pair((1, 1, size, 6, 7), dtype=torch.float32)
        one, two = a.clone().requires_grad_(), a.clone().requires_grad_()
        compiled(one, b).backward()
        fastreg.lncc(two, b, window=3).backward()
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    a, b = _pair((1, 1, 8, 9, 10), dtype=dtype)
    a.requires_grad_()
    value = fastreg.lncc(a, b, window=5)
    value.backward()
    wide = a.detach().float().requires_grad_()
    fastreg.lncc(wide, b.float(), window=5).backward()
    assert value.dtype == torch.float32 and a.grad.dtype == dtype
    # Rounded when kept and again when scaled.
    torch.testing.assert_close(a.grad.float(), wide.grad, rtol=1.5 * torch.finfo(dtype).eps, atol=1e-7)
    mixed = fastreg.lncc(a, b.double(), window=5, reduction="none")
    assert mixed.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fastreg.lncc(a, b, window=5), value)


def test_half_precision_gradients_survive_the_mean():
    a, b = _pair((1, 1, 64, 64, 64), dtype=torch.float16)
    a.requires_grad_()
    (2.0**16 * fastreg.lncc(a, b, window=5)).backward()  # as a gradient scaler does
    wide = a.detach().float().requires_grad_()
    (2.0**16 * fastreg.lncc(wide, b.float(), window=5)).backward()
    torch.testing.assert_close(a.grad.float(), wide.grad, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_backward_twice_and_scaled(masked):
    a, b = _pair((1, 1, 8, 9, 10), dtype=torch.float32)
    mask = torch.rand(1, 1, 8, 9, 10) if masked else None
    a.requires_grad_()
    value = fastreg.lncc(a, b, window=5, mask=mask)
    one, again = (torch.autograd.grad(value, a, retain_graph=True)[0] for _ in range(2))
    (scaled,) = torch.autograd.grad(-3 * value, a, retain_graph=True)
    value.backward(retain_graph=True)
    value.backward()
    assert torch.equal(one, again)
    torch.testing.assert_close(scaled, -3 * one)
    assert torch.equal(a.grad, 2 * one)
    (batched,) = torch.autograd.grad(
        fastreg.lncc(a, b, window=5, mask=mask), a, torch.tensor([1.0, -3.0]), is_grads_batched=True
    )
    torch.testing.assert_close(batched, torch.stack([one, scaled]))
    leaf = a.detach().requires_grad_()
    for _ in range(2):
        (-3 * fastreg.lncc(leaf, b, window=5, mask=mask)).backward()
    torch.testing.assert_close(leaf.grad, 2 * scaled)


def test_strides_do_not_matter():
    a, b = _pair((1, 2, 8, 9, 10), dtype=torch.float32)
    strided = a.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2)
    assert not strided.is_contiguous()
    assert torch.equal(fastreg.lncc(strided, b, reduction="none"), fastreg.lncc(a, b, reduction="none"))


def test_transforms_see_through():
    a, b = _pair((3, 1, 4, 5, 6))
    tangent = torch.randn_like(a)

    def loss(x, y):
        return fastreg.lncc(x, y, window=3)

    gradient = torch.func.grad(loss)(a, b)
    leaf = a.clone().requires_grad_()
    loss(leaf, b).backward()
    torch.testing.assert_close(gradient, leaf.grad)
    _, along = torch.func.jvp(lambda x: loss(x, b), (a,), (tangent,))
    torch.testing.assert_close(along, (gradient * tangent).sum())
    each = torch.func.vmap(loss)(a[:, None], b[:, None])
    torch.testing.assert_close(each, torch.stack([loss(a[i : i + 1], b[i : i + 1]) for i in range(3)]))


def test_double_backward_says_no():
    a, b = (x.requires_grad_() for x in _pair((1, 1, 4, 5, 6)))
    for reduction in ("mean", "none"):
        (gradient,) = torch.autograd.grad(fastreg.lncc(a, b, window=3, reduction=reduction).sum(), a, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative"):
            gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": torch.zeros(4, 5, 6)}, ValueError, r"a must be \[batch, channels"),
        ({"a": torch.zeros(1, 1, 4, 5, 6, dtype=torch.int32)}, TypeError, "a must be float16"),
        ({"b": torch.zeros(1, 1, 4, 5, 7)}, ValueError, r"b must have the shape of a, \[1, 1, 4, 5, 6\], got"),
        ({"window": 4}, ValueError, "window must be odd, got 4"),
        ({"window": 3.0}, TypeError, "window must be an integer, got float"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0, got -1.0"),
        ({"definition": "mine"}, ValueError, "definition must be one of fastreg, .* got 'mine'"),
        ({"reduction": "max"}, ValueError, "reduction must be one of mean, sum, none, got 'max'"),
        ({"mask": torch.zeros(1, 2, 4, 5, 6)}, ValueError, "mask must be .* got"),
        ({"mask": 1}, TypeError, "mask must be a torch.Tensor, got int"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"a": torch.zeros(1, 1, 4, 5, 6), "b": torch.zeros(1, 1, 4, 5, 6), "window": 3} | change
    with pytest.raises(error, match=message):
        fastreg.lncc(**arguments)
