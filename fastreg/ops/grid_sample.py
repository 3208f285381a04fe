"""`fastreg.grid_sample`: resample an image where a grid of torch's normalised coordinates says."""

from __future__ import annotations

import torch

from fastreg.ops._labels import check_source
from fastreg.ops._resampled import resampled
from fastreg.types import Volume
from fastreg.utils.checks import check_choice, check_floating, check_same_device, shape, spatial

_MODES = {"bilinear": "linear", "nearest": "nearest"}
_PADDINGS = ("zeros", "border", "reflection", "itk")


def grid_sample(
    vol: Volume,
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    backend: str | None = None,
) -> Volume:
    """`torch.nn.functional.grid_sample` by the kernels of `fastreg.warp`: the same arguments, values and gradients.

    The coordinates are converted inside the kernels. Of float32 ones little is left: 2^-24 of the image's length. At
    whole voxels, the outermost included, the derivative is the right-hand difference; torch's is a matter of rounding,
    and 0 at the outermost. A NaN coordinate gives NaN there and only there.

        identity = torch.nn.functional.affine_grid(torch.eye(3, 4)[None], vol.shape, align_corners=True)
        moved = fastreg.grid_sample(vol, identity + offsets, align_corners=True)

    Args:
        vol: [batch, channels, D, H, W] or [batch, channels, H, W], as in `fastreg.warp`, integers for "nearest" too.
        grid: [batch, D', H', W', 3] of (x, y, z), or [batch, H', W', 2] of (x, y): x along W, -1 and 1 at the image's
            borders. A batch of 1 on either side serves all of the other.
        mode: "bilinear" (linear along all axes) or "nearest" (ties to even; no gradient to the grid).
        padding_mode: What lies outside: "zeros", "border", "reflection" (about -1 and 1), or "itk" (border up to half
            a voxel outside, 0 beyond; torch has no such).
        align_corners: -1 and 1 are the centres of the outermost voxels, otherwise their outer edges.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, channels, D', H', W'], dtype of `vol`. Differentiable in both, per unit of the grid.

    Raises:
        TypeError: an argument that is no floating-point tensor, or integers with mode "bilinear".
        ValueError: shapes, devices, modes or backends that do not fit, naming both sides.
    """
    check_choice("mode", mode, tuple(_MODES))
    check_choice("padding_mode", padding_mode, _PADDINGS)
    ndim = check_source(vol, mode)
    check_floating("grid", grid)
    fits = grid.ndim == ndim + 2 and grid.shape[-1] == ndim and 0 not in grid.shape[1:]
    if not fits or not (grid.shape[0] == vol.shape[0] or 1 in (grid.shape[0], vol.shape[0])):
        wanted = f"[batch, {spatial(ndim)}, {ndim}]"
        raise ValueError(f"grid must be {wanted} to match vol {shape(vol)}, got {shape(grid)}")
    check_same_device(vol=vol, grid=grid)
    reflected = "reflection" if align_corners else "symmetric"
    padding = reflected if padding_mode == "reflection" else padding_mode
    return resampled(vol, grid, _MODES[mode], padding, True, backend, bool(align_corners))
