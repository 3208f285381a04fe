"""Images in and out, and their geometry: orientation, resampling, padding.

Axes are those on disk (i, j, k). Affines are 4x4, voxel -> RAS mm, in float64; a 2-D image lies in its slice k = 0.
"""

from __future__ import annotations

import itertools
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from fastreg.files import InputError, atomic, check_exists
from fastreg.ops.warp import warp
from fastreg.png import read_png

ARRAY_KEYS = ("vol", "seg", "vol_data", "data", "image", "labels", "arr_0")
"""Where an .npz file keeps its array, in the order tried; the first three are VoxelMorph's."""
INTERPOLATIONS = ("linear", "nearest", "genericlabel")
_NOT_READABLE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar image or label map on its grid."""

    data: np.ndarray
    """[X, Y, Z] or [X, Y], axes as on disk."""
    affine: np.ndarray
    """[4, 4], voxel -> RAS mm, float64."""
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.data.ndim

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along each axis."""
        return spacing_mm(self.affine)[: self.ndim]

    @property
    def is_labels(self) -> bool:
        """Whether the voxels are integers, which no interpolation may mix."""
        return self.data.dtype.kind in "iub"

    def tensor(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A copy of the data as [1, 1, X, Y, Z]."""
        return torch.from_numpy(_owned(self.data)).to(dtype)[None, None]


# ---------------------------------------------------------------- in


def load_image(source: Any, *, what: str = "image", ndim: int | None = None, integers: bool = False) -> Image:
    """Intensities as float32, with the header's scaling applied. NaN voxels come as they are.

    Args:
        source: A file (.nii, .nii.gz, .mgz, .npz, .npy, greyscale .png of 1 mm pixels), a nibabel image, an array
            (identity affine) or an `Image`.
        what: What the image is to the user, for messages: "fixed image".
        ndim: 2 takes [X, Y, 1] as [X, Y]; 3 takes [X, Y] as [X, Y, 1]; None leaves it as it is.
        integers: Voxels that are integers on disk, and not scaled, stay so.

    Raises:
        InputError: no file, not an image or broken, more than 3 axes, colours, no voxels, a singular affine.
    """
    data, affine, path = _read(source, what, ndim)
    if integers and data.dtype.kind in "iub":
        return Image(_owned(data), affine, path)
    return Image(np.array(data, np.float32, order="C"), affine, path)


def load_labels(source: Any, *, what: str = "label map", ndim: int | None = None) -> Image:
    """A label map, every label exactly as on disk: integers of any size, or floats that are whole.

    Arguments and errors as `load_image`; InputError too where a voxel is no whole number.
    """
    data, affine, path = _read(source, what, ndim)
    if data.dtype.kind == "f":
        whole = np.isfinite(data) & (np.rint(data) == data) & (np.abs(data) < 2.0**63)
        if not whole.all():
            bad = data[~whole].flat[0]
            raise InputError(f"{_name(what, path)}: expected whole labels, got {bad:g} in {(~whole).sum()} voxels")
        data = _smallest(data.astype(np.int64))
    return Image(_owned(data), affine, path)


def _owned(data: np.ndarray) -> np.ndarray:
    """A copy in C order and this machine's byte order."""
    native = np.uint8 if data.dtype.kind == "b" else data.dtype.newbyteorder("=")
    return data.astype(native, order="C", copy=True)


def _name(what: str, path: Path | None) -> str:
    return what if path is None else f"{what} {path}"


def _read(source: Any, what: str, ndim: int | None) -> tuple[np.ndarray, np.ndarray, Path | None]:
    """Data (scaled), affine, path."""
    data, affine, path = _open(source, what)
    name = _name(what, path)
    if data.dtype.names is not None or data.dtype.kind not in "iufb":
        kind = "colours (RGB)" if data.dtype.names else f"{data.dtype} voxels"
        raise InputError(f"{name}: expected one number a voxel, got {kind}")
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if ndim == 2 and data.ndim == 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if ndim == 3 and data.ndim == 2:
        data = data[..., None]
    if data.ndim not in ((2, 3) if ndim is None else (ndim,)):
        raise InputError(f"{name}: expected {ndim or '2-D or 3'}-D, got {len(shape)}-D of shape {shape}")
    if data.size == 0:
        raise InputError(f"{name}: expected voxels, got an empty image of shape {shape}")
    return data, check_affine(affine, name), path


def check_affine(affine: Any, name: str) -> np.ndarray:
    """`affine` as float64 [4, 4]; InputError unless it is finite and can be inverted."""
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: expected a finite 4x4 affine, got {' '.join(str(matrix).split())}")
    scale = np.linalg.norm(matrix[:3, :3], axis=0)
    if not scale.all() or abs(np.linalg.det(matrix[:3, :3] / scale)) < 1e-6:
        raise InputError(f"{name}: its affine is singular: {matrix[:3, :3].tolist()}")
    return matrix


def _open(source: Any, what: str) -> tuple[np.ndarray, Any, Path | None]:
    path = None
    if isinstance(source, str | Path):
        path = check_exists(source, what)
        if path.suffix in (".npz", ".npy"):
            return (*_read_numpy(path, what), path)
        if path.suffix.lower() == ".png":
            return read_png(path, what), np.eye(4), path
        source = open_nibabel(path, what)
    elif isinstance(source, Image):
        return source.data, source.affine, source.path
    elif not isinstance(source, SpatialImage):
        return np.asarray(source), np.eye(4), None
    _warn_if_forms_disagree(source, _name(what, path))
    return read_nibabel(source, _name(what, path)), source.affine, path


def open_nibabel(path: Path, what: str) -> Any:
    """The file as a nibabel image, its voxels not read yet; InputError if it is none."""
    try:
        image = nibabel.load(path)
    except _NOT_READABLE as error:
        raise _unreadable(f"{what} {path}", error) from error
    if not isinstance(image, SpatialImage):
        raise InputError(f"{what} {path}: expected an image, got {type(image).__name__}")
    return image


def read_nibabel(image: Any, name: str) -> np.ndarray:
    """The voxels of a nibabel image, scaled; InputError if the file is cut short or broken."""
    try:
        return np.asanyarray(image.dataobj)
    except _NOT_READABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{name}: not an image that can be read, or cut short ({reason})")


def _read_numpy(path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    archive = open_numpy(path, what)
    key = next((key for key in ARRAY_KEYS if key in archive), None)
    if key is None:
        raise InputError(f"{what} {path}: expected an array named {' or '.join(ARRAY_KEYS[:3])}, got {list(archive)}")
    return archive[key], archive.get("affine", np.eye(4))


def open_numpy(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; an .npy file is one array, "arr_0"."""
    try:
        content = np.load(path, allow_pickle=False)
        return {"arr_0": content} if isinstance(content, np.ndarray) else dict(content)
    except (*_NOT_READABLE, zipfile.BadZipFile) as error:
        raise _unreadable(f"{what} {path}", error) from error


def forms_distance_mm(image: Any) -> float | None:
    """How far q-form and s-form put a corner of the grid apart; None unless the header has both."""
    header = getattr(image, "header", None)
    if not isinstance(header, nibabel.Nifti1Header) or not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return None
    try:
        difference = header.get_qform() - header.get_sform()
    except (HeaderDataError, ValueError):
        return float("inf")
    ends = [(0, length - 1) for length in (*image.shape, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    return float(np.linalg.norm(corners @ difference[:3].T, axis=1).max())


def _warn_if_forms_disagree(image: Any, name: str) -> None:
    distance = forms_distance_mm(image)
    if distance is not None and distance > 0.05 * min(spacing_mm(image.affine)):
        text = f"{name}: its q-form and s-form disagree by up to {distance:.3g} mm; the s-form is used"
        warnings.warn(text, UserWarning, stacklevel=5)


# ---------------------------------------------------------------- out


def save_image(
    path: str | Path, data: np.ndarray | Image, affine: np.ndarray | None = None, *, dtype: Any = None
) -> None:
    """Write an image whole or not at all.

    Integers stay integers, in the smallest of uint8, int16, int32, int64 that holds them; other numbers become float32.

    Args:
        path: .nii, .nii.gz or .npz (`vol` and `affine`).
        data: [X, Y, Z] or [X, Y], or an `Image`, which brings its affine.
        affine: [4, 4], voxel -> RAS mm.
        dtype: Store as this instead.
    """
    if isinstance(data, Image):
        affine = data.affine if affine is None else affine
        data = data.data
    check_ending(path)
    affine = check_affine(affine, f"output {path}")
    data = _smallest(data) if data.dtype.kind in "iub" else data.astype(np.float32, copy=False)
    if dtype is not None:
        data = data.astype(dtype)
    if Path(path).suffix == ".npz":
        with atomic(path) as partial:
            np.savez_compressed(partial, vol=data, affine=affine)
        return
    save_nifti(path, data, affine)


def check_ending(path: str | Path, endings: tuple[str, ...] = (".nii", ".nii.gz", ".npz")) -> None:
    """InputError unless the name says a format that is written here."""
    if not str(path).endswith(endings):
        raise InputError(f"output {path}: expected a name that ends in {', '.join(endings)}")


def save_nifti(
    path: str | Path, data: np.ndarray, affine: np.ndarray, *, intent: int = 0, extension: bytes | None = None
) -> None:
    """Write `data` as it is to .nii or .nii.gz, in mm, q-form and s-form set; `extension` is FreeSurfer's."""
    check_ending(path, (".nii", ".nii.gz"))
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if (forms_distance_mm(image) or 0) > 1e-3 * min(spacing_mm(affine)):
        image.set_qform(None, code=0)  # a q-form cannot say shear
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(14, extension))
    with atomic(path) as partial:
        nibabel.save(image, partial)


def _smallest(labels: np.ndarray) -> np.ndarray:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    return labels


# ---------------------------------------------------------------- geometry


def spacing_mm(affine: np.ndarray) -> tuple[float, ...]:
    """Length of the three voxel axes."""
    return tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))


def orientation(affine: np.ndarray) -> str:
    """Where the axes point, to the nearest: "RAS", "LPI", ..."""
    return "".join(orientations.aff2axcodes(affine))


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
            f"{_name('image', image.path)}: a 2-D image cannot be turned to {codes}: its plane would change"
        )
    affine = image.affine @ orientations.inv_ornt_aff(change, volume.shape)
    turned = np.ascontiguousarray(orientations.apply_orientation(volume, change))
    return Image(turned[..., 0] if image.ndim == 2 else turned, affine, image.path)


def affine_field(matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``matrix @ (p, 1)`` for every voxel p of a grid, float64 [*shape, rows]; the matrix is [rows, 4]."""
    field = matrix[:, 3]
    for axis, length in enumerate(shape):
        ends = [1] * len(shape)
        ends[axis] = length
        field = field + np.outer(np.arange(length), matrix[:, axis]).reshape(*ends, len(matrix))
    return field


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


def to_flow(field: np.ndarray) -> torch.Tensor:
    """[*shape, ndim] -> [1, ndim, *shape] float32."""
    return torch.from_numpy(np.moveaxis(field, -1, 0).astype(np.float32, order="C"))[None]


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
    if mode == "linear":
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


def sample(image: Image, flow: torch.Tensor, mode: str = "linear", padding: str = "zeros") -> np.ndarray:
    """``image(p + flow(p))`` for every voxel p of the flow [1, ndim, *grid].

    "linear" gives float32; "nearest" and "genericlabel" (the label with the largest linear weight; ties to the smaller
    label) keep the dtype, and integers exactly.
    """
    if mode not in INTERPOLATIONS:
        raise InputError(f"interpolation: expected one of {', '.join(INTERPOLATIONS)}, got {mode}")
    if mode == "linear":
        return warp(image.tensor(), flow, padding=padding)[0, 0].numpy()
    # Ranks instead of labels: they are exact in float32. Rank 0 is the label 0 and what lies outside.
    labels, ranks = np.unique(image.data, return_inverse=True)
    labels = np.concatenate([np.zeros(1, labels.dtype), labels])
    exact = torch.float32 if len(labels) < 2**24 else torch.float64
    ranks = np.where(image.data == 0, 0, ranks.reshape(image.shape) + 1)
    volume = torch.from_numpy(ranks).to(exact)[None, None]
    if mode == "nearest":
        rank = warp(volume, flow.to(exact), mode="nearest", padding=padding)
    else:
        rank = _vote(volume, flow.to(exact), padding)
    return labels[rank[0, 0].long().numpy()]


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
