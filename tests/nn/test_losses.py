import numpy as np
import pytest
import torch

import fastreg
from fastreg.nn import losses


def test_lncc_loss_is_minus_the_op():
    a, b = torch.rand(2, 1, 1, 12, 12, 12)
    assert losses.LNCC(5)(a, b).item() == -fastreg.lncc(a, b, window=5).item()
    assert losses.LNCC(5)(a, 3 * a).item() == pytest.approx(-1, abs=1e-5)  # the outside reads 0: no offset


def test_mse_and_its_mask():
    a, b = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    b[..., :2] = 3
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert losses.MSE()(a, b).item() == 5
    assert losses.MSE()(a, b, mask).item() == 9
    assert losses.MSE()(a, b, 0 * mask).item() == 0


def test_dice_of_one_hot_labels():
    fixed = torch.zeros(1, 3, 4, 4)
    fixed[:, 0, :2], fixed[:, 1, 2:] = 1, 1
    assert losses.Dice()(fixed, fixed).item() == -1  # the empty third channel does not count
    assert losses.Dice()(fixed.flip(2), fixed).item() == 0
    half = fixed.clone()
    half[:, 0, 1] = 0
    assert losses.Dice()(half, fixed).item() == pytest.approx(-(2 * 4 / 12 + 1) / 2)


def test_dice_gradient():
    probabilities = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    fixed = (torch.rand(1, 2, 3, 3) > 0.5).double()
    assert torch.autograd.gradcheck(lambda p: losses.Dice()(p, fixed), (probabilities,))


def test_names_on_the_command_line():
    assert set(losses.LOSSES) == {"lncc", "mse"}


def histogram_mi(moved, fixed, weight, bins=32):
    """Voxel by voxel, as the definition has it."""
    joint = np.zeros((bins, bins))
    for value, other, share in zip(moved.ravel(), fixed.ravel(), weight.ravel(), strict=True):
        place = np.clip(value, 0, 1) * (bins - 5) + 2
        for column in range(int(place) - 1, int(place) + 3):
            x = abs(place - column)
            part = 2 / 3 - x**2 + x**3 / 2 if x < 1 else max(0.0, 2 - x) ** 3 / 6
            joint[round(np.clip(other, 0, 1) * (bins - 1)), column] += share * part
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return (joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0])).sum()


@pytest.mark.parametrize("masked", [False, True])
def test_mutual_information_is_that_of_the_histogram(masked, monkeypatch):
    monkeypatch.setattr(losses, "_SLICE", 100)  # several slices, the last one short
    moved, fixed = torch.rand(2, 2, 5, 6, 7) * 1.2 - 0.1, torch.rand(2, 2, 5, 6, 7)
    mask = torch.rand(2, 1, 5, 6, 7) if masked else None
    weight = torch.ones_like(moved) if mask is None else mask.expand_as(moved)
    each = [
        histogram_mi(m.numpy(), f.numpy(), w.numpy())
        for m, f, w in zip(moved.flatten(0, 1), fixed.flatten(0, 1), weight.flatten(0, 1), strict=True)
    ]
    assert losses.MI()(moved, fixed, mask).item() == pytest.approx(-np.mean(each), abs=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_mutual_information_gradient(masked, monkeypatch):
    monkeypatch.setattr(losses, "_SLICE", 50)
    moved = (torch.rand(2, 1, 5, 4, 6, dtype=torch.float64) * 1.2 - 0.1).requires_grad_()
    fixed = torch.rand(2, 1, 5, 4, 6, dtype=torch.float64)
    mask = torch.rand(2, 1, 5, 4, 6, dtype=torch.float64) if masked else None
    assert torch.autograd.gradcheck(lambda x: losses.MI(8)(x, fixed, mask), moved)


def test_mutual_information_of_the_same_and_of_nothing():
    image = torch.rand(1, 1, 20, 20, 20)
    same, bent = (losses.MI()(x, image) for x in (image, (1 - image).square()))
    other = losses.MI()(torch.rand(image.shape), image)
    assert same < -2 and bent < -1.5 and -0.2 < other <= 0
    assert losses.MI()(torch.zeros_like(image), image).abs() < 1e-12
    with pytest.raises(ValueError, match="fixed must have the shape of moved"):
        losses.MI()(image, image[..., 1:])
    with pytest.raises(ValueError, match="bins must be at least 6"):
        losses.MI(4)


def test_mutual_information_has_no_second_derivative():
    moved = torch.rand(1, 1, 6, 6, 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.MI(8)(moved, torch.rand_like(moved)), moved, create_graph=True)
    with pytest.raises(RuntimeError, match="MI has no second derivative"):
        (slope + moved).sum().backward()
    with pytest.raises(ValueError, match="bins must be at least 6"):
        losses.MI(5)
