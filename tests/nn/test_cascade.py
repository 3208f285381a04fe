import pytest
import torch

import fastreg
from fastreg.geometry import fields
from fastreg.nn.cascade import cascade
from fastreg.nn.registration_net import RegistrationNet


def net(ndim=3, **options):
    made = RegistrationNet("match", ndim, **options).eval()
    torch.nn.init.normal_(made.flow.weight, std=0.02)
    return made


@pytest.mark.parametrize("diffeomorphic", [True, False])
def test_one_pass_is_the_network(diffeomorphic):
    model = net(diffeomorphic=diffeomorphic)
    moving, fixed = torch.rand(2, 1, 1, 18, 16, 21)
    with torch.no_grad():
        alone, found = model(moving, fixed), cascade(model, moving, fixed)
        assert torch.equal(found.flow, alone.flow) and torch.equal(found.moved, alone.moved)
        both = cascade(model, moving, fixed, inverse=True)
    assert torch.equal(both.moved_back, fastreg.warp(fixed, both.inverse_flow))
    around = fastreg.compose(both.flow, both.inverse_flow)[..., 4:-4, 4:-4, 4:-4]
    assert around.abs().mean() < 0.1 * both.flow.abs().mean()


@pytest.mark.parametrize("ndim", [2, 3])
def test_passes_are_composed_and_see_what_is_left(ndim):
    model, size = net(ndim, diffeomorphic=True), (18, 16, 21)[:ndim]
    moving, fixed = torch.rand(2, 1, 1, *size)
    with torch.no_grad():
        first = model(fields.pooled(moving, 2), fields.pooled(fixed, 2))
        # Cube k holds the voxels 2k and 2k + 1, so its middle is at 2k + 1/2.
        places = torch.meshgrid(*[(torch.arange(n) - 0.5) / 2 for n in size], indexing="ij")
        at = torch.stack(places)[None] - torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"))
        coarse = 2 * fastreg.warp(first.flow, at.float(), padding="border")
        second = model(fastreg.warp(moving, coarse, padding="border"), fixed)
        found = cascade(model, moving, fixed, (2, 1), inverse=True)
        expected = fastreg.compose(coarse, second.flow)
    torch.testing.assert_close(found.flow, expected)
    torch.testing.assert_close(found.moved, fastreg.warp(moving, expected))
    around = fastreg.compose(found.flow, found.inverse_flow)[(..., *[slice(4, -4)] * ndim)]
    assert expected.abs().max() > 0.05
    assert around.abs().mean() < 0.1 * found.flow.abs().mean()


def test_a_displacement_network_has_its_inverse_found():
    model = net(diffeomorphic=False)
    moving, fixed = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        found = cascade(model, moving, fixed, (2, 1), inverse=True)
    torch.testing.assert_close(found.inverse_flow, fastreg.invert(found.flow))
