"""TransMorph's layers and losses by their names: the same numbers as their definition in float64."""

import pytest
import torch
from helpers.definitions import by_gaussians, data, gradients, information, moments, sampled
from torch import nn

from fastreg.compat import transmorph


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_spatial_transformer(mode):
    image, _, rng = data(3)
    flow = 2 * torch.randn(2, 3, 9, 8, 7, generator=rng, dtype=torch.float64)
    expected = sampled(image, flow, mode, "zeros")
    layer = transmorph.SpatialTransformer((9, 8, 7), mode)
    torch.testing.assert_close(layer(image, flow), expected, rtol=0, atol=1e-12)
    both = transmorph.register_model((9, 8, 7), mode)([image, flow])
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="flow must lie on the grid of src"):
        layer(image, flow[..., :-1])


def test_integration():
    velocity = torch.randn(1, 3, 8, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = velocity / 2**7
    for _ in range(7):
        expected = expected + sampled(expected, expected, "bilinear", "zeros")
    torch.testing.assert_close(transmorph.VecInt((8, 7, 6), 7)(velocity), expected, rtol=0, atol=1e-12)


def test_checkpoints_with_grids_load():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.spatial_trans = transmorph.SpatialTransformer((4, 4, 4))
            self.integrate = transmorph.VecInt((4, 4, 4), 7)

    state = Net().state_dict()
    grid = torch.zeros(1, 3, 4, 4, 4)
    Net().load_state_dict({**state, "spatial_trans.grid": grid, "integrate.transformer.grid": grid})
    with pytest.raises(RuntimeError, match=r"spatial_trans\.mesh"):
        Net().load_state_dict({**state, "spatial_trans.mesh": grid})


@pytest.mark.parametrize(("ndim", "win"), [(3, None), (3, [5, 5, 5]), (2, [3, 3])])
def test_local_correlation(ndim, win):
    a, b, _ = data(ndim)
    a, b = a[:, :1].requires_grad_(), b[:, :1].requires_grad_()
    cross, va, vb = moments(a, b, torch.ones(win[0] if win else 9, dtype=torch.float64))
    expected = -(cross**2 / (va * vb + 1e-5)).mean()
    found = transmorph.NCC_vxm(win)(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(transmorph.NCC(win)(b, a), found, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, b), gradients(expected, b), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match=r"win must be one length for all axes, got \[3, 5, 5\]"):
        transmorph.NCC_vxm([3, 5, 5])


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 7), (2, 2, 6, 7)])
def test_gradient(penalty, shape):
    flow = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    power = 1 if penalty == "l1" else 2
    expected = sum(flow.diff(dim=axis).abs().pow(power).mean() for axis in range(2, flow.ndim)) / (flow.ndim - 2)
    loss = transmorph.Grad3d if flow.ndim == 5 else transmorph.Grad
    torch.testing.assert_close(loss(penalty)(flow, None), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(penalty, loss_mult=3)(flow), 3 * expected, rtol=1e-12, atol=0)


def test_mutual_information():
    a, b, _ = data(3)
    a, b = (1.2 * a - 0.1).requires_grad_(), b.requires_grad_()
    centres = torch.linspace(0, 1, 20, dtype=torch.float64)
    weights = (by_gaussians(x.clamp(0, 1).flatten(1), centres, 1.5 / 19) for x in (a, b))
    expected = -information(*weights, 0, 1e-6, 1e-6).mean()
    found = transmorph.MutualInformation(1.5, num_bin=20)(a, b)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for x, y in zip(gradients(found, a, b), gradients(expected, a, b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)
