import json

import numpy as np
import pytest
import torch
from helpers.command import run
from helpers.pictures import disc

from fastreg.data.cohorts import Subject
from fastreg.data.synthesis import smooth_noise
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.ops.integrate import integrate
from fastreg.ops.warp import warp
from fastreg.registration.stages import Stage
from fastreg.registration.template import build_template
from fastreg.utils.files import InputError

STAGES = (Stage(2, 40), Stage(1, 20))
AFFINE = np.diag([2.0, 2.0, 1.0, 1.0])


def base():
    """A head with inner parts, [56, 48], 0 to 1."""
    shape = (56, 48)
    parts = [((28, 24), 19, 0.6), ((20, 17), 5, 0.4), ((21, 31), 4, -0.4), ((37, 24), 6, 0.3)]
    return sum(value * disc(shape, centre, radius, 0.8) for centre, radius, value in parts).astype(np.float32)


@pytest.fixture
def cohort(tmp_path):
    """The base under velocities v and -v, so that it is their mean."""
    image = torch.from_numpy(base())[None, None]
    labels = (image > 0.7).float()
    people = []
    for k in range(3):
        velocity = 2.5 * smooth_noise(torch.Generator().manual_seed(k), 2, (56, 48), 20.0)[None]
        for sign in (1, -1):
            flow = integrate(sign * velocity)
            subject = Subject(f"s{k}{sign}", tmp_path / f"s{k}{sign}_t1.nii.gz", tmp_path / f"s{k}{sign}_seg.nii.gz")
            save_image(subject.image, warp(image, flow)[0, 0].numpy(), AFFINE)
            save_image(subject.label, warp(labels, flow, mode="nearest")[0, 0].numpy().astype(np.uint8), AFFINE)
            people.append(subject)
    return people


@pytest.mark.slow
def test_finds_the_image_that_everybody_comes_from(cohort, threads):
    threads(1)
    found = build_template(cohort, rounds=3, stages=STAGES, device="cpu")
    plain = np.mean([load_image(s.image).data for s in cohort], axis=0)
    error, blur = (np.abs(image / image.max() - base() / base().max()).mean() for image in (found.image.data, plain))
    assert error < 0.5 * blur
    first, *_, last = found.rounds
    assert len(found.rounds) == 3 and last.spread < first.spread and last.change < first.change
    assert last.drift_mm < 0.4 * first.drift_mm
    labels, truth = found.labels.data > 0, base() > 0.7
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("affine", [False, True])
def test_lies_at_the_mean_place_not_at_the_first_image(tmp_path, threads, affine):
    threads(1)
    people = []
    for k, shift in enumerate((-3, 0, 6)):
        image = disc((56, 48), (28 + shift, 24), 12, 0.8) + 0.5 * disc((56, 48), (28 + shift, 20), 4, 0.8)
        people.append(Subject(str(k), tmp_path / f"{k}.nii.gz"))
        save_image(people[-1].image, image.astype(np.float32), AFFINE)
    found = build_template(people, rounds=2, stages=STAGES, affine=affine, device="cpu")
    rows = np.arange(56)[:, None]
    centre = (found.image.data * rows).sum() / found.image.data.sum()
    assert centre == pytest.approx(28 + 1, abs=0.4)


def test_command(cohort, tmp_path, capsys, threads):
    threads(1)
    words = ["template", "--images", tmp_path / "*_t1.nii.gz", "--labels", tmp_path / "*_seg.nii.gz", "--rounds", 1,
             "-o", tmp_path / "out.nii.gz", "--labels-out", tmp_path / "out_seg.nii.gz", "--device", "cpu"]  # fmt: skip
    figures = json.loads(run(capsys, *words, "--json"))
    assert figures["rounds"][0]["number"] == 1 and figures["rounds"][0]["drift_mm"] > 0
    image = load_image(tmp_path / "out.nii.gz")
    assert image.shape == (56, 48) and np.allclose(image.affine, AFFINE)
    assert set(np.unique(load_labels(tmp_path / "out_seg.nii.gz").data)) == {0, 1}


def test_wrong_input(cohort):
    with pytest.raises(InputError, match="template: expected at least 2 images, got 1"):
        build_template(cohort[:1])
    with pytest.raises(InputError, match="rounds: expected at least 1, got 0"):
        build_template(cohort, rounds=0)
