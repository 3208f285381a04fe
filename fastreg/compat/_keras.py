"""VoxelMorph's Keras .h5 files: the CVPR and MICCAI networks of 2018 and the later VxmDense.

An .h5 file of `model.save` holds the graph (`model_config`) and the weights, one of `save_weights` the weights alone.
With the graph every connection is checked against the network that is built here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastreg.compat._layout import INPUT, Found, Layer
from fastreg.compat._probe import measured_indexing
from fastreg.utils.files import InputError

TRANSFORMERS = ("SpatialTransformer", "Dense3DSpatialTransformer")
STEPS = 7  # of all published networks; the layers of 2018 do not say


def read(path: Path, indexing: str | None = None) -> Found:
    """The network of an .h5 file.

    Args:
        path: The file.
        indexing: What flow channels 0 and 1 displace: axes 0 and 1 ("ij") or 1 and 0 ("xy"); None: as the file says.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"weights {path}: reading .h5 needs h5py: pip install 'fastreg[compat]'") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"weights {path}: expected a Keras .h5 file, got something that is no HDF5 file") from error
    if indexing not in (None, "ij", "xy"):
        raise ValueError(f"indexing must be ij or xy, got {indexing!r}")
    with file:
        config = _model_config(path, file.attrs.get("model_config"))
        stored = _stored(path, file.get("model_weights", file))
    if any(re.search(r"enc_conv_\d+", name) for name in stored):
        if indexing == "xy":
            raise InputError(f"weights {path}: indexing xy is for files of 2018, those of VxmDense are ij")
        return _vxm_dense(path, stored, config.get("config", {}))
    graph = _Graph(path, config) if "layers" in config.get("config", {}) else None
    return _paper_2018(path, stored, graph, indexing)


def _model_config(path: Path, text: str | bytes | None) -> dict[str, Any]:
    try:
        config = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"weights {path}: model_config is not JSON ({error})") from error
    return config if isinstance(config, dict) and isinstance(config.get("config", {}), dict) else {}


def _stored(path: Path, group: Any) -> dict[str, Layer]:
    """The convolutions by name, in the order of `layer_names`, which is the model's; HDF5 itself sorts by name."""
    tensors: dict[str, np.ndarray] = {}
    group.visititems(lambda name, item: tensors.update({name: item[()]}) if hasattr(item, "dtype") else None)
    # <layer>/<name when it was built>/kernel:0; a nested model has many layers in one group.
    kernels = [name.split("/") for name in tensors if name.endswith("kernel:0")]
    nested = {parts[0] for parts in kernels if sum(parts[0] == other[0] for other in kernels) > 1}
    order = [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs.get("layer_names", ())]
    kernels.sort(key=lambda parts: order.index(parts[0]) if parts[0] in order else len(order))
    found = {}
    for parts in kernels:
        name = parts[-2] if parts[0] in nested else parts[0]
        kernel, bias = tensors["/".join(parts)], tensors.get("/".join([*parts[:-1], "bias:0"]))
        if bias is None:
            raise InputError(f"weights {path}: layer {name}: expected kernel:0 and bias:0, bias:0 is missing")
        if kernel.ndim not in (4, 5):
            raise InputError(f"weights {path}: layer {name}: expected a 2-D or 3-D convolution, got {kernel.shape}")
        # Keras has voxels, in, out; torch has out, in, voxels.
        weight = np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)), dtype=np.float32)
        found[name] = Layer(name, torch.from_numpy(weight), torch.from_numpy(np.asarray(bias, dtype=np.float32)))
    if not found:
        raise InputError(f"weights {path}: expected a Keras file with layers kernel:0 and bias:0, got none")
    return found


# ---------------------------------------------------------------- 2018


class _Graph:
    """The layers of a functional Keras model and what feeds them."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.layers: dict[str, dict[str, Any]] = {layer["name"]: layer for layer in config["config"]["layers"]}
        self.images = [entry[0] for entry in config["config"]["input_layers"]]
        self.shape = tuple(self.layers[self.images[0]]["config"]["batch_input_shape"][1:-1]) if self.images else ()

    def of_class(self, *classes: str) -> list[dict[str, Any]]:
        return [layer for layer in self.layers.values() if layer["class_name"] in classes]

    def feeds(self, name: str) -> list[str]:
        """Names of a layer's direct inputs."""
        nodes = self.layers[name]["inbound_nodes"]
        return [entry[0] for entry in nodes[0]] if nodes else []

    def sources(self, name: str) -> list[tuple[str, bool]]:
        """The convolutions and images that make up a layer's output, in the order of their channels."""
        layer, kind = self.layers[name], self.layers[name]["class_name"]
        if kind in ("InputLayer", "Conv3D", "Conv2D"):
            return [(name, False)]
        inner = [source for feed in self.feeds(name) for source in self.sources(feed)]
        if kind == "Concatenate":
            return inner
        if kind == "LeakyReLU" and abs(layer["config"].get("alpha", 0.3) - 0.2) < 1e-6:
            return inner
        if kind.startswith("UpSampling") and set(np.ravel(layer["config"].get("size", 2))) == {2}:
            return [(source, True) for source, _ in inner]
        raise InputError(
            f"weights {self.path}: layer {name}: expected LeakyReLU 0.2, UpSampling by 2 or Concatenate between "
            f"convolutions, got {kind} {layer['config'].get('alpha', layer['config'].get('size', ''))}".rstrip()
        )

    def check(self, found: Found) -> None:
        """InputError unless strides and connections are those of the network that `found` describes."""
        layers = [*found.layers, found.flow]
        names = [layer.name for layer in layers]
        for k, (layer, wanted) in enumerate(zip(layers, found.inputs(), strict=True)):
            config = self.layers[layer.name]["config"]
            expected = {
                "kernel_size": 3,
                "strides": 2 if k < len(found.encoder) else 1,
                "dilation_rate": 1,
                "padding": "same",
                "activation": "linear",
                "data_format": "channels_last",
            }
            for key, value in expected.items():
                if set(np.ravel(config.get(key, value)).tolist()) != {value}:
                    raise InputError(
                        f"weights {self.path}: layer {layer.name}: expected {key} {value}, got {config[key]}"
                    )
            got = [source for feed in self.feeds(layer.name) for source in self.sources(feed)]
            named = [(name, up) for place, up in wanted for name in (self.images if place == INPUT else [names[place]])]
            if got != named:
                raise InputError(
                    f"weights {self.path}: layer {layer.name}: expected {_sources_text(named)} as input, "
                    f"got {_sources_text(got)}"
                )


def _sources_text(sources: list[tuple[str, bool]]) -> str:
    return " + ".join(f"{name}{' upsampled' if up else ''}" for name, up in sources) or "nothing"


def _paper_2018(path: Path, stored: dict[str, Layer], graph: _Graph | None, indexing: str | None) -> Found:
    """The networks of CVPR 2018 and MICCAI 2018."""
    notes = []
    if graph is None:
        notes.append("no model_config: four levels of stride 2 and TensorFlow's padding assumed")
        order = list(stored)
    else:
        order = [name for name, layer in graph.layers.items() if layer["class_name"] in ("Conv3D", "Conv2D")]
        if missing := [name for name in order if name not in stored]:
            raise InputError(
                f"weights {path}: expected weights of layer {missing[0]}, which model_config names, got none"
            )
    if "flow" not in order:
        raise InputError(f"weights {path}: expected a layer named flow, got {', '.join(order)}")
    layers = [stored[name] for name in order if name not in ("flow", "log_sigma")]
    deep = 4
    if graph is not None:
        deep = sum(set(np.ravel(graph.layers[layer.name]["config"].get("strides", 1))) == {2} for layer in layers)
    if deep < 1 or len(layers) < 2 * deep:
        raise InputError(
            f"weights {path}: expected an encoder of stride-2 convolutions and as many in the decoder, got {deep} of "
            f"stride 2 among {len(layers)} convolutions"
        )
    rest = layers[2 * deep :]
    images = layers[0].weight.shape[1]
    before = [layer.weight.shape[0] for layer in layers[2 * deep - 1 :]]
    joins = [k for k, layer in enumerate(rest) if layer.weight.shape[1] == before[k] + images]
    half = not joins
    first = len(rest) if half else joins[0]
    if "log_sigma" in order:
        notes.append("log_sigma (the velocity's variance) left out: the mean velocity is used")
    options, scale = _head(path, graph, half, notes)
    flow = stored["flow"]
    found = Found(
        path=str(path),
        encoder=layers[:deep],
        decoder=layers[deep : 2 * deep],
        tail_half=rest[:first],
        tail=rest[first:],
        flow=Layer("flow", flow.weight * scale, flow.bias * scale),
        pooled=False,
        half=half,
        options=options,
        notes=notes,
        shape=None if graph is None or None in graph.shape else graph.shape,
    )
    found.check()
    if graph is not None:
        graph.check(found)
    if _indexing(path, graph, indexing, found) == "xy":
        axes = [1, 0, *range(2, flow.weight.shape[0])]
        return replace(found, flow=Layer("flow", found.flow.weight[axes], found.flow.bias[axes]))
    return found


def _head(path: Path, graph: _Graph | None, half: bool, notes: list[str]) -> tuple[dict[str, Any], float]:
    """Options of what follows the flow layer, and what its weights must be multiplied with."""
    resampling = {"resampling": "voxelmorph2018"} if half else {"downsize": 1}
    if graph is None:
        if half:
            notes.append(f"no model_config: a velocity in voxels, {STEPS} squarings after a division by 2^{STEPS}")
            return {"diffeomorphic": True, "steps": STEPS, **resampling}, 1.0
        return {}, 1.0
    if layers := [layer for layer in graph.of_class("VecInt") if not layer["name"].startswith("neg")]:
        config = layers[0]["config"]
        if config.get("method", "ss") not in ("ss", "scaling_and_squaring"):
            raise InputError(f"weights {path}: layer {layers[0]['name']}: expected method ss, got {config['method']}")
        return {"diffeomorphic": True, "steps": int(config.get("int_steps", STEPS)), **resampling}, 1.0
    squarings = 0
    for layer in graph.of_class(*TRANSFORMERS):
        first, second = (graph.feeds(layer["name"]) * 2)[:2]
        squarings += first == second
    if squarings:
        # The layers of MICCAI 2018 square without the division by 2^steps, which ours does first.
        return {"diffeomorphic": True, "steps": squarings, **resampling}, 2.0**squarings
    return (resampling if half else {}), 1.0


def _indexing(path: Path, graph: _Graph | None, wanted: str | None, found: Found) -> str:
    """What the flow's channels 0 and 1 displace: as told, as the file says, or as the network shows."""
    if wanted is not None:
        if wanted not in ("ij", "xy"):
            raise ValueError(f"indexing must be ij or xy, got {wanted!r}")
        return wanted
    for layer in [] if graph is None else graph.of_class(*TRANSFORMERS):
        if layer["class_name"].startswith("Dense"):  # the first code, which had no choice
            return "xy"
        if "indexing" in layer["config"]:
            return str(layer["config"]["indexing"])
    # The published files of 2018 do not say.
    if found.encoder[0].weight.shape[1] == 2:
        net = found.network()
        with torch.inference_mode():
            said = measured_indexing(lambda moving, fixed: net(moving, fixed).flow, net.config.ndim)
        if said is not None:
            found.notes.append(f"the file does not say whether its flow is ij or xy: {said}, as a test pair shows")
            return said
    said = "xy" if path.absolute().parent.name == "xy" else "ij"
    why = "by its folder" if said == "xy" else "as in most of the published files"
    found.notes.append(f"the file does not say whether its flow is ij or xy: {said} assumed, {why}")
    return said


# ---------------------------------------------------------------- VxmDense


def _vxm_dense(path: Path, stored: dict[str, Layer], config: dict[str, Any]) -> Found:
    """The later package's network; its file says the arguments of the constructor and names the layers."""
    parts: dict[str, dict[int, Layer]] = {"enc": {}, "dec": {}, "final": {}}
    flow = None
    for name, layer in stored.items():
        if match := re.search(r"(enc|dec)_conv_(\d+)_(\d+)$", name):
            if match[3] != "0":
                raise InputError(f"weights {path}: layer {name}: expected one convolution a level, got more")
            parts[match[1]][int(match[2])] = layer
        elif match := re.search(r"dec_final_conv_(\d+)$", name):
            parts["final"][int(match[1])] = layer
        elif re.search(r"(^|_)flow$", name):
            flow = layer
        elif not re.search(r"log_sigma$", name):
            raise InputError(f"weights {path}: layer {name}: expected the layers of VxmDense, got an unknown one")
    if flow is None:
        raise InputError(f"weights {path}: expected a layer named flow, got {', '.join(stored)}")
    encoder, decoder, tail = ([part[k] for k in sorted(part)] for part in parts.values())
    if len(encoder) != len(decoder):
        raise InputError(
            f"weights {path}: expected as many decoder as encoder levels, got {len(decoder)} and {len(encoder)}"
        )
    notes = []
    steps = config.get("int_steps")
    if steps is None:
        notes.append(f"no int_steps: {STEPS} assumed")
        steps = STEPS
    downsize = int(config.get("int_resolution") or config.get("int_downsize") or 2)
    half = bool(config.get("unet_half_res", False)) or int(config.get("svf_resolution", 1) or 1) == 2
    shape = config.get("inshape")
    return Found(
        path=str(path),
        encoder=encoder,
        decoder=decoder,
        tail_half=[],
        tail=tail,
        flow=flow,
        pooled=True,
        half=half,
        options=vxm_dense_options(path, int(steps), downsize, half),
        notes=notes,
        shape=None if shape is None else tuple(int(n) for n in shape),
    )


def vxm_dense_options(path: Path, steps: int, downsize: int, half: bool) -> dict[str, Any]:
    """Options of the head of VxmDense, in TensorFlow and PyTorch."""
    if half and downsize != 2:
        raise InputError(f"weights {path}: expected int_downsize 2 with unet_half_res, got {downsize}")
    if steps == 0:
        return {"resampling": "voxelmorph"} if half else {}
    return {"diffeomorphic": True, "steps": steps, "downsize": downsize, "resampling": "voxelmorph"}
