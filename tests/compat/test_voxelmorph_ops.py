"""VoxelMorph's functions, modules and networks by their names: the same numbers as their definition in float64."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from helpers.definitions import data, gradients, moments, sampled
from torch import nn

import fastreg.compat.voxelmorph as vxm
from fastreg.compat.voxelmorph.nn import functional, models, modules
from fastreg.utils.files import InputError


def field(ndim, size=(9, 8, 7), scale=2.0, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, ndim, *size[:ndim], generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_a_displacement(ndim, mode, padding):
    image, disp = data(ndim)[0].requires_grad_(), field(ndim).requires_grad_()
    expected = sampled(image, disp, {"linear": "bilinear"}.get(mode, mode), padding)
    found = functional.spatial_transform(image, disp, mode, padding_mode=padding)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for x, y in zip(gradients(found, image, disp), gradients(expected, image, disp), strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, rtol=0, atol=1e-11)
    alone = vxm.spatial_transform(image[0, 0], disp[0], mode, padding_mode=padding)
    torch.testing.assert_close(alone, expected[0, 0], rtol=0, atol=1e-12)
    channels = vxm.spatial_transform(image[0], disp[0], mode, padding_mode=padding, non_spatial_dims=(0,))
    torch.testing.assert_close(channels, expected[0], rtol=0, atol=1e-12)


def test_corners_that_do_not_align():
    """VoxelMorph makes the coordinates of aligned corners and samples them as others."""
    image, disp = data(3)[0], field(3)
    last = torch.tensor([8, 7, 6]).view(1, 3, 1, 1, 1)
    grid = (2 * (functional.voxels(disp) + disp) / last - 1).movedim(1, -1).flip(-1)
    expected = F.grid_sample(image, grid, align_corners=False)
    found = modules.SpatialTransformer(align_corners=False)(image, disp)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_another_grid_stretches_the_image():
    image, disp = data(2)[0], field(2, (5, 6))
    grid = (2 * (functional.voxels(disp) + disp) / torch.tensor([4, 5]).view(1, 2, 1, 1) - 1).movedim(1, -1).flip(-1)
    expected = F.grid_sample(image, grid, align_corners=True)
    torch.testing.assert_close(functional.spatial_transform(image, disp), expected, rtol=0, atol=1e-12)


def test_coordinates_and_grids_of_their_own():
    image, disp = data(3)[0], field(3)
    last = torch.tensor([8, 7, 6]).view(1, 3, 1, 1, 1)
    coordinates = 2 * (functional.voxels(disp) + disp) / last - 1
    expected = functional.spatial_transform(image, disp)
    torch.testing.assert_close(functional.spatial_transform(image, coordinates, isdisp=False), expected)
    shifted = functional.voxels(disp) + 0.5
    found = functional.spatial_transform(image, disp - 0.5, meshgrid=shifted)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_labels_stay_labels_and_one_voxel_stays():
    labels = torch.arange(36).view(1, 1, 6, 6)
    disp = torch.ones(1, 2, 6, 6)
    moved = functional.spatial_transform(labels, disp, "nearest", padding_mode="border")
    assert torch.equal(moved, F.pad(labels[..., 1:, 1:].double(), (0, 1, 0, 1), mode="replicate").long())
    assert functional.spatial_transform(labels, disp).dtype == torch.float32
    slab = torch.rand(1, 1, 1, 6, 6)
    assert torch.equal(functional.spatial_transform(slab, torch.full((1, 3, 1, 6, 6), 0.0)), slab)
    along = torch.zeros(1, 3, 1, 6, 6)
    along[:, 0] = 5
    assert torch.equal(functional.spatial_transform(slab, along), slab)
    assert functional.spatial_transform(labels, None) is labels


@pytest.mark.parametrize("centre", [True, False])
def test_matrices(centre):
    image = data(3)[0]
    rng = torch.Generator().manual_seed(5)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] += 0.1 * torch.randn(3, 4, generator=rng, dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    middle = torch.tensor([4, 3.5, 3], dtype=torch.float64) if centre else torch.zeros(3, dtype=torch.float64)
    p = functional.voxels(image[:, :1].double())
    places = torch.einsum("ij,jdhw->idhw", inverse[:3, :3], p - middle.view(3, 1, 1, 1))
    disp = places + (inverse[:3, 3] + middle).view(3, 1, 1, 1) - p
    expected = sampled(image, disp[None].expand(2, -1, -1, -1, -1), "bilinear", "zeros")
    for trf in (matrix, matrix[:3], matrix[None]):
        found = functional.spatial_transform(image, trf, origin_at_center=centre)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="trf must be a matrix of 2 axes"):
        functional.spatial_transform(image[..., 0], matrix)


def test_compositions():
    outer, inner = field(3)[0], field(3, seed=4)[0]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([0.5, -0.25, 0])
    expected = inner + vxm.spatial_transform(outer, inner, non_spatial_dims=(0,))
    torch.testing.assert_close(vxm.compose([outer, inner]), expected)
    shift = matrix[:3, 3].view(3, 1, 1, 1)
    torch.testing.assert_close(vxm.compose([matrix, inner]), inner + shift)
    moved = vxm.spatial_transform(outer, shift.expand_as(outer), non_spatial_dims=(0,))
    torch.testing.assert_close(vxm.compose([outer, matrix]), shift + moved)
    torch.testing.assert_close(vxm.compose([matrix, matrix[:3]])[:, 3], 2 * matrix[:3, 3])
    assert vxm.compose([outer]) is outer
    with pytest.raises(AssertionError, match="at least one"):
        vxm.compose([])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_integration(ndim, scale):
    velocity = field(ndim).requires_grad_()
    expected = velocity / 8 if scale is None else velocity * scale
    for _ in range(3):
        expected = expected + sampled(expected, expected, "bilinear", "zeros")
    found = functional.integrate_vec(velocity, 3, scale=scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(found, velocity), gradients(expected, velocity), rtol=0, atol=1e-11)
    torch.testing.assert_close(vxm.integrate_vec(velocity[0], 3, scale=scale), expected[0], rtol=0, atol=1e-12)
    with pytest.warns(DeprecationWarning, match="Use integrate_vec"):
        assert torch.equal(vxm.integrate_disp(velocity[0], 3), vxm.integrate_vec(velocity[0], 3))
    assert functional.integrate_vec(velocity, 0) is velocity


def test_integration_by_a_transformer_that_is_watched_or_another():
    velocity, module = field(3), modules.IntegrateVelocityField(steps=3)
    fused = module(velocity)
    torch.testing.assert_close(fused, functional.integrate_vec(velocity, 3), rtol=0, atol=0)
    calls = []
    module.transformer.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(module(velocity), fused, rtol=0, atol=1e-12)
    assert len(calls) == 3
    still = functional.integrate_vec(velocity, 3, transformer=lambda image, trf: 0 * image)
    torch.testing.assert_close(still, velocity / 8)
    nearest = modules.IntegrateVelocityField(steps=1, interpolation_mode="nearest")(velocity)
    torch.testing.assert_close(nearest, velocity / 2 + sampled(velocity / 2, velocity / 2, "nearest", "zeros"))


def test_resized_fields():
    disp = field(3, (4, 6, 8))
    expected = F.interpolate(2 * disp, scale_factor=2, mode="trilinear", align_corners=True)
    torch.testing.assert_close(modules.ResizeDisplacementField(2)(disp), expected)
    torch.testing.assert_close(vxm.layers.ResizeTransform(0.5, 3)(disp), expected)
    half = F.interpolate(disp, scale_factor=0.5, mode="trilinear", align_corners=True) / 2
    torch.testing.assert_close(vxm.layers.ResizeTransform(2, 3)(disp), half)
    assert vxm.layers.ResizeTransform(1, 3)(disp) is disp


@pytest.mark.parametrize(("ndim", "window"), [(1, 5), (2, 3), (3, 9), (3, (3, 1, 5))])
def test_local_correlation(ndim, window):
    a, b, _ = data(ndim)
    a, b = (3 * a).requires_grad_(), b.requires_grad_()
    if isinstance(window, int):
        cross, va, vb = moments(a, b, torch.ones(window, dtype=torch.float64))
        each = (cross**2 / (va * vb + 1e-5)).flatten(2).mean(2)
        found = functional.ncc(a, b, window)
        torch.testing.assert_close(found, each.mean()[None, None], rtol=1e-11, atol=0)
        torch.testing.assert_close(gradients(found, a), gradients(each.mean(), a), rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(modules.NCC(window, reduction=None)(a, b), each, rtol=1e-11, atol=0)
        rows = functional.ncc(a, b, window, reduction_dim=1, keepdims=False)
        torch.testing.assert_close(rows, each.mean(1), rtol=1e-11, atol=0)
    else:
        torch.testing.assert_close(functional.ncc(a, a, window, eps=0.0), torch.ones(1, 1, dtype=torch.float64))
        assert functional.ncc(a, b, window) != functional.ncc(a, b, 3)


def test_local_correlation_of_what_is_not_finite_stops():
    a, b, _ = data(3)
    with pytest.raises(AssertionError, match="NCC coefficients must be finite"):
        functional.ncc(a * float("nan"), b)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("channels", [3, 4])
def test_gradients_of_fields(penalty, channels):
    flow = field(3)[:, [0, 1, 2, 0]][:, :channels]
    power = 1 if penalty == "l1" else 2
    expected = sum(flow.diff(dim=axis).abs().pow(power).mean() for axis in (2, 3, 4)) / 3
    torch.testing.assert_close(modules.SpatialGradient(penalty)(flow), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        vxm.losses.Grad(penalty, 2).loss(None, flow[:, :3]),
        2 * functional.spatial_gradient(flow[:, :3], penalty),
        rtol=1e-12,
        atol=0,
    )


def test_losses_of_the_older_package():
    a, b, _ = data(3)
    one, other = a[:, :1], b[:, :1]
    cross, va, vb = moments(one, other, torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(
        vxm.losses.NCC().loss(one, other), -(cross**2 / (va * vb + 1e-5)).mean(), rtol=1e-11, atol=0
    )
    torch.testing.assert_close(vxm.losses.MSE().loss(a, b), ((a - b) ** 2).mean())
    labels = (a > 0.5).double(), (b > 0.5).double()
    labels[0][:, 1] = labels[1][:, 1] = 0
    present = 2 * (labels[0] * labels[1]).sum((2, 3, 4)) / (labels[0] + labels[1]).sum((2, 3, 4)).clamp_min(1e-5)
    torch.testing.assert_close(vxm.losses.Dice().loss(*labels), -present.mean())
    with pytest.raises(ValueError, match="win must be one length"):
        vxm.losses.NCC([3, 5, 5])


OTHERS = [
    (
        lambda a: functional.spatial_transform(a, a[:, :1], "bicubic"),
        "method must be linear or nearest where voxelmorph",
    ),
    (lambda a: functional.ncc(a, a, 4), "window_size must be odd where neurite is not installed, got 4"),
    (
        lambda a: functional.ncc(a, a, 3, reduction="sum"),
        "reduction must be mean or None where neurite is not installed",
    ),
    (lambda a: functional.spatial_gradient(a, reduction="sum"), "where neurite is not installed"),
]


@pytest.mark.parametrize(("call", "message"), OTHERS)
def test_what_only_they_do(monkeypatch, call, message):
    a = data(3)[0]
    for name in ("voxelmorph", "neurite"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=message):
        call(a)
    for library in ("voxelmorph", "neurite"):
        for name in (library, f"{library}.nn", f"{library}.nn.functional"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        own = sys.modules[f"{library}.nn.functional"]
        own.spatial_transform = own.ncc = own.spatial_gradient = lambda *arguments: ("theirs", *arguments)
    assert call(a)[:2][0] == "theirs"


def test_names_that_are_not_here_are_theirs(monkeypatch):
    monkeypatch.setitem(sys.modules, "voxelmorph", None)
    with pytest.raises(AttributeError, match="random_disp is VoxelMorph's own, and voxelmorph is not installed"):
        functional.random_disp  # noqa: B018
    for name in ("voxelmorph", "voxelmorph.nn", "voxelmorph.nn.functional"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["voxelmorph.nn.functional"].random_disp = "theirs"
    assert functional.random_disp == "theirs"
    monkeypatch.setitem(sys.modules, "voxelmorph.functional", types.ModuleType("voxelmorph.functional"))
    sys.modules["voxelmorph.functional"].random_disp = "alone"
    assert vxm.random_disp == "alone"


class Plain(nn.Module):
    """VxmPairwise's layers as its files have them, computed by plain torch."""

    def __init__(self, state, steps):
        super().__init__()
        self.state, self.steps = state, steps

    def conv(self, name, x, relu=True):
        weight = self.state[f"{name}.conv0.weight"]
        x = F.conv3d(x, weight, self.state[f"{name}.conv0.bias"], padding=weight.shape[-1] // 2)
        return x.relu() if relu else x

    def forward(self, source, target):
        x, skips = torch.cat([source, target], 1), []
        for k in range(2):
            skips.append(self.conv(f"model.downsampling_conv_blocks.{k}.conv_block", x))
            x = F.max_pool3d(skips[-1], 2)
        x = self.conv("model.lowest_resolution_conv_block", x)
        for k in range(2):
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
            x = self.conv(f"model.upsampling_conv_blocks.{k}.conv_block", torch.cat([x, skips.pop()], 1))
        velocity = self.conv("flow_layer", self.conv("model.out_layer", x, relu=False), relu=False)
        found = []
        for sign in (1, -1):
            disp = sign * velocity / 2**self.steps
            for _ in range(self.steps):
                disp = disp + sampled(disp, disp, "bilinear", "zeros")
            found.append(disp)
        return (
            velocity,
            found[0],
            sampled(source, found[0], "bilinear", "zeros"),
            sampled(target, found[1], "bilinear", "zeros"),
        )


def test_pairwise_network_and_its_files(tmp_path):
    torch.manual_seed(0)
    net = models.VxmPairwise(3, 1, 1, [3, 4], flow_initializer=0.3, integration_steps=4)
    names = ["flow_layer", *(f"model.downsampling_conv_blocks.{k}.conv_block" for k in range(2))]
    names += ["model.lowest_resolution_conv_block"]
    names += [*(f"model.upsampling_conv_blocks.{k}.conv_block" for k in range(2)), "model.out_layer"]
    assert list(net.state_dict()) == [f"{name}.conv0.{kind}" for name in names for kind in ("weight", "bias")]
    torch.save(net.state_dict(), tmp_path / "vxm.pt")
    loaded = vxm.nn.models.load_pairwise(tmp_path / "vxm.pt", integration_steps=4).double()
    source, target = data(3)[0][:1, :1, :8, :8, :4], data(3)[1][:1, :1, :8, :8, :4]
    expected = Plain(loaded.state_dict(), 4)(source, target)
    options = {"return_warped_source": True, "return_warped_target": True}
    for x, y in zip(loaded(source, target, **options), expected[1:], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    for x, y in zip(loaded(source, target, True, return_field_type="svf"), (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    assert torch.equal(
        loaded(source, target, return_field_type="velocity"), loaded(source, target, True, return_field_type="svf")[0]
    )
    with pytest.raises(ValueError, match="return_warped_target needs integration_steps"):
        models.VxmPairwise(2, 1, 1, [2, 2], integration_steps=0)(
            source[..., 0], target[..., 0], return_warped_target=True
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(1)}, "expected the state dict of a VxmPairwise, got weight"),
        ({"flow_layer.conv0.weight": torch.zeros(3, 3, 3, 3, 3)}, "expected as many decoder as encoder levels"),
        ("no", "expected the state dict of a VxmPairwise, got str"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        models.load_pairwise(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(b"no pickle")
    with pytest.raises(InputError, match=r"y\.pt: expected a state dict"):
        models.load_pairwise(tmp_path / "y.pt")


def test_a_state_of_other_layers_is_refused():
    state = models.VxmPairwise(2, 1, 1, [2, 2]).state_dict()
    state["model.normalization.weight"] = torch.ones(2)
    with pytest.raises(InputError, match="expected a VxmPairwise of default options: Unexpected key"):
        models.load_pairwise(state)
    with pytest.raises(ValueError, match="activations must be VoxelMorph's default here"):
        models.VxmPairwise(2, 1, 1, [2, 2], activations=nn.GELU)
