import pytest
import torch
import torch.nn.functional as F

import fastreg
from fastreg.nn import cpu_convolution
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils import devices

PARAMETERS = {
    "vm1": 259_675,
    "vm2": 300_547,
    "vxm": 327_331,
    "match": 258_731,
    "pyramid": 414_335,
}  # the last two, ours: counted


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    assert sum(p.numel() for p in RegistrationNet(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("size", [(16, 32, 16), (17, 20, 33), (20, 9)])
def test_any_shape_gives_a_field_of_that_shape(name, size):
    net = RegistrationNet(name, ndim=len(size))
    moving, fixed = torch.rand(2, 2, 1, *size)
    out = net(moving, fixed)
    assert out.flow.shape == (2, len(size), *size) and out.moved.shape == fixed.shape
    assert torch.equal(out.moved, fastreg.warp(moving, out.flow))


@pytest.mark.parametrize(
    ("width", "stride", "shape"),
    [(3, 1, (24, 13, 12)), (3, 1, (9, 20, 8)), (3, 2, (25, 13, 13)), (3, 2, (12, 9, 21)), (1, 1, (9, 20, 8))],
)
def test_halves_are_the_same_convolution(width, stride, shape):
    layer = torch.nn.Conv3d(5, 4, width, stride=stride, padding=1 if (width, stride) == (3, 1) else 0)
    x = torch.rand(1, 5, *shape, requires_grad=True)
    assert cpu_convolution._left_to_plain_loops(x)
    found, expected = cpu_convolution._convolve_halves(layer, x), layer(x)
    torch.testing.assert_close(found, expected)
    slope = torch.rand_like(expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(y, (x, *layer.parameters()), slope) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_small_images_take_the_halves(monkeypatch):
    """And with them the network says the same as without, up to rounding."""
    net = RegistrationNet("vm1")
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 32)
    called = []
    halves = cpu_convolution._convolve_halves
    monkeypatch.setattr(
        cpu_convolution, "_convolve_halves", lambda layer, x: called.append(x.shape) or halves(layer, x)
    )
    found = net(moving, fixed).flow
    assert called
    monkeypatch.setattr(cpu_convolution, "_left_to_plain_loops", lambda x: False)
    torch.testing.assert_close(found, net(moving, fixed).flow, rtol=1e-4, atol=1e-5)


def test_amp_is_float32_where_the_processor_has_no_bfloat16(monkeypatch):
    moving, fixed = torch.rand(2, 1, 1, 16, 16, 16)
    net = RegistrationNet("vm1", amp=True)
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    plain = RegistrationNet("vm1")
    plain.load_state_dict(net.state_dict())
    monkeypatch.setattr(devices, "CPU_HAS_BFLOAT16", False)
    assert torch.equal(net.field(moving, fixed), plain.field(moving, fixed))
    monkeypatch.setattr(devices, "CPU_HAS_BFLOAT16", True)
    assert not torch.equal(net.field(moving, fixed), plain.field(moving, fixed))


def test_match_takes_any_contrast_and_ends_on_the_half_grid():
    net = RegistrationNet("match", diffeomorphic=True).eval()
    torch.nn.init.normal_(net.flow.weight, std=0.1)
    moving, fixed = torch.rand(2, 1, 1, 18, 16, 21)
    found = net(moving, fixed, inverse=True)
    assert found.velocity.shape == (1, 3, 9, 8, 11) and found.inverse_flow.shape == found.flow.shape
    torch.testing.assert_close(net(5 - 3 * moving, fixed).flow, found.flow, rtol=1e-3, atol=1e-4)
    exact = RegistrationNet("match", diffeomorphic=True).double().eval()
    exact.load_state_dict(net.state_dict())
    torch.testing.assert_close(exact(moving.double(), fixed.double()).flow.float(), found.flow, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="half is for the other networks: match is on the half grid as it is"):
        RegistrationNet("match", half=True)


def test_starts_at_the_identity():
    net = RegistrationNet("vm2")
    moving, fixed = torch.rand(2, 1, 1, 16, 16, 16)
    assert net.field(moving, fixed).abs().max() < 1e-3


def test_vm2_layer_by_layer():
    """The whole network written out from the paper, with TensorFlow's padding, on the same weights."""
    net = RegistrationNet("vm2").double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.rand(1, 2, 32, 16, 48, dtype=torch.float64)
    weights = list(net.state_dict().values())
    layers = [(weights[k], weights[k + 1]) for k in range(0, len(weights), 2)]

    def conv(x, k):
        return F.leaky_relu(F.conv3d(x, *layers[k], padding=1), 0.2)

    def down(x, k):
        return F.leaky_relu(F.conv3d(F.pad(x, (0, 1, 0, 1, 0, 1)), *layers[k], stride=2), 0.2)

    def up(x):
        for axis in (2, 3, 4):
            x = x.repeat_interleave(2, axis)
        return x

    e1 = down(x, 0)
    e2 = down(e1, 1)
    e3 = down(e2, 2)
    e4 = down(e3, 3)
    y = conv(e4, 4)
    y = conv(torch.cat([up(y), e3], 1), 5)
    y = conv(torch.cat([up(y), e2], 1), 6)
    y = conv(torch.cat([up(y), e1], 1), 7)
    y = conv(y, 8)
    y = conv(torch.cat([up(y), x], 1), 9)
    y = conv(y, 10)
    expected = F.conv3d(y, *layers[11], padding=1)
    assert len(layers) == 12
    torch.testing.assert_close(net.field(x[:, :1], x[:, 1:]), expected)


def test_stride_two_windows_start_at_the_first_voxel():
    """TensorFlow's SAME padding: output k sees voxels 2k, 2k+1, 2k+2, not 2k-1, 2k, 2k+1."""
    net = RegistrationNet("vm1", ndim=2)
    first = net.unet.encoder[0]
    torch.nn.init.zeros_(first.weight)
    with torch.no_grad():
        first.weight[:, 0, 0, 0] = 1.0
    seen = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.arange(256.0).reshape(1, 1, 16, 16)
    net.field(x, x)
    assert torch.equal(seen[0][0, 0], x[0, 0, ::2, ::2])


def test_diffeomorphic_head_gives_a_field_and_its_inverse():
    net = RegistrationNet("vm1", diffeomorphic=True)
    torch.nn.init.normal_(net.flow.weight, std=0.03)
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 32)
    out = net(moving, fixed, inverse=True)
    assert out.velocity.shape == (1, 3, 16, 16, 16)
    assert out.flow.abs().max() > 0.1
    there_and_back = fastreg.compose(out.flow, out.inverse_flow)[..., 6:-6, 6:-6, 6:-6]
    assert there_and_back.abs().max() < 0.15 * out.flow.abs().max()
    assert torch.equal(out.moved_back, fastreg.warp(fixed, out.inverse_flow))


@pytest.mark.parametrize("options", [{"channels_last": True}, {"amp": True}, {"amp": True, "channels_last": True}])
def test_memory_format_and_precision_change_little(options):
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 32)
    torch.manual_seed(3)
    plain = RegistrationNet("vm2")
    torch.nn.init.normal_(plain.flow.weight, std=0.05)
    other = RegistrationNet("vm2", **options)
    other.load_state_dict(plain.state_dict())
    a, b = plain.field(moving, fixed), other.field(moving, fixed)
    assert b.dtype == torch.float32
    assert (a - b).abs().max() < (0.05 if "amp" in options else 1e-4) * a.abs().max()


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_gradients_read_no_stale_memory(channels_last):
    def leave_nans_behind():
        [torch.full((size,), torch.nan) for size in (64, 512, 3000, 8192, 27648, 65536, 131072) for _ in range(12)]

    for seed in range(8):
        torch.manual_seed(seed)
        net = RegistrationNet("vm2", amp=True, channels_last=channels_last)
        moving, fixed = torch.rand(2, 1, 1, 28, 18, 20).unbind()
        leave_nans_behind()
        moved = net(moving, fixed).moved
        leave_nans_behind()
        (moved - fixed).square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.slow
def test_compiles_whole():
    net = RegistrationNet("vm1", ndim=2)
    moving, fixed = torch.rand(2, 1, 1, 32, 48)
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(moving, fixed).moved, net(moving, fixed).moved)


def test_gradients_reach_every_parameter():
    net = RegistrationNet("vm2", diffeomorphic=True)
    torch.nn.init.normal_(net.flow.weight, std=0.01)
    moving, fixed = torch.rand(2, 1, 1, 16, 16, 16)
    (1 - fastreg.lncc(net(moving, fixed).moved, fixed, window=5)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_doubled_features():
    wide = RegistrationNet("vm1", width=2.0)
    assert wide.unet.encoder[0].out_channels == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegistrationNet("vm3"), "name must be one of vm1, vm2, vxm, match, pyramid, got 'vm3'"),
        (lambda: RegistrationNet("vm1", ndim=4), "ndim must be 2 or 3, got 4"),
        (lambda: RegistrationNet("vm1", widht=2), "unknown options widht"),
        (
            lambda: RegistrationNet()(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 9)),
            "moving must lie on the grid",
        ),
        (lambda: RegistrationNet()(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)), "must be .batch, 1, D, H, W."),
        (lambda: RegistrationNet()(*torch.rand(2, 1, 1, 8, 8, 8), inverse=True), "inverse needs a diffeomorphic"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
