"""Visits of one person: nothing where nothing changed, the change that was put in, and no visit preferred."""

import json

import numpy as np
import pytest
from helpers.textured import head

from fastreg.cli import main
from fastreg.geometry.image import Image
from fastreg.geometry.rigid import exponential, logarithm
from fastreg.geometry.transforms import Affine, Warp, apply
from fastreg.io.affines import load_affine
from fastreg.io.images import load_image, save_image
from fastreg.registration.within_subject import _halfway, register_within_subject
from fastreg.utils.files import InputError

SHAPE = (40, 44, 36)
AFFINE = np.diag([2.0, 2, 2, 1])
FAST = {"device": "cpu", "rounds": 1}


def rigid(degrees, shift):
    """About the middle of the grid."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = (AFFINE @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + shift
    return matrix


def scan(seed, moved=None, grows=0.0):
    """One head, perhaps moved, perhaps grown in its middle, with noise of its own."""
    image = Image(100 * head(SHAPE), AFFINE)
    if grows:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1).astype(float)
        apart = index - (np.array(SHAPE) - 1) / 2
        field = -grows * apart * np.exp(-(apart**2).sum(-1, keepdims=True) / (2 * 6.0**2))
        image = apply([Warp(field.astype(np.float32), AFFINE, AFFINE, SHAPE)], image, AFFINE, SHAPE)
    if moved is not None:
        image = apply([Affine(np.linalg.inv(moved))], image, AFFINE, SHAPE, mode="lanczos")
    noise = np.random.default_rng(seed).normal(size=SHAPE) * (1.0 if seed else 0.0)
    return Image((image.data + noise).astype(np.float32), AFFINE)


def true_change(grows):
    """Of the growth that `scan` puts in, about the middle of the grid: a place at radius r came from r (1 - g e)."""
    r = middle()
    e = np.exp(-(r**2) / (2 * 6.0**2))
    return -np.log((1 - grows * e) ** 2 * (1 - grows * e * (1 - r**2 / 36)))


def middle():
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    return np.linalg.norm(index - (np.array(SHAPE) - 1) / 2, axis=-1)


def test_logarithms_of_rigid_maps_are_those_of_matrix_exp():
    rng = np.random.default_rng(0)
    for size in (0, 1e-8, 0.01, 1.0, 2.9):
        axis = rng.normal(size=3)
        w = size * axis / np.linalg.norm(axis)
        twist = np.zeros((4, 4))
        twist[:3, :3] = [[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]
        twist[:3, 3] = rng.normal(size=3) * 20
        np.testing.assert_allclose(logarithm(exponential(twist)), twist, atol=1e-9)


def test_the_middle_of_two_is_halfway():
    there = rigid(20, [3, -4, 5])
    first, other = _halfway([np.eye(4), there])
    np.testing.assert_allclose(other.matrix @ np.linalg.inv(first.matrix), there, atol=1e-12)
    np.testing.assert_allclose(other.matrix @ first.matrix, np.eye(4), atol=1e-9)


def test_identical_scans_stay_as_they_are():
    one = scan(1)
    found = register_within_subject([one, one, one], **FAST)
    for visit in found.visits:
        np.testing.assert_array_equal(visit.log_jacobian.data, 0)
        np.testing.assert_allclose(visit.rigid.matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(found.mean.affine, AFFINE)
    assert found.mean.shape == SHAPE


@pytest.fixture(scope="module")
def grown():
    """Two visits, the second moved and grown in its middle, and the result in either order."""
    visits = [scan(1), scan(2, moved=rigid(6, [3, -2, 1]), grows=0.10)]
    return [register_within_subject(order, regularity="default", **FAST) for order in (visits, visits[::-1])]


@pytest.mark.slow
def test_growth_is_found_and_has_no_first_visit(grown):
    forth, back = grown
    inside, core = forth.mean.data > 0.1, middle() < 4
    change = forth.change(0, 1).data
    assert 0.08 < change[core].mean() < 0.35  # put in: 0.3 in the middle
    rim = inside & (middle() > 9) & (middle() < 12)
    true = true_change(0.10)
    assert 0.25 * (true[core].mean() - true[rim].mean()) < change[core].mean() - change[rim].mean()
    logs = [visit.log_jacobian.data[inside] for visit in forth.visits]
    assert abs(np.mean(logs[0] + logs[1])) < 0.005  # about the middle of both
    apart = change + back.change(0, 1).data  # the visits exchanged: the same, the other way round
    assert np.abs(apart[inside]).mean() < 0.01
    np.testing.assert_allclose(forth.visits[1].rigid.matrix, back.visits[0].rigid.matrix, atol=0.02)


@pytest.mark.slow
def test_rescans_change_nothing():
    found = register_within_subject([scan(3), scan(4, moved=rigid(-4, [1, 2, -2]))], **FAST)
    inside = found.mean.data > 0.1
    change = found.change(0, 1).data[inside]
    assert abs(change.mean()) < 0.005 and change.std() < 0.02
    relative = found.visits[1].rigid.matrix @ np.linalg.inv(found.visits[0].rigid.matrix)
    np.testing.assert_allclose(relative, rigid(-4, [1, 2, -2]), atol=0.5)


@pytest.mark.slow
def test_the_command_writes_what_it_says(tmp_path, capsys):
    for k, options in enumerate(({}, {"moved": rigid(3, [1, 1, 0])}, {})):
        save_image(tmp_path / f"v{k}.nii.gz", scan(k + 1, **options))
    words = ["register", "--within-subject", "-f", tmp_path / "v0.nii.gz", "-m", tmp_path / "v1.nii.gz"]
    words += ["-m", tmp_path / "v2.nii.gz", "-o", tmp_path / "out", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    figures = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {word.split("/")[-1] for word in figures["written"]}
    assert len(figures["written"]) == 1 + 3 * 4 + 2 and [row["from"] for row in figures["changes"]] == [1, 2]
    mean = load_image(tmp_path / "out" / "mean.nii.gz")
    assert load_image(tmp_path / "out" / "change_1_to_2.nii.gz").shape == mean.shape
    load_affine(tmp_path / "out" / "visit2_rigid.mat")
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 1 and "exists; use --overwrite" in capsys.readouterr().err


def test_mistakes_are_lines(tmp_path):
    with pytest.raises(InputError, match="visits: expected at least 2, got 1"):
        register_within_subject([scan(1)])
    with pytest.raises(InputError, match="visit 2: expected 3-D like the first, got 2-D"):
        register_within_subject([scan(1), Image(np.random.default_rng(0).random((9, 9)), np.eye(4))])
    with pytest.raises(InputError, match="masks: expected one for each of 2 visits, got 1"):
        register_within_subject([scan(1), scan(2)], masks=[scan(1)])
