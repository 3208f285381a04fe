import csv

import numpy as np
import pytest
import torch

import fastreg
from fastreg.data.cohorts import read_cohort
from fastreg.data.datasets import Pairs, Volumes
from fastreg.geometry.grid import Grid
from fastreg.io.images import load_image
from fastreg.nn.losses import LNCC
from fastreg.training.config import TrainConfig
from fastreg.training.options import resolved
from fastreg.training.setup import _drawn
from fastreg.training.teacher import Teacher
from fastreg.training.trainer import fit
from fastreg.utils.files import InputError


@pytest.fixture
def folder(blobs):
    return blobs(4)


@pytest.fixture
def volumes(folder, tmp_path):
    image = load_image(folder / "s0_image.nii.gz")
    return Volumes(Grid(image.shape, image.affine), "percentile", tmp_path / "cache")


@pytest.fixture
def config(folder, tmp_path):
    return TrainConfig.of(
        images=str(folder / "*_image.nii.gz"), output=tmp_path / "run", model="pyramid", window=5, lr=1e-3, steps=4,
        val_every=0, workers=0, device="cpu", teacher="register", teacher_pairs=3,
    )  # fmt: skip


def test_a_teacher_finds_what_fits_and_keeps_it(folder, volumes, tmp_path, monkeypatch):
    subjects = read_cohort(str(folder / "*_image.nii.gz")).subjects
    teacher = Teacher(volumes, tmp_path / "teacher")
    flow = teacher(subjects[0], subjects[1])
    moving, fixed = (volumes.image(subject)[None] for subject in subjects[:2])
    assert LNCC(9)(fastreg.warp(moving, flow[None]), fixed) < LNCC(9)(moving, fixed) - 0.1
    (path,) = (tmp_path / "teacher").iterdir()
    assert path.stat().st_size == 2 * flow.numel() + 4
    monkeypatch.setattr("fastreg.training.teacher.deform", None)  # from now on the file is all there is
    assert torch.equal(teacher(subjects[0], subjects[1]), flow)
    with pytest.raises(TypeError):
        teacher(subjects[1], subjects[0])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TypeError):  # damaged: it would be made again
        teacher(subjects[0], subjects[1])


def test_a_mirrored_pair_has_a_mirrored_field(folder, volumes):
    subjects = read_cohort(str(folder / "*_image.nii.gz")).subjects
    shape = volumes.grid.shape
    field = torch.rand(3, *shape)
    plain, flipped = (
        Pairs(
            volumes,
            subjects,
            pairs=((subjects[0], subjects[1]),),
            flip=flip,
            fields=lambda moving, fixed: field.clone(),
        )
        for flip in (False, True)
    )
    mirrored = next(k for k in range(20) if not torch.equal(flipped[k]["moving"], plain[k]["moving"]))
    ours, theirs = flipped[mirrored], plain[mirrored]
    axis = volumes.grid.left_right
    warped = fastreg.warp(theirs["moving"][None], theirs["flow"][None], padding="border")[0].flip(1 + axis)
    found = fastreg.warp(ours["moving"][None], ours["flow"][None], padding="border")[0]
    torch.testing.assert_close(found, warped, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_network_nears_its_teacher_and_resumes(config, tmp_path):
    def distances(run):
        with (run / "metrics.csv").open() as file:
            return [float(row["field"]) for row in csv.DictReader(file)]

    longer = config.changed(steps=60, lr=3e-3, loss="none", field_weight=1.0, lambda_=0.0, teacher_pairs=1)
    fit(longer)
    found = distances(config.run.output)
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])
    fit(config.changed(output=tmp_path / "whole"))
    parts = config.changed(output=tmp_path / "parts")
    fit(parts.changed(steps=2))
    fit(parts.changed(resume=True))
    assert distances(tmp_path / "whole") == distances(tmp_path / "parts")


def test_pairs_are_drawn_once_each():
    people = tuple(range(5))
    every = _drawn(people, 1000, seed=1)
    assert len(set(every)) == 20 and all(moving != fixed for moving, fixed in every)
    assert set(_drawn(people, 7, seed=1)) < set(every) and len(_drawn(people, 7, seed=1)) == 7
    assert _drawn(people, 7, seed=1) != _drawn(people, 7, seed=2)


def test_a_teacher_has_a_weight(config):
    assert resolved(config).loss.field_weight == 0.1
    with pytest.raises(InputError, match="teacher: needs a --field-weight above 0"):
        resolved(config.changed(field_weight=0.0))
    with pytest.raises(InputError, match="teacher: not with --images synthetic"):
        resolved(config.changed(images="synthetic", shape=(16, 16, 16)))
