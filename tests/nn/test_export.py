"""Networks of any shape as torch.export's programs and as ONNX models, and a training step as one graph."""

import json
import warnings

import pytest
import torch
from helpers.command import run

import fastreg
from fastreg.cli.export import Export
from fastreg.nn import checkpoint, cost_volume
from fastreg.nn.checkpoint import Checkpoint, WorkingSpace
from fastreg.nn.export import smallest_axis, worst_error
from fastreg.nn.registration_net import RegistrationNet
from fastreg.types import PADDINGS
from fastreg.utils.files import InputError

# Even and odd, on both sides of a multiple of 16, none of them the example's.
SIZES = [(33, 18, 40), (48, 31, 17)]


def make(name, ndim, **options):
    """A network that moves things."""
    net = RegistrationNet(name, ndim, **options).eval()
    for layer in net.pyramid.flow if name == "pyramid" else [net.flow]:
        torch.nn.init.normal_(layer.weight, std=0.05)
    return net


def axes(ndim, least=17):
    return {2 + k: torch.export.Dim(f"axis{k}", min=least) for k in range(ndim)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ndim", "options"),
    [
        ("vm1", 3, {}),
        ("vm2", 2, {"diffeomorphic": True}),
        ("vxm", 3, {"diffeomorphic": True, "downsize": 3}),
        ("vxm", 2, {"diffeomorphic": True, "half": True, "resampling": "voxelmorph"}),
        ("match", 2, {"diffeomorphic": True}),
        ("match", 3, {}),
    ],
)
def test_an_exported_program_takes_any_shape(name, ndim, options):
    net = make(name, ndim, **options)
    program = torch.export.export(
        net, tuple(torch.rand(2, 1, 1, *(25, 40, 34)[:ndim])), dynamic_shapes=(axes(ndim),) * 2
    )
    for size in SIZES:
        moving, fixed = torch.rand(2, 1, 1, *size[:ndim])
        found, expected = program.module()(moving, fixed), net(moving, fixed)
        torch.testing.assert_close(found.flow, expected.flow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.moved, expected.moved, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_an_exported_program_learns_as_the_network_does():
    net = make("vm1", 2).train()
    program = torch.export.export(net, tuple(torch.rand(2, 1, 1, 25, 40)), dynamic_shapes=(axes(2),) * 2).module()
    moving, fixed = torch.rand(2, 1, 1, 33, 18)
    ours, theirs = (
        torch.autograd.grad(fastreg.lncc(model(moving, fixed).moved, fixed), list(model.parameters()))
        for model in (net, program)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 8), (7, 6, 8)])
def test_what_a_graph_does_in_few_steps_is_the_same(size, monkeypatch):
    moving, fixed = torch.rand(2, 2, 3, *size)
    cost, seen = cost_volume.costs(moving, fixed, 2), [fastreg.mind(moving, kind) for kind in ("mind", "ssc")]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(cost_volume.costs(moving, fixed, 2), cost)
    torch.testing.assert_close([fastreg.mind(moving, kind) for kind in ("mind", "ssc")], seen)


def train_step(net, optimizer, moving, fixed):
    found = net(moving, fixed)
    loss = -fastreg.lncc(found.moved, fixed) + 0.1 * fastreg.smoothness(found.flow)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "options"), [("aot_eager", {"ndim": 3, "diffeomorphic": True}), ("inductor", {"width": 0.25})]
)
def test_a_training_step_compiles_whole(compiler, options):
    """Forward, losses, backward and Adam; compiled and not, the same losses and weights."""
    torch._dynamo.reset()
    size = (20, 24) if options.get("ndim", 2) == 2 else (17, 20, 18)
    images = torch.rand(3, 2, 1, 1, *size)
    results = []
    for wrap in (lambda step: step, lambda step: torch.compile(step, backend=compiler)):
        torch.manual_seed(0)
        net = make(**{"name": "vm1", "ndim": 2, "width": 0.5, **options}).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, capturable=False)
        step = wrap(train_step)
        results.append(([step(net, optimizer, *pair) for pair in images], [*net.parameters()]))
    (losses, weights), (compiled_losses, compiled_weights) = results
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-4, atol=1e-6)
    # Adam's first steps go by the sign of a gradient: where that is rounding error, a weight may go the other way.
    moved = torch.cat(
        [(one - other).detach().abs().flatten() for one, other in zip(weights, compiled_weights, strict=True)]
    )
    assert moved.mean() < 2e-5 and moved.max() < 7e-3


# ---------------------------------------------------------------- ONNX


@pytest.fixture
def onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def sessions_run(path, **inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(found) for found in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ndim", "options", "passes"),
    [
        ("vm1", 3, {"region": True}, (1,)),
        ("vxm", 2, {"diffeomorphic": True, "amp": True, "channels_last": True}, (1,)),
        ("match", 2, {"diffeomorphic": True}, (2,)),
    ],
)
def test_an_onnx_model_takes_any_shape(onnx, tmp_path, name, ndim, options, passes):
    """Standard operators alone, within 1e-5 in onnxruntime."""
    net = make(name, ndim, **options)
    names = fastreg.export_onnx(net, tmp_path / "net.onnx", passes=passes)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)] and not model.functions
    assert all(node.domain == "" for node in model.graph.node)
    assert names == [output.name for output in model.graph.output] == ["moved", "flow", "region"][: len(names)]
    least = smallest_axis(net, passes)
    for batch, extra in ((1, (0, 1, 6)), (3, (23, 8, 0))):
        size = [least + k for k in extra[:ndim]]
        moving, fixed = torch.rand(2, batch, 1, *size)
        found = sessions_run(tmp_path / "net.onnx", moving=moving, fixed=fixed)
        with torch.no_grad():
            expected = fastreg.nn.cascade.cascade(plain_like(net), moving, fixed, passes)
        assert expected.flow.abs().max() > 0.1
        for ours, theirs in zip(names, found, strict=True):
            torch.testing.assert_close(theirs, getattr(expected, ours), rtol=0, atol=1e-5)


def plain_like(net):
    """The same network in float32."""
    plain = RegistrationNet(**{**net.options, "amp": False})
    plain.load_state_dict(net.state_dict())
    return plain.eval()


@pytest.mark.slow
def test_an_onnx_model_of_one_shape_with_its_inverse(onnx, tmp_path):
    net = make("vm2", 3, diffeomorphic=True)
    fastreg.export_onnx(
        net, tmp_path / "net.onnx", shape=(16, 20, 9), inverse=True, metadata={"working": {"voxels": 9}}
    )
    model = onnx.load(tmp_path / "net.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 16, 20, 9]
    assert {p.key: p.value for p in model.metadata_props}["working"] == '{"voxels": 9}'
    moving, fixed = torch.rand(2, 1, 1, 16, 20, 9)
    with torch.no_grad():
        expected = net(moving, fixed, inverse=True)
    found = sessions_run(tmp_path / "net.onnx", moving=moving, fixed=fixed)
    for theirs, name in zip(found, ("moved", "flow", "inverse_flow", "moved_back"), strict=True):
        torch.testing.assert_close(theirs, getattr(expected, name), rtol=0, atol=1e-5)
    assert worst_error(tmp_path / "net.onnx", net, (16, 20, 9)) < 1e-5
    net.flow.weight.data.add_(0.1)
    assert worst_error(tmp_path / "net.onnx", net, (16, 20, 9)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_warp_of_your_own_becomes_grid_sample(onnx, tmp_path, padding, channels_last):
    """Every padding and both modes, a grid unlike the volume's, an axis of one voxel, places far outside, one
    volume for all fields, half precision."""

    class Warps(torch.nn.Module):
        def forward(self, vol, half, flow, grid):
            linear, nearest = (
                fastreg.warp(vol, flow, padding=padding, mode=mode, channels_last=channels_last)
                for mode in ("linear", "nearest")
            )
            one = fastreg.warp(vol[:1], flow, padding=padding, channels_last=channels_last)
            places = fastreg.grid_sample(vol, grid, "bilinear", padding_mode, align_corners=channels_last)
            return linear, nearest, one, places, fastreg.warp(half, flow, padding=padding, channels_last=channels_last)

    vol = torch.rand(2, 2, 7, 1, 9)
    flow = 8 * torch.randn(2, 3, 5, 6, 4)
    flow = flow.movedim(1, -1).contiguous() if channels_last else flow
    padding_mode = "border" if padding in ("symmetric", "itk") else padding
    inputs = {"vol": vol, "half": vol.half(), "flow": flow, "grid": 1.5 * torch.randn(2, 5, 6, 4, 3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Warps(),
            tuple(inputs.values()),
            tmp_path / "warp.onnx",
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            custom_translation_table=fastreg.onnx_translations(),
            verbose=False,
        )
    found = sessions_run(tmp_path / "warp.onnx", **inputs)
    for theirs, expected in zip(found, Warps()(*inputs.values()), strict=True):
        tolerance = 1e-5 if theirs.dtype == torch.float32 else 2e-3
        torch.testing.assert_close(theirs, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_export_on_the_command_line(onnx, tmp_path, capsys):
    net = make("vm1", 2, width=0.25)
    about = Checkpoint(net.options, WorkingSpace(spacing_mm=2.0, orientation="RAS"))
    checkpoint.save(tmp_path / "net.safetensors", net, about)
    out = tmp_path / "net.onnx"
    said = json.loads(run(capsys, "export", tmp_path / "net.safetensors", out, "--shape", 24, 20, "--json"))
    assert said["outputs"] == ["moved", "flow"] and said["shape"] == [24, 20] and said["worst_error"] < 1e-5
    metadata = {p.key: json.loads(p.value) for p in onnx.load(out).metadata_props}
    assert metadata["working"]["spacing_mm"] == 2.0 and metadata["network"]["name"] == "vm1"
    for options, words in (
        ({}, "exists; use --overwrite"),
        ({"overwrite": True, "shape": (24,)}, "shape must be 2 lengths in voxels, got (24,)"),
        ({"overwrite": True, "inverse": True}, "inverse needs a diffeomorphic network"),
        ({"output": tmp_path / "net.pt"}, "expected .onnx, got .pt"),
    ):
        with pytest.raises(InputError) as refused:
            Export(**{"model": tmp_path / "net.safetensors", "output": out, **options}).run()
        assert words in str(refused.value)
    assert onnx.load(out).graph.output[0].name == "moved"


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"ONNX needs onnx and onnxscript: pip install 'fastreg\[onnx\]'"):
        fastreg.export_onnx(make("vm1", 2), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()
