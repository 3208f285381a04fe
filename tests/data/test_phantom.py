import sys

import numpy as np
import pytest
import torch

from fastreg.data import phantom
from fastreg.evaluation import metrics
from fastreg.geometry import fields
from fastreg.ops.warp import warp
from fastreg.utils.files import InputError


@pytest.fixture(scope="module")
def pair():
    pytest.importorskip("nilearn")
    return phantom.subject(1), phantom.subject(2)


def sampled(array, flow, mode="linear"):
    volume = torch.from_numpy(np.asarray(array, np.float32))[None, None]
    return warp(volume, torch.from_numpy(flow)[None], mode=mode)[0, 0].numpy()


def test_a_seed_is_a_subject(pair):
    one, other = pair
    again = phantom.subject(1)
    for name in ("image", "labels", "to_template", "from_template"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert one.image.shape == one.labels.shape == phantom.SHAPE and one.image.dtype == np.float32
    assert one.to_template.shape == (3, *phantom.SHAPE)
    assert one.image.min() == 0 and 0.8 < one.image.max() < 2


def test_every_structure_is_there_and_on_its_side(pair):
    for member in pair:
        assert metrics.labels_of(member.labels) == list(phantom.STRUCTURES)
        for label, name in phantom.STRUCTURES.items():
            right_mm = phantom.AFFINE[0, 3] + phantom.VOXEL_MM * np.argwhere(member.labels == label)[:, 0].mean()
            assert {"left": right_mm < -5, "right": right_mm > 5}.get(name.split()[0], abs(right_mm) < 10), name


def test_structures_look_as_their_tissue_does():
    image, labels = phantom._template()
    brightness = {name: np.median(image[labels == label]) for label, name in phantom.STRUCTURES.items()}
    for side in ("left", "right"):
        order = [brightness[f"{side} {name}"] for name in ("lateral ventricle", "cortex", "white matter")]
        assert order == sorted(order) and order[0] < 0.8 * order[2]


def test_deformations_are_invertible_and_of_several_mm(pair):
    for member in pair:
        brain = member.labels > 0
        for field in (member.to_template, member.from_template):
            figures = metrics.regularity(field, brain)
            assert figures["folds_central"] == figures["folds_forward"] == 0
            assert 0.08 < figures["sdlogj_mask"] < 0.4
        spacing = (phantom.VOXEL_MM,) * 3
        still = np.zeros_like(member.to_template)
        assert 3 < metrics.endpoint_error(member.to_template, still, spacing, brain).mean() < 12
        there, back = (torch.from_numpy(f)[None] for f in (member.to_template, member.from_template))
        errors = metrics.endpoint_error(fields.compose(back, there), still, spacing, brain)
        assert errors.mean() < 0.1 and errors.max() < 1.5


def test_the_truth_leads_to_the_template_by_either_way(pair):
    fixed, moving = pair
    truth = phantom.true_displacement(fixed, moving)
    by_moving = fields.compose(*(torch.from_numpy(f)[None] for f in (moving.to_template, truth)))[0].numpy()
    spacing = (phantom.VOXEL_MM,) * 3
    errors = metrics.endpoint_error(by_moving, fixed.to_template, spacing, fixed.labels > 0)
    assert errors.mean() < 0.1 and errors.max() < 1.5
    labels = phantom._template()[1]
    found = metrics.dice(*(sampled(labels, field, "nearest") for field in (by_moving, fixed.to_template)))
    assert min(found.values()) > 0.95


def test_the_truth_carries_the_moving_anatomy_onto_the_fixed(pair):
    fixed, moving = pair
    truth = phantom.true_displacement(fixed, moving)
    moved = sampled(moving.labels, truth, "nearest")
    assert metrics.dice(fixed.labels > 0, moved > 0)[1] > 0.95
    before, after = metrics.dice(fixed.labels, moving.labels), metrics.dice(fixed.labels, moved)
    # A label map sampled at 2.75 mm and sampled again: thin structures lose a sixth of their voxels even to the truth.
    assert metrics.mean(before.values()) < 0.65 and metrics.mean(after.values()) > 0.86
    brain = fixed.labels > 0
    agreement = [
        np.corrcoef(fixed.image[brain], image[brain])[0, 1] for image in (moving.image, sampled(moving.image, truth))
    ]
    assert agreement[1] > agreement[0] + 0.1


def test_without_nilearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    phantom._template.cache_clear()
    with pytest.raises(InputError, match=r"fastreg\[demo\]"):
        phantom.subject(0)
