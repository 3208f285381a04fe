"""Linear transforms on disk, against SimpleITK."""

import itertools
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.io.affines import load_affine, save_affine
from fastreg.utils.files import InputError


def affine_3d(rng):
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4)) * [0.1, 0.1, 0.1, 2.0]
    return Affine(matrix)


@pytest.mark.parametrize("ending", [".mat", ".tfm", ".txt"])
def test_affine_comes_back(tmp_path, ending):
    affine = affine_3d(np.random.default_rng(7))
    save_affine(tmp_path / f"a{ending}", affine)
    np.testing.assert_allclose(load_affine(tmp_path / f"a{ending}").matrix, affine.matrix, rtol=0, atol=1e-14)


@pytest.mark.parametrize("ending", [".mat", ".tfm"])
def test_itk_reads_our_affine(tmp_path, ending):
    rng = np.random.default_rng(8)
    affine = affine_3d(rng)
    save_affine(tmp_path / f"a{ending}", affine)
    theirs = sitk.ReadTransform(str(tmp_path / f"a{ending}"))
    for place in rng.normal(size=(5, 3)) * 50:
        lps = np.array(theirs.TransformPoint((place * [-1, -1, 1]).tolist()))
        np.testing.assert_allclose(lps * [-1, -1, 1], affine(place), atol=1e-10)


def itk_transforms():
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.1, 0.2, 0.1, -0.1, 0.9, 0.3, 0, 0.2, 1.2])
    affine.SetTranslation([3, -4, 5])
    affine.SetCenter([10, 20, -30])
    euler = sitk.Euler3DTransform((1.0, 2, 3), 0.2, -0.3, 0.4, (4.0, 5, 6))
    euler_zyx = sitk.Euler3DTransform((1.0, 2, 3), 0.2, -0.3, 0.4, (4.0, 5, 6))
    euler_zyx.SetComputeZYX(True)
    similarity = sitk.Similarity3DTransform()
    similarity.SetScale(1.1)
    similarity.SetRotation((0, 1, 0), 0.2)
    similarity.SetCenter((5, 4, 3))
    similarity.SetTranslation((1, 2, 3))
    scales, angle, centre = (1.1, 0.9, 1.05), 0.3, (5.0, -4, 3)
    composite = sitk.CompositeTransform(3)
    for part in (affine, euler, similarity):
        composite.AddTransform(part)
    skews = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    return {
        "versor_rigid": sitk.VersorRigid3DTransform((0, 0.6, 0.8), angle, (1, 2, 3), centre),
        "similarity": similarity,
        "versor": sitk.VersorTransform((0, 1, 0), angle, centre),
        "scale_versor": sitk.ScaleVersor3DTransform(scales, (0, 0.6, 0.8), angle, (1, 2, 3), centre),
        "skew_versor": sitk.ScaleSkewVersor3DTransform(scales, skews, (0, 1, 0), angle, (1, 2, 3), centre),
        "scale": sitk.ScaleTransform(3, scales),
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "composite": composite,
        "affine": affine,
        "euler": euler,
        "euler_zyx": euler_zyx,
        "translation": sitk.TranslationTransform(3, (1.0, 2, 3)),
    }


@pytest.mark.parametrize("ending", [".mat", ".tfm", ".txt"])
@pytest.mark.parametrize("name", list(itk_transforms()))
def test_we_read_itk_s_transforms(tmp_path, name, ending):
    theirs = itk_transforms()[name]
    sitk.WriteTransform(theirs, str(tmp_path / f"a{ending}"))
    if (name, ending) == ("composite", ".mat"):
        with pytest.raises(InputError, match="loses a composite's kinds"):
            load_affine(tmp_path / "a.mat")
        return
    ours = load_affine(tmp_path / f"a{ending}")
    for place in np.random.default_rng(9).normal(size=(5, 3)) * 50:
        lps = np.array(theirs.TransformPoint((place * [-1, -1, 1]).tolist()))
        np.testing.assert_allclose(ours(place), lps * [-1, -1, 1], atol=1e-9)


FLAT = {
    "euler": sitk.Euler2DTransform((1, 2), 0.3, (5, 6)),
    "similarity": sitk.Similarity2DTransform(1.2, 0.3, (5, 6), (1, 2)),
    "scale": sitk.ScaleTransform(2, (1.1, 0.8)),
    "translation": sitk.TranslationTransform(2, (1, 2)),
    "affine": sitk.AffineTransform((1.1, 0.2, -0.1, 0.9), (5, 6), (1, 2)),
    "identity": sitk.Transform(2, sitk.sitkIdentity),
}


@pytest.mark.parametrize("ending", [".mat", ".tfm"])
@pytest.mark.parametrize("name", list(FLAT))
def test_we_read_itk_s_flat_transforms(tmp_path, name, ending):
    sitk.WriteTransform(FLAT[name], str(tmp_path / f"a{ending}"))
    ours = load_affine(tmp_path / f"a{ending}")
    for place in np.random.default_rng(9).normal(size=(5, 2)) * 50:
        lps = np.array(FLAT[name].TransformPoint((-place).tolist()))
        np.testing.assert_allclose(ours(np.append(place, 7)), [*-lps, 7], atol=1e-9)


KINDS_BY_TEXT = {
    "CenteredRigid2DTransform_double_2_2": ([0.3, 1, 2, 5, 6], [0, 0]),
    "CenteredSimilarity2DTransform_double_2_2": ([1.2, 0.3, 1, 2, 5, 6], [0, 0]),
    "Rigid2DTransform_double_2_2": ([0.3, 5, 6], [1, 2]),
    "CenteredEuler3DTransform_double_3_3": ([0.1, 0.2, 0.3, 1, 2, 3, 5, 6, 7], [0, 0, 0]),
    "CenteredAffineTransform_double_3_3": ([1.1, 0.1, 0.2, 0.3, 0.9, 0.1, 0, 0.1, 1, 1, 2, 3, 5, 6, 7], [0, 0, 0]),
    "ComposeScaleSkewVersor3DTransform_double_3_3": (
        [0.1, 0.2, 0.3, 5, 6, 7, 1.1, 0.9, 1.2, 0.01, 0.02, 0.03],
        [1, 2, 3],
    ),
    "ScaleLogarithmicTransform_double_3_3": ([0.1, 0.2, 0.3], [1, 2, 3]),
    "AffineTransform_float_3_3": ([1.1, 0.1, 0.2, 0.3, 0.9, 0.1, 0, 0.1, 1, 5, 6, 7], [1, 2, 3]),
}


@pytest.mark.parametrize("kind", list(KINDS_BY_TEXT))
def test_itk_reads_the_same_from_the_kinds_it_no_longer_writes(tmp_path, kind):
    figures, fixed = (" ".join(map(str, words)) for words in KINDS_BY_TEXT[kind])
    text = f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\nParameters: {figures}\n"
    (tmp_path / "a.tfm").write_text(f"{text}FixedParameters: {fixed}\n")
    theirs = sitk.SimpleITK._SimpleITK.ReadTransform(str(tmp_path / "a.tfm"))  # Python's side knows fewer kinds
    ours, n = load_affine(tmp_path / "a.tfm"), theirs.GetDimension()
    for place in np.random.default_rng(9).normal(size=(5, 3)) * 50:
        lps = theirs.TransformPoint((place * [-1, -1, 1])[:n].tolist())
        np.testing.assert_allclose(ours(place)[:n], np.array(lps) * [-1, -1, 1][:n], atol=1e-9)


def fsl_place(affine, shape, voxel):
    """A voxel in FSL's coordinates: mm along the axes, x from the other end of a grid of positive determinant."""
    voxel = np.array(voxel, float)
    if np.linalg.det(affine[:3, :3]) > 0:
        voxel[0] = shape[0] - 1 - voxel[0]
    return voxel * np.linalg.norm(affine[:3, :3], axis=0)


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=2)))
def test_flirt_s_matrix_maps_the_moving_to_the_fixed_image_in_fsl_s_coordinates(tmp_path, flips):
    rng = np.random.default_rng(21)
    images = []
    for flip in flips:
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(1, 2, 3)
        affine[:3, 0] *= flip * np.sign(np.linalg.det(affine[:3, :3]))
        affine[:3, 3] = rng.normal(size=3) * 20
        images.append(Image(np.zeros(rng.integers(9, 15, 3)), affine))
    fixed, moving = images
    flirt = affine_3d(rng).matrix
    np.savetxt(tmp_path / "flirt.mat", flirt)
    ours = load_affine(tmp_path / "flirt.mat", matrix="flirt", fixed=fixed, moving=moving)
    for p in ((0, 0, 0), (3, 4, 5), (9, 2, 7)):
        place = ours((fixed.affine @ [*p, 1])[:3])
        q = (np.linalg.inv(moving.affine) @ [*place, 1])[:3]
        there = (flirt @ [*fsl_place(moving.affine, moving.shape, q), 1])[:3]
        np.testing.assert_allclose(there, fsl_place(fixed.affine, fixed.shape, p), atol=1e-6)
    with pytest.raises(InputError, match="needs both images"):
        load_affine(tmp_path / "flirt.mat", matrix="flirt", moving=moving)
    with pytest.raises(InputError, match=r"give --matrix flirt .* --matrix ras"):
        load_affine(tmp_path / "flirt.mat")
    np.testing.assert_allclose(load_affine(tmp_path / "flirt.mat", matrix="ras").matrix, flirt)


def test_a_plain_matrix_in_text_is_taken_for_ras_mm_with_a_word(tmp_path):
    (tmp_path / "plain.txt").write_text("1 0 0 2\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.warns(UserWarning, match=r"plain.txt: a plain 4x4 matrix, taken for fixed RAS mm -> moving RAS mm; if"):
        assert load_affine(tmp_path / "plain.txt").matrix[0, 3] == 2


BAD_AFFINES = {
    "flirt.mat": b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    "short.mat": b"\0\0\0\0\x0c\0\0\0\x01\0\0\0",
    "words.txt": b"one two three\n",
    "three.txt": b"1 0 0 0\n0 1 0 0\n0 0 1 0\n",
    "singular.txt": b"1 0 0 0\n0 0 0 0\n0 0 1 0\n0 0 0 1\n",
    "as_flirt_writes.txt": b"1  0  0  0  \n0  1  0  0  \n0  0  1  0  \n0  0  0  1  \n",
    "endless.mat": struct.pack("<5i", 0, 0, 1, 0, -20) * 3,
    "huge.mat": struct.pack("<5i", 0, 2**31 - 1, 2**31 - 1, 0, 8) + b"fixed\0\0\0",
    "large.txt": b"1 " * 2**20,
    "empty.tfm": b"",
    "two.tfm": b"#Insight Transform File V1.0\nTransform: a\nParameters: 1\nFixedParameters: 0\nTransform: b\n",
    "bspline.tfm": b"#Insight Transform File V1.0\nTransform: BSpline_double_3_3\nParameters: 1\nFixedParameters: 0\n",
}


@pytest.mark.parametrize("name", list(BAD_AFFINES))
def test_affines_that_are_none_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_AFFINES[name])
    with pytest.raises(InputError, match=name) as error:
        load_affine(tmp_path / name)
    assert "\n" not in str(error.value)
