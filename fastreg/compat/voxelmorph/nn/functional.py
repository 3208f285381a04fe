"""`voxelmorph.nn.functional` and the losses of `neurite.nn.functional`, computed by fastreg.

Fields are [batch, axes, D, H, W], in voxels, channel c along axis c, as everywhere in fastreg. A name that is not here
is VoxelMorph's own, where it is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastreg.compat._lncc import correlation
from fastreg.compat._theirs import names_of, theirs
from fastreg.geometry import fields
from fastreg.ops.grid_sample import grid_sample
from fastreg.ops.integrate import integrate
from fastreg.ops.warp import warp
from fastreg.utils.checks import check_choice, shape

_MODES = {"linear": "linear", "bilinear": "linear", "trilinear": "linear", "nearest": "nearest"}
_PADDINGS = ("zeros", "border", "reflection")

Transformer = Callable[[Tensor, Tensor], Tensor]


__getattr__ = names_of("voxelmorph.nn.functional", "VoxelMorph")


def spatial_transform(
    image: Tensor,
    trf: Tensor | None,
    method: str = "linear",
    isdisp: bool = True,
    meshgrid: Tensor | None = None,
    origin_at_center: bool = True,
    non_spatial_dims: Sequence[int] | None = (0, 1),
    align_corners: bool = True,
    padding_mode: str = "zeros",
) -> Tensor:
    """An image moved by a field, by normalised coordinates or by an affine matrix.

        moved = spatial_transform(image, disp)

    Args:
        image: [batch, channels, D, H, W]; without the axes that `non_spatial_dims` lacks.
        trf: [batch, axes, D, H, W] or without batch: a displacement in voxels; with `isdisp=False` coordinates from -1
            to 1, channel c along axis c; a matrix [N, N + 1] or [N + 1, N + 1] (or some, in a batch), of which the
            inverse is taken; or None, which gives the image itself.
        method: "linear" or "nearest", which keeps integers.
        isdisp: `trf` is a displacement.
        meshgrid: What the displacement is added to; the voxels if None.
        origin_at_center: Of a matrix: the origin is the image's centre, not its first voxel.
        non_spatial_dims: The leading axes of `image`: (0, 1), (0,) for channels, or None.
        align_corners: As in `torch.nn.functional.grid_sample`.
        padding_mode: "zeros", "border" or "reflection".

    Raises:
        ValueError: names that do not exist, or shapes that do not fit.
    """
    if trf is None:
        return image
    if method not in _MODES:
        own = theirs("voxelmorph.nn.functional", "spatial_transform", "method", "linear or nearest", method)
        rest = meshgrid, origin_at_center, non_spatial_dims, align_corners, padding_mode
        return own(image, trf, method, isdisp, *rest)  # type: ignore[return-value]
    check_choice("padding_mode", padding_mode, _PADDINGS)
    leading = _leading(non_spatial_dims)
    size = image.shape[leading:]
    ndim = len(size)
    if is_matrix(trf, size):
        trf, isdisp = affine_field(torch.linalg.inv(square(trf)), size, origin_at_center), True
    trf = trf if trf.ndim > ndim + 1 else trf[None]
    labels = not image.is_floating_point()
    vol = image.float() if labels and _MODES[method] == "linear" else image
    vol = vol[(None,) * (2 - leading)]
    if isdisp:
        if meshgrid is not None:
            trf = trf + (meshgrid - voxels(trf))
        if 1 in trf.shape[2:]:  # along an axis of one voxel VoxelMorph moves nothing
            trf = trf * trf.new_tensor([n > 1 for n in trf.shape[2:]]).view(1, -1, *[1] * ndim)
    if isdisp and align_corners and trf.shape[2:] == size:
        moved = warp(vol, trf, mode=_MODES[method], padding=padding_mode)
    else:
        grid = _normalised(trf) if isdisp else trf
        mode = "nearest" if method == "nearest" else "bilinear"
        moved = grid_sample(vol, grid.movedim(1, -1).flip(-1), mode, padding_mode, align_corners)
    return moved[(0,) * (2 - leading)]


def integrate_vec(
    vec: Tensor,
    steps: int,
    meshgrid: Tensor | None = None,
    non_spatial_dims: Sequence[int] | None = (0,),
    scale: float | None = None,
    transformer: Transformer | None = None,
) -> Tensor:
    """The displacement of a stationary velocity field, by scaling and squaring.

        disp = integrate_vec(velocity, 7)

    Args:
        vec: [batch, axes, D, H, W], or without batch if `non_spatial_dims` is None.
        steps: Number of squarings.
        meshgrid: As in `spatial_transform`.
        non_spatial_dims: (0,) or None.
        scale: Of the velocity before the first squaring; 2 ** -steps if None.
        transformer: Moves a field by itself in place of `spatial_transform`.
    """
    if steps == 0:
        return vec if scale is None else vec * scale
    batched = _leading(non_spatial_dims) == 1
    plain = transformer is None or getattr(transformer, "moves_as_warp", False)
    if plain and meshgrid is None and 1 not in vec.shape[batched + 1 :]:
        rest = 1.0 if scale is None else scale * 2.0**steps
        disp = integrate((vec if rest == 1 else vec * rest)[None if not batched else ...], steps=steps)
        return disp if batched else disp[0]
    if transformer is None:
        transformer = partial(spatial_transform, meshgrid=meshgrid, non_spatial_dims=(0, 1) if batched else (0,))
    disp = vec / 2**steps if scale is None else vec * scale
    for _ in range(steps):
        disp = disp + transformer(disp, disp)
    return disp


def integrate_disp(
    disp: Tensor, steps: int, meshgrid: Tensor | None = None, non_spatial_dims: Sequence[int] | None = (0,)
) -> Tensor:
    """The former name of `integrate_vec`."""
    warnings.warn("integrate_disp() is deprecated. Use integrate_vec() instead.", DeprecationWarning, stacklevel=2)
    return integrate_vec(disp, steps, meshgrid, non_spatial_dims)


def compose(
    transforms: Sequence[Tensor],
    interpolation_mode: str = "linear",
    origin_at_center: bool = True,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """One transform that does as the last of them, then the one before, and so on.

        both = compose([outer, inner])  # inner + outer at the places where inner leads

    Args:
        transforms: Displacements, with or without batch, and matrices [N, N + 1] or [N + 1, N + 1].
        interpolation_mode: "linear" or "nearest".
        origin_at_center: Of the matrices, as in `spatial_transform`.
        shape: D, H, W of the field that a matrix becomes; the next field's if None.

    Raises:
        AssertionError: no transforms.
    """
    assert len(transforms) > 0, "transforms must hold at least one, got none"
    found = transforms[-1]
    for outer in reversed(transforms[:-1]):
        if _looks_affine(found) and _looks_affine(outer):
            found = (square(outer) @ square(found))[..., :-1, :]
        elif _looks_affine(outer):
            found = affine_field(outer, found.shape[1:], origin_at_center, found)
        else:
            if _looks_affine(found):
                found = affine_field(found, outer.shape[1:] if shape is None else shape, origin_at_center)
            batched = found.shape[0] != found.ndim - 1
            dims = (0, 1) if batched else (0,)
            found = found + spatial_transform(outer, found, interpolation_mode, non_spatial_dims=dims)
    return found


def ncc(
    tensor1: Tensor,
    tensor2: Tensor,
    window_size: int | Sequence[int] = 9,
    eps: float = 1e-5,
    reduction: str | None = "mean",
    reduction_dim: int | tuple[int, ...] = (0, 1),
    keepdims: bool = True,
) -> Tensor:
    """`neurite.nn.functional.ncc`: the squared local correlation, 1 for identical images.

    Where neurite meets coefficients outside [0, 1] of large intensities it stops; here they are right, and only what is
    not finite stops.

    Args:
        tensor1: [batch, channels, D, H, W], or one or two axes fewer.
        tensor2: The same shape.
        window_size: Edge length in voxels, or one an axis. Even ones are neurite's own.
        eps: Added to the denominator.
        reduction: "mean" or None, which gives [batch, channels]. Others are neurite's own.
        reduction_dim: Axes of [batch, channels] to reduce.
        keepdims: Keep them as axes of one.

    Raises:
        ValueError: shapes that differ, or what only neurite can do where it is not installed.
        AssertionError: a value that is not finite.
    """
    if tensor1.shape != tensor2.shape:
        raise ValueError(f"Shape mismatch: tensor2 must be {shape(tensor1)} as tensor1, got {shape(tensor2)}")
    ndim = tensor1.ndim - 2
    if ndim not in (1, 2, 3):
        raise ValueError(f"tensor1: Only 1-3D dimensions supported, got {shape(tensor1)}")
    windows = [window_size] * ndim if isinstance(window_size, int) else list(window_size)
    if len(windows) != ndim:
        raise ValueError(f"window_size len must be {ndim}, one an axis, got {window_size}")
    if min(windows) < 1:
        raise ValueError(f"window_size values must be positive, got {window_size}")
    odd = all(n % 2 for n in windows)
    if not odd or reduction not in ("mean", None):
        argument, equal = ("window_size", "odd") if not odd else ("reduction", "mean or None")
        own = theirs("neurite.nn.functional", "ncc", argument, equal, window_size if not odd else reduction)
        return own(tensor1, tensor2, window_size, eps, reduction, reduction_dim, keepdims)  # type: ignore[return-value]
    options: dict[str, Any] = {"eps": eps, "definition": "voxelmorph"}
    if reduction == "mean" and reduction_dim in ((0, 1), [0, 1]):
        score = correlation(tensor1, tensor2, windows, "mean", **options)
        score = score.reshape((1, 1) if keepdims else ())
    else:
        score = correlation(tensor1, tensor2, windows, "none", **options).flatten(2).mean(2)
        score = score if reduction is None else score.mean(reduction_dim, keepdim=keepdims)
    assert torch.isfinite(score).all(), "NCC coefficients must be finite and in [0, 1], got NaN or infinity"
    return score.to(tensor1.dtype)


def spatial_gradient(
    input_tensor: Tensor,
    penalty: str = "l2",
    reduction: str | None = "mean",
    reduction_dim: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Any:
    """`neurite.nn.functional.spatial_gradient`: the roughness of a field, `fastreg.smoothness`.

    Args:
        input_tensor: [batch, channels, D, H, W].
        penalty: "l2" or "l1".
        reduction: "mean" over all. Others are neurite's own.
        reduction_dim: None; others are neurite's own.
        keepdims: False; True is neurite's own.
    """
    if (reduction, reduction_dim, keepdims) != ("mean", None, False):
        argument = "reduction, reduction_dim, keepdims"
        own = theirs(
            "neurite.nn.functional", "spatial_gradient", argument, "'mean', None, False", (reduction, reduction_dim)
        )
        return own(input_tensor, penalty, reduction, reduction_dim, keepdims)
    assert penalty in ("l1", "l2"), f"penalty must be l1 or l2, got {penalty!r}"
    ndim = input_tensor.ndim - 2
    if ndim in (2, 3) and input_tensor.shape[1] == ndim and 1 not in input_tensor.shape[2:]:
        return fields.smoothness(input_tensor, penalty=penalty).to(input_tensor.dtype)
    differences = (input_tensor.diff(dim=axis) for axis in range(2, input_tensor.ndim))
    return sum(d.abs().mean() if penalty == "l1" else d.square().mean() for d in differences) / ndim


def voxels(like: Tensor) -> Tensor:
    """The voxels of a field's grid, [axes, D, H, W]."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in like.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _normalised(disp: Tensor) -> Tensor:
    """The places to which a displacement leads, -1 and 1 at the centres of its grid's outermost voxels."""
    last = disp.new_tensor([max(n - 1, 1) for n in disp.shape[2:]]).view(1, -1, *[1] * (disp.ndim - 2))
    return (voxels(disp) + disp) * (2 / last) - 1


def _leading(non_spatial_dims: Sequence[int] | None) -> int:
    dims = tuple(non_spatial_dims or ())
    assert dims == tuple(range(len(dims))), f"non_spatial_dims must be leading axes, got {dims}"
    return len(dims)


def _looks_affine(trf: Tensor) -> bool:
    rows, columns = trf.shape[-2:] if trf.ndim > 1 else (0, 0)
    return columns - 1 in (2, 3) and rows in (columns - 1, columns)


def is_matrix(trf: Tensor, size: Sequence[int]) -> bool:
    """Whether `trf` is a matrix, or some in a batch, and not a field on a tiny grid of `size`."""
    if not _looks_affine(trf):
        return False
    return trf.ndim == 2 or (trf.ndim == 3 and tuple(trf.shape[1:]) != tuple(size))


def square(matrix: Tensor) -> Tensor:
    """[..., N + 1, N + 1], the last row completed."""
    if matrix.shape[-2] == matrix.shape[-1]:
        return matrix
    last = torch.zeros_like(matrix[..., :1, :])
    last[..., -1] = 1
    return torch.cat([matrix, last], -2)


def affine_field(
    matrix: Tensor, size: Sequence[int], origin_at_center: bool = True, after: Tensor | None = None
) -> Tensor:
    """The displacement of a matrix, or of a field and then the matrix: [(batch,) axes, D, H, W]."""
    ndim = len(size)
    if matrix.shape[-1] != ndim + 1:
        raise ValueError(f"trf must be a matrix of {ndim} axes, got {shape(matrix)}")
    places = voxels(matrix.new_empty((1, ndim, *size)))
    if origin_at_center:
        places = places - places.new_tensor([(n - 1) / 2 for n in size]).view(-1, *[1] * ndim)
    places = places.flatten(1)
    moved = places if after is None else places + after.flatten(-ndim)
    found = matrix[..., :ndim, :ndim] @ moved + matrix[..., :ndim, -1:] - places
    return found.reshape(*found.shape[:-1], *size)
