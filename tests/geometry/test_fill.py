import pytest
import torch

from fastreg.geometry.fill import filled, pooled_known


def ramp(shape):
    return sum(k * torch.arange(n).float().view(*[-1 if a == k - 1 else 1 for a in range(len(shape))])
               for k, n in enumerate(shape, 1))[None, None]  # fmt: skip


@pytest.mark.parametrize("shape", [(17, 20), (12, 13, 15)])
def test_what_does_not_count_is_continued_from_what_does(shape):
    image = ramp(shape)
    mask = torch.ones_like(image)
    hole = (0, 0, *(slice(4, 9),) * len(shape))
    mask[hole] = 0
    spoiled = image.clone()
    spoiled[hole] = 1e6
    found = filled(spoiled, mask)
    assert torch.equal(found[mask > 0], image[mask > 0])
    assert (found - image)[hole].abs().max() < 4 * len(shape)  # of steps of 1 to 3 a voxel


def test_nothing_to_fill_and_nothing_to_fill_from():
    image = torch.rand(1, 1, 6, 7)
    assert filled(image, None) is image and filled(image, torch.ones_like(image)) is image
    assert torch.equal(filled(image, torch.zeros_like(image)), torch.zeros_like(image))


def test_cubes_are_averages_of_what_counts():
    image, mask = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    image[..., 0, 0], image[..., 1, 1], mask[..., 0, 0] = 1e6, 3.0, 0
    average, share = pooled_known(image, mask, 2)
    assert average[0, 0, 0, 0] == pytest.approx(1.0) and share[0, 0, 0, 0] == 0.75
    mask[..., :2, :2] = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    average, share = pooled_known(image, mask, 2)
    assert average[0, 0, 0, 0] == pytest.approx(3.0) and share[0, 0, 0, 0] == 0
    assert pooled_known(image, None, 2)[1] is None
