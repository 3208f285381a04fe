"""Images onto other grids: reoriented, resampled, smoothed, padded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from nibabel import orientations

from fastreg.geometry.fill import filled
from fastreg.geometry.image import Image, affine_field, named, to_flow
from fastreg.ops.warp import warp
from fastreg.ops.window import bspline, lanczos, vote
from fastreg.types import Volume
from fastreg.utils.files import InputError

INTERPOLATIONS = ("linear", "nearest", "genericlabel", "bspline", "lanczos", "multilabel")
INTENSITY_INTERPOLATIONS = ("linear", "bspline", "lanczos")
"""Those that mix the values of voxels, and give float32."""
VOTES = ("genericlabel", "multilabel")
"""Those that ask for a label map, in which 0 lies outside."""


def reorient(image: Image, codes: str = "RAS") -> Image:
    """Flip and permute the axes until they point to `codes`; no voxel changes its value or place.

    ``reorient(reorient(x), orientation(x.affine))`` is x again.
    """
    volume = image.data.reshape(*image.shape, *[1] * (3 - image.ndim))
    change = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(tuple(codes))
    )
    if image.ndim == 2 and change[2, 0] != 2:
        raise InputError(
            f"{named('image', image.path)}: a 2-D image cannot be turned to {codes}: its plane would change"
        )
    affine = image.affine @ orientations.inv_ornt_aff(change, volume.shape)
    turned = np.ascontiguousarray(orientations.apply_orientation(volume, change))
    return Image(turned[..., 0] if image.ndim == 2 else turned, affine, image.path)


def affine_flow(
    affine_fixed: np.ndarray, shape_fixed: Sequence[int], affine_moving: np.ndarray, world: np.ndarray | None = None
) -> torch.Tensor:
    """The flow that looks up each fixed voxel at its place in the moving image.

    Args:
        affine_fixed: [4, 4], voxel -> RAS mm, of the grid of `shape_fixed`.
        shape_fixed: Two or three axes.
        affine_moving: [4, 4], voxel -> RAS mm.
        world: [4, 4], fixed RAS mm -> moving RAS mm; the identity if None.

    Returns:
        [1, 3, *shape_fixed] (2-D: [1, 2, ...]) float32, q - p in moving voxels.
    """
    ndim = len(shape_fixed)
    across = np.linalg.inv(affine_moving) @ (np.eye(4) if world is None else world) @ affine_fixed
    return to_flow(affine_field((across - np.eye(4))[:ndim], shape_fixed))


def resample_to_grid(
    image: Image,
    affine: np.ndarray,
    shape: Sequence[int],
    mode: str | None = None,
    *,
    padding: str = "zeros",
    world: np.ndarray | None = None,
) -> Image:
    """The image on another grid, each voxel at its place in the world.

    Intensities are smoothed first along the axes that become coarser (Cardoso et al. 2015); labels never.

    Args:
        image: Intensities or labels.
        affine: [4, 4], voxel -> RAS mm, of the new grid.
        shape: Of the new grid.
        mode: One of `INTERPOLATIONS`; None is linear for intensities, nearest for labels.
        padding: What lies outside, as in `fastreg.warp`.
        world: [4, 4], RAS mm on the new grid -> RAS mm in the image; the identity if None.
    """
    mode = mode or ("nearest" if image.is_labels else "linear")
    if mode in INTENSITY_INTERPOLATIONS:
        across = np.linalg.inv(image.affine) @ (np.eye(4) if world is None else world) @ affine
        step = np.linalg.norm(across[: image.ndim, : image.ndim], axis=1)
        image = smooth(image, np.sqrt(np.maximum(step**2 - 1, 0)) / _FWHM)
    flow = affine_flow(affine, shape, image.affine, world)
    return Image(sample(image, flow, mode, padding), np.array(affine, np.float64), image.path)


_FWHM = float(2 * np.sqrt(2 * np.log(2)))


def smooth(image: Image, sigma_voxels: Sequence[float] | np.ndarray) -> Image:
    """Gaussian smoothing, a standard deviation for each axis; the border voxels go on outside. Float32."""
    data = torch.from_numpy(np.array(image.data, np.float32, order="C"))
    for axis, sigma in enumerate(sigma_voxels):
        if sigma < 0.1 or data.shape[axis] == 1:
            continue
        half = int(np.ceil(3 * sigma))
        kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1) / float(sigma)) ** 2)
        lines = data.movedim(axis, -1)
        flat = torch.nn.functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (half, half), mode="replicate")
        flat = torch.nn.functional.conv1d(flat, (kernel / kernel.sum())[None, None])
        data = flat.reshape(lines.shape).movedim(-1, axis)
    return replace(image, data=np.ascontiguousarray(data.numpy()))


def background_of(image: Image) -> float:
    """What lies outside intensities: 0, or their minimum where that is below 0, which in a CT is air."""
    finite = image.data if image.is_labels else image.data[np.isfinite(image.data)]
    return float(min(finite.min(), 0)) if finite.size else 0.0


def sample_filled(
    image: Image, flow: torch.Tensor, mode: str = "linear", background: float | None = None
) -> np.ndarray:
    """``image(p + flow(p))`` by ITK's rules, those of files: as `sample`, but for what lies outside and half-way.

    The outermost voxels reach half a voxel outward, and `background` lies beyond; "nearest" takes the upper of two
    voxels that are equally near.

    Args:
        image: Intensities or labels.
        flow: [1, ndim, *grid], in voxels of the image.
        mode: One of `INTERPOLATIONS`.
        background: A value; None is 0 for label maps and `background_of` for intensities.

    Raises:
        InputError: a background that is no whole number where the voxels are integers.
    """
    if background is None:
        background = 0.0 if image.is_labels or mode in VOTES else background_of(image)
    values = _nearest(image, flow) if mode == "nearest" else sample(image, flow, mode, _OUTWARD.get(mode, "border"))
    return _replaced(values, ~_inside(flow, image.shape), background)


_OUTWARD = {"bspline": "itk"}  # ITK's spline goes on for half a voxel


def _places(flow: torch.Tensor) -> Iterator[np.ndarray]:
    """Along one axis after the other, in voxels of the image, float64 [*grid]."""
    axes = [np.arange(length, dtype=np.float64) for length in flow.shape[2:]]
    for axis, points in enumerate(np.meshgrid(*axes, indexing="ij", sparse=True)):
        yield points + flow[0, axis].numpy()


def _inside(flow: torch.Tensor, shape: Sequence[int]) -> np.ndarray:
    """Where the place is no more than half a voxel outside of an image of `shape`; boolean [*grid]."""
    inside = np.ones(flow.shape[2:], bool)
    for place, length in zip(_places(flow), shape, strict=True):
        inside &= (place >= -0.5) & (place < length - 0.5)
    return inside


def _nearest(image: Image, flow: torch.Tensor) -> np.ndarray:
    """The upper of two voxels that are equally near, as in ITK."""
    flat = np.zeros(flow.shape[2:], np.int64)
    for place, length in zip(_places(flow), image.shape, strict=True):
        np.clip(np.floor(place + 0.5, out=place), 0, length - 1, out=place)
        flat = flat * length + np.nan_to_num(place).astype(np.int64)
    return np.asarray(image.data.reshape(-1)[flat])


def _replaced(values: np.ndarray, where: np.ndarray, background: float) -> np.ndarray:
    """The values, `background` where it is wanted; integers stay integers, in a wider type if it needs one."""
    if values.dtype.kind != "f":
        if not float(background).is_integer():
            raise InputError(f"background: expected a whole number for an image of integers, got {background:g}")
        if values.dtype.kind == "b" or not np.iinfo(values.dtype).min <= background <= np.iinfo(values.dtype).max:
            values = values.astype(np.int64)
    values[where] = background
    return values


def sample(image: Image, flow: torch.Tensor, mode: str = "linear", padding: str = "zeros") -> np.ndarray:
    """``image(p + flow(p))`` for every voxel p of the flow [1, ndim, *grid].

    "linear", "bspline" (cubic, through every voxel) and "lanczos" (a sinc windowed over 5 voxels to either side) give
    float32; the last two overshoot at edges. "nearest", "genericlabel" (the label with the largest linear weight) and
    "multilabel" (that with most of a Gaussian, sigma 1 voxel) keep the dtype, and integers exactly; ties go to the
    smaller label. Where linear interpolation meets a voxel that is not finite the others give what it gives; elsewhere
    such voxels are filled in from those about them.

    What lies outside is as in `fastreg.warp`; "lanczos" and "multilabel" know "border", and "zeros" or "itk", which are
    the same to them: border up to half a voxel outside, 0 beyond. `sample_filled` has the rule for files.
    """
    if mode not in INTERPOLATIONS:
        raise InputError(f"interpolation: expected one of {', '.join(INTERPOLATIONS)}, got {mode}")
    if mode in ("lanczos", "multilabel") and padding not in ("zeros", "border", "itk"):
        raise InputError(f"padding: expected zeros, border or itk with interpolation {mode}, got {padding}")
    if mode in INTENSITY_INTERPOLATIONS:
        return _mixed(image.tensor(), flow, mode, padding)[0, 0].numpy()
    # Ranks instead of labels: they are exact in float32. Rank 0 is the label 0 and what lies outside.
    labels, ranks = np.unique(image.data, return_inverse=True)
    labels = np.concatenate([np.zeros(1, labels.dtype), labels])
    exact = torch.float32 if len(labels) < 2**24 else torch.float64
    ranks = np.where(image.data == 0, 0, ranks.reshape(image.shape) + 1)
    if mode == "multilabel":
        voted = vote(torch.from_numpy(ranks.astype(np.int32))[None, None], flow)[0, 0].numpy()
        return labels[voted if padding == "border" else np.where(_inside(flow, image.shape), voted, 0)]
    volume = torch.from_numpy(ranks).to(exact)[None, None]
    if mode == "nearest":
        rank = warp(volume, flow.to(exact), mode="nearest", padding=padding)
    else:
        rank = _vote(volume, flow.to(exact), padding)
    return labels[rank[0, 0].nan_to_num(0.0).long().numpy()]


def _mixed(volume: Volume, flow: torch.Tensor, mode: str, padding: str) -> Volume:
    """Of the `INTENSITY_INTERPOLATIONS`: [1, 1, *grid] float32."""
    finite = volume.isfinite()
    linear = warp(volume, flow, padding=padding) if mode == "linear" or not finite.all() else None
    if mode == "linear" and linear is not None:
        return linear
    whole = volume if linear is None else filled(torch.where(finite, volume, 0.0), finite.float())
    if mode == "bspline" and padding != "itk":
        found = warp(whole, flow, mode="bspline", padding=padding)
    else:
        found = (lanczos if mode == "lanczos" else bspline)(whole, flow)
        if padding != "border":
            found[0, 0][torch.from_numpy(~_inside(flow, volume.shape[2:]))] = 0.0
    return found if linear is None else torch.where(linear.isfinite(), found, linear)


def _vote(volume: torch.Tensor, flow: torch.Tensor, padding: str) -> torch.Tensor:
    """The value whose corners have the largest summed linear weight."""
    ndim = flow.shape[1]
    base = torch.floor(flow)
    part = flow - base
    corners, weights = [], []
    for corner in itertools.product((0, 1), repeat=ndim):
        at = torch.tensor(corner, dtype=flow.dtype).view(1, ndim, *[1] * ndim)
        corners.append(warp(volume, base + at, mode="nearest", padding=padding))
        weights.append(torch.where(at > 0, part, 1 - part).prod(1, keepdim=True))
    best, most = corners[0], torch.zeros_like(weights[0])
    for value in corners:
        votes = torch.stack([w * (other == value) for other, w in zip(corners, weights, strict=True)]).sum(0)
        wins = (votes > most) | ((votes == most) & (value < best))
        best, most = torch.where(wins, value, best), torch.where(wins, votes, most)
    return best


def resample_to_spacing(image: Image, spacing: float | Sequence[float], *, mode: str | None = None) -> Image:
    """The same field of view, to the nearest voxel, with voxels of `spacing` mm. The centre stays in place."""
    wanted = np.broadcast_to(np.asarray(spacing, np.float64), image.ndim)
    if not (wanted > 0).all():
        raise InputError(f"spacing: expected positive mm, got {spacing}")
    shape = np.maximum(1, np.rint(np.array(image.shape) * image.spacing_mm / wanted)).astype(int)
    return resample_to_grid(image, centred_affine(image, shape, wanted), shape.tolist(), mode=mode, padding="border")


def centred_affine(image: Image, shape: Sequence[int] | np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """[4, 4], voxel -> RAS mm, of a grid of `shape` and `spacing` mm with the image's directions and centre."""
    scale = np.ones(3)
    scale[: image.ndim] = spacing / image.spacing_mm
    affine = image.affine.copy()
    affine[:3, :3] *= scale
    ends = [(np.append(s, [1] * (3 - image.ndim)) - 1) / 2 for s in (np.array(image.shape), np.array(shape))]
    affine[:3, 3] = image.affine[:3, :3] @ ends[0] + image.affine[:3, 3] - affine[:3, :3] @ ends[1]
    return affine


def pad_or_crop(image: Image, shape: Sequence[int]) -> Image:
    """Zeros added or voxels cut at both ends of each axis until it has `shape`. No voxel moves in the world."""
    start = [(old - new) // 2 for old, new in zip(image.shape, shape, strict=True)]
    first = [max(0, s) for s in start]
    kept = [min(old, s + new) - f for old, new, s, f in zip(image.shape, shape, start, first, strict=True)]
    data = np.zeros(tuple(shape), image.data.dtype)
    into = tuple(slice(f - s, f - s + k) for f, s, k in zip(first, start, kept, strict=True))
    data[into] = image.data[tuple(slice(f, f + k) for f, k in zip(first, kept, strict=True))]
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, : image.ndim] @ start
    return Image(data, affine, image.path)


def conform(
    image: Image, shape: Sequence[int], spacing: float | Sequence[float] = 1.0, *, mode: str | None = None
) -> Image:
    """The image on a grid of `shape` and `spacing` mm about its own centre, axes turned to RAS: one interpolation."""
    if image.ndim == 3:
        image = reorient(image)
    wanted = np.broadcast_to(np.asarray(spacing, np.float64), image.ndim)
    return resample_to_grid(image, centred_affine(image, shape, wanted), shape, mode=mode)
