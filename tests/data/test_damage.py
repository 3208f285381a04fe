import pytest
import torch

from fastreg.data.damage import LESIONS, MOST_CUT, THICKEST, cut_short, damaged, in_thick_slices, with_lesions
from fastreg.data.synthesis import Recipe, SyntheticPairs


def chance(seed):
    return torch.Generator().manual_seed(seed)


def image(*shape, seed=0):
    return 0.2 + 0.8 * torch.rand(1, *shape, generator=chance(seed))


@pytest.mark.parametrize("shape", [(24, 30), (16, 20, 24)])
def test_a_view_ends_at_a_plane(shape):
    before = image(*shape)
    axes = set()
    for seed in range(20):
        after = cut_short(chance(seed), before)
        gone = after == 0
        assert torch.equal(after[~gone], before[~gone]) and 0 < gone.float().mean() <= MOST_CUT + 1 / min(shape)
        whole = [axis for axis in range(1, after.ndim) if gone.any(dim=axis).eq(gone.all(dim=axis)).all()]
        assert len(whole) == len(shape) - 1  # along all axes but one a line is either cut or not
        axes |= set(range(1, after.ndim)) - set(whole)
    assert len(axes) == len(shape)


def test_thick_slices_are_smooth_along_one_axis_alone():
    before = image(24, 25, 26)
    for seed in range(12):
        after = in_thick_slices(chance(seed), before)
        assert after.shape == before.shape and after.mean() == pytest.approx(before.mean().item(), abs=0.02)
        rough = torch.tensor(
            [(after.diff(dim=k).square().mean() / before.diff(dim=k).square().mean()) for k in (1, 2, 3)]
        )
        assert rough.min() < 0.25 and rough.sort().values[1] > 1.5 * rough.min()
    short = image(2 * 2 - 1, 3)
    assert torch.equal(in_thick_slices(chance(0), short), short)
    assert THICKEST == 5


def test_lesions_are_few_places_where_there_is_something():
    before = image(40, 40, 40)
    before[:, :20] = 0
    for seed in range(8):
        after = with_lesions(chance(seed), before)
        assert (after[:, :20] == 0).all() and after.min() >= 0 and after.max() <= 1
        assert (after != before).float().mean() < LESIONS * 4.2 * (40 / 12 + 1) ** 3 / 40**3
    assert any(not torch.equal(with_lesions(chance(seed), before), before) for seed in range(8))


def test_some_images_stay_as_they_are():
    before = image(20, 20, 20)
    same = [torch.equal(damaged(chance(seed), before), before) for seed in range(60)]
    assert 8 < sum(same) < 30  # (2/3)^3 of them


def test_pairs_with_damage_and_without_what_lies_outside():
    shape = (24, 20, 22)
    maps = torch.zeros(1, *shape, dtype=torch.int32)
    maps[:, 4:-4, 4:-4, 4:-4] = 1
    maps[:, 8:-8, 7:-7, 7:-7] = 2
    plain = SyntheticPairs(shape, Recipe(), 3, maps=lambda number: maps, flows=True)
    stripped = SyntheticPairs(shape, Recipe(outside=(1,), damage=1.0), 3, maps=lambda number: maps, flows=True)
    held = [1 in stripped[k]["fixed_labels"] for k in range(24)]
    assert 5 < sum(held) < 19 and all(2 in stripped[k]["fixed_labels"] for k in range(24))
    assert all(1 in plain[k]["fixed_labels"] for k in range(4))
    again = SyntheticPairs(shape, Recipe(outside=(1,), damage=1.0), 3, maps=lambda number: maps, flows=True)
    assert all(torch.equal(stripped[5][name], again[5][name]) for name in stripped[5])


def test_pairs_of_two_maps_have_no_known_field():
    shape = (16, 18, 20)
    maps = {0: torch.ones(1, *shape, dtype=torch.int32), 1: torch.full((1, *shape), 2, dtype=torch.int32)}
    pairs = SyntheticPairs(shape, Recipe(apart=0.5), 1, maps=lambda number: maps[number % 2], flows=True)
    seen = []
    for k in range(24):
        item = pairs[k]
        same = torch.equal(item["moving_labels"].unique(), item["fixed_labels"].unique())
        assert item["flow_known"].shape == (1, 1, 1, 1) and item["flow_known"].dtype == torch.bool
        assert same or not item["flow_known"]
        seen.append(bool(item["flow_known"]))
    assert 5 < sum(seen) < 19
