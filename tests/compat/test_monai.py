"""MONAI's layers by their names: the same numbers as plain torch in float64, and MONAI's own class for the rest."""

import sys
import types

import pytest
import torch
from helpers.definitions import by_gaussians, by_splines, data, gaussian, gradients, information, moments, sampled
from torch import nn

from fastreg.compat import monai


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_warp(ndim, mode, padding):
    image, _, rng = data(ndim)
    ddf = 3 * torch.randn(2, ndim, *image.shape[2:], generator=rng, dtype=torch.float64)
    image.requires_grad_(), ddf.requires_grad_()
    ours, theirs = monai.Warp(mode, padding)(image, ddf), sampled(image, ddf, mode, padding)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for x, y in zip(gradients(ours, image, ddf), gradients(theirs, image, ddf), strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, rtol=0, atol=1e-11)


def test_warp_is_moved_by_borders_as_it_comes():
    image, _, _ = data(2)
    ddf = torch.full((2, 2, *image.shape[2:]), 100.0, dtype=torch.float64)
    assert torch.equal(monai.Warp()(image, ddf), image[..., -1:, -1:].expand_as(image))


@pytest.mark.parametrize(("mode", "padding"), [("bilinear", "zeros"), ("bilinear", "border"), ("nearest", "zeros")])
def test_dvf2ddf(mode, padding):
    rng = torch.Generator().manual_seed(1)
    velocity = torch.randn(1, 3, 8, 7, 6, generator=rng, dtype=torch.float64).requires_grad_()
    theirs = velocity / 2**3
    for _ in range(3):
        theirs = theirs + sampled(theirs, theirs, mode, padding)
    ours = monai.DVF2DDF(3, mode, padding)(velocity)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(ours, velocity), gradients(theirs, velocity), rtol=0, atol=1e-11)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "size"), [("rectangular", 3), ("rectangular", 5), ("triangular", 7), ("gaussian", 3)]
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_local_correlation(ndim, kernel, size, reduction):
    a, b, _ = data(ndim)
    a.requires_grad_(), b.requires_grad_()
    weights = {
        "rectangular": torch.ones(size),
        "triangular": torch.tensor([0, 1, 2, 3, 2, 1, 0]).double() / 9,
        "gaussian": gaussian(size),
    }[kernel].double()
    cross, va, vb = moments(a, b, weights)
    expected = -(cross**2 + 0.01) / (va.clamp_min(0.02) * vb.clamp_min(0.02))
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    loss = monai.LocalNormalizedCrossCorrelationLoss(ndim, size, kernel, reduction, smooth_nr=0.01, smooth_dr=0.02)
    found = loss(a, b)
    tolerance = 1e-11
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for x, y in zip(gradients(found, a, b), gradients(expected, a, b), strict=True):
        torch.testing.assert_close(x, y, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("kernel", ["gaussian", "b-spline"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mutual_information(monkeypatch, kernel, reduction):
    monkeypatch.setattr("fastreg.compat._parzen._SLICE", 100)  # several slices, the last a short one
    a, b, _ = data(3)
    if kernel == "b-spline":
        a, b = 300 * a - 100, 2 * b
    a.requires_grad_(), b.requires_grad_()
    if kernel == "b-spline":
        weights = by_splines(a.flatten(1), 16, 3), by_splines(b.flatten(1), 16, 0)
    else:
        centres = torch.linspace(0, 1, 16, dtype=torch.float64)
        weights = (by_gaussians(x.flatten(1), centres, 0.5 / 15) for x in (a, b))
    expected = -information(*weights, 1e-5, 1e-4, 1e-4)
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    loss = monai.GlobalMutualInformationLoss(kernel, 16, 0.5, reduction, smooth_nr=1e-5, smooth_dr=1e-4)
    found = loss(a, b)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ours, theirs = gradients(found, a, b), gradients(expected, a, b)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[1], torch.zeros_like(b) if theirs[1] is None else theirs[1], rtol=1e-9, atol=1e-12)


def test_mutual_information_of_float32_is_close_to_float64():
    a, b, _ = data(3)
    loss = monai.GlobalMutualInformationLoss()
    single = loss(a.float(), b.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), loss(a, b), rtol=1e-6, atol=0)


def test_mutual_information_has_no_second_derivative():
    a, b, _ = data(2)
    (slope,) = torch.autograd.grad(monai.GlobalMutualInformationLoss()(a.requires_grad_(), b), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


ONLY_MONAI = [
    (lambda: monai.Warp("bicubic"), "mode must be bilinear or nearest where monai is not installed, got 'bicubic'"),
    (lambda: monai.Warp(3), "mode must be bilinear or nearest where monai is not installed, got 3"),
    (lambda: monai.Warp(padding_mode=4), "padding_mode must be zeros or border or reflection where monai"),
    (lambda: monai.Warp(jitter=True), "jitter must be False where monai is not installed, got True"),
    (lambda: monai.DVF2DDF(mode="bicubic"), "mode must be"),
    (
        lambda: monai.LocalNormalizedCrossCorrelationLoss(kernel_size=5, kernel_type="gaussian"),
        "kernel_size of kernel_type 'gaussian' must be at most 3 where monai is not installed, got 5",
    ),
]


@pytest.mark.parametrize(("make", "message"), ONLY_MONAI)
def test_what_only_monai_does_is_refused_without_it(monkeypatch, make, message):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ValueError, match=message):
        make()


class Own(nn.Module):
    """Stands in for a class of MONAI's: remembers its options, and computes what nothing else does."""

    def __init__(self, *options):
        super().__init__()
        self.options = options

    def forward(self, first, second):
        return first + 10 * second.mean()


@pytest.mark.parametrize(("make", "message"), ONLY_MONAI)
def test_what_only_monai_does_is_monais_where_it_is_installed(monkeypatch, make, message):
    for name in ("monai", "monai.networks", "monai.networks.blocks", "monai.losses"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["monai.networks.blocks"].Warp = Own
    sys.modules["monai.losses"].LocalNormalizedCrossCorrelationLoss = Own
    layer, (a, b, _) = make(), data(3)
    if isinstance(layer, monai.DVF2DDF):
        layer, a, b = layer.warp_layer, a[:, :1], b[:, :1]
    assert layer.theirs.options
    assert torch.equal(layer(a, b), a + 10 * b.mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: monai.Warp()(a, a), r"ddf must be \[2, 3, 9, 8, 7\] to match image \[2, 2, 9, 8, 7\]"),
        (lambda a: monai.Warp()(a[..., 0, 0], a), "image must be"),
        (lambda a: monai.DVF2DDF(0), "num_steps must be at least 1, got 0"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss(2)(a, a), "pred must have 2 spatial axes"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss()(a, a[1:]), "target must have the shape of pred"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss(4), "spatial_dims must be 1, 2 or 3, got 4"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss(kernel_size=4), "kernel_size must be odd, got 4"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss(kernel_type="disc"), "kernel_type must be one of"),
        (lambda a: monai.LocalNormalizedCrossCorrelationLoss(reduction="max"), "reduction must be one of"),
        (lambda a: monai.GlobalMutualInformationLoss()(a, a[1:]), "target must have the shape of pred"),
        (lambda a: monai.GlobalMutualInformationLoss(num_bins=0), "num_bins must be at least 1, got 0"),
        (lambda a: monai.GlobalMutualInformationLoss("box"), "kernel_type must be one of"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(data(3)[0])
