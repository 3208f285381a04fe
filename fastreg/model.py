"""The U-Net family of VoxelMorph and its registration head.

`vm1` and `vm2` are the networks of CVPR 2018 layer by layer, with TensorFlow's padding of stride-2 convolutions;
`vxm` is the later package's VxmDense. Channels and order follow the published code and weight files. `match` is ours:
a smaller U-Net behind a cost volume, for images of any contrast.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as fields_of
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg import fields
from fastreg.devices import computes_bfloat16
from fastreg.matching import Matching
from fastreg.ops._checks import check_choice, check_volume, shape
from fastreg.ops.warp import warp
from fastreg.types import Registration, Volume


@dataclass(frozen=True)
class Architecture:
    """Numbers of channels. The encoder halves the grid after each level; the decoder comes back."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    """One convolution per level, from the coarsest grid up."""
    tail_half: tuple[int, ...]
    """Further convolutions on the last decoder grid, before the tail."""
    tail: tuple[int, ...]
    """Convolutions on the full grid, before the flow layer."""
    pooled: bool
    """Full-resolution first convolution and max-pooling (VxmDense) instead of stride-2 convolutions (2018)."""
    half: bool = False
    """Ends on the half grid, without the last upsampling and its skip (MICCAI 2018, VxmDense's `unet_half_res`)."""
    matching: int = 0
    """Above 0: all of the network is on the half grid and sees, instead of the images, `matching.Matching` of this
    radius."""


ARCHITECTURES = {
    "vm1": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (8,), (8,), pooled=False),
    "vm2": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (32,), (16, 16), pooled=False),
    "vxm": Architecture((16, 32, 32, 32), (32, 32, 32, 32), (), (32, 16, 16), pooled=True),
    "match": Architecture((24, 32, 32), (32, 32, 32), (32,), (16, 16), pooled=False, matching=2),
}

RESAMPLINGS = ("corners", "voxelmorph", "voxelmorph2018")


def _convolution(ndim: int, inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d | nn.Conv3d:
    layer: nn.Conv2d | nn.Conv3d = (nn.Conv3d if ndim == 3 else nn.Conv2d)(
        inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0
    )
    nn.init.kaiming_normal_(layer.weight, a=0.0, nonlinearity="relu")  # Keras' he_normal
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class UNet(nn.Module):
    """[batch, inputs, D, H, W] with axes divisible by `divisor` -> features [batch, outputs, D, H, W].

    Networks with `half` give features on the half grid. `strided_padding`: how stride-2 convolutions are padded,
    "tensorflow" (0, 1) or "symmetric" (1, 1).
    """

    def __init__(self, architecture: Architecture, inputs: int, ndim: int, strided_padding: str = "tensorflow") -> None:
        super().__init__()
        self.architecture, self.ndim = architecture, ndim
        self.divisor = 2 ** len(architecture.encoder)
        self.pads = ((0, 1) if strided_padding == "tensorflow" else (1, 1)) * ndim
        stride = 1 if architecture.pooled else 2
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = inputs
        for features in architecture.encoder:
            self.encoder.append(_convolution(ndim, channels, features, stride))
            channels = features
        # Skips from the coarsest to the finest; the 2018 networks end with the raw input, VxmDense has no such skip.
        skips = list(reversed(architecture.encoder))
        if not architecture.pooled:
            skips = [*skips[1:], inputs]
        for k, features in enumerate(architecture.decoder):
            self.decoder.append(_convolution(ndim, channels, features))
            channels = features + (skips[k] if self._joins(k) else 0)
        self.tail_half, self.tail = nn.ModuleList(), nn.ModuleList()
        for features in architecture.tail_half:
            self.tail_half.append(_convolution(ndim, channels, features))
            channels = features
        channels += 0 if architecture.pooled or architecture.half else skips[-1]
        for features in architecture.tail:
            self.tail.append(_convolution(ndim, channels, features))
            channels = features
        self.outputs = channels

    def _joins(self, k: int) -> bool:
        """Whether the k-th decoder convolution is followed by upsampling and a skip."""
        last = len(self.architecture.decoder) - 1
        return k < last or (self.architecture.pooled and not self.architecture.half)

    def forward(self, x: Tensor) -> Tensor:
        """Features on the full grid, or on the half grid."""
        skips = [] if self.architecture.pooled else [x]
        for layer in self.encoder:
            if self.architecture.pooled:
                x = _activate(_convolve(layer, x))
                skips.append(x)
                x = (F.max_pool3d if self.ndim == 3 else F.max_pool2d)(x, 2)
            else:
                # TensorFlow's SAME padding of a stride-2 convolution of an even axis is (0, 1), not (1, 1).
                x = _activate(_convolve(layer, F.pad(x, self.pads)))
                skips.append(x)
        if not self.architecture.pooled:
            skips.pop()  # the coarsest features are the decoder's input
        for k, layer in enumerate(self.decoder):
            x = _activate(_convolve(layer, x))
            if self._joins(k):
                x = _join(x, skips.pop())
        for layer in self.tail_half:
            x = _activate(_convolve(layer, x))
        if not (self.architecture.pooled or self.architecture.half):
            x = _join(x, skips.pop())
        for layer in self.tail:
            x = _activate(_convolve(layer, x))
        return x


def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.ndim == 4:
        y: Tensor = layer(x)
        return y
    # oneDNN's bfloat16 gradient of 3-D weights reads memory that it never wrote where there are two planes, now and
    # then a NaN; grids that coarse cost nothing in float32.
    if x.shape[2] == 2 and x.dtype != torch.float64:
        with torch.autocast("cpu", enabled=False):
            y = layer(x.float())
            return y
    if _left_to_plain_loops(x):
        assert isinstance(layer, nn.Conv3d)
        return _convolve_halves(layer, x)
    y = layer(x)
    return y


def _left_to_plain_loops(x: Tensor) -> bool:
    """Whether torch takes its im2col loops for [1, channels, D, H, W], many times slower than oneDNN.

    It goes by the product of the first four axes, as if the image had two; larger batches always have oneDNN.
    """
    small = len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480
    return small and x[0, 0].numel() > 512 and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _convolve_halves(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """The same convolution, 3 voxels wide along the first axis, of the image's halves as a batch of two."""
    assert not isinstance(layer.padding, str)
    stride, (first, *others) = layer.stride[0], layer.padding
    x = F.pad(x, (0, 0, 0, 0, first, first))
    planes = (x.shape[2] - 3) // stride + 1
    half = -(-planes // 2)
    reach, start = stride * (half - 1) + 3, stride * (planes - half)
    halves = torch.cat([x[:, :, :reach], x[:, :, start : start + reach]])
    y = F.conv3d(halves, layer.weight, layer.bias, layer.stride, (0, *others))
    return torch.cat([y[:1], y[1:, :, 2 * half - planes :]], 2)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _join(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], 1)


@dataclass(frozen=True)
class NetConfig:
    """What it takes to build a `RegistrationNet` again; stored in every checkpoint."""

    name: str = "vm2"
    ndim: int = 3
    channels: int = 1
    """Channels of one image."""
    width: float = 1.0
    """Factor on the features of every layer; 2 is the "doubled features" of TMI 2019."""
    diffeomorphic: bool = False
    steps: int = 7
    """Squarings of the velocity field."""
    downsize: int = 2
    """The velocity lives on a grid this many times coarser."""
    uncertainty: bool = False
    """The network also says the log variance of the velocity, and in training mode integrates a sample of it."""
    region: bool = False
    """The network also says where the fixed image's region of interest is (Shan et al. 2017)."""
    channels_last: bool = False
    amp: bool = False
    """The network (not the warp) runs in bfloat16 autocast, in float32 on processors that do not compute in it."""
    features: tuple[tuple[int, ...], ...] | None = None
    """Encoder, decoder, tail_half and tail of the `Architecture`, in place of those of `name`."""
    half: bool = False
    """The network ends on the half grid; what it says is integrated there and upsampled."""
    strided_padding: str = "tensorflow"
    """Of stride-2 convolutions: "tensorflow" (0, 1) or "symmetric" (1, 1)."""
    resampling: str = "corners"
    """Between the velocity's grid and the image's, a factor f: "corners" (corner voxels coincide, the values scaled to
    fit), "voxelmorph" (the same positions, values times f: VxmDense), "voxelmorph2018" (voxel p is p / f, values times
    f, the velocity continued beyond its grid)."""


class RegistrationNet(nn.Module):
    """From two images to the displacement field that brings the moving one onto the fixed one.

    Args:
        name: "vm1" (259,675 parameters in 3-D), "vm2" (300,547), "vxm" (327,331) or "match" (258,731).
        ndim: 3 or 2.
        options: Further fields of `NetConfig`: channels, width, diffeomorphic, steps, downsize, uncertainty,
            half, region, channels_last, amp, and those of loaded networks (`fastreg.compat`): features,
            strided_padding, resampling.

    Raises:
        ValueError: a name, number of axes or option that does not exist.

    Any image shape will do: the input is padded with zeros at the far end to a multiple of 16 (2 to the number of
    encoder levels), the field cropped.
    Source: Balakrishnan et al., CVPR 2018 and TMI 2019; Dalca et al. 2018 for the diffeomorphic head.
    """

    def __init__(self, name: str = "vm2", ndim: int = 3, **options: Any) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise ValueError(f"name must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
        if ndim not in (2, 3):
            raise ValueError(f"ndim must be 2 or 3, got {ndim}")
        unknown = set(options) - set(NetConfig.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}; RegistrationNet takes those of NetConfig")
        self.config = NetConfig(name, ndim, **{**options, "features": _tuples(options.get("features"))})
        _check_config(self.config)
        architecture = _widened(ARCHITECTURES[name], self.config.width)
        if self.config.features is not None:
            encoder, decoder, tail_half, tail = self.config.features
            architecture = replace(architecture, encoder=encoder, decoder=decoder, tail_half=tail_half, tail=tail)
        architecture = replace(architecture, half=self.config.half)
        inputs = 2 * self.config.channels
        if architecture.matching:
            inputs = architecture.encoder[0]
            self.matching = Matching(self.config.channels, ndim, architecture.matching, inputs)
        self.on_half_grid = architecture.half or architecture.matching > 0
        self.unet = UNet(architecture, inputs, ndim, self.config.strided_padding)
        self.flow = _convolution(ndim, self.unet.outputs, ndim)
        nn.init.normal_(self.flow.weight, std=1e-5)  # starts at the identity, as the published code does
        if self.config.uncertainty:
            if not self.config.diffeomorphic:
                raise ValueError("uncertainty needs a diffeomorphic network: it is the velocity's")
            self.log_variance = _convolution(ndim, self.unet.outputs, ndim)
            nn.init.normal_(self.log_variance.weight, std=1e-10)  # starts certain, as the published code does
            assert self.log_variance.bias is not None
            nn.init.constant_(self.log_variance.bias, -10.0)
        if self.config.region:
            self.region = _convolution(ndim, self.unet.outputs, 1)
        if self.config.channels_last:
            module: Any = self  # memory_format is missing from the type of Module.to
            module.to(memory_format=torch.channels_last_3d if ndim == 3 else torch.channels_last)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this network again, as JSON has them."""
        options = asdict(self.config)
        for field in fields_of(NetConfig):
            # Few networks have these; left out, the checkpoints of all others stay as they were.
            if field.name in _UNCOMMON and options[field.name] == field.default:
                del options[field.name]
        if "features" in options:
            options["features"] = [list(part) for part in options["features"]]
        return options

    def field(self, moving: Volume, fixed: Volume) -> Tensor:
        """What the last layer says: [batch, ndim, D, H, W], a displacement, or a velocity of the diffeomorphic form.

        On the half grid for networks with `half`, and for "match".
        """
        return self._said(moving, fixed)["field"]

    def _said(self, moving: Volume, fixed: Volume) -> dict[str, Tensor]:
        """Of every head: the "field", its "log_variance" with `uncertainty`, the "region" with `region`."""
        _check_pair(moving, fixed, self.config)
        size = fixed.shape[2:]
        matching = self.unet.architecture.matching > 0
        x = self.matching(moving, fixed) if matching else torch.cat([moving, fixed], 1)
        x = F.pad(x, [pad for length in reversed(x.shape[2:]) for pad in (0, -length % self.unet.divisor)])
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
        amp = self.config.amp and computes_bfloat16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            features = self.unet(x)
            heads = {"field": self.flow}
            heads |= {"log_variance": self.log_variance} if self.config.uncertainty else {}
            heads |= {"region": self.region} if self.config.region else {}
            said = {name: _convolve(head, features).to(fixed.dtype) for name, head in heads.items()}
        for axis, length in enumerate(size):
            kept = math.ceil(length / 2) if self.on_half_grid else length
            said = {name: field.narrow(2 + axis, 0, kept) for name, field in said.items()}
        return {name: field.contiguous() for name, field in said.items()}

    def forward(self, moving: Volume, fixed: Volume, inverse: bool = False) -> Registration:
        """Registers `moving` to `fixed`, both [batch, channels, D, H, W] on one grid, intensities about [0, 1].

        Args:
            moving: The image that is warped.
            fixed: The image that it should look like.
            inverse: Also give the inverse field and the fixed image warped by it (diffeomorphic networks only).
        """
        if inverse and not self.config.diffeomorphic:
            raise ValueError("inverse needs a diffeomorphic network; a displacement field has none in closed form")
        alone = not (self.config.uncertainty or self.config.region)
        said = {"field": self.field(moving, fixed)} if alone else self._said(moving, fixed)
        field, unsure, region = said["field"], said.get("log_variance"), said.get("region")
        size, factor = tuple(fixed.shape[2:]), 2 if self.on_half_grid else self.config.downsize
        if region is not None:
            region = _interpolated(region, size)
        if not self.config.diffeomorphic:
            flow = self._resized(field, size, 2.0) if self.on_half_grid else field
            return Registration(moved=warp(moving, flow), flow=flow, region=region)
        mean = field
        if not self.on_half_grid and factor > 1:
            mean = self._resized(field, tuple(math.ceil(length / factor) for length in size), 1 / factor)
        velocity = mean
        if unsure is not None:
            unsure = _interpolated(unsure, tuple(mean.shape[2:]))
            if self.training:
                velocity = mean + torch.exp(0.5 * unsure) * torch.randn_like(mean)
        flow = self._resized(self._integrated(velocity), size, factor)
        back = self._resized(self._integrated(-velocity), size, factor) if inverse else None
        return Registration(
            moved=warp(moving, flow),
            flow=flow,
            velocity=mean,
            inverse_flow=back,
            moved_back=None if back is None else warp(fixed, back),
            log_variance=unsure,
            region=region,
        )

    def _integrated(self, velocity: Tensor) -> Tensor:
        padding = "border" if self.config.resampling == "voxelmorph2018" else "zeros"
        return fields.integrate(velocity, steps=self.config.steps, padding=padding)

    def _resized(self, field: Tensor, size: tuple[int, ...], factor: float) -> Tensor:
        """The field on the grid of `size`, `factor` times finer."""
        if self.config.resampling == "corners":
            return fields.resize(field, size)
        mode = "trilinear" if field.ndim == 5 else "bilinear"
        if self.config.resampling == "voxelmorph":
            return factor * F.interpolate(field, size=size, mode=mode, align_corners=True)
        # Of a grid with one voxel more at the far end, which ends where the finer grid does, the corners coincide.
        longer = F.pad(field, (0, 1) * (field.ndim - 2), mode="replicate")
        whole = [round(factor * length) + 1 for length in field.shape[2:]]
        field = factor * F.interpolate(longer, size=whole, mode=mode, align_corners=True)
        for axis, length in enumerate(size):
            field = field.narrow(2 + axis, 0, length)
        return field.contiguous()


def _interpolated(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """On the grid of `size`, linearly; corner voxels coincide, the values stay."""
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    return F.interpolate(image, size, mode=mode, align_corners=True)


_UNCOMMON = ("uncertainty", "region", "features", "half", "strided_padding", "resampling")


def _tuples(features: Any) -> tuple[tuple[int, ...], ...] | None:
    return None if features is None else tuple(tuple(int(n) for n in part) for part in features)


def _check_config(config: NetConfig) -> None:
    check_choice("strided_padding", config.strided_padding, ("tensorflow", "symmetric"))
    check_choice("resampling", config.resampling, RESAMPLINGS)
    if config.features is not None and len(config.features) != 4:
        raise ValueError(f"features must name encoder, decoder, tail_half and tail, got {len(config.features)} parts")
    if config.half and ARCHITECTURES[config.name].matching:
        raise ValueError(f"half is for the other networks: {config.name} is on the half grid as it is")
    if config.resampling == "voxelmorph2018" and not config.half:
        raise ValueError("resampling 'voxelmorph2018' is that of networks with half")


def _widened(architecture: Architecture, width: float) -> Architecture:
    def wide(channels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(width * features)) for features in channels)

    a = architecture
    return replace(a, encoder=wide(a.encoder), decoder=wide(a.decoder), tail_half=wide(a.tail_half), tail=wide(a.tail))


def _check_pair(moving: Volume, fixed: Volume, config: NetConfig) -> None:
    for name, image in (("moving", moving), ("fixed", fixed)):
        check_volume(name, image)
        if image.ndim != config.ndim + 2 or image.shape[1] != config.channels:
            wanted = f"[batch, {config.channels}, {'D, H, W' if config.ndim == 3 else 'H, W'}]"
            raise ValueError(f"{name} must be {wanted} for this network, got {shape(image)}")
    if moving.shape != fixed.shape:
        raise ValueError(f"moving must lie on the grid of fixed {shape(fixed)}, got {shape(moving)}")
