"""Warps, called as their users call them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.implementations import Absent, Function, Implementation, Options
from bench.peers.packages import compiled, module


def normalised_grid(flow: Tensor) -> Tensor:
    """grid_sample's coordinates of p + flow(p): [batch, D, H, W, 3], in (x, y, z), from -1 to 1."""
    size = flow.shape[2:]
    axes = torch.meshgrid(*[torch.arange(n, dtype=flow.dtype, device=flow.device) for n in size], indexing="ij")
    place = [2 * (axes[k] + flow[:, k]) / max(n - 1, 1) - 1 for k, n in enumerate(size)]
    return torch.stack(place[::-1], -1)


def sampled(vol: Tensor, grid: Tensor, padding: str) -> Tensor:
    """grid_sample in the image's own precision."""
    return F.grid_sample(vol, grid.to(vol.dtype), mode="bilinear", padding_mode=padding, align_corners=True)


def _torch_warp(options: Options) -> Function:
    return lambda vol, grid: sampled(vol, grid, options.padding)


def _grid_ready(vol: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    return vol, normalised_grid(flow).contiguous()


def _compiled_warp(options: Options) -> Function:
    return compiled(lambda vol, flow: sampled(vol, normalised_grid(flow), options.padding))


def _voxelmorph_warp(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("SpatialTransformer pads with zeros")
    return module("voxelmorph.nn.modules").SpatialTransformer()


def _monai_warp(options: Options) -> Function:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module("monai.networks.blocks").Warp("bilinear", options.padding)


def _fireants_warp(options: Options) -> Function:
    sample = module("fireants.interpolator").fireants_interpolator
    return lambda vol, u: sample(vol, grid=u, mode="bilinear", padding_mode=options.padding, is_displacement=True)


def _normalised_displacement(vol: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """FireANTs' form: [batch, D, H, W, 3], in (x, y, z), where 2 is the length of an axis."""
    scaled = [2 * flow[:, k] / max(n - 1, 1) for k, n in enumerate(flow.shape[2:])]
    return vol, torch.stack(scaled[::-1], -1).contiguous()


def _scipy_warp(options: Options) -> Function:
    ndimage = module("scipy.ndimage")
    mode = {"zeros": "grid-constant", "border": "nearest", "reflection": "mirror"}[options.padding]
    return lambda vol, place: ndimage.map_coordinates(vol, place, order=1, mode=mode, prefilter=False)


def _places(vol: Tensor, flow: Tensor) -> tuple[Any, Any]:
    """scipy's form: one image, and the coordinates [3, D, H, W]."""
    one_image(vol)
    axes = torch.meshgrid(*[torch.arange(n, dtype=flow.dtype) for n in flow.shape[2:]], indexing="ij")
    return vol[0, 0].detach().numpy(), (torch.stack(axes) + flow[0]).detach().numpy()


def _itk_warp(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("ITK has no such padding")
    sitk = module("SimpleITK")

    def run(image: Any, transform: Any) -> Any:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
        return sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0, image.GetPixelID())

    return run


def _itk_inputs(vol: Tensor, flow: Tensor) -> tuple[Any, Any]:
    """An image with spacing 1, and a displacement field transform, whose vectors are (x, y, z) in float64."""
    sitk = module("SimpleITK")
    one_image(vol)
    vectors = flow[0].detach().double().flip(0).movedim(0, -1).contiguous().numpy()
    return sitk.GetImageFromArray(vol[0, 0].detach().numpy()), sitk.DisplacementFieldTransform(
        sitk.GetImageFromArray(vectors, isVector=True)
    )


def one_image(vol: Tensor) -> None:
    """Absent if there is more than SimpleITK and scipy take at once."""
    if vol.shape[0] * vol.shape[1] != 1:
        raise Absent("one image with one channel at a time")
    if vol.dtype not in (torch.float32, torch.float64):
        raise Absent(f"no {str(vol.dtype).removeprefix('torch.')}")


def _from_array(out: Any) -> Tensor:
    return torch.from_numpy(out)[None, None]


def _from_itk(out: Any) -> Tensor:
    return _from_array(module("SimpleITK").GetArrayFromImage(out))


WARPS = (
    Implementation("torch grid_sample, grid ready", _torch_warp, _grid_ready),
    Implementation("torch.compile, grid_sample", _compiled_warp, compiles=True),
    Implementation("VoxelMorph SpatialTransformer", _voxelmorph_warp),
    Implementation("MONAI Warp", _monai_warp),
    Implementation("FireANTs interpolator", _fireants_warp, _normalised_displacement),
    Implementation("SimpleITK Resample", _itk_warp, _itk_inputs, _from_itk, gradients=False, interior=True),
    Implementation("scipy map_coordinates", _scipy_warp, _places, _from_array, gradients=False),
)
