import nibabel as nib
import numpy as np
import pytest
import torch

import fastreg
from fastreg import checkpoint
from fastreg.checkpoint import Checkpoint
from fastreg.files import InputError
from fastreg.images import Image, load_image, reorient, save_image
from fastreg.model import RegistrationNet
from fastreg.registration import register
from fastreg.transforms import load_warp


class Shift(RegistrationNet):
    """A network that has learnt one thing: to sample `by` voxels further along every axis."""

    by = (2.0, -1.0, 3.0)

    def field(self, moving, fixed):
        by = torch.tensor(self.by[: self.config.ndim]).view(1, -1, *[1] * self.config.ndim)
        return by.expand(moving.shape[0], -1, *moving.shape[2:]).contiguous()


def model(orientation="RAS", spacing_mm=None, ndim=3):
    net = Shift("vm1", ndim=ndim)
    working = {"spacing_mm": spacing_mm, "orientation": orientation, "shape": None, "normalise": "percentile"}
    return net, Checkpoint(network=net.options, working=working)


def picture(shape=(20, 24, 22), affine=None):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    data = np.exp(-4 * (grid**2).sum(0)) + 0.1 * np.sin(7 * grid[0]) * np.cos(5 * grid[1])
    return Image(data.astype(np.float32), np.eye(4) if affine is None else affine)


def test_the_networks_field_is_what_comes_out_on_one_grid():
    fixed, moving = picture(), picture()
    found = register(fixed, moving, model=model())
    assert torch.allclose(found.flow, torch.tensor([2.0, -1.0, 3.0]).view(1, 3, 1, 1, 1).expand(found.flow.shape))
    torch.testing.assert_close(found.moved, fastreg.warp(moving.tensor(), found.flow))
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
    checkpoint.save(tmp_path / "m.safetensors", net, Checkpoint(net.options, model()[1].working))
    assert register(picture(), picture(), model=tmp_path / "m.safetensors").moved.shape == (1, 1, 20, 24, 22)


def test_refining_and_not_refining():
    fixed, moving = picture(), picture((22, 24, 22))
    plain = register(fixed, moving, model=model())
    refined = register(fixed, moving, model=model(), refine=5)
    assert not torch.equal(plain.flow, refined.flow) and "level_1_seconds" in refined.log
    alone = register(fixed, moving, affine=False, refine=0)
    assert "level_1_seconds" not in alone.log
    np.testing.assert_allclose(alone.warp.displacement_mm(), 0, atol=1e-5)
