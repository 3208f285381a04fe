import csv
import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fastreg.data.datasets import Share, loader
from fastreg.data.synthesis import (
    Recipe,
    SyntheticPairs,
    _blurred,
    deformed,
    guide,
    random_contrast,
    random_flow,
    random_image,
    random_labels,
    smooth_noise,
    zoomed,
)
from fastreg.geometry.fields import compose, jacobian_determinant
from fastreg.nn import checkpoint
from fastreg.nn.checkpoint import WorkingSpace
from fastreg.nn.label_dice import LabelDice
from fastreg.nn.losses import mean_endpoint_error
from fastreg.training.config import TrainConfig
from fastreg.training.trainer import fit
from fastreg.utils.files import InputError


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(64, 48), (40, 48, 36)], ids=str)
def test_smooth_noise_has_unit_variance_and_its_scale(shape):
    noise = smooth_noise(chance(), 24, shape, 4.0)
    assert noise.shape == (24, *shape)
    assert noise.mean().abs() < 0.05 and noise.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)
    rough = [smooth_noise(chance(), 24, shape, scale).diff(dim=1).square().mean() for scale in (4.0, 8.0, 16.0)]
    assert rough[0] > 2.5 * rough[1] > 5 * rough[2]


@pytest.mark.parametrize("shape", [(64, 48), (32, 40, 24)], ids=str)
def test_every_label_has_its_share(shape):
    recipe = Recipe(labels=8, shape_scale=(4.0, 6.0), alone=0.0)
    maps = torch.stack([random_labels(chance(k), shape, recipe) for k in range(24)])
    assert maps.dtype == torch.int32 and maps.shape == (24, 1, *shape)
    shares = torch.bincount(maps.flatten(), minlength=8) / maps.numel()
    assert len(shares) == 8 and ((shares - 1 / 8).abs() < 0.04).all()
    for axis in range(2, maps.ndim):  # shapes, not salt and pepper
        assert (maps.diff(dim=axis) != 0).float().mean() < 0.35


def test_flows_are_as_large_as_said_and_do_not_fold():
    recipe = Recipe(warp_scale=(16.0, 32.0))
    flows = torch.cat([random_flow(chance(k), (48, 48, 48), 2.0, recipe)[0] for k in range(12)])
    size = flows.square().mean(dim=(1, 2, 3, 4)).sqrt()
    assert 0.7 < size.mean() < 1.4 and size.max() < 3 and size.min() < 0.7  # sd uniform in 0 to 2
    assert (jacobian_determinant(flows) > 0).float().mean() > 0.999


def test_a_flow_comes_with_its_inverse():
    flow, back = random_flow(chance(), (40, 48, 44), 2.0, Recipe(warp_scale=(16.0, 32.0)))
    around = compose(flow, back())[..., 8:-8, 8:-8, 8:-8]
    assert flow.abs().max() > 0.5 and around.abs().max() < 0.1 * flow.abs().max()


def test_shapes_that_fill_a_ball():
    maps = torch.stack([random_labels(chance(k), (40, 48, 36), Recipe(labels=8, alone=1.0)) for k in range(6)])
    shares = (maps == 0).float().mean((1, 2, 3, 4))
    assert (shares > 0.3).all() and (shares < 0.85).all()
    corners = maps[..., [0, -1], :, :][..., [0, -1], :][..., [0, -1]]
    assert not corners.any() and maps[..., 20, 24, 18].any()


@pytest.mark.parametrize("shape", [(48, 40), (36, 40, 32)], ids=str)
def test_the_known_deformation_brings_the_shapes_together(shape):
    pairs = SyntheticPairs(shape, Recipe(labels=8, shape_scale=(6.0, 12.0), alone=0.0), flows=True)
    gains = []
    for k in range(6):
        item = {name: volume[None] for name, volume in pairs[k].items()}
        moved = deformed(item["moving_labels"][0], item["flow"])
        inside = (..., *[slice(5, -5)] * len(shape))
        before, after = (
            (labels[inside] != item["fixed_labels"][0][inside]).float().mean()
            for labels in (item["moving_labels"][0], moved)
        )
        gains.append((before - after).item())
        assert after < 0.5 * before + 0.06  # the nearest voxel twice
    assert max(gains) > 0.1
    assert "flow" not in SyntheticPairs(shape)[0]


def test_images_show_the_shapes_in_a_random_contrast():
    recipe = Recipe(
        labels=6, shape_scale=(6.0, 8.0), noise=(0.01, 0.02), blur=0.0, bias=0.0, gamma=0.0, black_background=0.0
    )
    labels = random_labels(chance(), (64, 64), recipe)
    images = [random_image(chance(k), labels, recipe) for k in range(8)]
    for image in images:
        assert image.dtype == torch.float32 and image.min() == 0 and image.max() == 1
        within = torch.stack([image[labels == k].std() for k in range(6)])
        between = torch.stack([image[labels == k].mean() for k in range(6)]).std()
        assert within.max() < 0.1 < between
    means = np.array([[image[labels == k].mean() for k in range(6)] for image in images])
    assert (
        np.abs(np.corrcoef(means)[np.triu_indices(8, 1)]).mean() < 0.7
    )  # contrasts have nothing to do with each other


@pytest.mark.parametrize("shape", [(20, 24), (9, 20, 5)], ids=str)
@pytest.mark.parametrize("sd", [0.3, 1.2])
def test_blur_is_scipys(shape, sd):
    image = torch.rand(1, *shape, generator=chance())
    expected = gaussian_filter(image[0].double().numpy(), sd, mode="nearest", radius=max(1, round(3 * sd)))
    np.testing.assert_allclose(_blurred(image, sd)[0].numpy(), expected, atol=1e-6)


def test_a_black_background_is_exactly_zero():
    recipe = Recipe(labels=4, black_background=1.0)
    labels = random_labels(chance(1), (48, 48), recipe)
    image = random_image(chance(2), labels, recipe)
    assert not image[labels == 0].any() and image[labels > 0].any()


def test_pairs_show_one_map_under_two_deformations():
    pairs = SyntheticPairs((48, 40), Recipe(pair_warp=0.0))
    item = pairs[3]
    assert torch.equal(item["moving_labels"], item["fixed_labels"])
    assert not torch.equal(item["moving"], item["fixed"])
    bent = SyntheticPairs((48, 40))[3]
    assert (bent["moving_labels"] != bent["fixed_labels"]).float().mean() > 0.02


def test_an_item_depends_on_seed_and_index_alone():
    pairs = SyntheticPairs((24, 20, 16), seed=5)
    first = pairs[7]
    torch.rand(100)
    assert all(torch.equal(first[name], value) for name, value in SyntheticPairs((24, 20, 16), seed=5)[7].items())
    assert not torch.equal(first["moving"], pairs[8]["moving"])
    assert not torch.equal(first["moving"], SyntheticPairs((24, 20, 16), seed=6)[7]["moving"])
    (batch,) = loader(pairs, Share(7, 8, 1), 1, pin=False)  # in another process
    assert all(torch.equal(batch[name][0], value) for name, value in first.items())


def test_maps_of_ones_own():
    square = torch.zeros(1, 32, 32, dtype=torch.int32)
    square[:, 8:20, 8:20] = 1
    drawn = []
    pairs = SyntheticPairs((32, 32), maps=lambda number: drawn.append(number) or square)
    item = pairs[0]
    assert set(item["moving_labels"].unique().tolist()) == {0, 1} and len(drawn) == 1
    assert 60 < item["moving_labels"].sum() < 260
    assert torch.equal(deformed(square, torch.zeros(1, 2, 32, 32)), square)


def test_guides_show_every_shape_as_bright_in_either_map():
    wide = torch.zeros(1, 40, 40, dtype=torch.int32)
    wide[:, 10:30, 10:30] = 1
    wide[:, 10:30, :8] = 2
    still = guide(chance(1), (wide, wide))
    assert torch.equal(*still) and still[0].shape == (2, 40, 40)
    one, two = guide(chance(1), (wide, wide.flip(2)))
    assert torch.equal(one, still[0])
    for label in (1, 2):  # far from the edges of the shapes
        there, here = (3, 20) if label == 2 else (20, 20), (36, 20) if label == 2 else (20, 20)
        assert torch.allclose(one[:, 20, there[0]], two[:, 20, here[0]], atol=1e-5)
    assert (one[:, 20, 20] - one[:, 0, 20]).abs().min() > 0.01


def test_images_of_one_contrast():
    """Which of two shapes is the brighter is the same in both images of such a pair, and by chance in others."""
    halves = torch.zeros(1, 40, 40, dtype=torch.int32)
    halves[:, :, :14], halves[:, :, 26:] = 1, 2
    recipe = Recipe(pair_warp=0, bias=0, gamma=0, blur=0, noise=(0.0, 0.01), alike=0.5)
    pairs = SyntheticPairs((40, 40), recipe, maps=lambda number: halves)
    same = 0
    for k in range(40):
        one, two = ([pairs[k][role][..., at].mean() for at in (5, 20, 35)] for role in ("moving", "fixed"))
        same += bool(np.corrcoef(one, two)[0, 1] > 0.9)
    assert 20 < same < 36
    contrast = random_contrast(chance(), 30, Recipe(black_background=1.0))
    near = contrast.about(chance(1))
    assert near.means[0] == 0 and 0.02 < (near.means - contrast.means).std() < 0.08


def test_a_zoomed_map_has_its_shapes_larger():
    square = torch.zeros(1, 60, 60, dtype=torch.int32)
    square[:, 20:40, 20:40] = 3
    for factor in (0.5, 1.0, 1.5):
        assert (zoomed(square, factor) == 3).sum() == (20 * factor) ** 2
    pairs = SyntheticPairs((60, 60), Recipe(pair_warp=0, zoom=(1.4, 1.6)), maps=lambda number: square)
    assert 28**2 <= (pairs[0]["fixed_labels"] == 3).sum() <= 32**2


def test_random_shapes_among_ones_own():
    square = torch.zeros(1, 32, 32, dtype=torch.int32)
    square[:, 8:20, 8:20] = 40
    pairs = SyntheticPairs((32, 32), Recipe(invented=0.5, apart=0.5), maps=lambda number: square, flows=True)
    items = [pairs[k] for k in range(24)]
    invented = [item for item in items if 40 not in item["fixed_labels"]]
    assert 5 < len(invented) < 19
    assert all(item["flow_known"] and len(item["fixed_labels"].unique()) > 2 for item in invented)


# ---------------------------------------------------------------- fastreg train --images synthetic


@pytest.fixture
def config(tmp_path):
    return TrainConfig.of(
        images="synthetic", output=tmp_path / "run", shape=(32, 32), model="vm1", synth_labels=6, lr=2e-3, steps=4,
        val_every=0, save_every=2, workers=0, device="cpu", threads=1, batch_size=2,
    )  # fmt: skip


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_trains_without_any_data(config):
    path = fit(config.changed(lambda_=0.2))
    row = rows(config.run.output / "metrics.csv")[-1]
    wanted = float(row["segmentation"]) + 0.2 * float(row["smoothness"])
    assert float(row["image"]) == 0 and float(row["loss"]) == pytest.approx(wanted, abs=1e-5)
    assert json.loads((config.run.output / "config.json").read_text())["loss"] == "none"
    net, about = checkpoint.load(path)
    assert net.config.ndim == 2
    assert about.working == WorkingSpace(shape=(32, 32), align=True)
    assert about.working.to_json() == {
        "spacing_mm": None, "orientation": "RAS", "shape": [32, 32], "normalise": "percentile", "align": True,
    }  # fmt: skip


def test_an_image_loss_compares_the_guides(config):
    base = config.changed(loss="mse", seg_weight=0.0, lambda_=0.2, log_every=1)
    fit(base)
    row = rows(config.run.output / "metrics.csv")[0]
    items = [SyntheticPairs((32, 32), Recipe(labels=6), guides=True)[k] for k in range(2)]
    moving, fixed = (torch.stack([item[f"{role}_guide"] for item in items]) for role in ("moving", "fixed"))
    expected = (moving - fixed).square().mean().item()  # the first step's network says zero
    assert float(row["image"]) == pytest.approx(expected, rel=1e-3) and expected > 1e-4
    assert float(row["segmentation"]) == 0


def test_field_weight_is_the_distance_from_the_known_deformation(config):
    base = config.changed(model="match", diffeomorphic=True, seg_weight=0.0, field_weight=0.5, lambda_=0.2, log_every=1)
    fit(base)
    row = rows(config.run.output / "metrics.csv")[0]
    items = [SyntheticPairs((32, 32), Recipe(labels=6), flows=True)[k] for k in range(2)]
    flow, known = (torch.stack([item[name] for item in items]) for name in ("flow", "fixed_labels"))
    expected = flow.norm(dim=1, keepdim=True)[known > 0].mean()  # the first step's network says zero
    assert float(row["field"]) == pytest.approx(expected.item(), rel=1e-3)
    assert float(row["segmentation"]) == 0
    assert float(row["loss"]) == pytest.approx(0.5 * float(row["field"]) + 0.2 * float(row["smoothness"]), rel=1e-4)


@pytest.mark.slow
def test_learns_to_align_shapes_of_other_contrast(config):
    """A few hundred steps bring shapes that no step saw, each in a contrast of its own, nearer to each other."""
    options = {"synth_shapes": (4.0, 10.0), "synth_bends": (8.0, 16.0), "synth_warp": 1.2, "synth_labels": 8}
    base = config.changed(**options, model="match", diffeomorphic=True, seg_weight=0.0, field_weight=1.0, lambda_=0.05)
    net, about = checkpoint.load(fit(base.changed(steps=500, batch_size=4, lr=2e-3, schedule="cosine")))
    assert about.working.align is True
    net.eval()
    recipe = Recipe(labels=8, pair_warp=1.2, shape_scale=(4.0, 10.0), warp_scale=(8.0, 16.0))
    unseen, figures = SyntheticPairs((32, 32), recipe, seed=99, flows=True), []
    for k in range(40):
        item = {name: volume[None] for name, volume in unseen[k].items()}
        with torch.no_grad():
            flow = net(item["moving"], item["fixed"]).flow
        row = []
        for field in (flow, 0 * flow):
            row.append(mean_endpoint_error(field, item["flow"], item["fixed_labels"] > 0))
            row.append(-LabelDice()(item["moving_labels"], item["fixed_labels"], field))
        figures.append([value.item() for value in row])
    error, dice, error_before, dice_before = np.mean(figures, axis=0)
    assert error < 0.85 * error_before
    assert dice > dice_before + 0.003


def test_resumes_bit_for_bit(config, tmp_path):
    fit(config)
    parts = config.changed(output=tmp_path / "parts")
    fit(parts.changed(steps=2))
    fit(parts.changed(resume=True))
    one, other = (checkpoint.load(c.run.output / "last.safetensors").net.state_dict() for c in (config, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_validates_on_real_images_and_learns_from_real_maps(config, blobs):
    folder = blobs(4, (32, 28))
    real = config.changed(val=str(folder / "*_image.nii.gz"), val_labels=str(folder / "*_labels.nii.gz"), val_every=2,
        labels=str(folder / "*_labels.nii.gz"), shape=None,
    )  # fmt: skip
    fit(real)
    validation = rows(config.run.output / "validation.csv")
    assert len(validation) == 2 and 0 < float(validation[0]["dice_before"]) < 1
    assert -1 <= float(rows(config.run.output / "metrics.csv")[0]["segmentation"]) < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "shape: needed with --images synthetic"),
        ({"atlas": "a.nii.gz"}, "atlas: not with --images synthetic"),
        ({"synth_labels": 1}, "synth_labels: expected a number of at least 2, got 1"),
        ({"synth_shapes": (9.0, 4.0)}, "synth_shapes: expected two numbers, from <= to, got 9 4"),
        ({"synth_invented": 0.5}, "synth_invented: needs --labels"),
        ({"synth_zoom": (1.5, 1.0), "labels": "x*"}, "synth_zoom: expected two numbers, from <= to, got 1.5 1"),
        ({"val": "VAL", "shape": (9, 9, 9)}, "shape: expected 2 numbers for image"),
        ({"model": "match", "half": True}, "half: not with --model match"),
        ({"voxels": 0}, "voxels: expected a number of at least 1, got 0"),
        ({"voxels": 9, "spacing": 2.0}, "voxels: says in place of --spacing"),
        ({"passes": (2, 0)}, "passes: expected a number of at least 1, got 2 0"),
        ({"synth_outside": "3"}, "synth_outside: needs --labels"),
        ({"synth_apart": 0.5}, "synth_apart: needs --labels"),
        ({"field_weight": -1.0}, "field_weight: expected a number of at least 0, got -1"),
        ({"images": "x*", "field_weight": 1.0}, "field_weight: needs --images synthetic"),
        ({"images": "x*", "loss": "none"}, "loss none: needs --seg-weight"),
        ({"val_labels": "x*"}, "val_labels: needs --val"),
    ],
    ids=str,
)
def test_wrong_options(config, change, message, blobs):
    if change.get("val") == "VAL":
        change = {**change, "val": str(blobs(2, (16, 16)) / "*_image.nii.gz")}
    with pytest.raises(InputError, match=message):
        fit(config.changed(**change))
