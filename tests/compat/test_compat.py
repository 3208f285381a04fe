import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.keras_files import Graph, doubled, squared

import fastreg
from fastreg.cli import main
from fastreg.compat import voxelmorph
from fastreg.compat._probe import measured_indexing
from fastreg.compat.voxelmorph import load_weights
from fastreg.io.images import save_image
from fastreg.nn import checkpoint
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils.files import InputError

SHAPE = (16, 32, 48)
VM1, VM2 = (32, 32, 32, 32, 8, 8), (32, 32, 32, 32, 32, 16, 16)


def images(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    pair = [rng.random(shape).astype(np.float32) for _ in range(2)]
    return pair, [torch.from_numpy(image)[None, None] for image in pair]


def channels_first(field):
    return torch.from_numpy(np.moveaxis(field, -1, 0)[None])


def h5():
    pytest.importorskip("h5py")


# ---------------------------------------------------------------- .h5 of 2018


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "name", "count"), [(VM1, "vm1", 259_675), (VM2, "vm2", 300_547)])
@pytest.mark.parametrize("shape", [SHAPE, (32, 48)])
def test_cvpr_2018(tmp_path, decoder, name, count, shape):
    h5()
    graph = Graph(shape).vm(decoder)
    net = load_weights(graph.save(tmp_path / "net.h5"))
    assert net.config.name == name and not net.config.diffeomorphic and not net.training
    assert net.options == RegistrationNet(name, len(shape)).options
    if len(shape) == 3:
        assert sum(p.numel() for p in net.parameters()) == count
    arrays, tensors = images(shape)
    expected = channels_first(graph.field(*arrays))
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(net.field(*tensors).double(), expected, atol=2e-5, rtol=2e-5)


def test_layers_come_in_the_models_order_not_the_alphabets(tmp_path):
    h5()
    graph = Graph(SHAPE, first=7).vm(VM1)  # conv3d_7 ... conv3d_16, which HDF5 lists as 10 ... 16, 7, 8, 9
    net = load_weights(graph.save(tmp_path / "net.h5"))
    arrays, tensors = images()
    torch.testing.assert_close(net.field(*tensors).double(), channels_first(graph.field(*arrays)), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("folder", "layer", "config", "argument", "swapped"),
    [
        ("models", "SpatialTransformer", {}, None, False),
        ("xy", "SpatialTransformer", {}, None, True),
        ("xy", "SpatialTransformer", {"indexing": "ij"}, None, False),
        ("models", "SpatialTransformer", {"indexing": "xy"}, None, True),
        ("models", "Dense3DSpatialTransformer", {}, None, True),
        ("models", "SpatialTransformer", {}, "xy", True),
        ("xy", "Dense3DSpatialTransformer", {}, "ij", False),
    ],
)
def test_xy_files_have_flow_channels_0_and_1_swapped(tmp_path, folder, layer, config, argument, swapped):
    h5()
    graph = Graph((16, 16, 16)).vm(VM1, layer, **config)
    net = load_weights(graph.save(tmp_path / folder / "net.h5"), indexing=argument)
    arrays, tensors = images((16, 16, 16))
    expected = channels_first(graph.field(*arrays))[:, [1, 0, 2] if swapped else [0, 1, 2]]
    torch.testing.assert_close(net.field(*tensors).double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("ndim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_indexing_of_a_flow_that_registers_is_measured(ndim):
    def optimised(moving, fixed):
        flow = torch.zeros(1, ndim, *moving.shape[2:], requires_grad=True)
        adam = torch.optim.Adam([flow], lr=0.3)
        for _ in range(25):
            adam.zero_grad()
            loss = (fastreg.warp(moving, flow) - fixed).square().mean() + 1e-4 * fastreg.smoothness(flow)
            loss.backward()
            adam.step()
        return flow.detach()

    exchanged = [1, 0, *range(2, ndim)]
    assert measured_indexing(optimised, ndim) == "ij"
    assert measured_indexing(lambda *pair: optimised(*pair)[:, exchanged], ndim) == "xy"
    assert measured_indexing(lambda moving, fixed: torch.randn(1, ndim, *moving.shape[2:]), ndim) is None
    assert measured_indexing(lambda moving, fixed: torch.zeros(1, ndim, *moving.shape[2:]), ndim) is None


@pytest.mark.slow
def test_weights_alone(tmp_path):
    h5()
    graph = Graph(SHAPE).vm(VM2)
    for k, group in enumerate(["model_weights", None]):
        net = load_weights(graph.save(tmp_path / f"{k}.h5", config=False, group=group))
        arrays, tensors = images()
        expected = channels_first(graph.field(*arrays))
        torch.testing.assert_close(net.field(*tensors).double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("steps", "manual", "indexing"), [(7, True, "xy"), (7, True, None), (7, False, None), (5, False, "ij")]
)
def test_miccai_2018(tmp_path, steps, manual, indexing):
    """Half-resolution velocity, squared with or without the division by 2^steps, upsampled as the file says."""
    h5()
    graph = Graph(SHAPE).miccai(steps, manual, indexing, scale=2.0)
    net = load_weights(graph.save(tmp_path / "net.h5"))
    assert net.config.diffeomorphic and net.config.half and net.config.steps == steps
    arrays, tensors = images()
    order = [1, 0, 2] if indexing == "xy" else [0, 1, 2]
    velocity = graph.field(*arrays) / (1 if manual else 2**steps)
    expected = channels_first(doubled(squared(velocity, steps, order))[..., order])
    assert expected.abs().max() > 1
    out = net(*tensors, inverse=True)
    assert out.flow.shape == (1, 3, *SHAPE) and out.velocity.shape == (1, 3, *(n // 2 for n in SHAPE))
    torch.testing.assert_close(out.flow.double(), expected, atol=2e-4, rtol=2e-4)
    backwards = channels_first(doubled(squared(-velocity, steps, order))[..., order])
    torch.testing.assert_close(out.inverse_flow.double(), backwards, atol=2e-4, rtol=2e-4)
    assert torch.equal(out.moved, fastreg.warp(tensors[0], out.flow))


def test_half_networks_take_any_shape(tmp_path):
    h5()
    net = load_weights(Graph((16, 16, 16)).miccai().save(tmp_path / "net.h5"))
    _, tensors = images((17, 20, 23))
    assert net(*tensors).flow.shape == (1, 3, 17, 20, 23)


# ---------------------------------------------------------------- VxmDense


def vxm_state(pooled=True, half=False, encoder=(16, 32, 32, 32), decoder=(32, 32, 32, 32), tail=(32, 16, 16), ndim=3):
    """The state of VxmDense (or of its predecessor with stride-2 convolutions) with chance weights."""
    chance = torch.Generator().manual_seed(1)
    state = {}

    def conv(name, inputs, outputs):
        state[f"{name}.weight"] = torch.randn(outputs, inputs, *[3] * ndim, generator=chance) * 0.3 / inputs**0.5
        state[f"{name}.bias"] = torch.randn(outputs, generator=chance) * 0.1
        return outputs

    names = ("encoder.{}.0", "decoder.{}.0", "remaining.{}") if pooled else ("downarm.{}", "uparm.{}", "extras.{}")
    enc, dec, rest = (f"unet_model.{name}.main" for name in names)
    channels = 2
    for k, n in enumerate(encoder):
        channels = conv(enc.format(k), channels, n)
    skips = [*reversed(encoder)] if pooled else [*reversed(encoder[:-1]), 2]
    for k, n in enumerate(decoder):
        channels = conv(dec.format(k), channels, n)
        channels += 0 if half and k == len(decoder) - 1 else skips[k]
    for k, n in enumerate(tail):
        channels = conv(rest.format(k), channels, n)
    conv("flow", channels, ndim)
    state["flow.weight"] *= 3
    state["transformer.grid"] = torch.zeros(1, ndim, *[4] * ndim)
    state["integrate.transformer.grid"] = torch.zeros(1, ndim, *[2] * ndim)
    return state


def vxm_flow(state, moving, fixed, steps, downsize, half=False):
    """VxmDense written out: displacement of `registration=True`."""
    ndim = moving.ndim - 2
    conv = F.conv3d if ndim == 3 else F.conv2d
    mode = "trilinear" if ndim == 3 else "bilinear"
    pooled = any(".encoder." in name for name in state)

    def block(name, x, stride=1):
        return F.leaky_relu(conv(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, 1), 0.2)

    def numbered(part):
        found = {re.sub(r"\.(weight|bias)$", "", name) for name in state if f".{part}." in name}
        return sorted(found)

    x = torch.cat([moving, fixed], 1)
    past = [x]
    if pooled:
        for name in numbered("encoder"):
            x = block(name, x)
            past.append(x)
            x = (F.max_pool3d if ndim == 3 else F.max_pool2d)(x, 2)
    else:
        for name in numbered("downarm"):
            x = block(name, x, 2)
            past.append(x)
        past.pop()
    up = numbered("decoder" if pooled else "uparm")
    for k, name in enumerate(up):
        x = block(name, x)
        if not half or k < len(up) - 1:
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), past.pop()], 1)
    for name in numbered("remaining" if pooled else "extras"):
        x = block(name, x)
    flow = conv(x, state["flow.weight"], state["flow.bias"], padding=1)
    if steps == 0:
        return flow
    if downsize > 1 and not half:
        flow = F.interpolate(flow, scale_factor=1 / downsize, mode=mode, align_corners=True) / downsize
    flow = flow / 2**steps
    size = flow.shape[2:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij"))[None]
    scale = torch.tensor([2 / (n - 1) for n in size]).view(1, -1, *[1] * ndim)
    for _ in range(steps):
        where = ((grid + flow) * scale - 1).flip(1).movedim(1, -1)
        flow = flow + F.grid_sample(flow, where, align_corners=True)
    if downsize > 1:
        flow = F.interpolate(flow * downsize, scale_factor=downsize, mode=mode, align_corners=True)
    return flow


def save_pt(path, state, **config):
    config = {"inshape": SHAPE, "int_steps": 7, "int_downsize": 2, "bidir": False, "nb_unet_features": None, **config}
    torch.save({"config": config, "model_state": state}, path)
    return path


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, {}),
        ({}, {"int_steps": 0}),
        ({}, {"int_steps": 5, "int_downsize": 1}),
        ({"half": True}, {"unet_half_res": True}),
        ({"encoder": (8, 12, 16), "decoder": (16, 12, 10), "tail": (6,)}, {"nb_unet_features": [[8], [6]]}),
        ({"pooled": False}, {}),
        ({"ndim": 2}, {"inshape": (32, 48)}),
    ],
)  # fmt: skip
def test_vxm_dense_pt(tmp_path, options, config):
    state = vxm_state(**options)
    net = load_weights(save_pt(tmp_path / "net.pt", state, **config))
    _, tensors = images(config.get("inshape", SHAPE))
    steps, downsize = config.get("int_steps", 7), config.get("int_downsize", 2)
    expected = vxm_flow(state, *tensors, steps, downsize, config.get("unet_half_res", False))
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(net(*tensors).flow, expected, atol=2e-4, rtol=2e-4)


def test_vxm_dense_of_default_size_is_ours(tmp_path):
    net = load_weights(save_pt(tmp_path / "net.pt", vxm_state()))
    assert net.config.name == "vxm" and net.config.features is None
    assert sum(p.numel() for p in net.parameters()) == 327_331


def test_vxm_dense_h5(tmp_path):
    """The later package's Keras files: layers by name, arguments of the constructor as configuration."""
    h5py = pytest.importorskip("h5py")
    state = vxm_state()
    with h5py.File(tmp_path / "net.h5", "w") as file:
        config = {"inshape": SHAPE, "int_steps": 5, "int_downsize": 2, "unet_half_res": False}
        file.attrs["model_config"] = json.dumps({"class_name": "VxmDense", "config": config})
        group = file.create_group("model_weights")
        for name, value in state.items():
            if name.endswith("grid"):
                continue
            owner, kind = name.rsplit(".", 1)
            owner = re.sub(r"unet_model\.(enc|dec)oder\.(\d)\.0\.main", r"\1_conv_\2_0", owner)
            owner = "vxm_dense_" + re.sub(r"unet_model\.remaining\.(\d)\.main", r"unet_dec_final_conv_\1", owner)
            kernel = kind == "weight"
            group[f"{owner}/{owner}/{'kernel' if kernel else 'bias'}:0"] = (
                value.movedim((0, 1), (-1, -2)).numpy() if kernel else value.numpy()
            )
    net = load_weights(tmp_path / "net.h5")
    _, tensors = images()
    expected = vxm_flow(state, *tensors, 5, 2)
    torch.testing.assert_close(net(*tensors).flow, expected, atol=2e-4, rtol=2e-4)
    with pytest.raises(InputError, match="those of VxmDense are ij"):
        load_weights(tmp_path / "net.h5", indexing="xy")
    with pytest.raises(ValueError, match="indexing must be ij or xy, got 'banana'"):
        load_weights(tmp_path / "net.h5", indexing="banana")


# ---------------------------------------------------------------- what cannot be read


def broken_graph(change):
    graph = Graph((16, 16, 16)).vm(VM1)
    change(graph)
    return graph


def without(graph, name):
    graph.layers = [layer for layer in graph.layers if layer["name"] != name]


def layer(graph, name):
    return next(layer for layer in graph.layers if layer["name"] == name)


def zeros(*shape):
    return np.zeros(shape), np.zeros(shape[-1])


def swap(graph, name):
    node = layer(graph, name)["inbound_nodes"][0]
    node[0], node[1] = node[1], node[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.weights.pop("conv3d_260"), "weights of layer conv3d_260, which model_config names, got none"),
        (lambda g: swap(g, "concatenate_257"), "expected conv3d_260 upsampled . conv3d_258 as input, got"),
        (lambda g: swap(g, "concatenate_256"), "layer conv3d_256: expected inputlayer_256 . inputlayer_257 as input"),
        (lambda g: layer(g, "leakyrelu_258")["config"].update(alpha=0.1), "leakyrelu_258: expected LeakyReLU 0.2"),
        (lambda g: layer(g, "conv3d_262")["config"].update(padding="valid"), "expected padding same, got valid"),
        (lambda g: g.weights.update(conv3d_259=zeros(3, 3, 3, 8, 32)), "conv3d_259: expected a kernel"),
        (lambda g: g.weights.update(conv3d_259=zeros(3, 32)), "expected a 2-D or 3-D convolution"),
        (lambda g: (without(g, "flow"), g.weights.pop("flow")), "expected a layer named flow, got conv3d_256"),
    ],
)  # fmt: skip
def test_other_graphs_are_refused_in_one_line(tmp_path, change, message):
    h5()
    path = broken_graph(change).save(tmp_path / "net.h5")
    with pytest.raises(InputError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def lacking(word):
    return {name: value for name, value in vxm_state().items() if word not in name}


def test_other_keras_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="expected a Keras file with layers kernel:0 and bias:0, got none"):
        load_weights(tmp_path / "empty.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match=r"expected a Keras .h5 file, got something that is no HDF5 file"):
        load_weights(tmp_path / "text.h5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: torch.save({"epoch": 3}, path), "expected config and model_state.*got epoch"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "expected a PyTorch file of tensors and plain values"),
        (lambda path: path.write_bytes(b"junk"), "expected a PyTorch file of tensors and plain values"),
        (lambda path: save_pt(path, {**vxm_state(), "norm.weight": torch.zeros(3)}), "unknown one, norm.weight"),
        (lambda path: save_pt(path, lacking("decoder.3")), "expected as many decoder as encoder levels, got 3 and 4"),
        (lambda path: save_pt(path, lacking("decoder.2")), "expected all layers of the decoder .* got 0, 1, 3"),
        (lambda path: save_pt(path, lacking("flow.bias")), "expected flow.bias in model_state, which is missing"),
        (lambda path: save_pt(path, vxm_state(), unet_half_res=True), "expected a kernel"),
    ],
)  # fmt: skip
def test_other_pytorch_files(tmp_path, make, message):
    make(tmp_path / "net.pt")
    with pytest.raises(InputError, match=message) as caught:
        load_weights(tmp_path / "net.pt").eval()
    assert "\n" not in str(caught.value)


def test_wrong_names(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "none.h5")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(InputError, match=r"expected one of .h5, .* got .onnx"):
        load_weights(tmp_path / "net.onnx")


def test_missing_h5py_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "net.h5").touch()
    with pytest.raises(InputError, match=r"pip install 'fastreg\[compat\]'"):
        load_weights(tmp_path / "net.h5")


# ---------------------------------------------------------------- convert


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.mark.slow
def test_a_converted_network_registers(tmp_path, capsys):
    h5()
    source = Graph((16, 16, 16)).miccai(scale=1.0).save(tmp_path / "miccai.h5")
    model = tmp_path / "model.safetensors"
    assert run("convert", source, model, "--spacing", 2, "--orientation", "RAS", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["working"] == {
        "spacing_mm": 2.0, "orientation": "RAS", "shape": [16, 16, 16], "normalise": "minmax"
    }  # fmt: skip
    net, about = checkpoint.load(model)
    assert net.options == load_weights(source).options and about.config["converted_from"] == "miccai.h5"
    _, tensors = images((16, 16, 16))
    assert torch.equal(net(*tensors).flow, load_weights(source)(*tensors).flow)
    rng = np.random.default_rng(0)
    for name in ("fixed", "moving"):
        data = rng.integers(0, 900, (20, 22, 18)).astype(np.int16)
        save_image(tmp_path / f"{name}.nii.gz", data, np.diag([-2.0, -2.0, 2.0, 1.0]))
    arguments = ["register", "-f", tmp_path / "fixed.nii.gz", "-m", tmp_path / "moving.nii.gz", "--model", model]
    assert run(*arguments, "-o", tmp_path / "moved.nii.gz", "--inverse-warp", tmp_path / "back.nii.gz") == 0
    assert (tmp_path / "moved.nii.gz").is_file() and (tmp_path / "back.nii.gz").is_file()


def test_convert_refuses(tmp_path, capsys):
    h5()
    source = Graph((16, 16, 16)).vm(VM1).save(tmp_path / "net.h5")
    model = tmp_path / "model.safetensors"
    for arguments, message in [
        ((source, tmp_path / "model.pt"), "expected .safetensors (a network) or"),
        ((source, model, "--orientation", "LIX"), "expected three letters such as LIA or RAS, got LIX"),
        ((source, model, "--spacing", "0"), "expected a length in mm above 0"),
        ((tmp_path / "none.h5", model), "no such file"),
    ]:
        assert run("convert", *arguments) == 1
        assert message in capsys.readouterr().err
        assert not model.exists()
    model.write_text("mine")
    assert run("convert", source, model) == 1
    assert "exists; use --overwrite" in capsys.readouterr().err and model.read_text() == "mine"


# ---------------------------------------------------------------- the published file


def published_pair(real_data):
    import nibabel as nib

    weights = real_data / "weights" / "cvpr2018_vm1_cc.h5"
    if not weights.is_file():
        pytest.skip("no published weights")
    pair = real_data / "pair"
    load = lambda name: np.asarray(nib.load(pair / f"{name}.nii.gz").dataobj)  # noqa: E731
    return weights, load, json.loads((pair / "labels30.json").read_text())


@pytest.mark.slow
def test_published_vm1_on_a_real_pair(real_data):
    """Dice 0.690 over 30 structures, subject_b to subject_a; nearest labels, zeros outside, intensities / 255."""
    h5()
    from fastreg.evaluation.metrics import dice, mean

    weights, load, structures = published_pair(real_data)
    found = voxelmorph.read_network(weights)
    assert found.shape == (160, 192, 224)
    b, a = (torch.from_numpy(load(f"subject_{k}_t1") / np.float32(255))[None, None] for k in "ba")
    with torch.inference_mode():
        flow = found.network()(b, a).flow
    labels = torch.from_numpy(load("subject_b_labels").astype(np.float32))[None, None]
    moved = fastreg.warp(labels, flow, mode="nearest", padding="zeros")[0, 0].int().numpy()
    overlap = mean(dice(load("subject_a_labels"), moved, structures).values())
    assert overlap == pytest.approx(0.690, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ij", "xy"])
def test_published_weights_show_their_indexing(real_data, tmp_path, folder):
    """The file is mute; a copy of it with exchanged flow channels gives the same network, whatever the folder says."""
    h5py = pytest.importorskip("h5py")
    weights = published_pair(real_data)[0]
    copy = tmp_path / folder / "net.h5"
    copy.parent.mkdir()
    copy.write_bytes(weights.read_bytes())
    with h5py.File(copy, "r+") as file:
        for dataset in file["model_weights/flow/flow_34"].values():
            dataset[...] = dataset[()][..., [1, 0, 2]]
    original, exchanged = load_weights(weights), load_weights(copy)
    assert torch.equal(original.flow.weight, load_weights(weights, indexing="ij").flow.weight)
    assert torch.equal(original.flow.weight, exchanged.flow.weight)
