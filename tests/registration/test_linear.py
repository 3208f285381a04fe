import itertools

import numpy as np
import pytest
import torch
from helpers.textured import head
from scipy import ndimage

from fastreg.evaluation import metrics
from fastreg.geometry.image import Image
from fastreg.geometry.resample import reorient, resample_to_grid
from fastreg.geometry.transforms import Affine, apply
from fastreg.io.images import load_image, load_labels
from fastreg.registration.linear.align import KINDS, align, find_alignment
from fastreg.registration.linear.objective import METRICS, generators
from fastreg.utils.files import InputError

CENTRE = np.array([40.0, -20.0, 15.0])
FAST = {"levels_mm": (8, 4), "init": "mass"}


def scene(affine: np.ndarray, shape: tuple[int, ...], world: np.ndarray | None = None) -> Image:
    """Blobs about CENTRE, seen on any grid; `world` maps the grid's RAS mm to those of the blobs."""
    rng = np.random.default_rng(1)
    places = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) @ affine[:3, : len(shape)].T
    places = places + affine[:3, 3]
    if world is not None:
        places = places @ world[:3, :3].T + world[:3, 3]
    data = np.zeros(shape)
    for _ in range(60):
        middle, width = CENTRE + rng.uniform(-32, 32, 3) * [1, 1.2, 0.8], rng.uniform(4, 8)
        if len(shape) == 2:
            middle[2] = 0
        data += rng.uniform(40, 100) * np.exp(-((places - middle) ** 2).sum(-1) / (2 * width**2))
    return Image(data.astype(np.float32), affine)


def grid(shape: tuple[int, ...], spacing: tuple[float, ...], signs=(1, 1, 1), order=(0, 1, 2)) -> np.ndarray:
    """The affine of a grid about CENTRE whose axes are flipped by `signs` and point along world axes `order`."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.array(spacing, float) * signs)[np.argsort(order)]
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def known(kind: str) -> np.ndarray:
    """A map of the kind about CENTRE: 6 to 9 mm, up to 12 degrees, 8 %."""
    linear = np.eye(3)
    if kind != "translation":
        amounts = np.deg2rad([12, -6, 8])
        tangent = np.einsum("k,kij->ij", amounts, generators("rigid", 3) / np.sqrt(1.5))
        linear = torch.linalg.matrix_exp(torch.from_numpy(tangent)).numpy()
    linear = linear * {"similarity": 1.08, "affine": 1.0}.get(kind, 1.0)
    if kind == "affine":
        linear = linear @ np.array([[1.07, 0.04, 0.0], [0.0, 0.95, -0.03], [0.02, 0.0, 1.02]])
    world = np.eye(4)
    world[:3, :3] = linear
    world[:3, 3] = CENTRE - linear @ CENTRE + [6, -9, 7]
    return world


def error_mm(found: Affine, truth: np.ndarray) -> float:
    """Largest distance at the corners of a cube of 60 mm about CENTRE."""
    corners = CENTRE + 30 * np.array(list(itertools.product((-1, 1), repeat=3)))
    return float(np.linalg.norm(found(corners) - Affine(truth)(corners), axis=1).max())


SHAPE, MOVING_SHAPE = (52, 60, 48), (36, 64, 72)


def pair(truth: np.ndarray) -> tuple[Image, Image]:
    """The fixed image, and the moving one on another grid, its axes turned; `truth` maps fixed to moving."""
    fixed = scene(grid(SHAPE, (2, 2, 2)), SHAPE)
    affine = grid(MOVING_SHAPE, (3, 2, 2), (-1, 1, -1), (2, 0, 1))
    affine[:3, 3] += truth[:3, :3] @ CENTRE + truth[:3, 3] - CENTRE
    return fixed, scene(affine, MOVING_SHAPE, np.linalg.inv(truth))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_recovers_a_known_map(kind):
    truth = known(kind)
    found = align(*pair(truth), kind=kind, **FAST)
    # The strain costs a hundredth of a scale of 1.08, half a millimetre at 52 mm from the middle.
    assert error_mm(found, truth) < (0.5 if kind in ("translation", "rigid") else 0.8)
    linear = found.matrix[:3, :3]
    if kind == "translation":
        assert np.array_equal(linear, np.eye(3))
    if kind in ("rigid", "similarity"):
        scale = np.cbrt(np.linalg.det(linear))
        assert np.allclose(linear.T @ linear, scale**2 * np.eye(3), atol=1e-9)
        assert kind == "similarity" or scale == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric(metric):
    truth = known("rigid")
    # Descriptors do not turn with the image: alone they stop a voxel short of a turn of 12 degrees, from 15 mm.
    off = 4 if metric == "mind" else 1
    assert error_mm(align(*pair(truth), kind="rigid", metric=metric, **FAST), truth) < off


@pytest.mark.parametrize("codes", ["LPI", "SRA", "AIL", "PSR"])
def test_the_way_an_image_is_stored_does_not_matter(codes):
    """Descriptors look along the axes of their own grid."""
    truth = known("rigid")
    affine = grid(SHAPE, (2, 2, 2))
    fixed = scene(affine, SHAPE)
    there = affine.copy()
    there[:3, 3] += truth[:3, :3] @ CENTRE + truth[:3, 3] - CENTRE
    moving = scene(there, SHAPE, np.linalg.inv(truth))
    given = {"kind": "rigid", "metric": "mind", **FAST}
    as_is = align(fixed, moving, **given)
    assert error_mm(as_is, truth) < 4
    assert error_mm(align(fixed, reorient(moving, codes), **given), as_is.matrix) < 0.01


@pytest.mark.slow
def test_mutual_information_across_contrasts():
    truth = known("rigid")
    fixed, moving = pair(truth)
    inverted = Image(moving.data.max() - moving.data, moving.affine)
    assert error_mm(align(fixed, inverted, kind="rigid", metric="mi", **FAST), truth) < 1


@pytest.mark.slow
def test_header_offset_and_a_large_turn():
    turn = np.deg2rad(35)
    truth = np.eye(4)
    truth[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    truth[:3, 3] = CENTRE - truth[:3, :3] @ CENTRE + [0, 35, 0]
    assert error_mm(align(*pair(truth), kind="rigid", levels_mm=(8, 4)), truth) < 0.5


@pytest.mark.slow
def test_masks_leave_out_what_moved_otherwise():
    truth = known("translation")
    fixed, moving = pair(truth)
    disturbed, masks = [], []
    for image, shift in ((fixed, np.zeros(3)), (moving, np.array([-30.0, 25.0, 0.0]))):
        voxels = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), -1)
        places = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
        blob = np.linalg.norm(places - (CENTRE + np.array([10, -10, 0]) + shift), axis=-1) < 16
        disturbed.append(Image(np.where(blob, 400, image.data).astype(np.float32), image.affine))
        masks.append(Image((~blob).astype(np.uint8), image.affine))
    given = {"kind": "rigid", "metric": "mse", "levels_mm": (8, 4)}
    masked = align(*disturbed, fixed_mask=masks[0], moving_mask=masks[1], **given)
    assert error_mm(masked, truth) < 3  # less than a voxel of the finest level
    assert error_mm(align(*disturbed, **given), truth) > 2 * error_mm(masked, truth)


def test_two_dimensions():
    affine = np.diag([1.5, 1.5, 1.0, 1.0])
    affine[:2, 3] = CENTRE[:2] - 60
    turn, truth = np.deg2rad(15), np.eye(4)
    truth[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    truth[:2, 3] = CENTRE[:2] - truth[:2, :2] @ CENTRE[:2] + [5, -4]
    fixed, moving = scene(affine, (80, 80)), scene(affine, (80, 80), np.linalg.inv(truth))
    found = align(fixed, moving, kind="rigid").matrix
    assert np.allclose(found[2], [0, 0, 1, 0], atol=1e-9) and np.allclose(found[:2, 2], 0, atol=1e-9)
    assert np.allclose(found[:2, :2], truth[:2, :2], atol=0.01)
    at = np.array([*CENTRE[:2], 0, 1])
    assert np.linalg.norm((found - truth) @ at) < 0.5


def turned(degrees: float, scale: float, shift: tuple[float, ...]) -> np.ndarray:
    """About CENTRE and the last axis."""
    angle, world = np.deg2rad(degrees), np.eye(4)
    world[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    world[:3, :3] *= scale
    world[:3, 3] = CENTRE - world[:3, :3] @ CENTRE + shift
    return world


def flat(truth: np.ndarray) -> tuple[Image, Image]:
    """`pair` in the plane; `truth` becomes a map of the plane."""
    shift = truth[:3, :3] @ CENTRE + truth[:3, 3] - CENTRE
    truth[2], truth[:2, 2] = [0, 0, 1, 0], 0
    truth[:2, 3] = CENTRE[:2] - truth[:2, :2] @ CENTRE[:2] + shift[:2]
    affine = np.diag([1.5, 1.5, 1.0, 1.0])
    affine[:2, 3] = CENTRE[:2] - 60
    there = affine.copy()
    there[:2, 3] += shift[:2]
    return scene(affine, (80, 80)), scene(there, (80, 80), np.linalg.inv(truth))


def error_of(found: Affine, truth: np.ndarray, ndim: int) -> float:
    if ndim == 3:
        return error_mm(found, truth)
    corners = np.array([[*CENTRE[:2] + 30 * np.array(sides), 0] for sides in itertools.product((-1, 1), repeat=2)])
    return float(np.linalg.norm(found(corners) - Affine(truth)(corners), axis=1).max())


@pytest.mark.slow
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_large_shift_and_a_turn_of_thirty_degrees(ndim, inverted):
    """In the same contrast and in the inverse one, with no word about which."""
    truth = turned(30, 1, (40, -30, 20))
    fixed, moving = (flat if ndim == 2 else pair)(truth)
    if inverted:
        moving = Image(moving.data.max() - moving.data, moving.affine)
    found = find_alignment(fixed, moving, kind="rigid")
    assert error_of(found.world, truth, ndim) < 0.6
    assert not found.kept_start and found.after > 2 * found.before


@pytest.mark.slow
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_search_finds_a_right_angle_and_a_scale(ndim, inverted):
    truth = turned(90, 1.15, (5, -5, 3))
    fixed, moving = (flat if ndim == 2 else pair)(truth)
    if inverted:
        moving = Image(moving.data.max() - moving.data, moving.affine)
    levels = None if ndim == 2 else (10, 5)  # of 500 turns each costs all shifts
    found = find_alignment(fixed, moving, kind="similarity", init="search", levels_mm=levels)
    assert error_of(found.world, truth, ndim) < (1 if ndim == 2 else 2)


@pytest.mark.parametrize("shape", [(40, 36, 32), (90, 80)], ids=str)
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_images_that_lie_on_each_other_stay(shape, kind):
    image = Image(head(shape, 1, 0.9), np.diag([2.0, 2, 2, 1]))
    found = find_alignment(image, image, kind=kind)
    assert found.after - found.before < 1e-3
    np.testing.assert_allclose(found.world.matrix[:3, :3], np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.world.matrix[:3, 3], 0, atol=0.05)
    assert not found.kept_start or np.array_equal(found.world.matrix, np.eye(4))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_images_with_nothing_in_common_agree_nowhere(seed):
    """Wherever they are put, the figure says so; and where nothing is better they stay where their headers say."""
    rng = np.random.default_rng(seed)
    noises = [ndimage.gaussian_filter(rng.standard_normal((40, 36, 32)), 1.5).astype(np.float32) for _ in range(2)]
    found = find_alignment(*(Image(noise, np.eye(4)) for noise in noises), kind="rigid")
    assert found.before <= found.after < 0.01
    assert found.kept_start == (found.before == found.after)
    assert not found.kept_start or np.array_equal(found.world.matrix, np.eye(4))


def test_a_given_start_is_what_is_kept():
    """And what it is compared with: from the truth nothing leads away."""
    truth = known("rigid")
    found = find_alignment(*pair(truth), kind="rigid", init=Affine(truth), levels_mm=(8, 4))
    assert error_mm(found.world, truth) < 0.5 and found.after >= found.before > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_repeats_bitwise(metric):
    images = pair(known("rigid"))
    first, again = (align(*images, kind="rigid", metric=metric, levels_mm=(8,), seed=3).matrix for _ in range(2))
    assert np.array_equal(first, again)


def test_a_given_start_is_used():
    truth = known("affine")
    found = align(*pair(truth), init=Affine(truth), levels_mm=(4,))
    assert error_mm(found, truth) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "projective"}, "kind: expected one of translation"),
        ({"metric": "ssd"}, "metric: expected one of auto, lncc, mi, mse, mind, got ssd"),
        ({"init": "moments"}, "init: expected one of auto"),
        ({"moving": Image(np.ones((8, 8), np.float32), np.eye(4))}, "moving image: 2-D, but the fixed image is 3-D"),
        ({"moving": Image(np.full((8, 8, 8), 3, np.float32), np.eye(4))}, "moving image: .* constant 3"),
        ({"fixed": Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4))}, "fixed image: .* NaN in every voxel"),
        ({"fixed_mask": Image(np.zeros(SHAPE, np.uint8), grid(SHAPE, (2, 2, 2)))}, "fixed mask: .* got none"),
        ({"init": Affine(np.eye(4) + 900 * np.eye(4, k=3))}, "moving image: it does not overlap"),
    ],
)
def test_errors_are_one_line(change, message):
    fixed, moving = pair(np.eye(4))
    with pytest.raises(InputError, match=message) as error:
        align(**({"fixed": fixed, "moving": moving, "levels_mm": (8,)} | change))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_lung_ct_landmarks(real_data):
    """World coordinates 34 mm apart; the best affine of the landmarks themselves leaves 2.50 mm."""
    folder = real_data / "ct"
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    fixed, moving, fixed_mask, moving_mask = (load_image(folder / f"{name}.nii.gz") for name in names)
    found = align(fixed, moving, fixed_mask=fixed_mask, moving_mask=moving_mask)
    voxels = np.loadtxt(folder / "landmarks_voxels.csv", delimiter=",")
    start, target = Affine(fixed.affine)(voxels[:, :3]), Affine(moving.affine)(voxels[:, 3:])
    assert np.linalg.norm(found(start) - target, axis=1).mean() < 2.9


@pytest.mark.slow
def test_brains_as_scanned(real_data):
    folder = real_data / "raw"
    fixed, moving = (load_image(folder / f"{name}_t1.nii.gz") for name in (1000, 1001))
    fixed_labels, moving_labels = (load_labels(folder / f"{name}_labels.nii.gz") for name in (1000, 1001))

    def dice(moved: Image) -> float:
        return metrics.mean(metrics.dice(fixed_labels.data, moved.data, metrics.labels_of(fixed_labels.data)).values())

    before = dice(resample_to_grid(moving_labels, fixed.affine, fixed.shape, "nearest"))
    after = dice(apply([align(fixed, moving)], moving_labels, fixed.affine, fixed.shape, mode="nearest"))
    assert before < 0.2 and after > 0.405
