"""The network that comes with fastreg, and the name by which it is found."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastreg
from fastreg.data.synthesis import Recipe, SyntheticPairs
from fastreg.evaluation.metrics import dice, mean
from fastreg.evaluation.scoring import evaluate
from fastreg.geometry.image import Image
from fastreg.io.images import save_image
from fastreg.io.labels import read_labels
from fastreg.nn import checkpoint
from fastreg.nn.cascade import cascade
from fastreg.nn.losses import mean_endpoint_error
from fastreg.utils.files import InputError


@pytest.fixture(scope="module")
def general():
    return checkpoint.load("general")


def test_it_is_small_and_says_what_it_wants(general):
    net, about = general
    assert checkpoint.find("general").stat().st_size < 2e6
    assert net.config.name == "match" and net.config.diffeomorphic
    assert about.working.align and about.working.voxels > 0 and len(about.working.passes) > 1
    assert about.config["images"] == "synthetic" and "val" not in about.config  # no image had a part in it
    assert "output" not in about.config


def test_a_file_of_that_name_goes_before(tmp_path, monkeypatch, general):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("general").name == "general.safetensors"
    net = fastreg.RegistrationNet("vm1", 2)
    checkpoint.save(tmp_path / "general", net, checkpoint.Checkpoint(net.options))
    assert checkpoint.load("general").net.config.name == "vm1"
    with pytest.raises(InputError, match=r"model generall: no such file"):
        checkpoint.load("generall")


@pytest.mark.slow
def test_known_deformations_of_shapes_that_no_training_saw(general):
    recipe = Recipe(labels=16, pair_warp=1.2, shape_scale=(5.0, 20.0), warp_scale=(6.0, 24.0))
    pairs, figures = SyntheticPairs((48, 48, 64), recipe, seed=1234, flows=True), []
    for k in range(8):
        item = {name: volume[None] for name, volume in pairs[k].items()}
        with torch.inference_mode():
            flow = cascade(general[0], item["moving"], item["fixed"]).flow
        where = item["fixed_labels"] > 0
        figures.append([mean_endpoint_error(field, item["flow"], where).item() for field in (flow, 0 * flow)])
    after, before = np.mean(figures, axis=0)
    assert after < 0.75 * before


def pair(seed, spacing=2.0, shape=(48, 48, 64)):
    """Fixed and moving image of shapes in two random contrasts, and their label maps, as files of that spacing."""
    recipe = Recipe(labels=8, pair_warp=1.2, shape_scale=(8.0, 20.0), warp_scale=(10.0, 24.0), alone=1.0)
    item = SyntheticPairs(shape, recipe, seed=seed)[0]
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    roles = ("fixed", "moving", "fixed_labels", "moving_labels")
    return [Image(item[role][0].numpy(), affine) for role in roles]


def overlaps(found, fixed_labels, moving_labels):
    """Mean Dice before and after. The images lie on one grid."""
    moved = found.apply(moving_labels, "nearest").data
    return [mean(dice(fixed_labels.data, x).values()) for x in (moving_labels.data, moved)]


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [0.1, 4.0])
def test_takes_images_of_any_size_in_mm_and_any_contrast(spacing, general):
    """Without an alignment, so that what is gained is the network's."""
    gains = []
    for seed in (2001, 2006, 2012):  # whose maps are well apart before
        fixed, moving, *labels = pair(seed, spacing)
        found = fastreg.register(fixed, moving, model=general, affine=False, device="cpu")
        assert found.log["working_shape"] == [48, 48, 64] and "affine_seconds" not in found.log
        before, after = overlaps(found, *labels)
        gains.append((after - before) / (1 - before))
    assert np.mean(gains) > 0.35 and min(gains) > 0.2


@pytest.mark.slow
def test_large_images_are_registered_on_fewer_voxels(general):
    fixed, moving, *labels = pair(2001, 1.0, (72, 72, 96))
    net, about = general
    small = checkpoint.Checkpoint(about.network, replace(about.working, voxels=48 * 48 * 64))
    found = fastreg.register(fixed, moving, model=checkpoint.TrainedModel(net, small), device="cpu")
    assert found.log["working_shape"] == [48, 48, 64] and "affine_seconds" in found.log
    assert found.flow.shape == (1, 3, 72, 72, 96)
    alone = fastreg.register(fixed, moving, transform="affine", device="cpu")
    assert overlaps(found, *labels)[1] > overlaps(alone, *labels)[1]


@pytest.mark.slow
def test_commands_know_the_name(tmp_path):
    for role, image in zip(("fixed", "moving", "fixed_labels", "moving_labels"), pair(2012), strict=True):
        save_image(tmp_path / f"{role}.nii.gz", image)
    (tmp_path / "general").mkdir()  # a folder is no model

    def fastreg_says(*words):
        done = subprocess.run(
            [sys.executable, "-m", "fastreg", *words], capture_output=True, text=True, cwd=tmp_path, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    told = fastreg_says(
        "register", "-f", "fixed.nii.gz", "-m", "moving.nii.gz", "--model", "general", "-o", "moved.nii.gz", "--json",
        "--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz", "--device", "cpu",
        "--no-affine",
    )  # fmt: skip
    assert told["network"] == "match" and told["dice"] > told["dice_before"] + 0.1
    assert (tmp_path / "moved.nii.gz").is_file()
    assert fastreg_says("info", "general", "--json")["kind"] == "model"


@pytest.mark.slow
def test_real_brains_in_two_contrasts(general, real_data):
    """Dice of the pair, over the 30 structures, as T1 to T1 and with the moving image's negative."""
    from fastreg.io.images import load_image

    folder = real_data / "pair"
    moving = load_image(folder / "subject_b_t1.nii.gz")
    negative = Image(np.where(moving.data > 0, moving.data.max() - moving.data, 0).astype(np.float32), moving.affine)
    structures = list(read_labels(str(folder / "labels30.json")) or ())
    for image in (moving, negative):
        found = fastreg.register(folder / "subject_a_t1.nii.gz", image, model=general, device="cpu")
        figures = evaluate(
            fixed_labels=folder / "subject_a_labels.nii.gz", moving_labels=folder / "subject_b_labels.nii.gz",
            warp=found.warp, labels=structures, hd95=False,
        )  # fmt: skip
        assert figures["dice_before_mean"] == pytest.approx(0.522, abs=0.001)
        assert figures["dice_mean"] > 0.6
        assert figures["folds_central"] < 1e-4 * figures["folds_central_of"]
