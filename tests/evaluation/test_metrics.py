import itertools
import math

import numpy as np
import pytest
import torch

from fastreg.evaluation import metrics


def blobs(seed, shape=(11, 13, 9), labels=(0, 3, 7, 41)):
    """A blocky random label map."""
    coarse = np.random.default_rng(seed).choice(labels, [length // 3 + 1 for length in shape])
    return np.kron(coarse, np.ones([3] * len(shape), int))[tuple(slice(length) for length in shape)]


def affine_field(matrix, shape):
    """The displacement of p -> matrix p, [ndim, ...]."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    return np.einsum("ij,j...->i...", matrix - np.eye(len(shape)), grid)


# ---------------------------------------------------------------- Dice


@pytest.mark.parametrize("shape", [(11, 13, 9), (17, 12)])
def test_dice_is_the_definition(shape):
    a, b = blobs(0, shape), blobs(1, shape)
    found = metrics.dice(a, b)
    assert list(found) == [3, 7, 41]
    for label, value in found.items():
        assert value == 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())


def test_dice_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    a, b = blobs(0), blobs(1)
    oracle = sitk.LabelOverlapMeasuresImageFilter()
    oracle.Execute(sitk.GetImageFromArray(a), sitk.GetImageFromArray(b))
    for label, value in metrics.dice(a, b).items():
        assert value == pytest.approx(oracle.GetDiceCoefficient(label), abs=1e-12)


def test_dice_of_absent_labels_and_any_type():
    a, b = np.array([[1, 1, 0, 5]]), np.array([[1, 0, 0, 0]])
    found = metrics.dice(a.astype(np.uint8), torch.from_numpy(b).float(), labels=[9, 5, 1])
    assert list(found) == [9, 5, 1]
    assert math.isnan(found[9]) and found[5] == 0 and found[1] == 2 / 3
    huge = 2**24 + 1
    assert metrics.dice(a * huge, b * huge, [huge, huge + 1])[huge] == 2 / 3
    assert metrics.dice(np.zeros((2, 2)), np.zeros((2, 2))) == {}
    assert metrics.dice(np.zeros((2, 2)), np.zeros((2, 2)), [4]).keys() == {4}


def test_dice_refuses_what_is_no_pair_of_label_maps():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(2, 3\)"):
        metrics.dice(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="whole numbers"):
        metrics.dice(np.full((2, 2), 0.5), np.zeros((2, 2)))


def test_learn2reg_dice_ignores_what_either_input_lacks():
    fixed, moved, moving = np.array([1, 2, 3, 0]), np.array([1, 2, 0, 4]), np.array([1, 0, 3, 4])
    found = metrics.learn2reg_dice(fixed, moved, moving)
    assert list(found) == [1, 2, 3]
    assert found[1] == 1 and math.isnan(found[2]) and found[3] == 0
    assert metrics.mean(found.values()) == 0.5
    assert math.isnan(metrics.mean([math.nan]))


# ---------------------------------------------------------------- HD95


def brute_surface(mask):
    """Coordinates of voxels with a face outside the mask."""
    points = []
    for p in np.argwhere(mask):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            q = p.copy()
            q[axis] += step
            if q[axis] < 0 or q[axis] >= mask.shape[axis] or not mask[tuple(q)]:
                points.append(p)
                break
    return np.array(points)


@pytest.mark.parametrize(("shape", "spacing"), [((11, 13, 9), (1.0, 0.5, 3.0)), ((17, 12), (1.0, 1.0))])
def test_hd95_is_the_definition(shape, spacing):
    a, b = blobs(2, shape), blobs(3, shape)
    found = metrics.hd95(a, b, spacing)
    assert set(found) == {3, 7, 41}
    for label, value in found.items():
        pa, pb = brute_surface(a == label) * spacing, brute_surface(b == label) * spacing
        between = np.linalg.norm(pa[:, None] - pb[None], axis=-1)
        directed = np.percentile(between.min(1), 95), np.percentile(between.min(0), 95)
        assert value == pytest.approx(max(directed), abs=1e-9)


def test_hausdorff_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    a, b = np.zeros((12, 14, 16), np.uint8), np.zeros((12, 14, 16), np.uint8)
    a[1:5, 2:6, 3:7], b[6:11, 8:13, 9:15] = 1, 1
    images = [sitk.GetImageFromArray(x) for x in (a, b)]
    for image in images:
        image.SetSpacing((2.0, 1.5, 0.75))  # x, y, z
    oracle = sitk.HausdorffDistanceImageFilter()
    oracle.Execute(*images)
    assert metrics.hd95(a, b, (0.75, 1.5, 2.0), percentile=100)[1] == pytest.approx(oracle.GetHausdorffDistance())


def test_hd95_of_shifted_identical_and_absent():
    a = np.zeros((20, 20, 20), int)
    a[5:10, 5:10, 5:10] = 2
    assert metrics.hd95(a, a, (1, 1, 1)) == {2: 0.0}
    assert metrics.hd95(a, np.roll(a, 3, 0), (2.5, 1, 1))[2] == 7.5
    assert math.isnan(metrics.hd95(a, a * 0, (1, 1, 1), [2])[2])
    with pytest.raises(ValueError, match="spacing_mm must have 3 values"):
        metrics.hd95(a, a, (1, 1))


# ---------------------------------------------------------------- Jacobian


def test_folds_and_sdlogj_of_known_determinants():
    det = np.array([[[2.0, 1.0], [0.0, -1.0]], [[np.nan, 4.0], [1.0, 1.0]]])
    mask = np.array([[[1, 1], [1, 0]], [[0, 1], [0, 0]]])
    assert metrics.folds(det) == metrics.Folds(3, 8)
    assert metrics.folds(det, mask) == metrics.Folds(1, 4) and metrics.folds(det, mask).fraction == 0.25
    assert math.isnan(metrics.folds(det, mask * 0).fraction)
    assert metrics.sdlogj(det) == pytest.approx(np.std(np.log([2, 1, 4, 1, 1])))
    assert metrics.sdlogj(torch.from_numpy(det), torch.from_numpy(mask)) == pytest.approx(np.std(np.log([2, 1, 4])))
    assert math.isnan(metrics.sdlogj(np.full((2, 2), -1.0)))


def test_mask_covers_the_smaller_grid_of_forward_differences():
    det = -np.ones((2, 3, 4))
    mask = np.zeros((3, 4, 5))
    mask[1, 2, 3] = mask[2, 3, 4] = 1
    assert metrics.folds(det, mask) == metrics.Folds(1, 1)
    with pytest.raises(ValueError, match="mask"):
        metrics.folds(det, np.ones((5, 4, 5)))


def learn2reg_oracle(u, mask=None):
    """The challenge's definition, written with NumPy alone: zero outside, so the two border voxels are cut."""
    grad = np.zeros((3, 3, *u.shape[1:]))
    for c, k in itertools.product(range(3), range(3)):
        ahead, behind = np.roll(u[c], -1, k), np.roll(u[c], 1, k)
        grad[c, k] = (ahead - behind) / 2 + (c == k)
    det = np.linalg.det(np.moveaxis(grad, (0, 1), (-2, -1)))[2:-2, 2:-2, 2:-2]
    hidden = np.zeros_like(det) if mask is None else 1 - mask[2:-2, 2:-2, 2:-2]
    return np.ma.MaskedArray(np.log(np.clip(det + 3, 1e-9, 1e9)), hidden).std()


def test_regularity_of_a_random_field():
    u = np.random.default_rng(4).normal(size=(3, 9, 8, 7))
    mask = np.random.default_rng(5).random((9, 8, 7)) > 0.5
    found = metrics.regularity(u, mask)
    assert found["learn2reg_sdlogj"] == pytest.approx(learn2reg_oracle(u), rel=1e-10)
    assert found["learn2reg_sdlogj_mask"] == pytest.approx(learn2reg_oracle(u, mask), rel=1e-10)
    forward = np.stack([np.diff(u, axis=k + 1)[:, :8, :7, :6] for k in range(3)], 1)
    det = np.linalg.det(np.moveaxis(forward, (0, 1), (-2, -1)) + np.eye(3))
    assert (found["folds_forward"], found["folds_forward_of"]) == ((det <= 0).sum(), 8 * 7 * 6)
    inside = mask[:8, :7, :6]
    assert (found["folds_forward_mask"], found["folds_forward_mask_of"]) == ((det[inside] <= 0).sum(), inside.sum())
    central = np.stack([np.gradient(u, axis=k + 1) for k in range(3)], 1)
    det = np.linalg.det(np.moveaxis(central, (0, 1), (-2, -1)) + np.eye(3))
    assert (found["folds_central"], found["folds_central_of"]) == ((det <= 0).sum(), 9 * 8 * 7)
    assert found["sdlogj"] == pytest.approx(np.log(det[det > 0]).std())
    assert found["sdlogj_mask"] == pytest.approx(np.log(det[mask & (det > 0)]).std())


def test_regularity_of_an_affine_map_is_zero():
    field = affine_field(np.array([[1.2, 0.1], [-0.3, 0.9]]), (12, 10))
    found = metrics.regularity(torch.from_numpy(field)[None])
    assert found["folds_central"] == found["folds_forward"] == 0
    assert found["sdlogj"] == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- errors in mm


@pytest.mark.parametrize("ndim", [2, 3])
def test_tre_of_an_affine_map(ndim):
    rng = np.random.default_rng(6)
    shape, spacing = (12, 9, 10)[:ndim], (0.7, 2.0, 3.0)[:ndim]
    matrix = np.eye(ndim) + rng.normal(size=(ndim, ndim)) * 0.1
    fixed = rng.random((5, ndim)) * (np.array(shape) - 1)
    offset = rng.normal(size=(5, ndim))
    field = affine_field(matrix, shape)
    errors = metrics.tre(fixed, fixed @ matrix.T + offset, field, spacing)
    np.testing.assert_allclose(errors, np.sqrt(((offset * spacing) ** 2).sum(1)), atol=1e-9)
    np.testing.assert_allclose(
        metrics.tre(fixed, fixed + offset, None, spacing), np.sqrt(((offset * spacing) ** 2).sum(1))
    )


def test_tre_outside_the_grid_and_of_no_points():
    field = np.zeros((3, 4, 4, 4))
    field[0, -1] = 2.0
    assert metrics.tre([[9.0, 1, 1]], [[11.0, 1, 1]], field, (1, 1, 1)) == [0.0]
    assert metrics.tre(np.zeros((0, 3)), np.zeros((0, 3)), field, (1, 1, 1)).shape == (0,)
    with pytest.raises(ValueError, match="points must be"):
        metrics.tre(np.zeros((2, 3)), np.zeros((3, 3)), field, (1, 1, 1))


def test_endpoint_error():
    truth = np.zeros((3, 4, 5, 6), np.float32)
    flow = truth.copy()
    flow[0], flow[2, 1] = 3.0, 2.0
    mask = np.zeros((4, 5, 6))
    mask[1, 0, 0] = 1
    assert metrics.endpoint_error(flow, truth, (1, 1, 2)).shape == (120,)
    np.testing.assert_allclose(metrics.endpoint_error(flow, torch.from_numpy(truth)[None], (1, 1, 2), mask), [5.0])
    with pytest.raises(ValueError, match="one shape"):
        metrics.endpoint_error(flow, truth[:, :3], (1, 1, 2))
    with pytest.raises(ValueError, match=r"flow must be \[3, D, H, W\]"):
        metrics.endpoint_error(truth[0], truth[0], (1, 1, 2))
