"""Several channels, label maps and landmarks that lead a registration, each where the images alone would not do."""

import numpy as np
import pytest
import torch

import fastreg
from fastreg.cli import main
from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.io.images import save_image
from fastreg.nn.losses import LNCC
from fastreg.registration.deformable import deform
from fastreg.registration.landmarks import Landmarks
from fastreg.registration.levels import Level
from fastreg.registration.linear.align import find_alignment
from fastreg.registration.stages import Stage
from fastreg.registration.terms import Joint, PointTerm, Term
from fastreg.utils.files import InputError

SIZE = (72, 80)
STAGES = (Stage(2, 60), Stage(1, 40))


def shifts(size=SIZE):
    """A smooth displacement, [1, 2, X, Y]."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    bump = np.exp(-2.5 * (x**2 + y**2))
    return torch.from_numpy(np.stack([3.0 * bump, -2.5 * bump]).astype(np.float32))[None]


def stripes(axis, place):
    """An image that varies along one axis alone, at displaced places."""
    return 0.5 + 0.3 * torch.sin(place[:, [axis]] / 2.1) + 0.2 * torch.cos(place[:, [axis]] / 3.7)


def places(size=SIZE):
    index = torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij")
    return torch.stack(index)[None]


def striped(axis):
    """Fixed and moving, [1, 1, X, Y]: the moving one is looked at where the field leads."""
    return stripes(axis, places() + shifts()), stripes(axis, places())


def error(flow):
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    return (flow - shifts())[inside].abs().mean((0, 2, 3))


def test_each_channel_brings_what_it_shows():
    (fixed, moving), (other_fixed, other_moving) = striped(0), striped(1)
    alone = error(deform(fixed, moving, stages=STAGES, metric="mse").flow)
    both = error(
        deform(fixed, moving, stages=STAGES, metric="mse", terms=[Term(other_fixed, other_moving, "mse")]).flow
    )
    assert alone[0] < 0.25 and alone[1] > 0.5  # stripes do not say how far along themselves
    assert both.max() < 0.25


def test_weights_say_whom_to_believe():
    fixed, moving = striped(0)
    liar = stripes(0, places() - shifts()), stripes(0, places())
    trusted = error(deform(fixed, moving, stages=STAGES, metric="mse", terms=[Term(*liar, "mse", 0.02)]).flow)
    doubted = error(
        deform(fixed, moving, stages=STAGES, metric="mse", weight=0.02, terms=[Term(*liar, "mse", 1.0)]).flow
    )
    assert trusted[0] < 0.3 and doubted[0] > 1.0


def test_a_mask_of_a_channel_hides_it():
    fixed, moving = striped(0)
    liar = stripes(0, places() - shifts()), stripes(0, places())
    nowhere = torch.zeros_like(fixed)
    nowhere[:, :, :4] = 1
    found = error(deform(fixed, moving, stages=STAGES, metric="mse", terms=[Term(*liar, "mse", mask=nowhere)]).flow)
    assert found[0] < 0.3


def test_a_term_twice_is_the_loss_of_one():
    rng = np.random.default_rng(0)
    fixed, moving = (torch.from_numpy(rng.random((1, 1, 20, 22), dtype=np.float32)) for _ in range(2))
    velocity = torch.from_numpy(rng.normal(size=(1, 2, 20, 22)).astype(np.float32))
    level = Level.of(fixed, moving, None, None, None, None, 1, "intensities")
    joint = Joint.of(level, "lncc", [Term(fixed, moving, "lncc", 3.0)], None, None, None, 1, 9, 2.0)
    loss = LNCC(9)
    torch.testing.assert_close(joint.loss(velocity, loss), level.loss(velocity, loss))


def test_landmarks_gradient_is_that_of_their_distance():
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 14, 15, dtype=torch.float64, generator=rng)
    points = PointTerm(
        torch.tensor([[6.2, 7.4], [4.0, 9.5]]).double(), torch.tensor([[7.9, 6.6], [4.4, 11.0]]).double()
    )
    known = 0.3 * torch.randn(1, 2, 14, 15, dtype=torch.float64, generator=rng)
    level = Level.of(image, image, None, None, known, None, 1, "intensities")
    joint = Joint.of(level, "mse", [], points, known, None, 1, 9, 1.0)
    velocity = 0.1 * torch.randn(1, 2, 14, 15, dtype=torch.float64, generator=rng)
    assert torch.autograd.gradcheck(lambda v: joint.points.loss(v), (velocity.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_landmarks_lead_where_the_images_say_nothing(ndim):
    size = (40, 44, 36)[:ndim]
    rng = np.random.default_rng(0)
    flat = torch.full((1, 1, *size), 0.5) + 0.001 * torch.from_numpy(rng.random((1, 1, *size), dtype=np.float32))
    start = torch.from_numpy(rng.uniform(10, 26, (6, ndim)))
    target = start + torch.tensor([3.0, -2.0, 1.5])[:ndim]
    found = deform(flat, flat.flip(2), stages=STAGES, metric="mse", points=PointTerm(start, target, 1.0)).flow
    index = tuple(start.round().long().T)
    moved = start + found[0][(slice(None), *index)].T
    assert (moved - target).norm(dim=1).mean() < 0.25 * (start - target).norm(dim=1).mean()


def disc(centre, radius, size=SIZE):
    x, y = np.meshgrid(*[np.arange(n) for n in size], indexing="ij")
    return ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2).astype(np.float32)


def test_labels_lead_where_the_images_say_nothing():
    body = 100 * disc((36, 40), 32) + np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    fixed, moving = Image(body, np.eye(4)), Image(100 * disc((36, 40), 32) + noise, np.eye(4))
    maps = [Image((disc((34, 40), 9) + 5 * disc((34, 60), 5)).astype(np.int16), np.eye(4))]
    maps.append(Image((disc((38, 43), 9) + 5 * disc((37, 57), 5)).astype(np.int16), np.eye(4)))
    options = {"affine": False, "metric": "lncc", "device": "cpu", "stages": STAGES}
    labels = {"fixed_labels": maps[0], "moving_labels": maps[1]}
    dice = []
    for weight in (0.0, 1.0):
        found = fastreg.register(fixed, moving, labels_weight=weight, **labels, **options)
        moved = found.apply(maps[1]).data
        dice.append(2 * ((moved == 1) & (maps[0].data == 1)).sum() / ((moved == 1).sum() + (maps[0].data == 1).sum()))
    assert dice[0] < 0.75 and dice[1] > 0.9


def turned(image, degrees):
    """The image's world turned about its centre, so that the same voxels lie elsewhere."""
    turn = np.eye(4)
    angle = np.radians(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = image.affine[:3, :3] @ (np.array([*image.shape, 1]) - 1) / 2 + image.affine[:3, 3]
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    return Image(image.data, turn @ image.affine), turn


def test_the_linear_part_listens_to_all_channels():
    x, y = np.meshgrid(*[np.arange(72.0) - 35.5] * 2, indexing="ij")
    ring = Image((100 * np.exp(-((np.hypot(x, y) - 18) ** 2) / 60)).astype(np.float32), np.eye(4))
    spot = Image(100 * disc((50, 40), 8, (72, 72)) + 50 * disc((20, 30), 5, (72, 72)), np.eye(4))
    (moved_ring, turn), (moved_spot, _) = turned(ring, 14), turned(spot, 14)
    rng = np.random.default_rng(0)  # noise of their own: the grid's pattern would tell how a round thing is turned
    ring, moved_ring = (
        Image(i.data + rng.normal(size=i.shape).astype(np.float32), i.affine) for i in (ring, moved_ring)
    )
    alone = find_alignment(ring, moved_ring, kind="rigid", init="header").world
    both = find_alignment(
        ring, moved_ring, kind="rigid", init="header", others=[(spot, moved_spot, None, None, 1.0)]
    ).world
    off = [
        np.degrees(np.arccos(np.clip((x.matrix[:2, :2] @ turn[:2, :2].T).trace() / 2, -1, 1))) for x in (alone, both)
    ]
    assert off[0] > 2 and off[1] < 0.5


@pytest.mark.slow
def test_the_command_takes_several(blobs, tmp_path, capsys):
    folder = blobs(2)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, capsys.readouterr().err

    base = ["register", "--device", "cpu", "-o", tmp_path / "moved.nii.gz", "--overwrite"]
    one = ["-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz"]
    levels = ["--levels", "2x5,1x2"]
    assert run(*base, *one, *one, *levels, "--metric", "lncc,mind", "--weights", "1,0.5")[0] == 0
    assert run(*base, *one, *one, "--transform", "rigid")[0] == 0
    assert run(*base, *one, *one, *levels, "--mask-fixed", folder / "s0_labels.nii.gz")[0] == 0
    labels = ["--fixed-labels", folder / "s0_labels.nii.gz", "--moving-labels", folder / "s1_labels.nii.gz"]
    assert run(*base, *one, *labels, *levels, "--labels-weight", "1")[0] == 0
    for words, said in (
        ([*one, *one, "--weights", "1"], "weights: expected one for each of 2 pairs of images, got 1"),
        ([*one, *one, "--weights", "1,x"], "--weights: expected numbers such as 1,0.5"),
        ([*one, *one, "--weights", "1,0"], "weights: expected numbers above 0"),
        ([*one, "-f", one[1]], "moving images: expected as many as fixed images, 2, got 1"),
        ([*one, "--metric", "nonsense"], "metric: expected one of auto, lncc"),
    ):
        code, err = run(*base, *words)
        assert code == 1 and said in err and err.count("\n") == 1, err


def test_landmarks_of_a_start_lead_on(tmp_path):
    image = Image(100 * disc((36, 40), 30), np.diag([2.0, 2, 1, 1]))
    rows = {"f": [(60, 70), (80, 90), (70, 60)], "m": [(64, 70), (84, 90), (74, 60)]}
    for name, points in rows.items():
        (tmp_path / f"{name}.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in points))
        save_image(tmp_path / f"{name}.nii.gz", image)
    start = Landmarks(tmp_path / "f.csv", tmp_path / "m.csv")
    options = {"affine": False, "metric": "lncc", "device": "cpu", "stages": STAGES}
    led = fastreg.register(image, image, init=start, landmarks_weight=1.0, **options)
    where = np.array([(x, y, 0.0) for x, y in rows["f"]])
    assert np.abs(led.warp(where) - [(x, y, 0.0) for x, y in rows["m"]]).max() < 1.0
    with pytest.raises(InputError, match="landmarks_weight: expected a number of at least 0"):
        fastreg.register(image, image, init=start, landmarks_weight=-1.0, **options)
    assert isinstance(led.affine, Affine)
