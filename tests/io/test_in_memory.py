"""Images of other libraries: SimpleITK's own, judged by nibabel; the others by stand-ins with their attributes."""

import sys
import types

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.metatensor import Meta

import fastreg
from fastreg.geometry.image import Image
from fastreg.geometry.transforms import LPS
from fastreg.io.images import load_image, load_labels
from fastreg.io.memory import like
from fastreg.utils.files import InputError

DIRECTION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
DIRECTION[:, 0] *= np.sign(np.linalg.det(DIRECTION))
SPACING, ORIGIN = (1.5, 2.0, 0.75), (10.0, -20.0, 30.0)
DATA = np.random.default_rng(2).random((5, 6, 7)).astype(np.float32)
AFFINE = LPS @ np.block([[DIRECTION * SPACING, np.array(ORIGIN)[:, None]], [np.zeros(3), 1.0]])


def simple():
    image = sitk.GetImageFromArray(np.ascontiguousarray(DATA.T))
    image.SetDirection(DIRECTION.flatten())
    image.SetOrigin(ORIGIN)
    image.SetSpacing(SPACING)
    return image


class Ants:
    components = 1
    origin, spacing, direction = ORIGIN, SPACING, DIRECTION

    def __init__(self, data=DATA):
        self.data = data

    def numpy(self):
        return self.data


class Itk:
    """An itk.Image: the same words as SimpleITK's, a matrix object and arrays made by the module."""

    def __init__(self, image=None):
        self.image = image or simple()

    def GetLargestPossibleRegion(self):
        return self.image.GetSize()

    def GetDirection(self):
        return {"matrix": DIRECTION}

    def __getattr__(self, name):
        return getattr(self.image, name)


class Tio:
    def __init__(self, tensor, affine):
        self.data, self.affine = torch.as_tensor(tensor), np.asarray(affine)


@pytest.fixture
def libraries(monkeypatch):
    ants = types.ModuleType("ants.core.ants_image")
    ants.ANTsImage = Ants
    monkeypatch.setitem(sys.modules, "ants.core.ants_image", ants)
    whole = types.ModuleType("ants")
    whole.from_numpy = lambda data, **place: (data, place)
    monkeypatch.setitem(sys.modules, "ants", whole)
    itk = types.ModuleType("itk")
    itk.array_view_from_image = lambda image: sitk.GetArrayViewFromImage(image.image)
    itk.array_from_matrix = lambda matrix: matrix["matrix"]
    monkeypatch.setitem(sys.modules, "itk", itk)
    torchio = types.ModuleType("torchio.data.image")
    torchio.Image = Tio
    monkeypatch.setitem(sys.modules, "torchio.data.image", torchio)


SOURCES = {
    "SimpleITK": simple,
    "ants": Ants,
    "itk": Itk,
    "MetaTensor": lambda: Meta(DATA[None], AFFINE, {"space": "RAS"}),
    "MetaTensor in a batch": lambda: Meta(DATA[None, None], AFFINE),
    "MetaTensor without channel": lambda: Meta(DATA, AFFINE, {"original_channel_dim": "no_channel"}),
    "MetaTensor in LPS": lambda: Meta(DATA[None], LPS @ AFFINE, {"space": "LPS"}),
    "torchio": lambda: Tio(DATA[None], AFFINE),
}


@pytest.mark.parametrize("name", SOURCES)
def test_voxels_and_place(libraries, name):
    image = load_image(SOURCES[name]())
    np.testing.assert_array_equal(image.data, DATA)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-12)


def test_nibabel_reads_the_same_from_simpleitks_file(tmp_path):
    sitk.WriteImage(simple(), str(tmp_path / "x.nii.gz"))
    theirs, ours = nibabel.load(tmp_path / "x.nii.gz"), load_image(simple())
    np.testing.assert_array_equal(theirs.get_fdata(), ours.data)
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-5)


def test_simpleitk_comes_back():
    image = like(simple(), Image(DATA, AFFINE))
    assert image.GetSize() == simple().GetSize()
    for ours, theirs in zip(
        (image.GetOrigin(), image.GetSpacing(), image.GetDirection()),
        (ORIGIN, SPACING, DIRECTION.flatten()),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    corner = image.TransformIndexToPhysicalPoint((4, 0, 6))
    np.testing.assert_allclose(corner, (LPS @ AFFINE @ [4, 0, 6, 1])[:3], atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), DATA.T)


def test_the_others_come_back(libraries):
    image = Image(DATA, AFFINE)
    data, place = like(Ants(), image)
    np.testing.assert_array_equal(data, DATA)
    np.testing.assert_allclose(place["direction"], DIRECTION, atol=1e-12)
    for source in ("MetaTensor", "MetaTensor in LPS", "torchio"):
        back = like(SOURCES[source](), image)
        assert type(back) is type(SOURCES[source]())
        again = load_image(back)
        np.testing.assert_array_equal(again.data, DATA)
        np.testing.assert_allclose(again.affine, AFFINE, atol=1e-12)
    header = like(nibabel.Nifti1Image(DATA, np.eye(4)), image)
    np.testing.assert_allclose(header.affine, AFFINE)
    assert torch.equal(like(torch.zeros(1), image), torch.from_numpy(DATA))
    assert like(DATA, image) is DATA and like(image, image) is image


def test_planes(libraries):
    plane = sitk.GetImageFromArray(np.ascontiguousarray(DATA[:, :, 0].T))
    plane.SetSpacing((2.0, 3.0))
    plane.SetOrigin((5.0, 7.0))
    image = load_image(plane)
    np.testing.assert_array_equal(image.data, DATA[:, :, 0])
    np.testing.assert_allclose(image.affine, [[-2, 0, 0, -5], [0, -3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(like(plane, image).GetOrigin(), plane.GetOrigin())
    flat = load_image(Meta(DATA[None, :, :, 0], np.diag([2.0, 3.0, 1.0])))
    np.testing.assert_array_equal(flat.data, DATA[:, :, 0])
    np.testing.assert_allclose(flat.affine, np.diag([2.0, 3, 1, 1]))


def test_labels_stay_whole():
    labels = sitk.Cast(simple() * 5, sitk.sitkUInt8)
    assert load_labels(labels).data.dtype == np.uint8
    figures = fastreg.evaluate(fixed_labels=labels, moved_labels=labels, hd95=False)
    assert figures["dice_mean"] == 1


def test_registration_of_images_in_memory():
    grid = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"))
    ball = [np.exp(-((grid - np.reshape(c, (3, 1, 1, 1))) ** 2).sum(0) / 40) for c in ((12, 12, 12), (14, 12, 11))]
    fixed, moving = (sitk.GetImageFromArray(np.ascontiguousarray(x.T.astype(np.float32))) for x in ball)
    for image in (fixed, moving):
        image.SetSpacing((2.0, 2.0, 2.0))
    result = fastreg.register(fixed, moving, transform="translation", device="cpu")
    np.testing.assert_allclose(result.affine.matrix[:3, 3], [-4, 0, -2], atol=0.3)  # RAS: x is turned over
    back = like(fixed, result.apply(result.moving))
    inner = (slice(4, -4),) * 3  # beyond, nothing of the moving image is known
    difference = sitk.GetArrayFromImage(back)[inner] - sitk.GetArrayFromImage(fixed)[inner]
    assert np.abs(difference).max() < 0.05
    affine = np.diag([-2.0, -2, 2, 1])
    meta = fastreg.register(
        *(Meta(x[None].astype(np.float32), affine) for x in ball), transform="translation", device="cpu"
    )
    np.testing.assert_allclose(meta.affine.matrix, result.affine.matrix, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: sitk.Compose(simple(), simple()), "fixed image: expected one number a voxel, got 2"),
        (lambda: Meta(np.stack([DATA, DATA]), AFFINE), "fixed image: expected one number a voxel, got 2 channels"),
        (lambda: Meta(DATA[None], AFFINE, {"space": "scanner"}), r"meta\['space'\] is RAS or LPS, got 'scanner'"),
        (lambda: Tio(np.stack([DATA, DATA]), AFFINE), "fixed image: expected one number a voxel, got 2 channels"),
        (lambda: sitk.Image(3, 3, 3, sitk.sitkComplexFloat32), "fixed image: expected one number a voxel"),
    ],
)
def test_wrong_images(libraries, source, message):
    with pytest.raises(InputError, match=message):
        load_image(source(), what="fixed image")
