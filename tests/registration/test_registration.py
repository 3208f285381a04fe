import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import fastreg
from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.resample import reorient, sample_filled
from fastreg.io.affines import save_affine
from fastreg.io.images import load_image, save_image
from fastreg.io.markups import read_fcsv
from fastreg.io.points import Table
from fastreg.io.warps import load_warp, save_warp
from fastreg.nn import checkpoint
from fastreg.nn.checkpoint import Checkpoint, TrainedModel, WorkingSpace
from fastreg.nn.registration_net import RegistrationNet
from fastreg.registration.pairwise import register
from fastreg.registration.stages import Stage
from fastreg.utils.files import InputError


class Shift(RegistrationNet):
    """A network that has learnt one thing: to sample `by` voxels further along every axis."""

    by = (2.0, -1.0, 3.0)

    def field(self, moving, fixed):
        by = torch.tensor(self.by[: self.config.ndim]).view(1, -1, *[1] * self.config.ndim)
        return by.expand(moving.shape[0], -1, *moving.shape[2:]).contiguous()


def model(orientation="RAS", spacing_mm=None, ndim=3):
    net = Shift("vm1", ndim=ndim)
    return TrainedModel(net, Checkpoint(net.options, WorkingSpace(spacing_mm, orientation)))


def picture(shape=(20, 24, 22), affine=None):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    data = np.exp(-4 * (grid**2).sum(0)) + 0.1 * np.sin(7 * grid[0]) * np.cos(5 * grid[1])
    return Image(data.astype(np.float32), np.eye(4) if affine is None else affine)


def test_the_networks_field_is_what_comes_out_on_one_grid():
    fixed, moving = picture(), picture()
    found = register(fixed, moving, model=model())
    assert torch.allclose(found.flow, torch.tensor([2.0, -1.0, 3.0]).view(1, 3, 1, 1, 1).expand(found.flow.shape))
    np.testing.assert_allclose(found.moved[0, 0].numpy(), sample_filled(moving, found.flow), atol=1e-6)
    assert found.inverse_flow is None and found.log["network"] == "vm1"


def test_grids_orientations_and_spacings_are_only_coordinates():
    """The same world displacement, however the two images are stored."""
    base = np.diag([2.0, 2.0, 2.0, 1.0])
    fixed = picture(affine=base)
    expected = register(fixed, fixed, model=model(spacing_mm=2.0)).warp.displacement_mm()
    turned = reorient(fixed, "PSL")
    found = register(turned, reorient(fixed, "LIA"), model=model("RAS", 2.0))
    back = reorient(Image(found.warp.displacement_mm()[..., 0], turned.affine), "RAS")
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(back.data[inner], expected[..., 0][inner], atol=1e-4)


def test_a_coarse_network_moves_a_fine_image_by_millimetres():
    fixed = picture((40, 48, 44), np.diag([1.0, 1.0, 1.0, 1.0]))
    found = register(fixed, fixed, model=model(spacing_mm=2.0))
    assert found.log["working_shape"] == [20, 24, 22]
    np.testing.assert_allclose(
        found.warp.displacement_mm(), np.broadcast_to([4.0, -2.0, 6.0], (40, 48, 44, 3)), atol=1e-4
    )


def test_passes_of_a_network_add_up():
    """Once over cubes of 2 voxels, once on the voxels: of a constant field three times as much."""
    net, about = model()
    about.working = replace(about.working, passes=(2, 1))
    shape = (20, 24, 22)
    found = register(picture(shape), picture(shape), model=TrainedModel(net, about))
    expected = 3 * torch.tensor(net.by).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(found.flow, expected.expand(found.flow.shape), rtol=1e-4, atol=1e-4)


def test_a_network_that_saw_no_images_has_them_aligned_first():
    net, about = model()
    about.working = replace(about.working, align=True)
    fixed = picture()
    assert "affine_seconds" in register(fixed, fixed, model=TrainedModel(net, about)).log
    assert "affine_seconds" not in register(fixed, fixed, model=TrainedModel(net, about), affine=False).log
    assert "affine_seconds" not in register(fixed, fixed, model=model()).log


def test_inverse_comes_back():
    found = register(picture(), picture((24, 24, 24)), model=model(), inverse=True)
    places = np.array([[10.0, 12.0, 9.0], [8.0, 14.0, 10.0]])
    np.testing.assert_allclose(found.inverse_warp(found.warp(places)), places, atol=1e-3)
    assert found.inverse_warp.fixed_shape == (24, 24, 24)


def test_two_dimensions():
    found = register(picture((20, 24)), picture((20, 24)), model=model(ndim=2))
    assert found.flow.shape == (1, 2, 20, 24) and found.moved.shape == (1, 1, 20, 24)


@pytest.mark.parametrize("kind", ["path", "nibabel", "array", "tensor"])
def test_inputs_of_every_kind(kind, tmp_path):
    image = picture()
    save_image(tmp_path / "image.nii.gz", image)
    source = {
        "path": tmp_path / "image.nii.gz",
        "nibabel": nib.load(tmp_path / "image.nii.gz"),
        "array": image.data,
        "tensor": image.tensor(),
    }[kind]
    expected = register(image, image, model=model()).moved
    torch.testing.assert_close(fastreg.register(source, source, model=model()).moved, expected)


def test_labels_are_carried_along_exactly():
    fixed = picture()
    labels = Image((fixed.data > 0.4).astype(np.int32) * 70_000_001, fixed.affine)
    moved = register(fixed, fixed, model=model()).apply(labels)
    assert set(np.unique(moved.data)) == {0, 70_000_001}
    np.testing.assert_array_equal(moved.data[:-2, 1:, :-3], labels.data[2:, :-1, 3:])


def test_saved_files_agree(tmp_path):
    import SimpleITK as sitk

    turn = np.linalg.qr(np.array([[1, 0.3, 0.1], [-0.3, 1, 0.2], [0, -0.2, 1]]))[0]  # ITK reads no shears
    oblique = np.eye(4)
    oblique[:3, :3], oblique[:3, 3] = turn * [1.9, 1.8, 2.2], [-20, 5, 7]
    fixed, moving = picture(affine=oblique), picture((26, 20, 24), np.diag([-2.0, 2.1, 1.7, 1.0]))
    save_image(tmp_path / "moving.nii.gz", moving)
    found = register(fixed, moving, model=model(spacing_mm=2.0))
    found.save_moved(tmp_path / "moved.nii.gz")
    found.save_warp(tmp_path / "warp.nii.gz")
    field = sitk.Cast(sitk.ReadImage(str(tmp_path / "warp.nii.gz")), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    theirs = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "moving.nii.gz")), sitk.ReadImage(str(tmp_path / "moved.nii.gz")), transform
    )
    ours = load_image(tmp_path / "moved.nii.gz").data
    theirs = sitk.GetArrayFromImage(theirs).T
    place = np.stack(np.indices(fixed.shape), -1) + found.warp.flow
    inside = ((place >= 0) & (place <= np.array(moving.shape) - 1)).all(-1)  # ITK treats the outermost half voxel apart
    assert inside.mean() > 0.1
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-5)
    again = load_warp(tmp_path / "warp.nii.gz", moving=moving)
    np.testing.assert_allclose(again.flow, found.warp.flow, atol=1e-4)


def test_wrong_inputs(tmp_path):
    with pytest.raises(InputError, match=r"fixed image.*no such file"):
        register(tmp_path / "nothing.nii.gz", picture(), model=model())
    with pytest.raises(InputError, match="no such file"):
        register(picture(), picture(), model=tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="2-D"):
        register(picture(), picture((20, 24)).data[None, None, None, :, :].repeat(2, 0), model=model(ndim=2))


def test_checkpoint_path_is_enough(tmp_path):
    net = RegistrationNet("vm1")
    checkpoint.save(tmp_path / "m.safetensors", net, Checkpoint(net.options, model().working))
    assert register(picture(), picture(), model=tmp_path / "m.safetensors").moved.shape == (1, 1, 20, 24, 22)


def test_refining_and_not_refining():
    fixed, moving = picture(), picture((22, 24, 22))
    plain = register(fixed, moving, model=model())
    refined = register(fixed, moving, model=model(), refine=5)
    assert not torch.equal(plain.flow, refined.flow) and "level_1_seconds" in refined.log
    alone = register(fixed, moving, affine=False, refine=0)
    assert "level_1_seconds" not in alone.log
    np.testing.assert_allclose(alone.warp.displacement_mm(), 0, atol=1e-5)


def test_a_pyramid_goes_on_from_the_network_on_the_images_own_grid():
    """Whatever the grid and the orientation that the network works on."""
    fixed, moving = picture((24, 28, 26)), picture((24, 28, 26))
    stopped = register(fixed, moving, model=model("LPS", 2.0), stages=(Stage(1, 0),))
    alone = register(fixed, moving, model=model("LPS", 2.0))
    assert alone.log["working_shape"] == [12, 14, 13] and stopped.log["working_shape"] == [24, 28, 26]
    np.testing.assert_allclose(stopped.warp.displacement_mm(), alone.warp.displacement_mm(), atol=1e-4)
    further = register(fixed, moving, model=model("LPS", 2.0), stages=(Stage(2, 20), Stage(1, 10)), metric="lncc")
    assert "level_2_seconds" in further.log
    length = np.linalg.norm(further.warp.displacement_mm(), axis=-1).mean()
    assert length < 0.5 * np.linalg.norm(alone.warp.displacement_mm(), axis=-1).mean()  # the images are the same


# ---------------------------------------------------------------- SimpleITK applies what we save and gets what we moved


def blobs_on(affine, shape, world=None, bend=lambda x: x):
    """Blobs about the origin of RAS mm, seen on any grid; `world` maps the grid's mm to those of the blobs."""
    rng = np.random.default_rng(4)
    places = affine_field(affine[:3], shape)
    if world is not None:
        places = places @ world[:3, :3].T + world[:3, 3]
    data = np.zeros(shape)
    for _ in range(25):
        middle, width = rng.uniform(-16, 16, 3), rng.uniform(4, 7)
        data += rng.uniform(40, 100) * np.exp(-((places - middle) ** 2).sum(-1) / (2 * width**2))
    return Image(bend(data).astype(np.float32), affine)


def about_origin(shape, spacing, order=(0, 1, 2), signs=(1, 1, 1)):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.array(spacing, float) * signs)[np.argsort(order)]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def simpleitk_agrees(found, moving, folder, affine_file=None):
    """The written warp (or linear part) on the written image: where all corners lie inside, it is our moved image."""
    import SimpleITK as sitk

    save_image(folder / "moving.nii.gz", moving)
    found.save_moved(folder / "moved.nii.gz")
    if affine_file is None:
        found.save_warp(folder / "warp.nii.gz")
        field = sitk.Cast(sitk.ReadImage(str(folder / "warp.nii.gz")), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
    else:
        save_affine(folder / affine_file, found.affine)
        transform = sitk.ReadTransform(str(folder / affine_file))
    images = [sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("moving", "moved")]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform)).T
    ours = load_image(folder / "moved.nii.gz").data
    place = np.stack(np.indices(found.fixed.shape), -1) + found.warp.flow
    inside = ((place >= 0.01) & (place <= np.array(moving.shape) - 1.01)).all(-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-3 * np.abs(ours).max())


MAPS = {
    "translation": np.eye(3),
    "rigid": np.array([[0.985, -0.174, 0], [0.174, 0.985, 0], [0, 0, 1]]),
    "similarity": 1.06 * np.array([[0.985, 0, -0.174], [0, 1, 0], [0.174, 0, 0.985]]),
    "affine": np.array([[1.05, 0.06, 0], [0, 0.95, -0.04], [0.03, 0, 1.02]]),
    "deformable": np.array([[1.03, 0.04, 0], [0, 0.97, -0.03], [0.02, 0, 1.01]]),
}


@pytest.mark.slow
@pytest.mark.parametrize("transform", MAPS)
@pytest.mark.parametrize("metric", ["lncc", "mi"])
def test_every_transform_finds_the_map_and_simpleitk_gets_the_same(transform, metric, tmp_path):
    """Other grids, turned axes, a header that is 35 mm off, for "mi" another contrast."""
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = MAPS[transform], [3, -35, 4]
    shape, other = (40, 36, 38), (30, 40, 34)
    moving_affine = about_origin(other, (1.9, 1.4, 1.6), (2, 0, 1), (1, -1, -1))
    moving_affine[:3, 3] += truth[:3, 3]
    bend = (lambda x: np.where(x > 15, 300 - x, 0)) if metric == "mi" else (lambda x: x)
    fixed = blobs_on(about_origin(shape, (1.5, 1.5, 1.5)), shape)
    moving = blobs_on(moving_affine, other, np.linalg.inv(truth), bend)
    found = register(fixed, moving, transform=transform, metric=metric, init="mass", device="cpu")
    corners = 12 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    error = np.linalg.norm(found.warp(corners) - (corners @ truth[:3, :3].T + truth[:3, 3]), axis=1)
    assert error.max() < (2.5 if transform == "deformable" else {"lncc": 1.0, "mi": 2.0}[metric])
    simpleitk_agrees(found, moving, tmp_path)
    if transform != "deformable":
        simpleitk_agrees(found, moving, tmp_path, "affine.mat")


@pytest.mark.slow
def test_every_orientation_of_the_moving_image(tmp_path):
    """48 ways to store one image: SimpleITK gets our moved image from each, and all are alike."""
    shape = (22, 20, 24)
    fixed = blobs_on(about_origin(shape, (2, 2, 2)), shape)
    truth = np.eye(4)
    truth[:3, 3] = [1.5, -2, 1]
    moving = blobs_on(about_origin(shape, (2, 2, 2)), shape, truth)
    given = {"affine": False, "stages": (Stage(2, 6), Stage(1, 4)), "device": "cpu"}
    expected = register(fixed, moving, **given)
    there = expected.warp.displacement_mm()
    for order in itertools.permutations(range(3)):
        for signs in itertools.product("+-", repeat=3):
            codes = "".join({"+": "RAS", "-": "LPI"}[sign][axis] for axis, sign in zip(order, signs, strict=True))
            stored = reorient(moving, codes)
            found = register(fixed, stored, **given)
            np.testing.assert_allclose(found.warp.displacement_mm(), there, atol=1e-3)
            apart = (found.moved - expected.moved).abs() > 0.05
            assert apart.sum() <= 2, "a place on the border of the moving image is inside of it, or not"
            simpleitk_agrees(found, stored, tmp_path)


@pytest.mark.slow
def test_every_orientation_of_the_fixed_image(tmp_path):
    shape = (22, 20, 24)
    fixed, moving = blobs_on(about_origin(shape, (2, 2, 2)), shape), blobs_on(about_origin(shape, (2, 2.2, 1.9)), shape)
    given = {"affine": False, "stages": (Stage(2, 6),), "device": "cpu"}
    for order in itertools.permutations(range(3)):
        for signs in itertools.product("+-", repeat=3):
            codes = "".join({"+": "RAS", "-": "LPI"}[sign][axis] for axis, sign in zip(order, signs, strict=True))
            found = register(reorient(fixed, codes), moving, **given)
            simpleitk_agrees(found, moving, tmp_path)


@pytest.mark.slow
def test_the_inverse_warp_is_the_warp_backwards(tmp_path):
    """Across grids of about 1.6 mm, through the files: 99 of 100 places to a tenth of a voxel, all to a fifth."""
    shape, other = (40, 36, 38), (34, 40, 32)
    fixed = blobs_on(about_origin(shape, (1.5, 1.5, 1.5)), shape)
    bent = np.eye(4)
    bent[:3, 3] = [2, -3, 1]
    moving = blobs_on(about_origin(other, (1.6, 1.4, 1.9), (1, 0, 2), (1, -1, 1)), other, bent)
    for bidir in (False, True):
        found = register(fixed, moving, init="mass", inverse=not bidir, bidir=bidir, device="cpu")
        save_warp(tmp_path / "warp.nii.gz", found.warp)
        save_warp(tmp_path / "inverse.nii.gz", found.inverse_warp)
        there, back = (load_warp(tmp_path / f"{name}.nii.gz") for name in ("warp", "inverse"))
        places = np.random.default_rng(0).uniform(-16, 16, (500, 3))
        for first, second in ((there, back), (back, there)):
            left_mm = np.linalg.norm(second(first(places)) - places, axis=1)
            assert np.percentile(left_mm, 99) < 0.16 and left_mm.max() < 0.32
        assert (found.warp.jacobian() > 0).all() and (found.inverse_warp.jacobian() > 0).all()


def test_points_go_where_the_warp_and_its_inverse_say():
    fixed, moving = picture(affine=np.diag([2.0, 2.0, 2.0, 1.0])), picture((24, 24, 24), np.diag([1.5, 2.0, 2.0, 1.0]))
    found = register(fixed, moving, model=model(spacing_mm=2.0), inverse=True)
    table = Table(np.array([[20.0, 22.0, 18.0]]), ["name", "x", "y", "z"], [["one", "20", "22", "18"]])
    there = np.array(found.map_points(table).splitlines()[1].split(",")[1:], float)
    np.testing.assert_allclose(there, found.warp(table.points)[0], atol=1e-6)
    back = found.map_points(Table(there[None], table.header, table.rows), back=True)
    np.testing.assert_allclose(np.array(back.splitlines()[1].split(",")[1:], float), table.points[0], atol=1e-2)
    voxels = Table(table.points / [2, 2, 2], table.header, table.rows)
    out = np.array(found.map_points(voxels, "voxel").splitlines()[1].split(",")[1:], float)
    np.testing.assert_allclose(out, there / [1.5, 2, 2], atol=1e-5)
    np.testing.assert_allclose(found.map_points(table.points)[0], there, atol=1e-6)
    markups = read_fcsv("# Markups fiducial file\n# CoordinateSystem = LPS\n1,-20,-22,18\n", "a.fcsv")
    np.testing.assert_allclose(found.map_points(markups).points[0], there * [-1, -1, 1], atol=1e-6)
    np.testing.assert_allclose(found.map_points(there[None], back=True)[0], table.points[0], atol=1e-2)
    with pytest.raises(InputError, match=r"expected an array \[N, 3\] or \[N, 2\], got \(3,\)"):
        found.map_points(there)
    with pytest.raises(InputError, match="need the inverse"):
        register(fixed, moving, model=model(spacing_mm=2.0)).map_points(table, back=True)


def test_masks_reach_the_deformation():
    """What the mask leaves out may be anything."""
    shape = (36, 36, 36)
    grid = about_origin(shape, (2, 2, 2))
    world = np.eye(4)
    world[:3, 3] = [3, -2, 2]
    fixed, moving = blobs_on(grid, shape), blobs_on(grid, shape, world)
    mask = np.zeros(shape, np.uint8)
    mask[:, :, :20] = 1
    spoiled = Image(np.where(mask > 0, fixed.data, np.random.default_rng(0).uniform(0, 250, shape)), grid)
    given = {"affine": False, "stages": (Stage(2, 40), Stage(1, 10)), "device": "cpu"}
    inside = (slice(8, -8), slice(8, -8), slice(8, 16))
    wanted = np.linalg.inv(world)[:3, 3]
    errors = [
        np.linalg.norm(
            register(spoiled, moving, fixed_mask=m, **given).warp.displacement_mm()[inside] - wanted, axis=-1
        )
        for m in (Image(mask, grid), None)
    ]
    assert errors[0].mean() < 0.5 * np.linalg.norm(wanted) and errors[0].mean() < errors[1].mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": np.full((20, 24, 22), 5.0)}, "moving image: expected structure, got the constant 5"),
        ({"fixed": np.full((20, 24, 22), 5.0)}, "fixed image: expected structure"),
        ({"moving": np.full((20, 24, 22), np.nan)}, "moving image: expected intensities, got NaN in every voxel"),
        ({"fixed_mask": np.ones((20, 24))}, "fixed mask: 2-D, but the fixed image is 3-D"),
        ({"fixed_mask": np.zeros((20, 24, 22))}, "fixed mask: expected voxels above 0"),
        ({"moving_mask": np.zeros((20, 24, 22)), "bidir": True}, "moving mask: expected voxels above 0"),
        ({"moving": np.zeros((4, 4, 4, 3))}, "moving image: expected 2-D or 3-D, got 4-D"),
        ({"moving": picture(affine=np.eye(4) + 500 * np.eye(4, k=3))}, "does not overlap|nothing of it lies"),
        ({"metric": "ncc"}, "metric: expected one of auto, lncc, remap, mind, mse, mi, got ncc"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_bad_images_without_a_model(change, message, affine):
    given = {"fixed": picture(), "moving": picture(), "init": "header", "device": "cpu", **change}
    with pytest.raises(InputError, match=message) as error:
        register(affine=affine, **given)
    assert "\n" not in str(error.value)
