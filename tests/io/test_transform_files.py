"""Transforms of every kind, against the libraries that own the formats."""

import shutil
import subprocess
import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.geometry.bsplines import BSpline
from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine, Warp, apply, map_places
from fastreg.io.affines import load_affine, save_affine
from fastreg.io.images import save_image
from fastreg.io.transforms import load_transforms, save_transforms
from fastreg.io.warps import load_warp, save_warp
from fastreg.utils.files import InputError

FLIP = np.array([-1.0, -1.0, 1.0])


def grid(seed, shape=(9, 11, 7), spacing=(2.0, 2.5, 3.0), ndim=3):
    """An oblique grid about the world's origin."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(ndim, ndim)))
    affine = np.eye(4)
    affine[:ndim, :ndim] = turn * np.array(spacing)[:ndim]
    affine[:ndim, 3] = -affine[:ndim, :ndim] @ (np.array(shape[:ndim]) - 1) / 2
    return affine


def image(seed, **options):
    return Image(np.zeros((9, 11, 7), np.float32), grid(seed, **options))


def linear(seed=3, ndim=3):
    matrix = np.eye(4)
    matrix[:ndim, :ndim] += np.random.default_rng(seed).normal(size=(ndim, ndim)) * 0.1
    matrix[:ndim, 3] = np.random.default_rng(seed + 1).normal(size=ndim) * 5
    return Affine(matrix)


def field(seed=5, ndim=3):
    shape = (9, 11, 7)[:ndim]
    vectors = np.zeros((*shape, 3))
    vectors[..., :ndim] = np.random.default_rng(seed).normal(size=(*shape, ndim))
    return Warp.from_displacement_mm(vectors, grid(seed, ndim=ndim))


def spline(seed=6, ndim=3):
    shape = (8, 7, 9)[:ndim]
    return BSpline(np.random.default_rng(seed).normal(size=(*shape, ndim)) * 2, grid(seed, shape, (6, 7, 8), ndim))


def places(ndim=3, count=60):
    found = np.zeros((count, 3))
    found[:, :ndim] = np.random.default_rng(0).uniform(-9, 9, (count, ndim))
    return found


def by_itk(transform, where, ndim=3):
    out = where.copy()
    for k, place in enumerate(where * FLIP):
        out[k, :ndim] = transform.TransformPoint([float(x) for x in place[:ndim]])
    return out * np.where(np.arange(3) < ndim, FLIP, 1)


def itk_of(part, ndim=3):
    """SimpleITK's own, from our figures by its setters."""
    if isinstance(part, Affine):
        found = sitk.AffineTransform(ndim)
        matrix = np.diag([*FLIP, 1]) @ part.matrix @ np.diag([*FLIP, 1])
        found.SetMatrix([float(x) for x in matrix[:ndim, :ndim].ravel()])
        found.SetTranslation([float(x) for x in matrix[:ndim, 3]])
        return found
    grid_affine = part.fixed_affine if isinstance(part, Warp) else part.affine
    lps = (np.diag([*FLIP, 1]) @ grid_affine)[:ndim]
    spacing = np.linalg.norm(lps[:, :ndim], axis=0)
    data = part.displacement_mm() if isinstance(part, Warp) else part.control
    data = data[..., :ndim] * FLIP[:ndim]
    if isinstance(part, Warp):
        vectors = sitk.GetImageFromArray(np.moveaxis(data, -1, 0).T.astype(np.float64), isVector=True)
        vectors.SetOrigin([float(x) for x in lps[:, 3]])
        vectors.SetSpacing([float(x) for x in spacing])
        vectors.SetDirection([float(x) for x in (lps[:, :ndim] / spacing).ravel()])
        return sitk.DisplacementFieldTransform(vectors)
    weights = []
    for k in range(ndim):
        one = sitk.GetImageFromArray(np.ascontiguousarray(data[..., k].T))
        one.SetOrigin([float(x) for x in lps[:, 3]])
        one.SetSpacing([float(x) for x in spacing])
        one.SetDirection([float(x) for x in (lps[:, :ndim] / spacing).ravel()])
        weights.append(one)
    return sitk.BSplineTransform(weights, 3)


PARTS = {"affine": linear, "field": field, "spline": spline}
CHAINS = [("affine",), ("field",), ("spline",), ("field", "affine"), ("affine", "spline", "field")]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("names", CHAINS, ids="+".join)
@pytest.mark.parametrize("ending", [".h5", ".tfm"])
def test_itk_reads_what_we_write_and_the_other_way(tmp_path, names, ending, ndim):
    ours = [PARTS[name](ndim=ndim) for name in names]
    theirs = sitk.CompositeTransform([itk_of(part, ndim) for part in reversed(ours)])  # the last is applied first
    where = places(ndim)
    expected = map_places(ours, where)
    np.testing.assert_allclose(by_itk(theirs, where, ndim), expected, atol=2e-5)  # our vectors are float32
    single = theirs if len(names) > 1 else itk_of(ours[0], ndim)
    sitk.WriteTransform(single, str(tmp_path / f"theirs{ending}"))
    np.testing.assert_allclose(map_places(load_transforms(tmp_path / f"theirs{ending}"), where), expected, atol=2e-5)
    if ending == ".tfm" and "field" in names:
        with pytest.raises(InputError, match="a linear format, and these transforms are not"):
            save_transforms(tmp_path / "ours.tfm", ours)
        return
    save_transforms(tmp_path / f"ours{ending}", ours, fixed=Image(np.zeros((3,) * ndim), np.eye(4)))
    read = sitk.ReadTransform(str(tmp_path / f"ours{ending}"))
    np.testing.assert_allclose(by_itk(read, where, ndim), expected, atol=2e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
def test_fields_as_images_of_vectors(tmp_path, ending, ndim):
    ours = field(ndim=ndim)
    where = places(ndim)
    save_warp(tmp_path / f"ours{ending}", ours)
    vectors = sitk.ReadImage(str(tmp_path / f"ours{ending}"), sitk.sitkVectorFloat64)
    theirs = sitk.DisplacementFieldTransform(vectors)
    np.testing.assert_allclose(by_itk(theirs, where, ndim), ours(where), atol=2e-5)
    sitk.WriteImage(itk_of(ours, ndim).GetDisplacementField(), str(tmp_path / f"theirs{ending}"))
    np.testing.assert_allclose(load_transforms(tmp_path / f"theirs{ending}")[0](where), ours(where), atol=2e-5)


def test_a_spline_moves_nothing_where_splines_are_missing():
    ours, theirs = spline(), itk_of(spline())
    points = np.random.default_rng(1).uniform(-2, 10, (300, 3)) @ ours.affine[:3, :3].T + ours.affine[:3, 3]
    np.testing.assert_allclose(by_itk(theirs, points), ours(points), atol=1e-9)
    assert 30 < (ours(points) == points).all(1).sum() < 290


def test_ants_names_of_fields_are_read(tmp_path):
    sitk.WriteTransform(itk_of(field()), str(tmp_path / "a.tfm"))
    text = (tmp_path / "a.tfm").read_text()
    for name in (
        "GaussianSmoothingOnUpdateDisplacementFieldTransform_float_3_3",
        "DisplacementFieldTransform_float_3_3",
    ):
        (tmp_path / "b.tfm").write_text(text.replace("DisplacementFieldTransform_double_3_3", name))
        np.testing.assert_allclose(load_transforms(tmp_path / "b.tfm")[0](places()), field()(places()), atol=2e-5)


def test_older_hdf5_spells_parameters_without_an_s(tmp_path):
    h5py = pytest.importorskip("h5py")
    sitk.WriteTransform(sitk.CompositeTransform([itk_of(linear()), itk_of(field())]), str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for group in list(file["TransformGroup"].values())[1:]:
            for name in ("Parameters", "FixedParameters"):
                old = next(key for key in (f"Transform{name}", f"Tranform{name}") if key in group)
                other = f"Tranform{name}" if old.startswith("Transf") else f"Transform{name}"
                group.move(old, other)
    expected = map_places([field(), linear()], places())
    np.testing.assert_allclose(map_places(load_transforms(tmp_path / "a.h5"), places()), expected, atol=2e-5)


def test_nitransforms_reads_our_composites(tmp_path):
    manip = pytest.importorskip("nitransforms.manip")
    shape = (21, 22, 23)
    affine = grid(5, shape)
    world = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    slopes = np.random.default_rng(2).normal(size=(3, 3)) * 0.05  # its splines and our lines agree on a linear field
    bent = Warp.from_displacement_mm(world @ slopes, affine)
    save_transforms(tmp_path / "a.h5", [bent, linear()])
    theirs = manip.TransformChain.from_filename(str(tmp_path / "a.h5"), fmt="itk")
    inside = places() * 0.2
    np.testing.assert_allclose(theirs.map(inside), map_places([bent, linear()], inside), atol=1e-3)


# ---------------------------------------------------------------- FSL, FreeSurfer, AFNI


def fsl_coordinates(affine, shape, voxels):
    """FSL's mm of voxels, as its documentation has them."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    flipped = voxels.astype(float).copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        flipped[:, 0] = shape[0] - 1 - flipped[:, 0]
    return flipped * zooms


@pytest.mark.parametrize("seeds", [(1, 2), (2, 4), (7, 8), (8, 2)])
def test_flirt_matrices_by_their_definition_and_nitransforms(tmp_path, seeds):
    fixed, moving = (image(seed) for seed in seeds)
    save_affine(tmp_path / "a.mat", linear(), matrix="flirt", fixed=fixed, moving=moving)
    written = np.loadtxt(tmp_path / "a.mat")
    voxels = np.random.default_rng(0).uniform(0, 6, (20, 3))
    world = voxels @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    there = np.linalg.inv(moving.affine)
    target = linear()(world) @ there[:3, :3].T + there[:3, 3]
    left = fsl_coordinates(moving.affine, moving.shape, target)
    np.testing.assert_allclose(
        left @ written[:3, :3].T + written[:3, 3], fsl_coordinates(fixed.affine, fixed.shape, voxels), atol=1e-9
    )
    back = load_affine(tmp_path / "a.mat", matrix="flirt", fixed=fixed, moving=moving)
    np.testing.assert_allclose(back.matrix, linear().matrix, atol=1e-12)
    fsl = pytest.importorskip("nitransforms.io.fsl")
    theirs = fsl.FSLLinearTransform.from_ras(
        linear().matrix, moving=nibabel.Nifti1Image(moving.data, moving.affine),
        reference=nibabel.Nifti1Image(fixed.data, fixed.affine),
    )  # fmt: skip
    np.testing.assert_allclose(theirs["parameters"], written, atol=1e-4)


def test_lta_and_nitransforms(tmp_path):
    lta = pytest.importorskip("nitransforms.io.lta")
    fixed, moving = image(1), image(2, spacing=(1.0, 1.1, 1.2))
    save_affine(tmp_path / "ours.lta", linear(), fixed=fixed, moving=moving)
    theirs = lta.FSLinearTransform.from_filename(tmp_path / "ours.lta")
    np.testing.assert_allclose(theirs.to_ras(), linear().matrix, atol=1e-5)  # float32 there
    np.testing.assert_allclose(load_affine(tmp_path / "ours.lta").matrix, linear().matrix, atol=1e-12)
    np.testing.assert_allclose(theirs["dst"].as_affine(), fixed.affine, atol=1e-4)
    np.testing.assert_allclose(theirs["src"].as_affine(), moving.affine, atol=1e-4)
    images = [nibabel.Nifti1Image(i.data, i.affine) for i in (moving, fixed)]
    made = lta.FSLinearTransform.from_ras(linear().matrix, moving=images[0], reference=images[1])
    (tmp_path / "theirs.lta").write_text(made.to_string())
    np.testing.assert_allclose(load_affine(tmp_path / "theirs.lta").matrix, linear().matrix, atol=1e-5)


def test_lta_in_voxels_and_what_is_missing(tmp_path):
    fixed, moving = image(1), image(2)
    save_affine(tmp_path / "a.lta", linear(), fixed=fixed, moving=moving)
    lines = (tmp_path / "a.lta").read_text().splitlines()
    voxels = np.linalg.inv(fixed.affine) @ np.linalg.inv(linear().matrix) @ moving.affine
    at = lines.index("1 4 4") + 1
    lines[0], lines[at : at + 4] = "type      = 0", [" ".join(repr(float(x)) for x in row) for row in voxels]
    (tmp_path / "voxels.lta").write_text("\n".join(lines))
    np.testing.assert_allclose(load_affine(tmp_path / "voxels.lta").matrix, linear().matrix, atol=1e-9)
    (tmp_path / "bare.lta").write_text("\n".join(lines).replace("valid = 1", "valid = 0"))
    with pytest.raises(InputError, match="does not say how its src lies: give the moving image"):
        load_affine(tmp_path / "bare.lta")
    read = load_affine(tmp_path / "bare.lta", fixed=fixed, moving=moving)
    np.testing.assert_allclose(read.matrix, linear().matrix, atol=1e-9)
    (tmp_path / "kind.lta").write_text("\n".join(["type      = 14", *lines[1:]]))
    with pytest.raises(InputError, match=r"expected type 0 \(voxels\) or 1 \(RAS mm\), got 14 \(register.dat\)"):
        load_affine(tmp_path / "kind.lta")
    with pytest.raises(InputError, match="needs both images"):
        save_affine(tmp_path / "b.lta", linear())


@pytest.mark.parametrize("oblique", [False, True])
def test_afni_and_nitransforms(tmp_path, oblique):
    afni = pytest.importorskip("nitransforms.io.afni")
    turn = np.eye(4)
    if oblique:
        turn[:3, :3] = nibabel.eulerangles.euler2mat(0.2, 0.1, -0.15)
    fixed = Image(np.zeros((9, 11, 7), np.float32), turn @ np.diag([-2.0, 2.5, 3, 1]))
    moving = Image(np.zeros((5, 6, 7), np.float32), turn.T @ np.diag([1.0, -1.5, 2, 1]))
    save_affine(tmp_path / "ours.aff12.1D", linear(), fixed=fixed, moving=moving)
    given = {
        "moving": nibabel.Nifti1Image(moving.data, moving.affine),
        "reference": nibabel.Nifti1Image(fixed.data, fixed.affine),
    }
    theirs = afni.AFNILinearTransform.from_string((tmp_path / "ours.aff12.1D").read_text())
    np.testing.assert_allclose(theirs.to_ras(**given), linear().matrix, atol=1e-4)
    back = load_affine(tmp_path / "ours.aff12.1D", fixed=fixed, moving=moving)
    np.testing.assert_allclose(back.matrix, linear().matrix, atol=1e-12)
    made = afni.AFNILinearTransform.from_ras(linear().matrix, **given)
    (tmp_path / "theirs.aff12.1D").write_text(made.to_string())
    read = load_affine(tmp_path / "theirs.aff12.1D", fixed=fixed, moving=moving)
    np.testing.assert_allclose(read.matrix, linear().matrix, atol=2e-4)
    if not oblique:
        with pytest.warns(UserWarning, match="taken for one of images that are not oblique"):
            np.testing.assert_allclose(load_affine(tmp_path / "ours.aff12.1D").matrix, linear().matrix, atol=1e-12)


def test_a_series_of_afni_matrices_is_refused(tmp_path):
    line = " ".join(["1 0 0 0 0 1 0 0 0 0 1 0"])
    (tmp_path / "a.aff12.1D").write_text(f"# comment\n{line}\n{line}\n")
    with pytest.raises(InputError, match="expected one transform, got 2, as of the volumes of a series"):
        load_affine(tmp_path / "a.aff12.1D")


# ---------------------------------------------------------------- NiftyReg


@pytest.mark.parametrize("kind", ["places", "displacements"])
def test_niftyreg_s_fields_by_their_definition(tmp_path, kind):
    ours = field()
    save_warp(tmp_path / "ours.nii.gz", ours, format="niftyreg")
    theirs = nibabel.load(tmp_path / "ours.nii.gz")
    assert bytes(theirs.header["intent_name"]).startswith(b"NREG_TRANS") and theirs.header["intent_p1"] == 1
    assert theirs.shape == (9, 11, 7, 1, 3)
    vectors = np.asarray(theirs.dataobj)
    np.testing.assert_allclose(vectors[:, :, :, 0], ours.displacement_mm(), atol=1e-5)
    if kind == "places":
        world = np.moveaxis(np.indices((9, 11, 7)), 0, -1) @ theirs.affine[:3, :3].T + theirs.affine[:3, 3]
        theirs = nibabel.Nifti1Image(vectors + world[:, :, :, None].astype(np.float32), theirs.affine, theirs.header)
        theirs.header["intent_p1"] = 0
        nibabel.save(theirs, tmp_path / "theirs.nii.gz")
    read = load_warp(tmp_path / ("theirs.nii.gz" if kind == "places" else "ours.nii.gz"))
    np.testing.assert_allclose(read(places()), ours(places()), atol=2e-5)


@pytest.mark.skipif(shutil.which("reg_resample") is None, reason="NiftyReg is not installed")
def test_niftyreg_agrees(tmp_path):
    """Its own programs: one resamples by our field, the other makes places of our displacements."""
    moving = Image(np.random.default_rng(0).random((12, 13, 14), dtype=np.float32), grid(9, (12, 13, 14), (2, 2, 2.0)))
    save_image(tmp_path / "moving.nii.gz", moving)
    save_image(tmp_path / "fixed.nii.gz", Image(np.zeros((9, 11, 7), np.float32), grid(5)))
    save_warp(tmp_path / "warp.nii.gz", field(), format="niftyreg")
    by = {"-ref": "fixed.nii.gz", "-flo": "moving.nii.gz", "-trans": "warp.nii.gz", "-res": "moved.nii.gz"}
    words = [word for pair in by.items() for word in pair]
    subprocess.run(["reg_resample", *words, "-inter", "1"], cwd=tmp_path, check=True, capture_output=True)
    theirs = np.asarray(nibabel.load(tmp_path / "moved.nii.gz").dataobj)
    ours = apply([field()], moving, grid(5), (9, 11, 7)).data
    world = np.moveaxis(np.indices((9, 11, 7)), 0, -1) @ grid(5)[:3, :3].T + grid(5)[:3, 3]
    back = np.linalg.inv(moving.affine)
    at = field()(world) @ back[:3, :3].T + back[:3, 3]
    inside = ((at > 0) & (at < np.array(moving.shape) - 1)).all(-1)  # beyond the outermost centres it fades
    assert inside.mean() > 0.3
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-4)
    def_words = ["reg_transform", "-ref", "fixed.nii.gz", "-def", "warp.nii.gz", "def.nii.gz"]
    subprocess.run(def_words, cwd=tmp_path, check=True, capture_output=True)
    assert nibabel.load(tmp_path / "def.nii.gz").header["intent_p1"] == 0
    np.testing.assert_allclose(load_warp(tmp_path / "def.nii.gz")(places() * 0.6), field()(places() * 0.6), atol=1e-3)


def test_niftyreg_s_control_points_are_named(tmp_path):
    save_warp(tmp_path / "a.nii.gz", field(), format="niftyreg")
    theirs = nibabel.load(tmp_path / "a.nii.gz")
    theirs.header["intent_p1"] = 2
    nibabel.save(nibabel.Nifti1Image(np.asarray(theirs.dataobj), theirs.affine, theirs.header), tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="got control points of B-splines: reg_transform -ref FIXED -def"):
        load_warp(tmp_path / "b.nii.gz")


# ---------------------------------------------------------------- elastix


def elastix_file(path, kind, figures, ndim=3, initial="NoInitialTransform", **more):
    """As elastix writes it."""
    lines = [f'(Transform "{kind}")', f"(NumberOfParameters {len(figures)})"]
    lines += [f"(TransformParameters {' '.join(repr(float(x)) for x in figures)})"]
    lines += [f'(InitialTransformParametersFileName "{initial}")', '(HowToCombineTransforms "Compose")', ""]
    lines += ["// Image specific", f"(FixedImageDimension {ndim})", f"(MovingImageDimension {ndim})"]
    lines += [f"({key} {value})" for key, value in more.items()]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("ndim", [2, 3])
def test_elastix_chains_by_simple_itk(tmp_path, ndim):
    euler = (
        sitk.Euler3DTransform((1.0, 2, 3), 0.2, -0.3, 0.4, (4.0, 5, 6))
        if ndim == 3
        else sitk.Euler2DTransform((1, 2), 0.3, (5, 6))
    )
    centre = " ".join(map(str, euler.GetCenter()))
    elastix_file(tmp_path / "T.0.txt", "EulerTransform", euler.GetParameters(), ndim, CenterOfRotationPoint=centre)
    theirs = itk_of(spline(ndim=ndim), ndim)
    fixed = np.array(theirs.GetFixedParameters())
    size, origin, spacing = fixed[:ndim], fixed[ndim : 2 * ndim], fixed[2 * ndim : 3 * ndim]
    direction = fixed[3 * ndim :].reshape(ndim, ndim).T.ravel()

    def words(values):
        return " ".join(repr(float(x)) for x in values)

    elastix_file(
        tmp_path / "T.1.txt", "BSplineTransform", theirs.GetParameters(), ndim, "/gone/T.0.txt",
        GridSize=" ".join(str(int(x)) for x in size), GridIndex="0 " * ndim, GridSpacing=words(spacing),
        GridOrigin=words(origin), GridDirection=words(direction), BSplineTransformSplineOrder=3,
    )  # fmt: skip
    where = places(ndim)
    read = load_transforms(tmp_path / "T.1.txt")
    assert [type(part) for part in read] == [Affine, BSpline]
    expected = by_itk(sitk.CompositeTransform([theirs, euler]), where, ndim)  # elastix: the initial one first
    np.testing.assert_allclose(map_places(read, where), expected, atol=1e-9)


def test_elastix_files_that_lead_back_or_cannot_be_read(tmp_path):
    elastix_file(tmp_path / "a.txt", "TranslationTransform", [1, 2, 3], initial="b.txt")
    elastix_file(tmp_path / "b.txt", "TranslationTransform", [1, 2, 3], initial="a.txt")
    with pytest.raises(InputError, match="its initial transforms lead back to"):
        load_transforms(tmp_path / "a.txt")
    elastix_file(tmp_path / "c.txt", "SplineKernelTransform", [1, 2, 3])
    with pytest.raises(InputError, match=r"got SplineKernelTransform in 3-D; transformix -def all"):
        load_transforms(tmp_path / "c.txt")
    elastix_file(tmp_path / "d.txt", "TranslationTransform", [1, float("nan"), 3])
    with pytest.raises(InputError, match="expected finite numbers as TransformParameters"):
        load_transforms(tmp_path / "d.txt")
    elastix_file(tmp_path / "e.txt", "BSplineTransform", [1] * 10, GridSize="4 4 4", GridIndex="0 0 0",
                 GridSpacing="1 1 1", GridOrigin="0 0 0")  # fmt: skip
    with pytest.raises(InputError, match="numbers as TransformParameters, got 10"):
        load_transforms(tmp_path / "e.txt")


@pytest.mark.slow
def test_transformix_agrees(tmp_path):
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "transformix_filter"):
        pytest.skip("itk without elastix")
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blurred = itk.median_image_filter(
            itk.image_view_from_array(rng.random((24, 26, 28), dtype=np.float32)), radius=2
        )
        moved = itk.image_view_from_array(np.roll(itk.array_from_image(blurred), (1, 2, 0), (0, 1, 2)).copy())
        parameters = itk.ParameterObject.New()
        parameters.AddParameterMap(parameters.GetDefaultParameterMap("rigid", 1))
        parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline", 1, 8.0))
        _, found = itk.elastix_registration_method(
            blurred, moved, parameter_object=parameters,
            output_directory=str(tmp_path), log_to_console=False,
        )  # fmt: skip
        field_itk = itk.transformix_deformation_field(blurred, found)
    vectors = itk.array_from_image(field_itk).transpose(2, 1, 0, 3)
    read = load_transforms(tmp_path / "TransformParameters.1.txt")
    voxels = np.moveaxis(np.indices((28, 26, 24)), 0, -1).reshape(-1, 3).astype(float)
    moved = map_places(read, voxels * FLIP) * FLIP - voxels
    np.testing.assert_allclose(moved, vectors.reshape(-1, 3), atol=1e-3)


# ---------------------------------------------------------------- damage


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.h5", "a.tfm", "a.lta", "a.aff12.1D", "T.txt", "w.mha", "w.nrrd"])
def test_no_damage_ends_in_anything_but_a_line(tmp_path, name):
    path = tmp_path / name
    if name == "T.txt":
        elastix_file(path, "EulerTransform", [0.1, 0.2, 0.3, 1, 2, 3], CenterOfRotationPoint="1 2 3")
    else:
        parts = [field(), linear()] if name == "a.h5" else [field()] if name[0] == "w" else [linear()]
        save_transforms(path, parts, fixed=image(1), moving=image(2))
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        if rng.random() < 0.4:
            bad = bad[: rng.integers(len(bad))]
        else:
            for at in rng.integers(0, min(len(bad), 3000), 3):
                bad[at] = rng.integers(256)
        path.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                load_transforms(path)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
