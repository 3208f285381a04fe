"""`fastreg.warp`: resample an image where a displacement field says."""

from __future__ import annotations

from fastreg.backends.compiled import field_grid
from fastreg.ops._labels import check_source
from fastreg.ops._resampled import resampled
from fastreg.ops.spline import warp_bspline
from fastreg.types import PADDINGS, WARP_MODES, Flow, Volume
from fastreg.utils.checks import check_choice, check_floating, check_same_device, shape, spatial


def warp(
    vol: Volume,
    flow: Flow,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    channels_last: bool = False,
    backend: str | None = None,
) -> Volume:
    """Resample `vol` at `p + flow(p)` for every point p of the flow's grid.

    Coordinates and weights are float32 (float64 for float64 input) whatever the dtype of the volume. At integer
    coordinates the derivative is the right-hand difference. A NaN displacement gives NaN there and only there. One
    field for all volumes, or one volume for all fields, has a batch of 1, or is expanded; it is not copied.

        moved = fastreg.warp(moving, flow)
        moved_labels = fastreg.warp(labels, flow, mode="nearest")  # integers stay integers

    Args:
        vol: [batch, channels, D, H, W] or [batch, channels, H, W], any intensity unit. With mode "nearest" also
            integers or bool, which come back exactly (0 where the displacement is NaN) and have no gradient.
        flow: [batch, 3, D', H', W'] or [batch, 2, H', W'], displacement in voxels of `vol`, channel c along array
            axis c. Its grid may differ from the volume's.
        mode: "linear", "nearest" (ties to even; no gradient to the flow), or "bspline" (cubic, through every voxel,
            mirrored at the outermost ones; it overshoots at edges, and a NaN voxel spreads along its axes).
        padding: What lies outside: "zeros", "border" (the nearest voxel), "reflection" (about the centres of the first
            and last voxel), "symmetric" (about their edges) or "itk" (border up to half a voxel outside, 0 beyond;
            of "bspline" the spline itself in that half voxel).
        channels_last: The flow is [batch, D', H', W', 3] instead.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, channels, D', H', W'], dtype of `vol`. Differentiable in both arguments; the gradient to what a batch
        shares is summed over the batch.

    Raises:
        TypeError: an argument that is no floating-point tensor, or integers with another mode than "nearest".
        ValueError: shapes, devices, modes or backends that do not fit, naming both sides.

    Source: Jaderberg et al. 2015; Balakrishnan et al. 2018, eq. 3. docs/math.md has the exact definition.
    """
    check_choice("mode", mode, WARP_MODES)
    ndim = check_source(vol, mode)
    check_floating("flow", flow)
    grid = field_grid(flow, channels_last)
    channels = flow.shape[-1] if channels_last else (flow.shape[1] if flow.ndim > 1 else (0,))
    fits = flow.ndim > 0 and (flow.shape[0] == vol.shape[0] or 1 in (flow.shape[0], vol.shape[0]))
    if flow.ndim != ndim + 2 or channels != ndim or not fits or 0 in grid:
        axes = spatial(ndim)
        wanted = f"[batch, {axes}, {ndim}]" if channels_last else f"[batch, {ndim}, {axes}]"
        raise ValueError(f"flow must be {wanted} to match vol {shape(vol)}, got {shape(flow)}")
    check_choice("padding", padding, PADDINGS)
    check_same_device(vol=vol, flow=flow)
    if mode == "bspline":
        return warp_bspline(vol, flow.movedim(-1, 1) if channels_last else flow, padding, backend)
    return resampled(vol, flow, mode, padding, channels_last, backend, None)
