import pytest
import torch

import fastreg
from fastreg import losses


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
