import math

import numpy as np
import pytest
import torch

import fastreg
from fastreg.geometry import fields
from fastreg.geometry.fields import jacobian_determinant
from fastreg.registration.deformable import Progress, deform
from fastreg.registration.stages import STAGES, Stage, read_stages
from fastreg.utils.files import InputError

SMALL = (Stage(2, 40), Stage(1, 20))


def texture(size, seed=0):
    """A smooth random image in about [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *[max(3, n // 5) for n in size], generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="trilinear" if len(size) == 3 else "bilinear")


def known(size, amplitude, seed=1):
    """A smooth diffeomorphism of some voxels and its inverse."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(size), *[4] * len(size), generator=generator)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    velocity = torch.nn.functional.interpolate(coarse, size=size, mode=mode, align_corners=True)
    velocity = amplitude * velocity / velocity.abs().max()
    return fields.integrate(velocity, padding="border"), fields.integrate(-velocity, padding="border")


@pytest.mark.parametrize("size", [(40, 36, 44), (64, 72)])
@pytest.mark.parametrize("metric", ["lncc", "mse"])
def test_finds_a_known_deformation(size, metric):
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    smoothness = 0.3 if metric == "lncc" else 0.003
    found = deform(fixed, moving, stages=SMALL, metric=metric, smoothness=smoothness)
    inner = (..., *[slice(6, -6)] * len(size))
    before, after = (x[inner].norm(dim=1).mean() for x in (truth, found.flow - truth))
    assert after < 0.35 * before
    assert fastreg.lncc(found.moved, fixed) > 0.9
    assert (jacobian_determinant(found.flow) > 0).all()
    assert torch.equal(found.moved, fastreg.warp(moving, found.flow))


def test_inverse_is_the_inverse():
    size = (36, 40, 36)
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    found = deform(fixed, moving, stages=SMALL, smoothness=0.3, inverse=True)
    inner = (..., slice(6, -6), slice(6, -6), slice(6, -6))
    assert fields.compose(found.flow, found.inverse_flow)[inner].abs().max() < 0.3
    assert fastreg.lncc(found.moved_back, moving)[()] > 0.85


def test_starts_from_a_flow_and_improves_it():
    size = (36, 40, 36)
    moving = texture(size)
    truth, _ = known(size, 4.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    start = 0.7 * truth
    found = deform(fixed, moving, flow=start, stages=(Stage(1, 15),), smoothness=0.3)
    assert (found.flow - truth).norm(dim=1).mean() < 0.7 * (start - truth).norm(dim=1).mean()


def test_nothing_to_do_changes_nothing():
    image = texture((24, 24, 24))
    assert deform(image, image, stages=SMALL).flow.abs().mean() < 0.1  # Adam takes steps from noise, small ones
    untouched = deform(image, image, stages=())
    assert torch.equal(untouched.flow, torch.zeros(1, 3, 24, 24, 24)) and torch.equal(untouched.moved, image)


def test_a_mask_says_where_it_counts():
    """Outside the mask the fixed image is noise; inside, the deformation is found all the same."""
    size = (40, 40, 40)
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    mask = torch.zeros_like(fixed)
    mask[..., :24] = 1
    spoiled = torch.where(mask > 0, fixed, torch.rand(fixed.shape))
    inside = (..., slice(6, -6), slice(6, -6), slice(6, 16))

    def error(found):
        return (found.flow - truth)[inside].norm(dim=1).mean()

    with_mask = error(deform(spoiled, moving, stages=SMALL, smoothness=0.3, mask=mask))
    assert with_mask < 0.4 * truth[inside].norm(dim=1).mean()


def test_deterministic_and_told():
    fixed, moving = texture((24, 28, 24)), texture((24, 28, 24), seed=5)
    told: list[Progress] = []
    first = deform(fixed, moving, stages=SMALL, on_progress=told.append)
    assert torch.equal(first.flow, deform(fixed, moving, stages=SMALL).flow)
    assert [p.factor for p in told] == [2, 1] and all(p.iterations >= 1 and math.isfinite(p.loss) for p in told)


def test_a_plateau_ends_a_stage():
    fixed, moving = texture((24, 24, 24)), texture((24, 24, 24), seed=3)
    told: list[Progress] = []
    deform(fixed, moving, stages=(Stage(2, 200),), tolerance=0.05, on_progress=told.append)
    assert told[0].iterations < 200
    told.clear()
    deform(fixed, moving, stages=(Stage(2, 30),), tolerance=0, on_progress=told.append)
    assert told[0].iterations == 30


def test_thin_and_odd_images():
    for size in ((17, 1, 23), (5, 7, 33), (9, 64)):
        found = deform(texture(size), texture(size, seed=3), stages=(Stage(4, 3), Stage(1, 3)))
        assert found.flow.shape == (1, len(size), *size) and found.flow.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": torch.zeros(1, 1, 8, 8, 9)}, "moving must lie on the grid of fixed"),
        ({"flow": torch.zeros(1, 3, 8, 8, 9)}, "flow must lie on the grid of fixed"),
        ({"metric": "ssd"}, "metric must be one of lncc, remap, mind, mse, mi, got 'ssd'"),
    ],
)
def test_wrong_arguments(change, message):
    image = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ValueError, match=message):
        deform(**{"fixed": image, "moving": image, **change})


@pytest.mark.slow
def test_real_pair_in_seconds(real_data):
    """The coarse stages alone bring a real pair far beyond what it was; see docs/register.md for the whole."""
    import json

    from fastreg.evaluation.metrics import dice, mean
    from fastreg.io.images import load_labels
    from fastreg.registration.pairwise import register

    pair = real_data / "pair"
    found = register(
        pair / "subject_a_t1.nii.gz", pair / "subject_b_t1.nii.gz", affine=False, stages=(Stage(4, 60), Stage(2, 30))
    )
    labels = json.loads((pair / "labels30.json").read_text())
    labels = labels if isinstance(labels, list) else next(iter(labels.values()))
    fixed = load_labels(pair / "subject_a_labels.nii.gz").data
    moved = found.apply(load_labels(pair / "subject_b_labels.nii.gz")).data
    assert mean(dice(fixed, moved, labels).values()) > 0.745
    assert (np.asarray(found.warp.jacobian()) <= 0).mean() < 1e-4


def contrast(image):
    """Another modality: inverted, and bent so that no line maps the one onto the other."""
    return (1 - image).square() * 0.7 + 0.3 * torch.exp(-((image - 0.7) ** 2) / 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 36, 44), (64, 72)])
def test_mutual_information_across_contrasts(size):
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = contrast(fastreg.warp(moving, truth, padding="border"))
    found = deform(fixed, moving, stages=SMALL, metric="mi")
    inner = (..., *[slice(6, -6)] * len(size))
    before, after = (x[inner].norm(dim=1).mean() for x in (truth, found.flow - truth))
    assert after < 0.4 * before
    assert (jacobian_determinant(found.flow) > 0).all()
    by_squares = deform(fixed, moving, stages=SMALL, metric="mse")
    assert (by_squares.flow - truth)[inner].norm(dim=1).mean() > before  # the task needs mutual information


@pytest.mark.parametrize("bidir", [False, True])
def test_there_and_back_is_the_identity(bidir):
    """To a twentieth of a voxel, wherever the inverse leads into the fixed image."""
    size = (36, 40, 36)
    moving = texture(size)
    truth, _ = known(size, 4.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    found = deform(fixed, moving, stages=SMALL, smoothness=0.3, inverse=not bidir, bidir=bidir)
    left = fields.compose(found.flow, found.inverse_flow).norm(dim=1)
    assert left.max() < 0.05
    assert torch.equal(found.moved_back, fastreg.warp(fixed, found.inverse_flow))


@pytest.mark.slow
def test_both_directions_count():
    """A structure that one image lacks: compared on both grids, neither of the images is preferred."""
    size = (40, 36, 40)
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    one = deform(fixed, moving, stages=SMALL, smoothness=0.3, inverse=True)
    both = deform(fixed, moving, stages=SMALL, smoothness=0.3, bidir=True)
    inner = (..., *[slice(6, -6)] * 3)
    assert (both.flow - truth)[inner].norm(dim=1).mean() < 0.35 * truth[inner].norm(dim=1).mean()

    def worse_side(found):
        return min(fastreg.lncc(found.moved, fixed), fastreg.lncc(found.moved_back, moving))

    assert worse_side(both) >= worse_side(one) - 1e-3
    swapped = deform(moving, fixed, stages=SMALL, smoothness=0.3, bidir=True)
    apart = (swapped.flow - both.inverse_flow)[inner].norm(dim=1).mean()
    apart_one = (deform(moving, fixed, stages=SMALL, smoothness=0.3).flow - one.inverse_flow)[inner].norm(dim=1).mean()
    assert apart < apart_one  # exchanging the images nearly gives the inverse


@pytest.mark.slow
@pytest.mark.parametrize("bidir", [False, True])
def test_a_mask_of_the_moving_image_counts(bidir):
    size = (28, 28, 32)
    moving = texture(size)
    truth, _ = known(size, 3.0)
    fixed = fastreg.warp(moving, truth, padding="border")
    mask = torch.zeros_like(moving)
    mask[..., :18] = 1
    spoiled = torch.where(mask > 0, moving, texture(size, seed=9))
    inside = (..., slice(5, -5), slice(5, -5), slice(5, 14))
    given = {"stages": SMALL, "smoothness": 0.3, "bidir": bidir}
    errors = [
        (deform(fixed, spoiled, moving_mask=m, **given).flow - truth)[inside].norm(dim=1).mean() for m in (mask, None)
    ]
    assert errors[0] < 0.4 * truth[inside].norm(dim=1).mean()
    assert errors[0] < errors[1]


@pytest.mark.slow
def test_folds_between_the_stages_are_mended():
    size = (36, 40, 36)
    fixed, moving = texture(size), texture(size, seed=7)  # nothing in common: wild fields
    wild = {"stages": SMALL, "smoothness": 0.7, "tolerance": 0}
    as_found, mended = deform(fixed, moving, unfold=False, **wild), deform(fixed, moving, **wild)
    for scheme in ("central", "least"):  # in the middle of voxels, and at every corner
        before, after = ((jacobian_determinant(x.flow, scheme=scheme) <= 0).sum() for x in (as_found, mended))
        assert before > 0 and after == 0
    same = (as_found.flow == mended.flow).all(1).float().mean()
    assert 0.5 < same < 1


def test_levels_as_a_user_writes_them():
    assert read_stages("3") == STAGES
    assert read_stages("1") == (Stage(1, 60),)
    assert [(s.factor, s.iterations) for s in read_stages("4")] == [(8, 60), (4, 40), (2, 40), (1, 10)]
    assert [(s.factor, s.iterations) for s in read_stages(" 4x60, 2x0")] == [(4, 60), (2, 0)]
    for wrong in ("", "0", "7", "4x", "0x3", "four", "4x60;2x40", "-1"):
        with pytest.raises(InputError, match="levels: expected 1 to 6, or factors and iterations"):
            read_stages(wrong)
