"""The network that comes with fastreg, and the name by which it is found."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import fastreg
from fastreg import checkpoint
from fastreg.cascade import cascade
from fastreg.evaluation import evaluate
from fastreg.files import InputError
from fastreg.images import Image, save_image
from fastreg.metrics import mean
from fastreg.objective import endpoint_error
from fastreg.segmentation import read_structures
from fastreg.synthesis import Recipe, SyntheticPairs


@pytest.fixture(scope="module")
def general():
    return checkpoint.load("general")


def test_it_is_small_and_says_what_it_wants(general):
    net, about = general
    assert checkpoint.find("general").stat().st_size < 2e6
    assert net.config.name == "match" and net.config.diffeomorphic
    assert about.working["align"] is True and about.working["voxels"] > 0 and len(about.working["passes"]) > 1
    assert about.config["images"] == "synthetic" and "val" not in about.config  # no image had a part in it
    assert "output" not in about.config


def test_a_file_of_that_name_goes_before(tmp_path, monkeypatch, general):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("general").name == "general.safetensors"
    net = fastreg.RegistrationNet("vm1", 2)
    checkpoint.save(tmp_path / "general", net, checkpoint.Checkpoint(net.options, {}))
    assert checkpoint.load("general")[0].config.name == "vm1"
    with pytest.raises(InputError, match=r"model generall: no such file"):
        checkpoint.load("generall")


def test_known_deformations_of_shapes_that_no_training_saw(general):
    recipe = Recipe(labels=16, pair_warp=1.2, shape_scale=(5.0, 20.0), warp_scale=(6.0, 24.0))
    pairs, figures = SyntheticPairs((48, 48, 64), recipe, seed=1234, flows=True), []
    for k in range(8):
        item = {name: volume[None] for name, volume in pairs[k].items()}
        with torch.inference_mode():
            flow = cascade(general[0], item["moving"], item["fixed"]).flow
        where = item["fixed_labels"] > 0
        figures.append([endpoint_error(field, item["flow"], where).item() for field in (flow, 0 * flow)])
    after, before = np.mean(figures, axis=0)
    assert after < 0.75 * before


def shapes(seed, affine, side=40):
    """A smooth head of three nested shapes, of which a seed says how it is bent; and the map of the shapes."""
    chance = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"), -1)
    bent = places + 0.06 * np.sin(2.5 * places[..., [1, 2, 0]] + chance.uniform(0, 6, 3))
    radius = np.sqrt((bent**2 / np.array([0.55, 0.7, 0.6])).sum(-1))
    labels = (radius < 0.9).astype(np.uint8) + (radius < 0.65) + (radius < 0.35)
    return Image(labels, affine)


@pytest.mark.parametrize("spacing", [0.1, 4.0])
def test_takes_images_of_any_size_in_mm_and_any_contrast(spacing, general):
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    fixed_labels, moving_labels = shapes(1, affine), shapes(2, affine)
    chance = np.random.default_rng(0)
    images = []
    for labels, values in ((fixed_labels, [0, 60, 90, 20]), (moving_labels, [0, 500, 100, 900])):
        data = np.array(values, np.float32)[labels.data]
        images.append(
            Image(np.where(data > 0, data * chance.normal(1, 0.03, data.shape), 0).astype(np.float32), affine)
        )
    found = fastreg.register(*images, model=general, device="cpu")
    assert found.log["working_shape"] == [40, 40, 40] and "affine_seconds" in found.log
    moved = found.apply(Image(moving_labels.data.astype(np.int32), affine), "nearest").data
    before, after = (
        mean(fastreg.metrics.dice(fixed_labels.data, x.astype(np.uint8)).values()) for x in (moving_labels.data, moved)
    )
    assert after > before + 0.3 * (1 - before)


def test_large_images_are_registered_on_fewer_voxels(general):
    affine = np.eye(4)
    labels = shapes(3, affine, 60)
    image = Image(labels.data.astype(np.float32), affine)
    net, about = general
    small = checkpoint.Checkpoint(about.network, {**about.working, "voxels": 30**3})
    found = fastreg.register(image, image, model=(net, small), affine=False, device="cpu")
    assert found.log["working_shape"] == [30, 30, 30] and "affine_seconds" not in found.log
    assert found.flow.shape == (1, 3, 60, 60, 60)
    overlap = fastreg.metrics.dice(labels.data, found.apply(labels, "nearest").data)
    assert min(overlap.values()) > 0.95  # an image onto itself


def test_commands_know_the_name(tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for name, seed in (("fixed", 1), ("moving", 2)):
        labels = shapes(seed, affine, 24)
        save_image(tmp_path / f"{name}.nii.gz", Image(labels.data.astype(np.float32), affine))
        save_image(tmp_path / f"{name}_labels.nii.gz", labels)

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
    )  # fmt: skip
    assert told["network"] == "match" and told["dice"] > told["dice_before"]
    assert (tmp_path / "moved.nii.gz").is_file()
    assert fastreg_says("info", "general", "--json")["kind"] == "model"


@pytest.mark.slow
def test_real_brains_in_two_contrasts(general, real_data):
    """Dice of the pair, over the 30 structures, as T1 to T1 and with the moving image's negative."""
    from fastreg.images import load_image

    pair = real_data / "pair"
    moving = load_image(pair / "subject_b_t1.nii.gz")
    negative = Image(np.where(moving.data > 0, moving.data.max() - moving.data, 0).astype(np.float32), moving.affine)
    structures = [label for group in read_structures(str(pair / "labels30.json")) for label in group]
    for image in (moving, negative):
        found = fastreg.register(pair / "subject_a_t1.nii.gz", image, model=general, device="cpu")
        figures = evaluate(
            fixed_labels=pair / "subject_a_labels.nii.gz", moving_labels=pair / "subject_b_labels.nii.gz",
            warp=found.warp, labels=structures, hd95=False,
        )  # fmt: skip
        assert figures["dice_before_mean"] == pytest.approx(0.522, abs=0.001)
        assert figures["dice_mean"] > 0.6
        assert figures["folds_central"] < 1e-4 * figures["folds_central_of"]
