"""The optimisation by every metric, regularity and mask: a known deformation is found, and nothing folds."""

import pytest
import torch
import torch.nn.functional as F
from helpers.textured import head

import fastreg
from fastreg.evaluation.metrics import regularity
from fastreg.geometry import fields
from fastreg.geometry.fields import jacobian_determinant
from fastreg.registration.deformable import deform
from fastreg.registration.stages import METRICS, REGULARITIES, Stage

SIZES = [(36, 32, 40), (64, 72)]
STAGES = (Stage(2, 40), Stage(1, 10))


def known(size, amplitude=3.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(size), *[4] * len(size), generator=generator)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    velocity = F.interpolate(coarse, size=size, mode=mode, align_corners=True)
    return fields.integrate(amplitude * velocity / velocity.abs().max(), padding="border")


@pytest.fixture(params=SIZES, ids=str)
def pair(request):
    """fixed, moving, and what brings the one to the other."""
    moving = torch.from_numpy(head(request.param, 0, 2))[None, None]
    truth = known(request.param)
    return fastreg.warp(moving, truth, padding="border"), moving, truth


def bent(image):
    """Another contrast: neither rising nor falling."""
    return 0.3 + 1.5 * (image - image.median()).abs()


def left(found, truth):
    """The share of the displacement that is not found, away from the border."""
    inner = (..., *[slice(6, -6)] * (truth.ndim - 2))
    return float((found.flow - truth)[inner].norm(dim=1).mean() / truth[inner].norm(dim=1).mean())


@pytest.mark.parametrize("bidir", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_finds_a_known_deformation(pair, metric, bidir):
    """Those that are for other contrasts in another contrast."""
    fixed, moving, truth = pair
    seen = fixed if metric in ("lncc", "mse") else bent(fixed)
    found = deform(seen, moving, stages=STAGES, metric=metric, bidir=bidir)
    assert left(found, truth) < (0.65 if metric == "mind" else 0.5)
    assert (jacobian_determinant(found.flow, scheme="least") > 0).all()
    if bidir:
        assert (jacobian_determinant(found.inverse_flow, scheme="least") > 0).all()
        assert fields.compose(found.flow, found.inverse_flow).norm(dim=1).max() < 0.1


def test_a_contrast_needs_its_metric(pair):
    """Where local correlation is led astray, mapping one image into the other's contrast is not."""
    fixed, moving, truth = pair
    other = deform(bent(fixed), moving, stages=STAGES, metric="lncc")
    mapped = deform(bent(fixed), moving, stages=STAGES, metric="remap")
    swapped = deform(fixed, bent(moving), stages=STAGES, metric="remap")
    assert max(left(mapped, truth), left(swapped, truth)) < 0.5 * left(other, truth)
    (
        torch.testing.assert_close(mapped.moved, fastreg.warp(moving, mapped.flow)),
        "the moved image is in its own contrast",
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_regularities_are_in_order(size):
    """Different images: the closer, the more volumes change."""
    fixed, moving = (torch.from_numpy(head(size, seed, 2))[None, None] for seed in (0, 3))
    spread = []
    for name in ("close", "default", "smooth"):
        found = deform(fixed, moving, stages=STAGES, regularity=name)
        spread.append(regularity(found.flow)["sdlogj"])
        assert (jacobian_determinant(found.flow, scheme="least") > 0).all()
    assert list(REGULARITIES) == ["close", "default", "smooth"]
    assert spread[0] > 1.02 * spread[1] and spread[1] > 1.02 * spread[2]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("weight", ["volume", "smoothness"])
def test_the_heavier_a_weight_the_less_volumes_change(size, weight):
    fixed, moving = (torch.from_numpy(head(size, seed, 2))[None, None] for seed in (0, 3))
    spread = [
        regularity(deform(fixed, moving, stages=STAGES, **{weight: value}).flow)["sdlogj"] for value in (0.1, 1.0, 10.0)
    ]
    assert spread[0] > 1.1 * spread[1] > 1.1**2 * spread[2]


def test_a_window_of_the_stage_is_what_is_compared(pair):
    """A stage's own window is used, and the wide default is another one."""
    fixed, moving, _ = pair
    flows = [deform(fixed, moving, stages=(Stage(2, 10, window),)).flow for window in (None, 9, 3)]
    assert torch.equal(flows[0], flows[1]), "at this size the default is the narrowest, 9"
    assert not torch.equal(flows[1], flows[2])


def test_masks_pull_as_hard_whatever_their_share(pair):
    """With half of the voxels the deformation there is found as well, in both directions too."""
    fixed, moving, truth = pair
    mask = torch.zeros_like(fixed)
    mask[:, :, : fixed.shape[2] * 2 // 3] = 1
    spoiled = torch.where(mask > 0, fixed, torch.rand(fixed.shape))
    inner = (..., slice(6, fixed.shape[2] // 2), *[slice(6, -6)] * (fixed.ndim - 3))
    for bidir in (False, True):
        found = deform(spoiled, moving, stages=STAGES, mask=mask, bidir=bidir)
        assert (found.flow - truth)[inner].norm(dim=1).mean() < 0.5 * truth[inner].norm(dim=1).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regularity": "soft"}, "regularity must be one of close, default, smooth, got 'soft'"),
        ({"metric": "auto"}, "metric must be one of lncc, remap, mind, mse, mi, got 'auto'"),
        ({"smoothness": -1.0}, "smoothness must be at least 0 and finite, got -1.0"),
        ({"volume": float("inf")}, "volume must be at least 0 and finite, got inf"),
        ({"volume": float("nan")}, "volume must be at least 0 and finite, got nan"),
    ],
)
def test_wrong_options_are_one_line(change, message):
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=message) as error:
        deform(image, image, **change)
    assert "\n" not in str(error.value)
