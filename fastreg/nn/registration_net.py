"""The U-Net family of VoxelMorph and its registration head.

`vm1` and `vm2` are the networks of CVPR 2018 layer by layer, with TensorFlow's padding of stride-2 convolutions;
`vxm` is the later package's VxmDense. Channels and order follow the published code and weight files. `match` is ours:
a smaller U-Net behind a cost volume, for images of any contrast. `pyramid` is no U-Net: see `fastreg.nn.pyramid`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from dataclasses import fields as fields_of
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.geometry import fields
from fastreg.geometry.padding import crop, pad_to_multiple
from fastreg.nn.cost_volume import Matching
from fastreg.nn.cpu_convolution import convolve
from fastreg.nn.pyramid import Pyramid
from fastreg.nn.unet import ARCHITECTURES, RESAMPLINGS, UNet, convolution, widened
from fastreg.ops.mind import mind
from fastreg.ops.warp import warp
from fastreg.types import RegistrationOutput, Volume
from fastreg.utils.checks import check_choice, check_volume, shape
from fastreg.utils.devices import computes_bfloat16
from fastreg.utils.typed import call_of

NETWORKS = (*ARCHITECTURES, "pyramid")


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
    save_memory: bool = False
    """In training, activations are computed anew in the backward pass."""
    features: tuple[tuple[int, ...], ...] | None = None
    """Encoder, decoder, tail_half and tail of the `Architecture`, in place of those of `name`."""
    half: bool = False
    """The network ends on the half grid; what it says is integrated there and upsampled."""
    descriptors: bool = False
    """The network (a pyramid) sees `fastreg.mind` of the images, which contrast does not change."""
    strided_padding: str = "tensorflow"
    """Of stride-2 convolutions: "tensorflow" (0, 1) or "symmetric" (1, 1)."""
    resampling: str = "corners"
    """Between the velocity's grid and the image's, a factor f: "corners" (corner voxels coincide, the values scaled to
    fit), "voxelmorph" (the same positions, values times f: VxmDense), "voxelmorph2018" (voxel p is p / f, values times
    f, the velocity continued beyond its grid)."""


class RegistrationNet(nn.Module):
    """From two images to the displacement field that brings the moving one onto the fixed one.

    Args:
        name: "vm1" (259,675 parameters in 3-D), "vm2" (300,547), "vxm" (327,331), "match" (258,731) or "pyramid"
            (414,335).
        ndim: 3 or 2.
        options: Further fields of `NetConfig`: channels, width, diffeomorphic, steps, downsize, uncertainty,
            half, region, descriptors, channels_last, amp, save_memory, and those of loaded networks
            (`fastreg.compat`): features, strided_padding, resampling.

    Raises:
        ValueError: a name, number of axes or option that does not exist.

    Any image shape will do: the input is padded with zeros at the far end to a multiple of 16 (2 to the number of
    encoder levels), the field cropped.
    Source: Balakrishnan et al., CVPR 2018 and TMI 2019; Dalca et al. 2018 for the diffeomorphic head.
    """

    def __init__(self, name: str = "vm2", ndim: int = 3, **options: Any) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
        if ndim not in (2, 3):
            raise ValueError(f"ndim must be 2 or 3, got {ndim}")
        unknown = set(options) - set(NetConfig.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}; RegistrationNet takes those of NetConfig")
        self.config = NetConfig(name, ndim, **{**options, "features": _tuples(options.get("features"))})
        _check_config(self.config)
        self.on_half_grid = False
        outputs = self._build_pyramid() if name == "pyramid" else self._build_unet()
        if self.config.region:
            self.region = convolution(ndim, outputs, 1)
        if self.config.channels_last:
            module: Any = self  # memory_format is missing from the type of Module.to
            module.to(memory_format=torch.channels_last_3d if ndim == 3 else torch.channels_last)

    def _build_unet(self) -> int:
        """Layers of the U-Net and its heads; how many features they see."""
        config = self.config
        architecture = widened(ARCHITECTURES[config.name], config.width)
        if config.features is not None:
            encoder, decoder, tail_half, tail = config.features
            architecture = replace(architecture, encoder=encoder, decoder=decoder, tail_half=tail_half, tail=tail)
        architecture = replace(architecture, half=config.half)
        inputs = 2 * config.channels
        if architecture.matching:
            inputs = architecture.encoder[0]
            self.matching = Matching(config.channels, config.ndim, architecture.matching, inputs)
        self.on_half_grid = architecture.half or architecture.matching > 0
        self.unet = UNet(architecture, inputs, config.ndim, config.strided_padding, config.save_memory)
        self.flow = convolution(config.ndim, self.unet.outputs, config.ndim)
        nn.init.normal_(self.flow.weight, std=1e-5)  # starts at the identity, as the published code does
        if config.uncertainty:
            if not config.diffeomorphic:
                raise ValueError("uncertainty needs a diffeomorphic network: it is the velocity's")
            self.log_variance = convolution(config.ndim, self.unet.outputs, config.ndim)
            nn.init.normal_(self.log_variance.weight, std=1e-10)  # starts certain, as the published code does
            assert self.log_variance.bias is not None
            nn.init.constant_(self.log_variance.bias, -10.0)
        return self.unet.outputs

    def _build_pyramid(self) -> int:
        config = self.config
        self.pyramid = Pyramid(
            config.channels * (2 * config.ndim if config.descriptors else 1),
            config.ndim,
            config.width,
            half=config.half,
            squarings=config.steps if config.diffeomorphic else None,
            amp=config.amp,
            channels_last=config.channels_last,
            save_memory=config.save_memory,
        )
        return self.pyramid.outputs

    @property
    def divisor(self) -> int:
        """Images are padded to a multiple of it: two to the number of times that the grid is halved."""
        if self.config.name == "pyramid":
            return self.pyramid.divisor
        return self.unet.divisor * (2 if self.unet.architecture.matching else 1)

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

        On the half grid for networks with `half`, and for "match". Of a pyramid the displacement, all levels together.
        """
        if self.config.name == "pyramid":
            return self._by_levels(moving, fixed).flow
        return self._said(moving, fixed)["field"]

    def _said(self, moving: Volume, fixed: Volume) -> dict[str, Tensor]:
        """Of every head: the "field", its "log_variance" with `uncertainty`, the "region" with `region`."""
        _check_pair(moving, fixed, self.config)
        size = fixed.shape[2:]
        matching = self.unet.architecture.matching > 0
        x = self.matching(moving, fixed) if matching else torch.cat([moving, fixed], 1)
        x = pad_to_multiple(x, self.unet.divisor)
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
        amp = self.config.amp and computes_bfloat16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            features = self.unet(x)
            heads = {"field": self.flow}
            heads |= {"log_variance": self.log_variance} if self.config.uncertainty else {}
            heads |= {"region": self.region} if self.config.region else {}
            said = {name: convolve(head, features).to(fixed.dtype) for name, head in heads.items()}
        kept = [(length + 1) // 2 if self.on_half_grid else length for length in size]
        return {name: crop(field, kept).contiguous() for name, field in said.items()}

    def forward(self, moving: Volume, fixed: Volume, inverse: bool = False) -> RegistrationOutput:
        """Registers `moving` to `fixed`, both [batch, channels, D, H, W] on one grid, intensities about [0, 1].

        Args:
            moving: The image that is warped.
            fixed: The image that it should look like.
            inverse: Also give the inverse field and the fixed image warped by it (diffeomorphic networks only).
        """
        if inverse and not self.config.diffeomorphic:
            raise ValueError("inverse needs a diffeomorphic network; a displacement field has none in closed form")
        if self.config.name == "pyramid":
            return self._by_levels(moving, fixed, inverse)
        alone = not (self.config.uncertainty or self.config.region)
        said = {"field": self.field(moving, fixed)} if alone else self._said(moving, fixed)
        field, unsure, region = said["field"], said.get("log_variance"), said.get("region")
        size, factor = tuple(fixed.shape[2:]), 2 if self.on_half_grid else self.config.downsize
        if region is not None:
            region = _interpolated(region, size)
        if not self.config.diffeomorphic:
            flow = self._resized(field, size, 2.0) if self.on_half_grid else field
            return RegistrationOutput(moved=warp(moving, flow), flow=flow, region=region)
        mean = field
        if not self.on_half_grid and factor > 1:
            mean = self._resized(field, tuple((length + factor - 1) // factor for length in size), 1 / factor)
        velocity = mean
        if unsure is not None:
            unsure = _interpolated(unsure, tuple(mean.shape[2:]))
            if self.training:
                velocity = mean + torch.exp(0.5 * unsure) * torch.randn_like(mean)
        flow = self._resized(self._integrated(velocity), size, factor)
        back = self._resized(self._integrated(-velocity), size, factor) if inverse else None
        return RegistrationOutput(
            moved=warp(moving, flow),
            flow=flow,
            velocity=mean,
            inverse_flow=back,
            moved_back=None if back is None else warp(fixed, back),
            log_variance=unsure,
            region=region,
        )

    __call__ = call_of(forward)

    def _by_levels(self, moving: Volume, fixed: Volume, inverse: bool = False) -> RegistrationOutput:
        """A pyramid's output; it has no velocity, for the composition of its levels is that of none."""
        _check_pair(moving, fixed, self.config)
        size = tuple(fixed.shape[2:])
        seen = [moving, fixed]
        if self.config.descriptors:
            with torch.no_grad():
                seen = [mind(image) for image in seen]
        found = self.pyramid(*(pad_to_multiple(image, self.divisor) for image in seen), inverse)
        flow = crop(found.flow, size).contiguous()
        back = None if found.back is None else crop(found.back, size).contiguous()
        region = None
        if self.config.region:
            whole = [length * 2**self.pyramid.last for length in found.state.shape[2:]]
            said = convolve(self.region, found.state.to(fixed.dtype))
            region = crop(_interpolated(said, tuple(whole)), size)
        return RegistrationOutput(
            moved=warp(moving, flow),
            flow=flow,
            inverse_flow=back,
            moved_back=None if back is None else warp(fixed, back),
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
        return crop(field, size).contiguous()


def _interpolated(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """On the grid of `size`, linearly; corner voxels coincide, the values stay."""
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    return F.interpolate(image, size, mode=mode, align_corners=True)


_UNCOMMON = ("descriptors", "save_memory", "uncertainty", "region", "features", "half", "strided_padding", "resampling")


def _tuples(features: Any) -> tuple[tuple[int, ...], ...] | None:
    return None if features is None else tuple(tuple(int(n) for n in part) for part in features)


def _check_config(config: NetConfig) -> None:
    check_choice("strided_padding", config.strided_padding, ("tensorflow", "symmetric"))
    check_choice("resampling", config.resampling, RESAMPLINGS)
    if config.features is not None and len(config.features) != 4:
        raise ValueError(f"features must name encoder, decoder, tail_half and tail, got {len(config.features)} parts")
    if config.name == "pyramid":
        for option, default in (("uncertainty", False), ("features", None), ("resampling", "corners")):
            if getattr(config, option) != default:
                raise ValueError(f"{option} is for the U-Nets: a pyramid has a field on every level")
        return
    if config.descriptors:
        raise ValueError("descriptors is for the pyramid; match sees them as it is")
    if config.half and ARCHITECTURES[config.name].matching:
        raise ValueError(f"half is for the other networks: {config.name} is on the half grid as it is")
    if config.resampling == "voxelmorph2018" and not config.half:
        raise ValueError("resampling 'voxelmorph2018' is that of networks with half")


def _check_pair(moving: Volume, fixed: Volume, config: NetConfig) -> None:
    for name, image in (("moving", moving), ("fixed", fixed)):
        check_volume(name, image)
        if image.ndim != config.ndim + 2 or image.shape[1] != config.channels:
            wanted = f"[batch, {config.channels}, {'D, H, W' if config.ndim == 3 else 'H, W'}]"
            raise ValueError(f"{name} must be {wanted} for this network, got {shape(image)}")
    if moving.shape != fixed.shape:
        raise ValueError(f"moving must lie on the grid of fixed {shape(fixed)}, got {shape(moving)}")
