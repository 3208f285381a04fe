import pytest
import torch

from fastreg.geometry import fields
from fastreg.geometry.folds import _least_determinant_at, sharpened_inverse, unfolded


def smooth(size, amplitude, seed=0):
    """A smooth random field; its exponential and the exponential of its opposite."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(size), *[4] * len(size), generator=generator)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    velocity = torch.nn.functional.interpolate(coarse, size=size, mode=mode, align_corners=True)
    velocity *= amplitude / velocity.abs().max()
    return fields.integrate(velocity, padding="border"), fields.integrate(-velocity, padding="border")


def folded(size, places):
    """A diffeomorphism with spikes of six voxels, which fold."""
    flow, _ = smooth(size, 2.0)
    for place in places:
        flow[(0, slice(None), *place)] += 6.0
    return flow


@pytest.mark.parametrize(
    ("size", "places"),
    [((36, 20, 22), [(5, 6, 7), (17, 0, 21), (35, 19, 0), (18, 9, 9)]), ((30, 40), [(15, 20), (0, 0), (29, 4)])],
)
def test_folds_go_and_the_rest_stays_bitwise(size, places):
    flow = folded(size, places)
    before = flow.clone()
    assert (fields.jacobian_determinant(flow) <= 0).sum() > len(places)
    repaired = unfolded(flow)
    assert torch.equal(flow, before), "the argument is not written to"
    assert (fields.jacobian_determinant(repaired, scheme="least") > 0).all()
    far = torch.ones(size, dtype=torch.bool)
    for place in places:
        far[tuple(slice(max(0, p - 5), p + 6) for p in place)] = False
    assert torch.equal(repaired[0, :, far], flow[0, :, far]) and far.float().mean() > 0.4
    assert torch.equal(repaired, unfolded(flow)), "repeats bitwise"


def test_what_does_not_fold_or_folds_everywhere_comes_back():
    flow, _ = smooth((20, 18, 16), 2.0)
    assert unfolded(flow) is flow
    wild = 8 * torch.randn(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    assert unfolded(wild) is wild
    thin = torch.randn(1, 3, 5, 1, 7)
    assert unfolded(thin) is thin


@pytest.mark.parametrize("size", [(33, 8, 9), (2, 5, 6), (17, 6, 5), (49, 12)])
def test_determinants_at_voxels_are_those_of_the_field(size):
    flow = 1.5 * torch.randn(1, len(size), *size, generator=torch.Generator().manual_seed(2))
    expected = fields.jacobian_determinant(flow, scheme="least").flatten()
    index = torch.arange(expected.numel())
    found = _least_determinant_at(flow.view(len(size), -1), index, flow.shape[2:])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(30, 28, 32), (60, 50)])
def test_newton_finds_the_inverse(size):
    flow, truth = smooth(size, 4.0)
    rough = truth + 0.4 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    found = sharpened_inverse(flow, rough)
    before, after = (fields.compose(flow, inverse).norm(dim=1) for inverse in (rough, found))
    assert before.mean() > 0.4 and after.max() < 0.021
    assert (after <= before + 1e-5).all()


def test_an_inverse_of_a_field_that_folds_gets_no_worse():
    flow = folded((24, 24, 24), [(12, 12, 12)])
    before, after = (fields.compose(flow, inverse).norm(dim=1) for inverse in (-flow, sharpened_inverse(flow, -flow)))
    assert after.isfinite().all() and (after <= before + 1e-5).all() and after.mean() < 0.1 * before.mean()
