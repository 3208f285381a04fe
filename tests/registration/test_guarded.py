"""Metric and stiffness that the images choose, and the second opinion that chooses."""

import pytest
import torch
import torch.nn.functional as F
from helpers.textured import head

import fastreg
from fastreg.geometry import fields
from fastreg.registration.contrast import ACROSS, WITHIN
from fastreg.registration.deformable import deform
from fastreg.registration.guarded import STIFFER, guarded
from fastreg.registration.opinion import Opinion
from fastreg.registration.stages import Stage

SIZES = [(36, 32, 40), (96, 100)]
STAGES = (Stage(2, 40), Stage(1, 10))


def known(size):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, len(size), *[4] * len(size), generator=generator)
    velocity = F.interpolate(coarse, size=size, mode="trilinear" if len(size) == 3 else "bilinear", align_corners=True)
    return fields.integrate(3 * velocity / velocity.abs().max(), padding="border")


@pytest.fixture(params=SIZES, ids=str)
def pair(request):
    """fixed, moving, and what brings the one to the other."""
    moving, truth = torch.from_numpy(head(request.param, 0, 2))[None, None], known(request.param)
    return fastreg.warp(moving, truth, padding="border"), moving, truth


def left(flow, truth):
    inner = (..., *[slice(6, -6)] * (truth.ndim - 2))
    return float((flow - truth)[inner].norm(dim=1).mean() / truth[inner].norm(dim=1).mean())


def test_an_opinion_is_highest_at_the_truth(pair):
    """1 of an image with itself; whatever the contrast the truth is better than half of it, that than nothing."""
    fixed, moving, truth = pair
    assert Opinion(fixed, fixed).of(None) == pytest.approx(1, abs=1e-3)
    for seen in (fixed, 1.3 - fixed):
        opinion = Opinion(seen, moving)
        assert opinion.of(None) < opinion.of(truth / 2) < opinion.of(truth)
        assert opinion.of(None) == opinion.of(torch.zeros_like(truth))


def test_an_opinion_is_of_what_counts(pair):
    fixed, moving, truth = pair
    mask = torch.ones_like(fixed)
    mask[:, :, :12] = 0
    spoiled = torch.where(mask > 0, fixed, torch.rand(fixed.shape))
    with_mask = Opinion(spoiled, moving, mask).of(truth)
    assert with_mask > Opinion(spoiled, moving).of(truth) + 0.05
    assert Opinion(fixed, moving, torch.zeros_like(mask)).of(truth) == 0
    assert Opinion(fixed, moving).of(torch.full_like(truth, 500.0)) == 0, "nothing of the moving image is seen"


def test_one_contrast_is_as_soft_as_usual(pair):
    """What is found is what `deform` finds: the trial is its first stage."""
    fixed, moving, truth = pair
    found, choice = guarded(fixed, moving, WITHIN, stages=STAGES)
    assert (choice.metric, choice.stiffness) == ("lncc", 1.0) and choice.reason.startswith("agreement x ")
    assert torch.equal(found.flow, deform(fixed, moving, stages=STAGES).flow)
    both, again = guarded(fixed, moving, WITHIN, stages=STAGES, inverse=True)
    assert again == choice and torch.equal(both.flow, found.flow) and both.inverse_flow is not None
    assert left(found.flow, truth) < 0.5


def test_between_contrasts_a_metric_for_them_is_taken_and_the_field_gets_nearer(pair):
    fixed, moving, truth = pair
    bent = 0.3 + 1.5 * (fixed - fixed.median()).abs()
    found, choice = guarded(bent, moving, ACROSS, stages=STAGES)
    assert choice.metric in ("remap", "mind") and left(found.flow, truth) < 0.75 * left(torch.zeros_like(truth), truth)


def test_where_nothing_gains_nothing_is_deformed(pair):
    fixed = pair[0]
    found, choice = guarded(fixed, fixed, WITHIN, stages=STAGES, inverse=True)
    assert choice.metric == "none"
    assert found.flow.eq(0).all() and torch.equal(found.moved, fixed) and found.inverse_flow.eq(0).all()


def test_chance_between_contrasts_is_held(pair):
    """Images with nothing in common, said to be of two contrasts: as stiff as it gets, or not at all."""
    fixed = pair[0]
    other = torch.from_numpy(head(tuple(fixed.shape[2:]), 8, 2))[None, None]
    found, choice = guarded(fixed, other, ACROSS, stages=STAGES)
    assert choice.metric == "none" or choice.stiffness == STIFFER[-1]
    soft = deform(fixed, other, stages=STAGES).flow
    assert found.flow.norm(dim=1).mean() < 0.5 * soft.norm(dim=1).mean()
