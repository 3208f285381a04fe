import itertools
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.transforms import Affine, Warp, apply, compose, map_places
from fastreg.io.affines import save_affine
from fastreg.io.images import save_image
from fastreg.io.transforms import load_transforms
from fastreg.io.warp_kinds import detect_format
from fastreg.io.warps import load_warp, save_warp
from fastreg.utils.files import InputError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def oblique(rng, shape, spacing, flip=False):
    """An affine that is oblique and anisotropic, about centred on the world's origin."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng) @ np.diag(spacing)
    if flip:
        affine[:3, 0] *= -1
    affine[:3, 3] = rng.normal(size=3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def smooth_flow(rng, shape, amplitude=1.0):
    p = affine_field(np.eye(4)[:3], shape)
    waves = rng.normal(size=(3, 3)) * 0.3
    return (amplitude * np.sin(p @ waves + rng.normal(size=3))).astype(np.float32)


def make_case(rng, affine_fixed, affine_moving, shape_fixed, shape_moving, amplitude=1.0):
    """A moving image and a warp which puts the fixed grid's places where they are in the world, plus some waves."""
    moving = Image(rng.normal(size=shape_moving).astype(np.float32), affine_moving)
    across = np.linalg.inv(affine_moving) @ affine_fixed
    flow = affine_field((across - np.eye(4))[:3], shape_fixed) + smooth_flow(rng, shape_fixed, amplitude)
    return moving, Warp(flow.astype(np.float32), affine_fixed, affine_moving, shape_moving)


def oblique_case(rng, flips=(False, True)):
    shape_fixed, shape_moving = (13, 17, 11), (19, 12, 16)
    affine_fixed = oblique(rng, shape_fixed, (1.0, 1.3, 2.1), flips[0])
    affine_moving = oblique(rng, shape_moving, (0.9, 1.7, 1.2), flips[1])
    return make_case(rng, affine_fixed, affine_moving, shape_fixed, shape_moving)


def interior(warp, margin=0.01):
    """Where the moving place has all its neighbours: there is nothing about borders to disagree on."""
    q = affine_field(np.eye(4)[:3], warp.fixed_shape) + warp.flow
    return ((q >= margin) & (q <= np.array(warp.moving_shape) - 1 - margin)).all(-1)


def itk_moved(tmp_path, moving, fixed_affine, fixed_shape, transforms, interpolator=sitk.sitkLinear):
    """SimpleITK's resampling through transform files, given as to antsApplyTransforms."""
    save_image(tmp_path / "itk_moving.nii.gz", moving)
    save_image(tmp_path / "itk_fixed.nii.gz", np.zeros(fixed_shape, np.float32), fixed_affine)
    composite = sitk.CompositeTransform(3)
    for path in reversed(transforms):  # ITK applies the last added first
        if path.suffix == ".gz":
            composite.AddTransform(sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)))
        else:
            composite.AddTransform(sitk.ReadTransform(str(path)))
    images = [sitk.ReadImage(str(tmp_path / f"itk_{name}.nii.gz")) for name in ("moving", "fixed")]
    out = sitk.Resample(*images, composite, interpolator, 0.0, images[0].GetPixelID())
    return sitk.GetArrayFromImage(out).T


def compare_with_itk(tmp_path, moving, warp):
    save_warp(tmp_path / "warp.nii.gz", warp)
    ours = apply([warp], moving, warp.fixed_affine, warp.fixed_shape).data
    theirs = itk_moved(tmp_path, moving, warp.fixed_affine, warp.fixed_shape, [tmp_path / "warp.nii.gz"])
    inside = interior(warp)
    assert inside.sum() > 100
    # White noise changes by about 4 a voxel; coordinates are float32 on both sides.
    assert np.abs(ours - theirs)[inside].max() < 5e-5


@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_itk_applies_our_warp_on_oblique_anisotropic_different_grids(tmp_path, flips):
    compare_with_itk(tmp_path, *oblique_case(np.random.default_rng(0), flips))


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_itk_applies_our_warp_on_all_axis_orientations(tmp_path, order):
    rng = np.random.default_rng(1)
    for signs in itertools.product((1, -1), repeat=3):
        linear = np.zeros((3, 3))
        linear[list(order), range(3)] = np.array(signs) * (1.0, 1.5, 0.8)
        shape_fixed, shape_moving = (9, 8, 10), (12, 11, 9)
        fixed_affine, moving_affine = np.eye(4), oblique(rng, shape_moving, (1.0, 1.2, 1.1))
        fixed_affine[:3, :3] = linear
        fixed_affine[:3, 3] = -linear @ (np.array(shape_fixed) - 1) / 2
        compare_with_itk(tmp_path, *make_case(rng, fixed_affine, moving_affine, shape_fixed, shape_moving))
        # and the other way round: an oblique fixed image, the moving one along the axes
        compare_with_itk(tmp_path, *make_case(rng, moving_affine, fixed_affine, shape_moving, shape_fixed))


@pytest.mark.parametrize("format", ["itk", "freesurfer", "fsl", "learn2reg", "npz"])
@pytest.mark.parametrize("flips", [(False, True), (True, False)])
def test_formats_come_back(tmp_path, format, flips):
    moving, warp = oblique_case(np.random.default_rng(2), flips)
    path = tmp_path / ("warp.npz" if format == "npz" else "warp.nii.gz")
    save_warp(path, warp, format=format)
    assert detect_format(path) == format
    back = load_warp(path, moving=moving)
    assert np.abs(back.flow - warp.flow).max() < 2e-5
    assert back.moving_shape == moving.shape
    np.testing.assert_allclose(back.fixed_affine, warp.fixed_affine, atol=1e-5)


def test_itk_and_freesurfer_keep_the_world_without_the_moving_image(tmp_path):
    _, warp = oblique_case(np.random.default_rng(3))
    for format in ("itk", "freesurfer"):
        save_warp(tmp_path / "warp.nii.gz", warp, format=format)
        back = load_warp(tmp_path / "warp.nii.gz")
        assert np.abs(back.displacement_mm() - warp.displacement_mm()).max() < 5e-5
    assert back.moving_shape == warp.moving_shape
    np.testing.assert_allclose(back.moving_affine, warp.moving_affine, atol=1e-5)


def by_hand(warp, place_fixed, place_moving):
    """place_moving(q) - place_fixed(p) at a few voxels, in float64 and one by one."""
    rng = np.random.default_rng(0)
    for p in zip(*(rng.integers(0, n, 20) for n in warp.fixed_shape), strict=True):
        q = np.array(p) + warp.flow[p].astype(np.float64)
        yield p, place_moving(q) - place_fixed(np.array(p, np.float64))


def fsl_place(affine, shape):
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(0))

    def place(voxel):
        voxel = voxel.copy()
        if np.linalg.det(affine[:3, :3]) > 0:
            voxel[0] = shape[0] - 1 - voxel[0]
        return voxel * zooms

    return place


@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_fsl_displacements_follow_fsl_s_formula(tmp_path, flips):
    _, warp = oblique_case(np.random.default_rng(4), flips)
    save_warp(tmp_path / "warp.nii.gz", warp, format="fsl")
    image = nibabel.load(tmp_path / "warp.nii.gz")
    assert image.shape == (*warp.fixed_shape, 3)
    assert int(image.header["intent_code"]) == 2006
    data = image.get_fdata()
    places = fsl_place(warp.fixed_affine, warp.fixed_shape), fsl_place(warp.moving_affine, warp.moving_shape)
    for p, expected in by_hand(warp, *places):
        np.testing.assert_allclose(data[p], expected, atol=2e-5)


def test_freesurfer_displacements_follow_freesurfer_s_formula(tmp_path):
    _, warp = oblique_case(np.random.default_rng(5))
    save_warp(tmp_path / "warp.nii.gz", warp, format="freesurfer")
    image = nibabel.load(tmp_path / "warp.nii.gz")
    assert image.shape == (*warp.fixed_shape, 1, 3)
    assert int(image.header["intent_code"]) == 1006
    data = image.get_fdata()[..., 0, :]
    places = [lambda v, a=a: a[:3, :3] @ v + a[:3, 3] for a in (warp.fixed_affine, warp.moving_affine)]
    for p, expected in by_hand(warp, *places):
        np.testing.assert_allclose(data[p], expected, atol=2e-5)


def test_freesurfer_s_extension_says_both_grids(tmp_path):
    _, warp = oblique_case(np.random.default_rng(5))
    save_warp(tmp_path / "warp.nii.gz", warp, format="freesurfer")
    content = nibabel.load(tmp_path / "warp.nii.gz").header.extensions[0].get_content()
    assert content[:4] == b">\0\3\1"
    tag, length = struct.unpack_from(">iq", content, 4)
    assert (tag, length) == (10, 2 * 80)
    for k, (affine, shape) in enumerate(
        [(warp.moving_affine, warp.moving_shape), (warp.fixed_affine, warp.fixed_shape)]
    ):
        valid, *figures = struct.unpack_from(">4i15fi", content, 16 + 80 * k)
        assert valid == 1 and tuple(figures[:3]) == shape and figures[-1] == 0
        spacing, columns, centre = np.split(np.array(figures[3:-1]), [3, 12])
        # FreeSurfer's c_ras is the place of voxel shape / 2.
        np.testing.assert_allclose(centre, affine[:3] @ [*(np.array(shape) / 2), 1], atol=1e-5)
        np.testing.assert_allclose(columns.reshape(3, 3).T * spacing, affine[:3, :3], atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_freesurfer_s_four_ways_to_say_a_warp(tmp_path, kind):
    _, warp = oblique_case(np.random.default_rng(5))
    p = affine_field(np.eye(4)[:3], warp.fixed_shape)
    q = p + warp.flow
    moving_places = q @ warp.moving_affine[:3, :3].T + warp.moving_affine[:3, 3]
    fixed_places = p @ warp.fixed_affine[:3, :3].T + warp.fixed_affine[:3, 3]
    data = [q, q - p, moving_places, moving_places - fixed_places][kind]
    save_warp(tmp_path / "warp.nii.gz", warp, format="freesurfer")
    image = nibabel.load(tmp_path / "warp.nii.gz")
    content = image.header.extensions[0].get_content()
    said = struct.pack(">iqi", 13, 12, 3)
    assert content.count(said) == 1
    image.header.extensions[:] = [nibabel.nifti1.Nifti1Extension(14, content.replace(said, said[:-1] + bytes([kind])))]
    data = data.astype(np.float32).reshape(*warp.fixed_shape, 1, 3)
    nibabel.save(nibabel.Nifti1Image(data, image.affine, image.header), tmp_path / "other.nii.gz")
    np.testing.assert_allclose(load_warp(tmp_path / "other.nii.gz").flow, warp.flow, atol=2e-5)


def test_learn2reg_displacements_are_voxels(tmp_path):
    _, warp = oblique_case(np.random.default_rng(6))
    save_warp(tmp_path / "disp.nii.gz", warp, format="learn2reg")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "disp.nii.gz").get_fdata(), warp.flow)
    # Without the moving image, its voxels are taken to lie where the fixed ones do.
    np.testing.assert_allclose(load_warp(tmp_path / "disp.nii.gz").moving_affine, warp.fixed_affine, atol=1e-5)


def test_voxelmorph_npz(tmp_path):
    moving, warp = oblique_case(np.random.default_rng(6))
    np.savez(tmp_path / "warp.npz", vol=warp.flow)
    back = load_warp(tmp_path / "warp.npz", moving=moving)
    np.testing.assert_array_equal(back.flow, warp.flow)
    np.testing.assert_array_equal(back.moving_affine, moving.affine)


@pytest.mark.parametrize(
    ("mode", "interpolator"), [("bspline", sitk.sitkBSpline), ("lanczos", sitk.sitkLanczosWindowedSinc)]
)
def test_itk_agrees_on_other_interpolations(tmp_path, mode, interpolator):
    moving, warp = oblique_case(np.random.default_rng(19))
    save_warp(tmp_path / "warp.nii.gz", warp)
    ours = apply([warp], moving, warp.fixed_affine, warp.fixed_shape, mode=mode, background=0).data
    theirs = itk_moved(tmp_path, moving, warp.fixed_affine, warp.fixed_shape, [tmp_path / "warp.nii.gz"], interpolator)
    inside = interior(warp, margin=-0.49)
    assert inside.sum() > interior(warp).sum() > 400
    # Steeper than linear: white noise changes by up to 10 a voxel.
    assert np.abs(ours - theirs)[inside].max() < 1e-4


def affine_3d(rng):
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4)) * [0.1, 0.1, 0.1, 2.0]
    return Affine(matrix)


@pytest.mark.parametrize(
    ("mode", "interpolator"), [("nearest", sitk.sitkNearestNeighbor), ("genericlabel", sitk.sitkLabelLinear)]
)
def test_itk_agrees_on_labels(tmp_path, mode, interpolator):
    moving, warp = oblique_case(np.random.default_rng(17))
    labels = Image(np.random.default_rng(18).choice([0, 4, 17, 2035], size=moving.shape), moving.affine)
    save_warp(tmp_path / "warp.nii.gz", warp)
    ours = apply([warp], labels, warp.fixed_affine, warp.fixed_shape, mode=mode).data
    theirs = itk_moved(tmp_path, labels, warp.fixed_affine, warp.fixed_shape, [tmp_path / "warp.nii.gz"], interpolator)
    inside = interior(warp)
    assert inside.sum() > 400 and len(np.unique(ours[inside])) == 4
    # Half-way between two labels the last bit of a coordinate decides.
    assert (ours != theirs)[inside].mean() < 2e-3


def chain(tmp_path):
    """Warp, affine, warp; the grids of all differ. Their files, and the image they lead into."""
    rng = np.random.default_rng(10)
    _, first = oblique_case(rng)
    shape = (20, 22, 18)
    fixed_affine = oblique(rng, shape, (1.5, 1.4, 1.6))
    moving, second = make_case(rng, fixed_affine, oblique(rng, (24, 25, 26), (1.2, 1.1, 1.0)), shape, (24, 25, 26))
    transforms = [first, affine_3d(rng), second]
    save_warp(tmp_path / "1.nii.gz", first)
    save_affine(tmp_path / "2.mat", transforms[1])
    save_warp(tmp_path / "3.nii.gz", second)
    return moving, transforms, [tmp_path / name for name in ("1.nii.gz", "2.mat", "3.nii.gz")]


def test_itk_agrees_on_a_chain_of_transforms(tmp_path):
    moving, transforms, paths = chain(tmp_path)
    loaded = [load_transforms(path, moving=moving)[0] for path in paths]
    grid = transforms[0].fixed_affine, transforms[0].fixed_shape
    ours = apply(loaded, moving, *grid).data
    theirs = itk_moved(tmp_path, moving, *grid, paths)
    inside = interior(compose(loaded, *grid, moving.affine, moving.shape))
    assert inside.sum() > 1000
    assert np.abs(ours - theirs)[inside].max() < 1e-4


def test_itk_agrees_where_a_reference_grid_reaches_beyond_the_warp(tmp_path):
    moving, transforms, paths = chain(tmp_path)
    rng = np.random.default_rng(11)
    grid = oblique(rng, (25, 25, 25), (1.0, 1.0, 1.0)), (25, 25, 25)
    warp = compose(transforms[:1], *grid, moving.affine, moving.shape)
    theirs = itk_moved(tmp_path, moving, *grid, paths[:1])
    ours = apply(transforms[:1], moving, *grid).data
    inside = interior(warp)
    still = np.abs(warp.displacement_mm()).max(-1) < 1e-3
    assert (inside & still).sum() > 100 and (inside & ~still).sum() > 100
    # A voxel on the very edge of the field may fall on either side of it.
    assert (np.abs(ours - theirs)[inside] > 1e-4).mean() < 1e-3


def test_composed_warp_does_what_its_parts_do(tmp_path):
    moving, transforms, _ = chain(tmp_path)
    grid = transforms[0].fixed_affine, transforms[0].fixed_shape
    warp = compose(transforms, *grid, moving.affine, moving.shape)
    places = affine_field(grid[0][:3], grid[1])[::3, ::3, ::3].reshape(-1, 3)
    composed = map_places([warp], places)
    np.testing.assert_allclose(map_places(transforms, places), composed, atol=2e-5)


def test_points_go_where_the_image_is_sampled(tmp_path):
    _, transforms, paths = chain(tmp_path)
    places = np.random.default_rng(12).normal(size=(40, 3)) * 4
    composite = sitk.CompositeTransform(3)
    for path in reversed(paths):
        if path.suffix == ".gz":
            composite.AddTransform(sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)))
        else:
            composite.AddTransform(sitk.ReadTransform(str(path)))
    theirs = [np.array(composite.TransformPoint((p * [-1, -1, 1]).tolist())) * [-1, -1, 1] for p in places]
    np.testing.assert_allclose(map_places(transforms, places), theirs, atol=2e-5)


def test_affine_inverse_undoes():
    affine = affine_3d(np.random.default_rng(13))
    places = np.random.default_rng(14).normal(size=(7, 3)) * 30
    np.testing.assert_allclose(map_places([affine, affine.inverse()], places), places, atol=1e-12)


def test_jacobian_of_a_linear_map_is_its_determinant():
    rng = np.random.default_rng(15)
    affine = affine_3d(rng)
    fixed, moving = oblique(rng, (8, 9, 10), (1, 2, 3), True), oblique(rng, (9, 9, 9), (2, 1, 1))
    warp = compose([affine], fixed, (8, 9, 10), moving)
    np.testing.assert_allclose(warp.jacobian(), np.linalg.det(affine.matrix), rtol=1e-4)


def test_flat_images_warp_as_itk_does(tmp_path):
    rng = np.random.default_rng(16)
    fixed, moving = np.diag([1.2, -0.8, 1, 1]), np.diag([-1.0, 1.1, 1, 1])
    fixed[:2, 3], moving[:2, 3] = [-8, 9], [10, -12]
    image = Image(rng.normal(size=(21, 24)).astype(np.float32), moving)
    waves = smooth_flow(rng, (14, 19, 1))[:, :, 0, :2]
    flow = affine_field((np.linalg.inv(moving) @ fixed - np.eye(4))[:2], (14, 19)) + waves
    warp = Warp(flow.astype(np.float32), fixed, moving, (21, 24))
    save_warp(tmp_path / "warp.nii.gz", warp)
    save_image(tmp_path / "moving.nii.gz", image)
    save_image(tmp_path / "fixed.nii.gz", np.zeros((14, 19), np.float32), fixed)
    field = sitk.ReadImage(str(tmp_path / "warp.nii.gz"), sitk.sitkVectorFloat64)
    assert field.GetDimension() == 2
    images = [sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("moving", "fixed")]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, sitk.DisplacementFieldTransform(field))).T
    q = affine_field(np.eye(4)[:2], warp.fixed_shape) + warp.flow
    inside = ((q >= 0.01) & (q <= np.array(warp.moving_shape) - 1.01)).all(-1)
    assert inside.sum() > 50
    assert np.abs(apply([warp], image, fixed, (14, 19)).data - theirs)[inside].max() < 5e-5
    back = load_warp(tmp_path / "warp.nii.gz", moving=image)
    np.testing.assert_allclose(back.flow, warp.flow, atol=2e-5)


def write_nifti(path, data, intent=0, name=""):
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header["intent_code"] = intent
    image.header["intent_name"] = name
    nibabel.save(image, path)


@pytest.mark.parametrize(
    ("shape", "intent", "name", "message"),
    [
        ((4, 5, 6), 0, "", "got an image"),
        ((4, 5, 6, 1, 3), 0, "", "does not say the format"),
        ((4, 5, 6, 3), 2006, "", "needs the moving image"),
        ((4, 5, 6, 3), 2007, "", "FSL coefficients"),
    ],
)
def test_warps_that_are_none_are_refused(tmp_path, shape, intent, name, message):
    write_nifti(tmp_path / "warp.nii.gz", np.zeros(shape, np.float32), intent, name)
    with pytest.raises(InputError, match=message) as error:
        load_warp(tmp_path / "warp.nii.gz")
    assert "warp.nii.gz" in str(error.value) and "\n" not in str(error.value)


def test_a_warp_in_mgz_is_not_taken_for_another_format(tmp_path):
    nibabel.save(nibabel.MGHImage(np.zeros((4, 5, 6, 3), np.float32), np.eye(4)), tmp_path / "warp.mgz")
    with pytest.raises(InputError, match=r"expected .nii, .nii.gz or .npz"):
        load_warp(tmp_path / "warp.mgz")


def test_a_warp_with_nan_is_refused(tmp_path):
    data = np.zeros((4, 5, 6, 1, 3), np.float32)
    data[1, 2, 3, 0, 1] = np.nan
    write_nifti(tmp_path / "warp.nii.gz", data, 1007)
    with pytest.raises(InputError, match="got 1 voxels with NaN"):
        load_warp(tmp_path / "warp.nii.gz")


@pytest.mark.parametrize("format", ["fsl", "freesurfer"])
def test_formats_that_say_the_moving_grid_need_it(tmp_path, format):
    warp = Warp(np.zeros((3, 4, 5, 3), np.float32), np.eye(4), np.eye(4))
    with pytest.raises(InputError, match="needs the moving image's grid"):
        save_warp(tmp_path / "warp.nii.gz", warp, format=format)
    assert not list(tmp_path.iterdir())
