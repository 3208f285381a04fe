"""Registration as a transform of images and dictionaries, judged by nibabel images through `fastreg.register`."""

import nibabel
import numpy as np
import pytest
import torch
from helpers.metatensor import Meta

import fastreg
from fastreg.compat.monai import Register, Registerd
from fastreg.geometry.transforms import LPS
from fastreg.utils.files import InputError

FIXED = np.diag([-2.0, -2.0, 2.0, 1.0])
MOVING = np.array([[0, 2.0, 0, -46], [-2.0, 0, 0, 3], [0, 0, 2.5, 0], [0, 0, 0, 1]])
OPTIONS = {"transform": "translation", "device": "cpu"}


def blob(affine, shape, centre_mm):
    index = np.stack(np.meshgrid(*[np.arange(float(n)) for n in shape], indexing="ij"))
    places = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3].reshape(3, 1, 1, 1)
    return np.exp(-((places - np.reshape(centre_mm, (3, 1, 1, 1))) ** 2).sum(0) / 150).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    return blob(FIXED, (24, 24, 24), (-24, -24, 24)), blob(MOVING, (26, 24, 20), (-20, -22, 25))


@pytest.fixture(scope="module")
def judge(pair):
    """The same images as nibabel's, through `fastreg.register`."""
    images = (nibabel.Nifti1Image(x, affine) for x, affine in zip(pair, (FIXED, MOVING), strict=True))
    return fastreg.register(*images, inverse=True, **OPTIONS)


def metas(pair, space="RAS"):
    turn = LPS if space == "LPS" else np.eye(4)
    return [Meta(x[None], turn @ affine, {"space": space}) for x, affine in zip(pair, (FIXED, MOVING), strict=True)]


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_metatensors(pair, judge, space):
    fixed, moving = metas(pair, space)
    moved, warp, inverse_warp, result = Register(**OPTIONS)(fixed, moving)
    assert isinstance(moved, Meta) and moved.meta["space"] == space
    np.testing.assert_allclose(moved.affine, fixed.affine)
    np.testing.assert_allclose(warp.affine, fixed.affine)
    np.testing.assert_allclose(inverse_warp.affine, moving.affine)
    assert (moved.shape, warp.shape, inverse_warp.shape) == ((1, 24, 24, 24), (3, 24, 24, 24), (3, 26, 24, 20))
    np.testing.assert_allclose(moved[0].as_tensor(), judge.moved[0, 0], atol=1e-5)
    np.testing.assert_allclose(warp.as_tensor(), judge.flow[0], atol=1e-4)
    np.testing.assert_allclose(inverse_warp.as_tensor(), judge.inverse_flow[0], atol=1e-4)
    again = fastreg.warp(moving[None].as_subclass(torch.Tensor), warp[None].as_subclass(torch.Tensor))
    np.testing.assert_allclose(again[0].numpy(), moved.as_tensor(), atol=1e-4)
    assert np.abs(moved[0].as_tensor().numpy() - pair[0]).max() < 0.05
    np.testing.assert_allclose(result.affine.matrix, judge.affine.matrix, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_arrays_with_affines(pair, judge, kind):
    found = Register(**OPTIONS)(*(kind(x[None]) for x in pair), fixed_affine=FIXED, moving_affine=torch.tensor(MOVING))
    assert type(found.moved) is type(found.warp) is type(kind(pair[0]))
    np.testing.assert_allclose(found.moved[0], judge.moved[0, 0], atol=1e-5)
    np.testing.assert_allclose(found.inverse_warp, judge.inverse_flow[0], atol=1e-4)


def test_dictionaries(pair, judge):
    fixed, moving = metas(pair)
    labels = Meta((moving > 0.5).float(), MOVING, {"space": "RAS"})
    step = Registerd("t1", "t2", also={"seg": "nearest"}, **OPTIONS)
    data = {"t1": fixed, "t2": moving, "seg": labels, "name": "subject"}
    found = step(data)
    assert set(found) == {*data, "moved", "warp", "inverse_warp", "moved_seg"} and set(data) == {
        "t1",
        "t2",
        "seg",
        "name",
    }
    np.testing.assert_allclose(found["moved"][0].as_tensor(), judge.moved[0, 0], atol=1e-5)
    assert set(np.unique(found["moved_seg"])) == {0, 1}
    overlap = (found["moved_seg"][0].as_tensor().numpy() > 0) == (pair[0] > 0.5)
    assert overlap.mean() > 0.99


def test_dictionaries_of_arrays_with_meta_dictionaries(pair, judge):
    data = {"fixed": pair[0][None], "moving": pair[1][None], "mask": (pair[0] > 0.01)[None]}
    data |= {"fixed_meta_dict": {"affine": FIXED}, "moving_meta_dict": {"affine": MOVING}}
    found = Registerd(moved="m", warp="w", inverse_warp="i", **OPTIONS)(data)
    np.testing.assert_allclose(found["m"][0], judge.moved[0, 0], atol=1e-5)
    np.testing.assert_allclose(found["w"], judge.flow[0], atol=1e-4)
    masked = Registerd(fixed_mask="mask", inverse=False, **OPTIONS)(data)
    assert masked["inverse_warp"] is None
    assert np.abs(masked["moved"][0] - pair[0]).max() < 0.05


def test_planes(pair):
    plane = [x[None, :, :, 12] for x in (pair[0], np.roll(pair[0], 2, 0))]
    found = Register(**OPTIONS)(*plane)
    assert (found.moved.shape, found.warp.shape) == ((1, 24, 24), (2, 24, 24))
    np.testing.assert_allclose(found.warp[0], 2, atol=0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: Register()(np.stack([x, x]), x[None]),
            r"fixed image: expected one channel, .* got \[2, 24, 24, 24\]",
        ),
        (lambda x: Register()(x[None], x), r"moving image: expected one channel"),
        (lambda x: Register(metric="ssim")(x[None], x[None]), "metric: expected one of"),
        (lambda x: Registerd()({"fixed": x[None]}), "expected the key 'moving', got 'fixed'"),
    ],
)
def test_wrong_arguments(pair, call, message):
    with pytest.raises(InputError, match=message):
        call(pair[0])
