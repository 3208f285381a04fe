"""`voxelmorph.nn.models.VxmPairwise`: the network of VoxelMorph's current package, layer by layer, and its files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreg.compat.voxelmorph.nn.modules import IntegrateVelocityField, SpatialTransformer
from fastreg.nn.cpu_convolution import convolve
from fastreg.types import Flow, Volume
from fastreg.utils.checks import check_choice
from fastreg.utils.files import InputError, check_exists
from fastreg.utils.typed import call_of

_FIELDS = ("displacement", "velocity", "svf")


class _Block(nn.Module):
    """One convolution under the name that VoxelMorph's files have for it, and a ReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, width: int = 3, activate: bool = True) -> None:
        super().__init__()
        kind = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.conv0 = kind(inputs, outputs, width, padding=width // 2)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(self.conv0, x) if self.conv0.kernel_size[0] == 3 else self.conv0(x)
        return F.relu(x) if self.activate else x


class _Level(nn.Module):
    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_block = _Block(ndim, inputs, outputs)


class _UNet(nn.Module):
    """neurite's BasicUNet as VxmPairwise makes it: max-pooling, corners that coincide when the grid grows, ReLU."""

    def __init__(self, ndim: int, inputs: int, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        self.ndim = ndim
        self.downsampling_conv_blocks = nn.ModuleList()
        channels = inputs
        for features in down:
            self.downsampling_conv_blocks.append(_Level(ndim, channels, features))
            channels = features
        self.lowest_resolution_conv_block = _Block(ndim, channels, up[0])
        self.upsampling_conv_blocks = nn.ModuleList()  # in the files' order, which an optimiser's state has too
        channels = up[0]
        for features, skip in zip(up, reversed(down), strict=True):
            self.upsampling_conv_blocks.append(_Level(ndim, channels + skip, features))
            channels = features
        self.out_layer = _Block(ndim, channels, ndim, width=1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.downsampling_conv_blocks:
            assert isinstance(level, _Level)
            skips.append(level.conv_block(x))
            x = (F.max_pool3d if self.ndim == 3 else F.max_pool2d)(skips[-1], 2)
        x = self.lowest_resolution_conv_block(x)
        mode = "trilinear" if self.ndim == 3 else "bilinear"
        for level in self.upsampling_conv_blocks:
            assert isinstance(level, _Level)
            x = F.interpolate(x, scale_factor=2, mode=mode, align_corners=True)
            x = level.conv_block(torch.cat([x, skips.pop()], 1))
        found: Tensor = self.out_layer(x)
        return found


class VxmPairwise(nn.Module):
    """From two images to the field that brings the source onto the target; VoxelMorph's state dicts fit.

        net = VxmPairwise(ndim=3, source_channels=1, target_channels=1)
        field, moved = net(source, target, return_warped_source=True)

    Args:
        ndim: 3 or 2.
        source_channels: Channels of the source.
        target_channels: Channels of the target.
        nb_features: Of the encoder's levels, and of the decoder's in reverse order; or two sequences.
        activations: `nn.ReLU`, the only one that is made here; likewise `final_activation` None and no `unet_kwargs`.
        final_activation: None.
        flow_initializer: Standard deviation of the last layer's weights.
        integration_steps: Squarings of the velocity; 0: the network says a displacement.
        resize_integrated_fields: Not used, there as here.
        device: Where it is made.
        unet_kwargs: None.

    Raises:
        ValueError: options of neurite's U-Net that are not made here; `voxelmorph` has them.
    """

    def __init__(
        self,
        ndim: int,
        source_channels: int,
        target_channels: int,
        nb_features: Sequence[Any] = (16, 16, 16, 16, 16),
        activations: Any = nn.ReLU,
        final_activation: Any = None,
        flow_initializer: float | None = 1e-5,
        integration_steps: int = 5,
        resize_integrated_fields: bool = False,
        device: Any = "cpu",
        unet_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise ValueError(f"ndim must be 2 or 3, got {ndim}")
        for name, value, made in (
            ("activations", activations, activations in (nn.ReLU, "relu")),
            ("final_activation", final_activation, final_activation is None),
            ("unet_kwargs", unet_kwargs, not unet_kwargs),
        ):
            if not made:
                raise ValueError(f"{name} must be VoxelMorph's default here, got {value!r}")
        down, up = nb_features if isinstance(nb_features[0], Sequence) else (nb_features, tuple(reversed(nb_features)))
        self.integration_steps, self.resize_integrated_fields = integration_steps, resize_integrated_fields
        self.device = device
        self.flow_layer = _Block(ndim, ndim, ndim, activate=False)
        if flow_initializer is not None:
            nn.init.normal_(self.flow_layer.conv0.weight, std=flow_initializer)
            assert self.flow_layer.conv0.bias is not None
            nn.init.zeros_(self.flow_layer.conv0.bias)
        self.model = _UNet(ndim, source_channels + target_channels, down, up)
        if integration_steps > 0:
            self.velocity_field_integrator = IntegrateVelocityField(steps=integration_steps)
        self.spatial_transformer = SpatialTransformer()
        self.to(device)

    def forward(
        self,
        source: Volume,
        target: Volume,
        return_warped_source: bool = False,
        return_warped_target: bool = False,
        return_field_type: str = "displacement",
    ) -> Flow | tuple[Tensor, ...]:
        """`source`, `target`: [batch, channels, D, H, W], axes divisible by 2 to the number of levels.

        Returns:
            The field, and after it what was asked for.

        Raises:
            ValueError: a field that does not exist, or the target's way without integration.
        """
        check_choice("return_field_type", return_field_type, _FIELDS)
        if return_warped_target and self.integration_steps == 0:
            raise ValueError("return_warped_target needs integration_steps above 0, got 0: there is no inverse")
        velocity = self.flow_layer(self.model(torch.cat([source, target], 1)))
        asks = return_field_type == "displacement"
        forward = velocity
        if self.integration_steps and (asks or return_warped_source):
            forward = self.velocity_field_integrator(velocity)
        found = [forward if asks else velocity]
        if return_warped_source:
            found.append(self.spatial_transformer(source, forward))
        if return_warped_target:
            found.append(self.spatial_transformer(target, self.velocity_field_integrator(-velocity)))
        return tuple(found) if len(found) > 1 else found[0]

    __call__ = call_of(forward)


def load_pairwise(source: str | Path | Mapping[str, Tensor], *, integration_steps: int = 5) -> VxmPairwise:
    """The network of a state dict of VoxelMorph's VxmPairwise, in evaluation mode.

    Args:
        source: A .pt file of `torch.save(model.state_dict(), ...)`, or the state dict.
        integration_steps: What the network was made with: the file does not say.

    Raises:
        InputError: no such file, or other layers than those of a VxmPairwise of default options.
    """
    name, state = "weights", source
    if isinstance(source, str | Path):
        path = check_exists(source, "weights")
        name = f"weights {path}"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # on bytes that are no pickle the unpickler raises whatever it stumbles over
            reason = str(error).strip().split("\n")[0][:120]
            raise InputError(f"{name}: expected a state dict: {reason}") from error
    if not isinstance(state, Mapping) or "flow_layer.conv0.weight" not in state:
        got = ", ".join(map(str, list(state)[:4])) if isinstance(state, Mapping) else type(state).__name__
        raise InputError(f"{name}: expected the state dict of a VxmPairwise, got {got}")
    parts: dict[str, list[int]] = {"down": [], "up": []}
    first = None
    for key, tensor in state.items():
        if hit := re.fullmatch(r"model\.(down|up)sampling_conv_blocks\.\d+\.conv_block\.conv0\.weight", key):
            parts[hit[1]].append(tensor.shape[0])
            first = tensor.shape[1] if first is None else first
    ndim = state["flow_layer.conv0.weight"].shape[0]
    if not first or len(parts["down"]) != len(parts["up"]) or ndim not in (2, 3):
        raise InputError(f"{name}: expected as many decoder as encoder levels, got {parts['up']} and {parts['down']}")
    features = parts["down"], parts["up"]
    net = VxmPairwise(ndim, first - 1, 1, features, integration_steps=integration_steps)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[1].strip()
        raise InputError(f"{name}: expected a VxmPairwise of default options: {reason}") from error
    return net.eval()
