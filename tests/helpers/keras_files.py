"""Keras .h5 files as the code of 2018 wrote them, built without Keras, and what such a graph computes.

The computation follows the file: kernels [3, 3, 3, in, out] on channels-last arrays, TensorFlow's padding, and the
layers after the flow. Nothing of it goes through the reader under test.
"""

import itertools
import json
from pathlib import Path

import numpy as np


class Graph:
    """A functional model under construction; layers are added by class, named as Keras names them."""

    def __init__(self, shape, seed=0, first=256):
        self.shape, self.first = tuple(shape), first
        self.rng = np.random.default_rng(seed)
        self.layers, self.weights, self.channels = [], {}, {}
        self.inputs = [self.add("InputLayer", [], batch_input_shape=[None, *shape, 1]) for _ in range(2)]

    def add(self, kind, feeds, name=None, **config):
        number = self.first + sum(layer["class_name"] == kind for layer in self.layers)
        name = name or f"{kind.lower()}_{number}"
        nodes = [[[feed, 0, 0, {}] for feed in feeds]] if feeds else []
        self.layers.append(
            {"name": name, "class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes}
        )
        self.channels[name] = (
            sum(self.channels[feed] for feed in feeds)
            if kind == "Concatenate"
            else (self.channels[feeds[0]] if feeds else 1)
        )
        return name

    def conv(self, feed, filters, stride=1, name=None, scale=0.3, **config):
        ndim = len(self.shape)
        name = self.add(
            f"Conv{ndim}D", [feed], name, filters=filters, kernel_size=[3] * ndim, strides=[stride] * ndim,
            padding="same", activation="linear", data_format="channels_last", use_bias=True, **config,
        )  # fmt: skip
        kernel = self.rng.normal(0, scale, (*[3] * ndim, self.channels[feed], filters)) / np.sqrt(self.channels[feed])
        self.weights[name] = (kernel.astype(np.float32), self.rng.normal(0, 0.1, filters).astype(np.float32))
        self.channels[name] = filters
        return name

    def block(self, feed, filters, stride=1, alpha=0.2):
        return self.add("LeakyReLU", [self.conv(feed, filters, stride)], alpha=alpha)

    def up(self, feed, skip):
        raised = self.add(f"UpSampling{len(self.shape)}D", [feed], size=[2] * len(self.shape))
        return self.add("Concatenate", [raised, skip], axis=-1)

    def unet(self, decoder=(32, 32, 32, 32, 8, 8), full=True, encoder=(16, 32, 32, 32)):
        """The network of CVPR 2018; `full` off: that of MICCAI 2018, on the half grid."""
        path = [self.add("Concatenate", self.inputs, axis=-1)]
        for filters in encoder:
            path.append(self.block(path[-1], filters, 2))
        x = path[-1]
        for k in range(4):
            x = self.block(x if k == 0 else self.up(x, path[-1 - k]), decoder[k])
        x = self.block(x, decoder[4])
        if full:
            x = self.block(self.up(x, path[0]), decoder[5])
        return x if len(decoder) < 7 else self.block(x, decoder[6])

    def vm(self, decoder, transformer="SpatialTransformer", scale=1.0, **config):
        flow = self.conv(self.unet(decoder), len(self.shape), name="flow", scale=scale)
        self.outputs = [self.add(transformer, [self.inputs[0], flow], **config), flow]
        return self

    def miccai(self, steps=7, manual=False, indexing=None, scale=1.0):
        """The probabilistic network, its velocity squared layer by layer (`manual`) or by VecInt."""
        told = {} if indexing is None else {"indexing": indexing}
        x = self.unet((32, 32, 32, 32, 16), full=False)
        mean = self.conv(x, len(self.shape), name="flow", scale=scale / 2**steps if manual else scale)
        if manual:
            kernel, bias = self.weights["flow"]
            self.weights["flow"] = kernel, bias / 2**steps
        sigma = self.conv(x, len(self.shape), name="log_sigma")
        parameters = self.add("Concatenate", [mean, sigma], axis=-1)
        v = self.add("Lambda", [mean, sigma], name="z_sample")
        self.channels[v] = len(self.shape)
        if manual:
            for _ in range(steps):
                v = self.add("Add", [v, self.add("SpatialTransformer", [v, v], **told)])
            v = self.add("Lambda", [self.add("Lambda", [v], name="pre_diffflow")], name="diffflow")
        else:
            v = self.add("VecInt", [v], name="flow-int", **({} if steps == 7 else {"int_steps": steps}))
            v = self.add("Resize", [self.add("Rescale", [v], name="diffflow_tmp")], name="diffflow")
        self.outputs = [self.add("SpatialTransformer", [self.inputs[0], v], **told), parameters]
        return self

    def save(self, path, config=True, group="model_weights", flow_scope="flow_34"):
        import h5py

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            if config:
                graph = {
                    "layers": self.layers,
                    "input_layers": [[name, 0, 0] for name in self.inputs],
                    "output_layers": [[name, 0, 0] for name in self.outputs],
                }
                file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": graph}).encode()
            top = file.create_group(group) if group else file
            top.attrs["layer_names"] = [layer["name"].encode() for layer in self.layers]
            for layer in self.layers:
                held = top.create_group(layer["name"])
                if layer["name"] in self.weights:
                    inside = held.create_group(flow_scope if layer["name"] == "flow" else layer["name"])
                    for key, value in zip(("kernel:0", "bias:0"), self.weights[layer["name"]], strict=True):
                        inside[key] = value
        return path

    def field(self, moving, fixed):
        """What the layer `flow` says of two arrays [D, H, W]: [D, H, W, 3], float64."""
        values = {self.inputs[0]: moving[..., None].astype(float), self.inputs[1]: fixed[..., None].astype(float)}
        for layer in self.layers:
            feeds = [values.get(entry[0]) for node in layer["inbound_nodes"] for entry in node]
            name, kind = layer["name"], layer["class_name"]
            if kind.startswith("Conv"):
                values[name] = convolve(feeds[0], *self.weights[name], layer["config"]["strides"][0])
            elif kind == "LeakyReLU":
                values[name] = np.where(feeds[0] < 0, layer["config"]["alpha"] * feeds[0], feeds[0])
            elif kind.startswith("UpSampling"):
                for axis in range(len(self.shape)):
                    feeds[0] = feeds[0].repeat(2, axis)
                values[name] = feeds[0]
            elif kind == "Concatenate":
                values[name] = np.concatenate(feeds, -1)
        return values["flow"]


def convolve(x, kernel, bias, stride):
    """SAME convolution as TensorFlow pads it: what is missing in all, the smaller half of it in front."""
    ndim = x.ndim - 1
    missing = [max((-(-n // stride) - 1) * stride + 3 - n, 0) for n in x.shape[:-1]]
    x = np.pad(x, [*[(m // 2, m - m // 2) for m in missing], (0, 0)])
    sizes = [(n - 3) // stride + 1 for n in x.shape[:-1]]
    out = np.zeros((*sizes, kernel.shape[-1]))
    for offset in itertools.product(range(3), repeat=ndim):
        window = tuple(slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, sizes, strict=True))
        out += x[window] @ kernel[offset].astype(float)
    return out + bias


def sample(field, position):
    """Linear interpolation of [D, H, W, C] at [D', H', W', 3] voxel positions, the border continued."""
    size = np.array(field.shape[:-1])
    position = np.clip(position, 0, size - 1)
    low = np.minimum(np.floor(position).astype(int), size - 1)
    out = 0.0
    for corner in itertools.product((0, 1), repeat=len(size)):
        weight = np.prod(np.where(corner, position - low, 1 - (position - low)), axis=-1)
        index = np.minimum(low + np.array(corner), size - 1)
        out = out + weight[..., None] * field[tuple(np.moveaxis(index, -1, 0))]
    return out


def positions(shape):
    return np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), -1)


def squared(velocity, steps, order):
    """`steps` squarings of a velocity whose channels displace the axes in `order`."""
    grid = positions(velocity.shape[:-1])
    for _ in range(steps):
        velocity = velocity + sample(velocity, grid + velocity[..., order])
    return velocity


def doubled(field):
    """On the grid of twice the size: voxel p reads p / 2, values doubled."""
    return 2 * sample(field, positions([2 * n for n in field.shape[:-1]]) / 2)
