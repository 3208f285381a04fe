import csv
import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fastreg.plots import dice, registration, training
from fastreg.utils.files import InputError


def ball(shape):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (1.2 - np.linalg.norm(grid, axis=0)).clip(0)


def picture(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(20, 24, 18), (30, 22)])
def test_registration_figure_and_qc_picture(shape, tmp_path):
    image = ball(shape)
    flow = 0.3 * np.random.default_rng(0).normal(size=(len(shape), *shape)).astype(np.float32)
    labels = (image > 0.6).astype(np.int16)
    registration.registration_figure(
        image,
        np.roll(image, 2, 0),
        image,
        flow,
        tmp_path / "full.png",
        fixed_labels=labels,
        moving_labels=np.roll(labels, 2, 0),
        moved_labels=labels,
        title="ball",
    )
    registration.qc_picture(image, np.roll(image, 2, 0), image, flow, tmp_path / "qc.png", title="ball")
    full, qc = picture(tmp_path / "full.png"), picture(tmp_path / "qc.png")
    assert full.shape[1] > 1.5 * qc.shape[1]
    assert full.std() > 0.05 and qc.std() > 0.05
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full.png", "qc.png"]


def test_moving_is_needed_only_where_it_is_shown(tmp_path):
    image, flow = ball((8, 8)), np.zeros((2, 8, 8))
    registration.qc_picture(image, None, image, flow, tmp_path / "qc.png")
    assert picture(tmp_path / "qc.png").std() > 0.05
    with pytest.raises(ValueError, match="moving must be given"):
        registration.registration_figure(image, None, image, flow, tmp_path / "full.png")


def test_heading_tells_dice_and_folds():
    image = ball((12, 12, 12))
    labels = (image > 0.5).astype(int)
    flow = np.zeros((3, 12, 12, 12), np.float32)
    flow[0, 6] = -5
    view = registration._View.of({"fixed": image, "moving": image, "moved": image}, flow, None, None, None)
    assert (
        registration._heading("a", view, labels, 0 * labels, labels)
        == "a     Dice 0.000 → 1.000     144 of 1728 voxels fold"
    )


def test_folds_are_green(tmp_path):
    image, flow = ball((16, 16)), np.zeros((2, 16, 16), np.float32)
    registration.registration_figure(image, image, image, flow, tmp_path / "a.png", panels=["jacobian"])
    flow[0, 8] = -5
    registration.registration_figure(image, image, image, flow, tmp_path / "b.png", panels=["jacobian"])
    green = [
        (np.abs(picture(tmp_path / name) - np.array([57, 255, 20]) / 255).max(-1) < 0.02).sum()
        for name in ("a.png", "b.png")
    ]
    assert green[0] == 0 and green[1] > 100


def test_the_patients_right_is_on_the_left_whatever_the_axes(tmp_path):
    """A spot at the right, front and top of the head is found there for every way to store it."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt_transform
    from nibabel.orientations import axcodes2ornt as ends_of

    world = np.zeros((9, 11, 13))  # right, anterior, superior
    world[7, 9, 11] = 1
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    for codes in ("RAS", "LPS", "SRA", "AIL", "PSR"):
        turn = ornt_transform(ends_of("RAS"), ends_of(codes))
        stored = apply_orientation(world, turn)
        matrix = affine @ inv_ornt_aff(turn, world.shape)
        images = dict.fromkeys(("fixed", "moving", "moved"), stored)
        view = registration._View.of(images, np.zeros((3, *stored.shape)), None, None, matrix)
        assert view.spacing_mm == pytest.approx((1, 2, 3))
        for plane in view.planes():
            slices = plane.cut(view.images["fixed"])
            assert tuple(np.argwhere(slices)[0]) == (1, 1), codes  # from the top left
            assert (
                plane.letters == {2: ("R", "L", "A", "P"), 1: ("R", "L", "S", "I"), 0: ("A", "P", "S", "I")}[plane.axis]
            )
            np.testing.assert_allclose(
                [plane.height_mm, plane.width_mm], np.array(slices.shape) * np.array(plane.spacing_mm)
            )


def test_the_mesh_of_the_identity_is_straight():
    image = ball((16, 20))
    view = registration._View.of(
        dict.fromkeys(("fixed", "moving", "moved"), image), np.zeros((2, 16, 20)), None, (2, 1), None
    )
    drawn = []

    class Axes:
        def contour(self, x, y, values, levels, **_):
            drawn.append((x, y, values, levels))

    registration._mesh(Axes(), view, view.planes()[0], 4)
    (x, y, rows, levels), (_, _, columns, _) = drawn
    assert rows[levels[1] == rows].size == 20 and y[np.argwhere(rows == 4)[0, 0]] == 9
    assert np.ptp(columns, axis=0).max() == 0 and x[np.argwhere(columns == 4)[0, 1]] == 4.5


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 7.0, math.nan, math.inf])
def test_constant_images_and_nan_are_drawn(value, tmp_path):
    image = np.full((8, 9, 10), value)
    flow = np.full((3, 8, 9, 10), value if math.isnan(value) else 0, np.float32)
    registration.registration_figure(
        image, image, image, flow, tmp_path / "a.png", fixed_labels=np.zeros((8, 9, 10), int)
    )
    assert picture(tmp_path / "a.png").size


def test_an_axis_of_one_voxel_is_drawn(tmp_path):
    image = ball((12, 10))[..., None]
    registration.registration_figure(
        image, image, image, np.zeros((3, 12, 10, 1)), tmp_path / "a.png", affine=np.eye(4)
    )
    assert picture(tmp_path / "a.png").std() > 0.05


def test_nothing_stays_behind_after_an_error(tmp_path):
    image, flow = ball((8, 8)), np.zeros((2, 8, 8))
    with pytest.raises(ValueError, match=r"moved must have the flow's shape \(8, 8\), got \(8, 7\)"):
        registration.registration_figure(image, image, image[:, :7], flow, tmp_path / "a.png")
    with pytest.raises(ValueError, match="xyz"):
        registration.registration_figure(image, image, image, flow, tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_matplotlibs_global_state_is_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams), matplotlib.get_backend()
    registration.registration_figure(ball((8, 8)), ball((8, 8)), ball((8, 8)), np.zeros((2, 8, 8)), tmp_path / "a.png")
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == before


def test_loss_curve(tmp_path):
    table = tmp_path / "metrics.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "val_dice", "note"])
        writer.writerows([k, 1 / (k + 1), 0.5 + k / 400 if k % 20 == 0 else "", "text"] for k in range(100))
    training.loss_curve(table, tmp_path / "curve.png")
    assert picture(tmp_path / "curve.png").std() > 0.05
    (tmp_path / "validation.csv").write_text("step,dice,dice_before\n0,0.5,nan\n50,0.7,nan\n")
    assert list(training._curves(tmp_path / "validation.csv")) == ["dice"]
    training.loss_curve(table, tmp_path / "both.png")
    assert not np.array_equal(picture(tmp_path / "both.png"), picture(tmp_path / "curve.png"))
    table.write_text("step,loss\n0,1\n1,oops\n")
    with pytest.raises(InputError, match=r"line 3: could not convert string to float: 'oops'"):
        training.loss_curve(table, tmp_path / "curve.png")
    table.write_text("epoch,loss\n0,1\n")
    with pytest.raises(InputError, match="expected a column step, got epoch, loss"):
        training.loss_curve(table, tmp_path / "curve.png")
    with pytest.raises(InputError, match="no such file"):
        training.loss_curve(tmp_path / "none.csv", tmp_path / "curve.png")


def test_running_mean_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(1).random(30)
    expected = [values[max(0, k - 4) : k + 5].mean() for k in range(30)]
    np.testing.assert_allclose(training._running_mean(values, 4), expected)


def test_dice_boxplot(tmp_path):
    rng = np.random.default_rng(2)
    before = {name: rng.random(9) * 0.5 for name in ("cortex", "ventricle")} | {"absent": [math.nan]}
    after = {name: 0.5 + rng.random(9) * 0.5 for name in ("cortex", "ventricle")} | {"absent": [math.nan]}
    dice.dice_boxplot({"before": before, "after": after}, tmp_path / "box.png", title="demo")
    assert picture(tmp_path / "box.png").std() > 0.05
    one = {name: values[:1] for name, values in after.items()}
    dice.dice_boxplot({"before": before, "a": after, "b": one, "c": after}, tmp_path / "more.png")
    assert picture(tmp_path / "more.png").shape[0] > picture(tmp_path / "box.png").shape[0]


def test_sweep_curve(tmp_path):
    rows = [
        {
            "lambda": weight,
            "dice": 0.6 - (weight - 1) ** 2 / 10,
            "dice_before": 0.4,
            "folds_percent": 1 / (weight + 0.5),
        }
        for weight in (0, 0.5, 1, 2)
    ]
    training.sweep_curve(rows, tmp_path / "sweep.png")
    assert picture(tmp_path / "sweep.png").std() > 0.05
