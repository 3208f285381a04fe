"""`fastreg.lncc` beyond its defaults: num_eps, the correlation not squared, windows an axis each, weighted windows."""

import pytest
import torch
from helpers.lncc_family import BOXES

import fastreg
from fastreg import losses
from fastreg.backends import cpu, reference
from fastreg.backends.lncc_form import LNCC_DEFINITIONS, lncc_form

SHAPES = [(1, 1, 6, 7, 19), (2, 2, 5, 9, 16), (1, 1, 1, 7, 3), (1, 1, 70, 5, 6), (1, 1, 3, 120, 9)]
OPTIONS = {
    "window": {"window": (3, 5, 1)},
    "num_eps": {"num_eps": 0.2, "definition": "monai"},
    "signed": {"squared": False},
    "triangular": {"kernel": "triangular", "window": 5, "definition": "monai"},
    "gaussian": {"kernel": "gaussian", "window": (3, 5, 7), "definition": "fireants"},
    "icon": {"kernel": "gaussian", "window": 5, "sigma": 1.25, "squared": False, "definition": "icon"},
}


def pair(shape, dtype=torch.float64):
    a = torch.rand(shape, dtype=torch.float64)
    return a.to(dtype), (a + torch.rand(shape, dtype=torch.float64)).to(dtype)


def compare(got, expected, tolerance):
    for x, y in zip(got, expected, strict=True):
        error = (x.double() - y.double()).abs().max() / y.double().abs().max().clamp_min(1e-30)
        assert error <= tolerance


@pytest.mark.parametrize("form", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sweep_is_the_reference(form, shape, isa):
    a, b = pair(shape)
    b[:, :, :, :2] = 0.5  # some windows are flat
    mask = (torch.rand(shape[0], 1, *shape[2:]) > 0.3).double()
    for weight, counts in ((None, None), (torch.rand_like(a), None), (mask, mask)):
        expected = reference.lncc(a, b, weight, form, 0.5, True, True, True, counts)
        compare(cpu.lncc(a, b, weight, form, 0.5, True, True, True, counts), expected, 2e-11)
    single = cpu.lncc(a.float(), b.float(), None, form, 0.5, True, True, True)
    expected = reference.lncc(a.float(), b.float(), None, form, 0.5, True, True, True)
    compare(single, expected, 1e-5)


@pytest.mark.parametrize("window", [(3, 9), (7, 1), (1, 31)])
@pytest.mark.parametrize("definition", LNCC_DEFINITIONS)
def test_an_axis_each_in_2d(window, definition, isa):
    a, b = pair((1, 2, 20, 33))
    form = lncc_form(definition, window, 1e-5)
    expected = reference.lncc(a, b, None, form, 0.5, True, True, True)
    compare(cpu.lncc(a, b, None, form, 0.5, True, True, True), expected, 2e-11)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_op_gives_value_map_and_gradients(options, backend):
    a, b = (x.requires_grad_() for x in pair((1, 2, 4, 5, 6)))
    mask = (torch.rand(1, 1, 4, 5, 6) > 0.3).double()
    options = {"window": 3} | options
    form_options = {name: value for name, value in options.items() if name not in ("window", "sigma", "definition")}
    windows = (options["window"],) * 3 if isinstance(options["window"], int) else options["window"]
    sigma = (options["sigma"],) * 3 if "sigma" in options else ()
    form = lncc_form(options.get("definition", "fastreg"), windows, 1e-5, sigma=sigma, **form_options)
    expected = reference.lncc_map(a, b, form)
    cc = fastreg.lncc(a, b, reduction="none", backend=backend, **options)
    torch.testing.assert_close(cc, expected)
    torch.testing.assert_close(fastreg.lncc(a, b, backend=backend, **options), expected.mean())
    masked = (reference.lncc_map(a, b, form, mask) * mask).sum() / (2 * mask.sum())
    torch.testing.assert_close(fastreg.lncc(a, b, mask=mask, backend=backend, **options), masked)
    loss = losses.LNCC(**({"backend": backend} | options))
    torch.testing.assert_close(loss(a, b), -expected.mean())
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda x, y, r=reduction: fastreg.lncc(x, y, reduction=r, backend=backend, **options),
            (a, b),
            fast_mode=True,
        )


def test_the_signed_correlation_knows_the_sign():
    a, _ = pair((1, 1, 9, 9, 9))
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    for kernel in ("box", "triangular", "gaussian"):
        cc = fastreg.lncc(a, 5 - 3 * a, window=5, kernel=kernel, squared=False, reduction="none")
        assert (cc >= -1 - 1e-9).all() and (cc[inner][inner] < -1 + 1e-9).all()
        torch.testing.assert_close(fastreg.lncc(a, a, window=5, kernel=kernel, squared=False), cc.new_tensor(1.0))


@pytest.mark.parametrize("kernel", ["rectangular", "triangular", "gaussian"])
@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_same_number_as_monai(kernel, size):
    monai = pytest.importorskip("monai.losses")
    a, b = (x.requires_grad_() for x in pair((1, 2, 12, 13, 14), dtype=torch.float32))
    their_loss = monai.LocalNormalizedCrossCorrelationLoss(
        spatial_dims=3, kernel_size=size, kernel_type=kernel, smooth_nr=1e-3, smooth_dr=1e-2
    )
    name = "box" if kernel == "rectangular" else kernel
    ours = -fastreg.lncc(a, b, window=size, kernel=name, num_eps=1e-3, eps=1e-2, definition="monai")
    theirs = their_loss(a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for mine, other in zip(torch.autograd.grad(ours, (a, b)), torch.autograd.grad(theirs, (a, b)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_same_number_as_a_blurred_correlation():
    """ICON's: blurs by a Gaussian in place of window sums, and 1 less the correlation."""
    a, b = pair((1, 1, 14, 15, 16))
    sigma = 2

    def blur(x):
        weights = torch.exp(-0.5 * (torch.arange(-2 * sigma, 2 * sigma + 1, dtype=x.dtype) / sigma) ** 2)
        for axis in range(3):
            shape = [1] * 5
            shape[2 + axis] = -1
            x = torch.nn.functional.conv3d(x, (weights / weights.sum()).view(shape), padding="same")
        return x

    c, v_a, v_b = (blur(x * y) - blur(x) * blur(y) for x, y in ((a, b), (a, a), (b, b)))
    theirs = 1 - (c / ((v_a.relu() + 1e-5) * (v_b.relu() + 1e-5)).sqrt()).mean()
    ours = fastreg.lncc(a, b, window=4 * sigma + 1, kernel="gaussian", sigma=sigma, squared=False, definition="icon")
    torch.testing.assert_close(1 - ours, theirs, rtol=1e-9, atol=1e-9)


def test_opcheck_compile_and_transforms():
    a, b = (x.requires_grad_() for x in pair((1, 1, 4, 5, 6)))
    options = "icon", (3, 3, 5), 1e-5, 0.1, False, "gaussian", (1.0, 1.0, 2.0)
    torch.library.opcheck(
        torch.ops.fastreg.lncc,
        (a, b, None, *options, True, True, True, "reference"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    torch.library.opcheck(torch.ops.fastreg.lncc_map, (a, b, None, *options, "reference"))
    call = lambda x: fastreg.lncc(x, b.detach(), window=(3, 1, 3), squared=False)  # noqa: E731
    expected = torch.autograd.grad(call(a), a)[0]
    torch.testing.assert_close(torch.func.grad(call)(a.detach()), expected)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(a), a)[0], expected)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"window": (3, 3)}, ValueError, r"window must be one number or 3, got \(3, 3\)"),
        ({"window": (3, 4, 3)}, ValueError, r"window must be odd, got \(3, 4, 3\)"),
        ({"window": (3, 3.0, 3)}, TypeError, "window must be an integer, got float"),
        ({"num_eps": -1}, ValueError, "num_eps must be at least 0, got -1"),
        ({"kernel": "cosine"}, ValueError, "kernel must be one of box, triangular, gaussian, got 'cosine'"),
        ({"sigma": 2.0}, ValueError, "sigma is of kernel 'gaussian', got sigma 2.0 and kernel 'box'"),
        ({"kernel": "gaussian", "sigma": (1, 2)}, ValueError, r"sigma must be one number or 3, got \(1.0, 2.0\)"),
        ({"kernel": "gaussian", "sigma": 0}, ValueError, "sigma must be positive and finite, got 0"),
        ({"kernel": "gaussian", "backend": "native"}, ValueError, "backend 'native' has no kernel 'gaussian'"),
    ],
)
def test_wrong_arguments(options, error, message):
    a, b = pair((1, 1, 4, 5, 6))
    with pytest.raises(error, match=message):
        fastreg.lncc(a, b, **options)
