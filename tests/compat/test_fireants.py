"""FireANTs' losses by their names: the same numbers as their definition in float64, and its own class for the rest."""

import sys
import types

import pytest
import torch
from helpers.definitions import by_gaussians, by_splines, data, gaussian, gradients, information, moments
from torch import nn

from fastreg.compat import fireants

LNCC = fireants.LocalNormalizedCrossCorrelationLoss

TRIANGLE = torch.tensor([0, 1, 2, 3, 2, 1, 0]).double() / 9


def correlation(a, b, weights, unsigned):
    cross, va, vb = moments(a, b, weights / weights.sum())
    va, vb = va.clamp_min(0.02), vb.clamp_min(0.02)
    if unsigned:
        return -((cross**2 + 0.01) / (va * vb + 0.02)).clamp(-1, 1)
    return -((cross + 0.01) / (va.sqrt() * vb.sqrt() + 0.02)).clamp(-1, 1)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "weights"), [("rectangular", torch.ones(5)), ("triangular", TRIANGLE)])
@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_local_correlation(ndim, kernel, weights, unsigned, reduction):
    a, b, _ = data(ndim)
    a, b = (10 * a).requires_grad_(), (10 * b).requires_grad_()
    expected = correlation(a, b, weights.double(), unsigned)
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    loss = LNCC(ndim, len(weights), kernel, reduction, 0.01, 0.02, unsigned)
    found = loss(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for x, y in zip(gradients(found, a, b), gradients(expected, a, b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


def test_gaussian_window_of_three():
    a, b, _ = data(3)
    loss = LNCC(kernel_type="gaussian", smooth_nr=0.01, smooth_dr=0.02)
    torch.testing.assert_close(loss(a, b), correlation(a, b, gaussian(3), True).mean(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("mode", ["mult", "max"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_masks_are_the_last_channel(mode, reduction):
    a, b, rng = data(3)
    masks = torch.rand(2, 2, 1, *a.shape[2:], generator=rng, dtype=torch.float64)
    mask = masks[0] * masks[1] if mode == "mult" else torch.maximum(*masks)
    for make, terms in (
        (fireants.MeanSquaredError, (a - b) ** 2),
        (LNCC, None),
    ):
        if terms is None:
            terms = make(reduction="none")(a, b)
        expected = (terms * mask).sum((1, 2, 3, 4))
        expected = expected.sum() if reduction == "sum" else (expected / (mask.sum((1, 2, 3, 4)) + 1e-8)).mean()
        loss = make(reduction=reduction, masked=True, mask_mode=mode)
        found = loss(torch.cat([a, masks[0]], 1), torch.cat([b, masks[1]], 1))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_window_for_each_scale():
    loss = LNCC(2, [3, 5, 7])
    assert (loss.kernel_size, loss.get_image_padding()) == (3, 1)
    with pytest.raises(AssertionError, match="kernel_size_list must have the same length as scales, 1, got 3"):
        loss.set_scales([1])
    loss.set_scales([4, 2, 1])
    loss.set_iterations([100, 50, 25])
    a, b, _ = data(2)
    for scale, size in ((4, 3), (2, 5), (1, 7)):
        loss.set_current_scale_and_iterations(scale, 10)
        assert (loss.kernel_size, loss.kernel.shape, loss.kernel_nd.shape) == (size, (size,), (size, size))
        torch.testing.assert_close(loss.kernel_vol, torch.tensor(1.0))
        assert torch.equal(loss(a, b), LNCC(2, size)(a, b))


@pytest.mark.parametrize("kernel", ["gaussian", "b-spline"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_mutual_information(kernel, reduction, scale):
    a, b, _ = data(3)
    a, b = (scale * a).requires_grad_(), (scale * b).requires_grad_()
    each = []
    for x, y in zip(a.unbind(1), b.unbind(1), strict=True):
        most = max(x.max(), y.max())
        x, y = (image.flatten(1) / (most if most > 1 else 1) for image in (x, y))
        if kernel == "b-spline":
            weights = by_splines(x, 16, 3), by_splines(y, 16, 3)
        else:
            centres = (torch.arange(16).double() + 0.5) / 16
            weights = by_gaussians(x, centres, 0.8 / 32), by_gaussians(y, centres, 0.8 / 32)
        each.append(-information(*weights, 1e-5, 1e-4, 1e-4))
    expected = torch.stack(each, 1)
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    found = fireants.GlobalMutualInformationLoss(kernel, 16, 0.8, reduction, 1e-5, 1e-4)(a, b)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for x, y in zip(gradients(found, a, b), gradients(expected, a, b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12 / scale)


def test_images_that_end_at_1_are_not_scaled():
    a, b, _ = data(2)
    a = (a / a.max()).requires_grad_()
    assert a.max() == 1
    found = gradients(fireants.GlobalMutualInformationLoss()(a, b), a)[0]
    half = (a.detach() * 0.999999).requires_grad_()  # just below, where nothing is ever scaled
    torch.testing.assert_close(
        found, gradients(fireants.GlobalMutualInformationLoss()(half, b), half)[0], rtol=0.01, atol=1e-4
    )


def test_masked_mutual_information_looks_at_the_voxels_of_the_mask():
    a, b, _ = data(2)
    mask = torch.zeros(2, 1, *a.shape[2:], dtype=torch.float64)
    mask[..., :4, :] = 1
    loss = fireants.GlobalMutualInformationLoss(masked=True)
    found = loss(torch.cat([a, mask], 1), torch.cat([b, mask], 1))
    cut = fireants.GlobalMutualInformationLoss()(a[..., :4, :], b[..., :4, :])
    torch.testing.assert_close(found, cut, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="mask must hold a voxel"):
        loss(torch.cat([a, 0 * mask], 1), torch.cat([b, mask], 1))


def test_wide_gaussian_windows_are_fireants_own(monkeypatch):
    class Own(nn.Module):
        def __init__(self, *options):
            super().__init__()
            self.options = options

        def forward(self, pred, target):
            return pred.mean() + 10 * target.mean()

    monkeypatch.setitem(sys.modules, "fireants", None)
    with pytest.raises(ValueError, match="must be at most 3 where fireants is not installed, got 5"):
        LNCC(kernel_size=5, kernel_type="gaussian")
    for name in ("fireants", "fireants.losses", "fireants.losses.cc"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["fireants.losses.cc"].LocalNormalizedCrossCorrelationLoss = Own
    a, b, _ = data(3)
    loss = LNCC(kernel_size=5, kernel_type="gaussian", smooth_nr=0.5)
    assert loss.theirs.options == (3, 5, "gaussian", "mean", 0.5, 1e-5, True)
    assert loss(a, b) == a.mean() + 10 * b.mean()


def test_an_image_split_over_processes_is_refused(monkeypatch):
    module = types.ModuleType("parallel_state")
    module.is_initialized, module.get_grid_parallel_size = lambda: True, lambda: 2
    monkeypatch.setitem(sys.modules, "fireants.registration.distributed.parallel_state", module)
    with pytest.raises(NotImplementedError, match="split over processes"):
        fireants.GlobalMutualInformationLoss()(*data(2)[:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: LNCC(4), "spatial_dims must be 1, 2 or 3, got 4"),
        (lambda a: LNCC(kernel_size=[3, 4]), "kernel_size must be odd, got 4"),
        (lambda a: LNCC()(a[..., 0], a[..., 0]), "pred must have 3 spatial"),
        (lambda a: LNCC()(a, a[1:]), "target must have the shape of pred"),
        (
            lambda a: LNCC(masked=True)(a[:, :1], a[:, :1]),
            "channels and a mask",
        ),
        (lambda a: fireants.MeanSquaredError("none", masked=True)(a, a), "reduction must be mean or sum with a mask"),
        (lambda a: fireants.GlobalMutualInformationLoss()(a, a[1:]), "target must have the shape of pred"),
        (lambda a: fireants.GlobalMutualInformationLoss("box"), "kernel_type must be one of"),
        (lambda a: fireants.GlobalMutualInformationLoss(mask_mode="min"), "mask_mode must be one of"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(data(3)[0])
