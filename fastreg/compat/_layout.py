"""What a file of another library turned out to hold, checked layer by layer and made into a `RegistrationNet`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastreg.nn.registration_net import RegistrationNet
from fastreg.nn.unet import ARCHITECTURES
from fastreg.utils.files import InputError

Source = tuple[int, bool]
"""A layer by its place (INPUT: the two images), and whether it comes upsampled."""

INPUT = -1


@dataclass(frozen=True)
class Layer:
    """One convolution as the file has it."""

    name: str
    weight: Tensor
    """[out, in, 3, 3, 3]."""
    bias: Tensor
    """[out]."""


@dataclass(frozen=True)
class Found:
    """A network in a file."""

    path: str
    encoder: list[Layer]
    decoder: list[Layer]
    """One for each level of the encoder, from the coarsest grid up."""
    tail_half: list[Layer]
    tail: list[Layer]
    flow: Layer
    pooled: bool
    half: bool
    options: dict[str, Any] = field(default_factory=dict)
    """Of `NetConfig`, beside those that the layers tell."""
    notes: list[str] = field(default_factory=list)
    """What the file does not say and was assumed, and what was left out."""
    shape: tuple[int, ...] | None = None
    """Grid of the training images."""

    @property
    def layers(self) -> list[Layer]:
        """All but the flow, in the order of the computation, which is that of `UNet`'s parameters."""
        return [*self.encoder, *self.decoder, *self.tail_half, *self.tail]

    def inputs(self) -> list[list[Source]]:
        """Where every layer, the flow last, takes its input from; concatenated in this order."""
        deep, count = len(self.encoder), len(self.layers)
        found: list[list[Source]] = [[(k - 1, False)] for k in range(count + 1)]
        # What the encoder leaves for the decoder, coarsest first; the pooled one keeps what it pools afterwards.
        skips = [*range(deep - 1, -1, -1)] if self.pooled else [*range(deep - 2, -1, -1), INPUT]
        for k in range(1, deep):
            found[deep + k] = [(deep + k - 1, True), (skips[k - 1], False)]
        if not self.half:
            first = 2 * deep + len(self.tail_half)
            found[first] = [(first - 1, True), (skips[-1], False)]
        return found

    def check(self) -> None:
        """InputError unless every layer takes as many channels as its inputs give."""
        layers = [*self.layers, self.flow]
        ndim, images = self.flow.weight.ndim - 2, self.encoder[0].weight.shape[1]
        for layer, sources in zip(layers, self.inputs(), strict=True):
            shape = tuple(layer.weight.shape)
            wanted = sum(images if k == INPUT else layers[k].weight.shape[0] for k, _ in sources)
            expected = (shape[0], wanted, *[3] * ndim)
            if shape != expected or tuple(layer.bias.shape) != shape[:1]:
                raise InputError(
                    f"weights {self.path}: layer {layer.name}: expected a kernel {expected} (out, in, voxels) with "
                    f"{shape[0]} biases, got {shape} with {tuple(layer.bias.shape)}"
                )
        if self.flow.weight.shape[0] != ndim:
            raise InputError(
                f"weights {self.path}: layer {self.flow.name}: expected {ndim} channels of flow, "
                f"got {self.flow.weight.shape[0]}"
            )
        if images % 2:
            raise InputError(f"weights {self.path}: expected two images as input, got {images} channels")

    def network(self) -> RegistrationNet:
        """The network with its weights."""
        self.check()
        features = tuple(
            tuple(layer.weight.shape[0] for layer in part)
            for part in (self.encoder, self.decoder, self.tail_half, self.tail)
        )
        name = "vxm" if self.pooled else "vm2" if len(self.tail) == 2 else "vm1"
        a = ARCHITECTURES[name]
        known = features == (a.encoder, a.decoder, a.tail_half, a.tail)
        net = RegistrationNet(
            name,
            self.flow.weight.ndim - 2,
            channels=self.encoder[0].weight.shape[1] // 2,
            features=None if known else features,
            half=self.half,
            **self.options,
        )
        tensors = [tensor for layer in (*self.layers, self.flow) for tensor in (layer.weight, layer.bias)]
        net.load_state_dict(dict(zip(net.state_dict(), tensors, strict=True)))
        return net.eval()
