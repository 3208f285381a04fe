"""The header extension by which FreeSurfer's warps carry both geometries.

Big-endian: ">", kind (2 bytes), version (1), then tags: id (4), length (8), content. A geometry is: valid, 3 sizes,
spacing, rotation by columns, centre, [shear], length of a file name, the name. Source: FreeSurfer, fstagsio.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.geometry.image import affine_field, check_affine
from fastreg.geometry.transforms import Warp, encode
from fastreg.utils.files import InputError

_WARP_KIND, _CODE = 3, 14
_GEOMETRIES, _META, _SHEARED_GEOMETRIES, _END = 10, 13, 15, -1
_ABS_VOXEL, _DISP_VOXEL, _ABS_RAS, _DISP_RAS = range(4)


def pack(warp: Warp) -> bytes:
    """The extension of a file that holds `warp` as displacements in RAS mm."""
    assert warp.moving_shape is not None
    grids = [(warp.moving_affine, warp.moving_shape), (warp.fixed_affine, warp.fixed_shape)]
    tags = [
        (_GEOMETRIES, b"".join(_pack_geometry(*grid, sheared=False) for grid in grids)),
        (_SHEARED_GEOMETRIES, b"".join(_pack_geometry(*grid, sheared=True) for grid in grids)),
        (_META, struct.pack(">iif", _DISP_RAS, 1, 0.0)),
        (_END, b"*"),  # nibabel strips trailing zeros
    ]
    head = b">" + struct.pack(">HB", _WARP_KIND, 1)
    return head + b"".join(struct.pack(">iq", tag, len(content)) + content for tag, content in tags)


def _pack_geometry(affine: np.ndarray, shape: Sequence[int], *, sheared: bool) -> bytes:
    rotation, upper = np.linalg.qr(affine[:3, :3])
    signs = np.sign(np.diag(upper))
    rotation, upper = rotation * signs, upper * signs[:, None]
    spacing = np.diag(upper)
    shear = (upper / spacing[:, None])[[0, 0, 1], [1, 2, 2]]
    centre = affine[:3, :3] @ (np.array(shape) / 2) + affine[:3, 3]
    figures = [*spacing, *rotation.ravel(order="F"), *centre, *(shear if sheared else ())]
    return struct.pack(f">4i{len(figures)}fi", 1, *shape, *figures, 0)


def _unpack_geometry(content: bytes, *, sheared: bool) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of the first geometry in `content`, the moving one."""
    _, *figures = struct.unpack_from(f">4i{18 if sheared else 15}f", content)
    shape, spacing, rotation, centre = figures[:3], figures[3:6], np.reshape(figures[6:15], (3, 3), "F"), figures[15:18]
    upper = np.eye(3)
    if sheared:
        upper[[0, 0, 1], [1, 2, 2]] = figures[18:]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ (np.array(spacing)[:, None] * upper)
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) / 2)
    return affine, tuple(shape)


def unpack(
    path: Path, image: Any, data: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, ...] | None]:
    """Displacements in RAS mm; the moving grid if the header's extension says it."""
    content = next((e.get_content() for e in image.header.extensions if e.get_code() == _CODE), None)
    if content is None:
        return data, None, None
    try:
        tags = _tags(content)
        sheared = _SHEARED_GEOMETRIES in tags
        grids = tags[_SHEARED_GEOMETRIES if sheared else _GEOMETRIES]
        moving_affine, shape = _unpack_geometry(grids, sheared=sheared)
        kind = struct.unpack(">iif", tags[_META])[0]
    except (struct.error, KeyError) as error:
        raise InputError(f"warp {path}: FreeSurfer's header extension is broken ({error!r})") from error
    moving_affine = check_affine(moving_affine, f"warp {path}, moving grid")
    identity = affine_field(np.eye(4)[:3], data.shape[:-1])
    if kind in (_ABS_VOXEL, _DISP_VOXEL):
        flow = data - identity if kind == _ABS_VOXEL else data
        return encode(flow, affine, moving_affine), moving_affine, shape
    if kind == _ABS_RAS:
        data = data - affine_field(affine[:3], data.shape[:-1])
    return data, moving_affine, shape


def _tags(content: bytes) -> dict[int, bytes]:
    tags, at = {}, 4
    while at + 12 <= len(content):
        tag, length = struct.unpack_from(">iq", content, at)
        tags[tag] = content[at + 12 : at + 12 + length]
        if length < 0:
            break
        at += 12 + length
    return tags
