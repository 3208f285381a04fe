"""Training with label maps, masks, a velocity's uncertainty, more images; see test_train.py for the loop itself."""

import csv
import json
import math

import numpy as np
import pytest
import torch

import fastreg
from fastreg.geometry import fields
from fastreg.io.images import load_image, save_image
from fastreg.nn import checkpoint
from fastreg.nn.losses import kl_divergence
from fastreg.nn.registration_net import RegistrationNet
from fastreg.training.config import TrainConfig
from fastreg.training.objective import Objective
from fastreg.training.options import resolved
from fastreg.training.trainer import fit
from fastreg.types import RegistrationOutput
from fastreg.utils.files import InputError


@pytest.fixture
def folder(blobs):
    return blobs(4, (24, 20))


@pytest.fixture
def config(folder, tmp_path):
    """2-D, so that a run takes a second."""
    return TrainConfig.of(
        images=str(folder / "*_image.nii.gz"),
        labels=str(folder / "*_labels.nii.gz"),
        val="s2,s3",
        output=tmp_path / "run",
        model="vm1",
        loss="mse",
        lambda_=0.01,
        seg_weight=0.0,
        lr=1e-3,
        steps=4,
        val_every=4,
        workers=0,
        device="cpu",
        threads=1,
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def last(config, name="metrics.csv"):
    return {key: float(value) for key, value in rows(config.run.output / name)[-1].items()}


def weights(path):
    return checkpoint.load(path).net.state_dict()


# ---------------------------------------------------------------- label maps


def test_label_maps_help_where_the_image_says_nothing(config, folder):
    """Images without contrast: only the auxiliary loss can move anything."""
    for k in range(4):
        image = load_image(folder / f"s{k}_image.nii.gz")
        save_image(folder / f"s{k}_image.nii.gz", np.ones_like(image.data), image.affine)
    flat = config.changed(normalise="none", seg_weight=1.0, steps=60, val_every=60, lr=3e-3)
    # The network sees the images alone, so these two must differ: a corner pixel each tells them apart.
    for k in range(4):
        image = load_image(folder / f"s{k}_image.nii.gz")
        image.data[k, k] = 2
        save_image(folder / f"s{k}_image.nii.gz", image)
    fit(flat)
    table = rows(flat.run.output / "metrics.csv")
    first, end = (np.mean([float(row["segmentation"]) for row in part]) for part in (table[:10], table[-10:]))
    assert -1 <= end < first - 0.02 and first < 0


@pytest.mark.parametrize("labels", ["all", "2", "1,3", {"both": [1, 3], "one": [2]}], ids=str)
def test_any_choice_of_structures(config, tmp_path, labels):
    if isinstance(labels, dict):
        (tmp_path / "groups.json").write_text(json.dumps(labels))
        labels = str(tmp_path / "groups.json")
    fit(config.changed(seg_weight=0.5, seg_labels=labels))
    row = last(config)
    assert -1 <= row["segmentation"] < 0
    assert row["loss"] == pytest.approx(row["image"] + 0.01 * row["smoothness"] + 0.5 * row["segmentation"], rel=1e-4)


def test_without_a_weight_no_label_is_read(config):
    fit(config)
    assert last(config)["segmentation"] == 0


def test_unlabelled_images_join(config, folder, tmp_path):
    more = tmp_path / "more"
    for k in range(2):
        image = load_image(folder / f"s{k}_image.nii.gz")
        save_image(more / f"s{k}_image.nii.gz", image.data[::-1].copy(), image.affine)
    extended = config.changed(unlabelled=str(more / "*.nii.gz"), seg_weight=1.0, steps=20, output=tmp_path / "more_run")
    fit(extended)
    overlaps = [float(row["segmentation"]) for row in rows(extended.run.output / "metrics.csv")]
    assert 0 in overlaps and min(overlaps) < 0  # pairs with and without label maps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seg_weight": 1.0, "labels": None, "val": None}, "seg_weight: needs --labels, 0 of 4 subjects"),
        ({"seg_weight": 1.0, "seg_labels": "9"}, "seg labels 9: no label map of the training holds any"),
        ({"seg_weight": -1.0}, "seg_weight: expected a number of at least 0"),
        ({"uncertainty": True}, "uncertainty: needs --diffeomorphic and --loss mse"),
        ({"image_sigma": 0.0}, "image_sigma: expected a number above 0"),
        ({"masks": "nowhere/*_mask.nii.gz"}, "masks nowhere/.*none for image s0"),
        ({"unlabelled": "nowhere/*.nii.gz"}, "images nowhere/.*no image there"),
    ],
    ids=str,
)
def test_wrong_options(config, change, message):
    with pytest.raises(InputError, match=message):
        fit(config.changed(**change))


# ---------------------------------------------------------------- uncertainty


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 3)], ids=str)
def test_kl_divergence_is_that_of_two_gaussians(shape):
    """Against dense matrices; what the function leaves out does not depend on its arguments."""
    points, ndim, precision = math.prod(shape), len(shape), 3.0
    laplacian = torch.zeros(points, points, dtype=torch.float64)
    index = torch.arange(points).view(shape)
    for axis in range(ndim):
        for a, b in zip(
            index.narrow(axis, 0, shape[axis] - 1).flatten(),
            index.narrow(axis, 1, shape[axis] - 1).flatten(),
            strict=True,
        ):
            laplacian[a, a] += 1
            laplacian[b, b] += 1
            laplacian[a, b] -= 1
            laplacian[b, a] -= 1
    # L alone is singular (constants cost nothing); a touch of the identity gives a density to compare with.
    touch = 1e-7 * torch.eye(points, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(points, dtype=torch.float64), precision_matrix=precision * laplacian + touch
    )

    def exact(mean, log_variance):
        total = 0.0
        for c in range(ndim):
            ours = torch.distributions.MultivariateNormal(
                mean[0, c].flatten(), covariance_matrix=torch.diag(log_variance[0, c].exp().flatten())
            )
            total += torch.distributions.kl_divergence(ours, prior).item()
        return total / points

    draws = [(torch.randn(1, ndim, *shape, dtype=torch.float64), torch.randn(1, ndim, *shape, dtype=torch.float64))
             for _ in range(3)]  # fmt: skip
    left_out = [exact(*draw) - kl_divergence(*draw, precision).item() for draw in draws]
    assert left_out[1] == pytest.approx(left_out[0], abs=1e-4) == left_out[2]


def test_a_sample_in_training_and_the_mean_in_use():
    net = RegistrationNet("vm1", 2, diffeomorphic=True, uncertainty=True)
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    with torch.no_grad():
        net.log_variance.bias.fill_(-2.0)
    images = torch.rand(2, 1, 1, 32, 32)
    flows = [net(*images).flow for _ in range(2)]
    assert not torch.equal(*flows)
    net.eval()
    one, other = net(*images), net(*images)
    assert torch.equal(one.flow, other.flow)
    assert one.velocity.shape == one.log_variance.shape == (1, 2, 16, 16)
    torch.testing.assert_close(one.flow, fields.resize(fields.integrate(one.velocity), (32, 32)))
    with pytest.raises(ValueError, match="uncertainty needs a diffeomorphic network"):
        RegistrationNet("vm1", 2, uncertainty=True)


def test_sampled_velocities_have_the_variance_that_the_network_says():
    net = RegistrationNet("vm1", 2, diffeomorphic=True, uncertainty=True, steps=0)
    with torch.no_grad():
        net.flow.weight.zero_()
        net.log_variance.weight.zero_()
        net.log_variance.bias.fill_(2 * math.log(0.3))
    out = net(*torch.zeros(2, 1, 1, 256, 256))  # without squarings the flow is the velocity, upsampled
    coarse = fields.resize(out.flow, (128, 128))
    assert out.log_variance.exp().sqrt().mean().item() == pytest.approx(0.3, rel=1e-5)
    assert not out.velocity.any() and 0.15 < coarse.std().item() < 0.35


def test_uncertainty_trains_resumes_and_is_used(config, tmp_path):
    sure = config.changed(diffeomorphic=True, uncertainty=True, bidir=True, lambda_=None, save_every=2)
    whole = fit(sure)
    row = last(sure)
    assert row["loss"] == pytest.approx(row["image"] / (2 * 0.02**2) + row["smoothness"], rel=1e-4)
    parts = sure.changed(output=tmp_path / "parts")
    fit(parts.changed(steps=2))
    fit(parts.changed(resume=True))
    one, other = (weights(run.run.output / "last.safetensors").values() for run in (sure, parts))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    net, about = checkpoint.load(whole)
    assert net.config.uncertainty and about.network["uncertainty"]


def test_checkpoints_from_before_there_was_uncertainty_load_and_resume(config):
    path = fit(config)
    for name in ("last.safetensors", "model.safetensors"):
        net, about = checkpoint.load(config.run.output / name)
        assert "uncertainty" not in about.network  # as in files from before
        optimizer = torch.optim.Adam(net.parameters())
        checkpoint.resume(config.run.output / "last.safetensors", net, optimizer)
        checkpoint.save(config.run.output / name, net, about, optimizer if name.startswith("last") else None)
    assert not checkpoint.load(path).net.config.uncertainty
    fit(config.changed(resume=True, steps=5))
    assert last(config)["step"] == 5


# ---------------------------------------------------------------- masks, edges


def test_a_mask_restricts_the_image_loss(config):
    """Outside the mask the fixed image may be anything."""
    objective = Objective(config.loss)
    moving, fixed, mask = torch.rand(3, 1, 1, 16, 16)
    mask = (mask > 0.5).float()
    found = RegistrationNet("vm1", 2)(moving, fixed)
    batch = {"moving": moving, "fixed": fixed, "fixed_mask": mask}
    other = {**batch, "fixed": torch.where(mask > 0, fixed, 77.0)}
    assert objective(found, batch).image == objective(found, other).image
    wanted = (((found.moved - fixed) ** 2)[mask > 0]).mean()
    torch.testing.assert_close(objective(found, batch).image, wanted)
    both = found._replace(moved_back=fixed, inverse_flow=-found.flow)
    batch["moving_mask"] = 1 - mask
    wanted = (wanted + (((fixed - moving) ** 2)[mask == 0]).mean()) / 2
    torch.testing.assert_close(objective(both, batch).image, wanted)


def test_masks_reach_the_loss(config, folder, tmp_path):
    images = [load_image(folder / f"s{k}_image.nii.gz") for k in range(4)]
    for k, image in enumerate(images):
        save_image(
            folder / f"s{k}_mask.nii.gz", (np.arange(24)[:, None] < 12 + np.zeros(20)).astype(np.uint8), image.affine
        )
        save_image(folder / f"s{k}_image.nii.gz", image.data / 300, image.affine)
    plain = config.changed(steps=1, val_every=0, normalise="none")
    masked = plain.changed(masks=str(folder / "*_mask.nii.gz"), output=tmp_path / "masked", cache=tmp_path / "cache")
    fit(plain)
    fit(masked)
    wanted = (((images[0].data - images[1].data)[:12] / 300) ** 2).mean()
    assert last(masked)["image"] == pytest.approx(wanted, rel=1e-3)
    assert last(masked)["image"] != pytest.approx(last(plain)["image"], rel=1e-3)


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_edge_aware_smoothness(config, diffeomorphic):
    edges = config.changed(penalty="edge_aware", diffeomorphic=diffeomorphic, bidir=diffeomorphic)
    fit(edges)
    assert last(edges)["smoothness"] > 0
    objective = Objective(edges.loss)
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 4.0
    step = torch.zeros(1, 2, 16, 16)
    step[..., 8:] = 1.0
    net = RegistrationNet("vm1", 2)(image, image)
    at_edge, beside = (
        objective(net._replace(flow=flow), {"moving": image, "fixed": image}).regularity
        for flow in (step, step.roll(3, dims=3))
    )
    assert at_edge < 0.1 * beside


# ---------------------------------------------------------------- a region of interest that the network predicts


def _masks(folder):
    for k in range(4):
        labels = load_image(folder / f"s{k}_labels.nii.gz")
        save_image(folder / f"s{k}_mask.nii.gz", (labels.data > 0).astype(np.uint8), labels.affine)
    return str(folder / "*_mask.nii.gz")


@pytest.mark.slow
def test_a_region_of_interest_is_learned(config, folder, blobs, tmp_path):
    more = blobs(3, (24, 20), tmp_path / "more")
    path = fit(
        config.changed(masks=_masks(folder), unlabelled=str(more / "*_image.nii.gz"), region_weight=1.0, steps=150,
            val_every=0, lr=3e-3,
        )
    )  # fmt: skip
    table = [float(row["region"]) for row in rows(config.run.output / "metrics.csv") if float(row["region"]) > 0]
    assert len(table) < 150  # fixed images without a mask count nothing
    assert np.mean(table[-10:]) < 0.6 * np.mean(table[:10])
    net, _ = checkpoint.load(path)
    assert net.config.region and RegistrationNet(**net.options).config == net.config
    fixed, moving = (load_image(folder / f"s{k}_image.nii.gz").data / 300 for k in (2, 3))
    with torch.inference_mode():
        region = net.eval()(*(torch.from_numpy(x).float()[None, None] for x in (moving, fixed))).region[0, 0] > 0
    labels = load_image(folder / "s2_labels.nii.gz").data > 0
    overlap = 2 * (region.numpy() & labels).sum() / (region.numpy().sum() + labels.sum())
    assert overlap > 0.7


def test_where_no_mask_is_known_the_predicted_region_restricts_the_loss(config):
    objective = Objective(config.changed(region_weight=0.5).loss)
    moved, fixed, region = torch.rand(2, 1, 6, 7), torch.rand(2, 1, 6, 7), torch.randn(2, 1, 6, 7, requires_grad=True)
    flow, mask = torch.zeros(2, 2, 6, 7), (torch.rand(2, 1, 6, 7) > 0.5).float()
    known = torch.tensor([True, False]).view(2, 1, 1, 1)
    found = RegistrationOutput(moved, flow, region=region)
    terms = objective(found, {"moving": moved, "fixed": fixed, "fixed_mask": mask, "mask_known": known})
    odds = torch.sigmoid(region.detach())
    weight = torch.cat([mask[:1], odds[1:]])
    torch.testing.assert_close(terms.image, (weight * (moved - fixed) ** 2).sum() / weight.sum())
    expected = -(mask[0] * odds[0].log() + (1 - mask[0]) * (1 - odds[0]).log()).mean()
    torch.testing.assert_close(terms.region, expected)
    torch.testing.assert_close(terms.total, terms.image + 0.5 * expected)
    terms.total.backward()
    assert region.grad[0].any() and not region.grad[1].any()  # the loss cannot shrink by looking away


def test_region_needs_masks(config):
    with pytest.raises(InputError, match="region_weight: needs --masks"):
        fit(config.changed(region_weight=1.0))
    with pytest.raises(InputError, match="region_weight: not with --bidir or --atlas"):
        fit(config.changed(region_weight=1.0, masks="x*", atlas="a.nii.gz"))


def test_both_ways_are_the_mean_of_either_and_how_far_they_are_apart(config):
    """Written out: each direction by itself, and each field followed by the other."""
    torch.manual_seed(0)
    objective = Objective(resolved(config.changed(consistency=0.5, penalty="l2")).loss)
    net = RegistrationNet("vm1", 2)
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    moving, fixed = torch.rand(2, 2, 1, 24, 20)
    batch = {
        "moving": moving,
        "fixed": fixed,
        "fixed_mask": (fixed > 0.2).float(),
        "moving_mask": (moving > 0.4).float(),
    }
    swapped = {"moving": fixed, "fixed": moving, "fixed_mask": batch["moving_mask"], "moving_mask": batch["fixed_mask"]}
    there, back = net(moving, fixed), net(fixed, moving)
    found = objective.both_ways(net(torch.cat([moving, fixed]), torch.cat([fixed, moving])), batch)
    one, other = objective(there, batch), objective(back, swapped)
    torch.testing.assert_close(found.image, (one.image + other.image) / 2)
    torch.testing.assert_close(found.regularity, (one.regularity + other.regularity) / 2)
    left = [
        (inner + fastreg.warp(outer, inner, padding="border")).square().sum(1).mean()
        for outer, inner in ((there.flow, back.flow), (back.flow, there.flow))
    ]
    torch.testing.assert_close(found.inconsistency, (left[0] + left[1]) / 2)
    torch.testing.assert_close(found.total, (one.total + other.total) / 2 + 0.5 * found.inconsistency)


@pytest.mark.slow
def test_consistency_brings_both_ways_together(config, tmp_path):
    options = {"model": "pyramid", "steps": 60, "lr": 3e-3, "val_every": 0, "penalty": "l2"}
    fit(config.changed(**options, consistency=1e-9, output=tmp_path / "free"))
    fit(config.changed(**options, consistency=1.0, output=tmp_path / "held"))
    free, held = (
        sum(float(row["inconsistency"]) for row in rows(tmp_path / run / "metrics.csv")[-10:]) / 10
        for run in ("free", "held")
    )
    assert held < 0.5 * free


@pytest.mark.parametrize("other", [{"bidir": True, "diffeomorphic": True}, {"teacher": "register"}])
def test_consistency_goes_both_ways_by_itself(config, other):
    with pytest.raises(InputError, match="consistency: registers both ways by itself, not with --"):
        resolved(config.changed(consistency=1.0, **other))
