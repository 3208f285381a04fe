"""Surfaces in GIFTI files (.gii), through nibabel: RAS mm, unless FreeSurfer's header says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastreg.geometry.transforms import Affine
from fastreg.io.foreign import SCANNER
from fastreg.io.point_sets import check_finite
from fastreg.io.surfaces import Surface, check_triangles
from fastreg.utils.files import InputError

_UNKNOWN, _OF_IMAGES = 0, (1, 2)
"""NIfTI's codes of spaces: none that is known; the scanner's, or one aligned to another image."""
_TKRAS = {
    "VolGeomX_R": -1, "VolGeomX_A": 0, "VolGeomX_S": 0, "VolGeomY_R": 0, "VolGeomY_A": 0, "VolGeomY_S": -1,
    "VolGeomZ_R": 0, "VolGeomZ_A": 1, "VolGeomZ_S": 0, "VolGeomC_R": 0, "VolGeomC_A": 0, "VolGeomC_S": 0,
}  # fmt: skip
"""The geometry of an image whose scanner coordinates are those of FreeSurfer's surfaces."""


@dataclass(frozen=True, eq=False)
class Gifti(Surface):
    """A GIFTI file with one set of points."""

    source: bytes
    """The file."""
    path: Path

    ending: ClassVar[str] = ".gii"

    def content(self) -> bytes:
        """Faces, data and metadata as they were; without normals and FreeSurfer's geometry of the image before."""
        image = _parse(self.source, self.path)
        pointset = _pointset(image, self.path)
        pointset.data = self.points.astype(np.float32)
        pointset.datatype = _float32()
        if _is_transformed(pointset):
            pointset.coordsys.dataspace, pointset.coordsys.xform = pointset.coordsys.xformspace, np.eye(4)
        for meta in (image.meta, pointset.meta):
            for key in [key for key in meta if str(key).startswith("VolGeom")]:
                del meta[key]
        image.remove_gifti_data_array_by_intent("NIFTI_INTENT_VECTOR")
        return bytes(image.to_xml())

    def triangles(self) -> np.ndarray:
        """[M, 3]."""
        arrays = _parse(self.source, self.path).get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
        faces = arrays[0].data if arrays else np.empty((0, 3), np.int64)
        if faces.ndim != 2 or faces.shape[1] != 3 or (faces < 0).any() or (faces >= len(self.points)).any():
            raise InputError(f"points {self.path}: expected triangles of its points, got others")
        return check_triangles(faces.astype(np.int64), str(self.path))


def read_gifti(content: bytes, path: str | Path) -> Gifti:
    """The bytes of a GIFTI file.

    Raises:
        InputError: no surface, or one of FreeSurfer whose coordinates are not those of its image.
    """
    image = _parse(content, path)
    pointset = _pointset(image, path)
    points = check_finite(pointset.data, f"points {path}")
    if _is_transformed(pointset):
        points = check_finite(Affine(np.array(pointset.coordsys.xform, np.float64))(points), f"points {path}")
    elif pointset.coordsys is None or pointset.coordsys.dataspace == _UNKNOWN:
        said = {**image.meta, **pointset.meta}
        try:
            moved = any(abs(float(said[key]) - value) > 1e-4 for key, value in _TKRAS.items() if key in said)
        except ValueError as error:
            raise InputError(f"points {path}: expected FreeSurfer's geometry in numbers ({error})") from error
        if moved:
            raise InputError(
                f"points {path}: are in FreeSurfer's surface coordinates (its c_ras or axes are not those of the"
                f" scanner); {SCANNER} makes them scanner coordinates"
            )
    return Gifti(points, content, Path(path), space="ras")


def _parse(content: bytes, path: str | Path) -> Any:
    from nibabel.gifti.gifti import GiftiImage

    try:
        return GiftiImage.from_bytes(content)
    except Exception as error:  # expat's, zlib's, base64's and NumPy's, as the damage has it
        raise InputError(
            f"points {path}: not a GIFTI file that can be read ({' '.join(str(error).split())[:120]})"
        ) from error


def _pointset(image: Any, path: str | Path) -> Any:
    """The array of points; InputError unless there is one, [N, 3]."""
    found = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
    if len(found) != 1:
        raise InputError(f"points {path}: expected one surface in a GIFTI file, got {len(found)}")
    data = found[0].data
    if data is None or data.ndim != 2 or data.shape[1] != 3:
        raise InputError(f"points {path}: expected points [N, 3], got {None if data is None else data.shape}")
    return found[0]


def _is_transformed(pointset: Any) -> bool:
    """Whether the file's own matrix leads to an image's space from one that is not known."""
    system = pointset.coordsys
    return system is not None and system.dataspace == _UNKNOWN and system.xformspace in _OF_IMAGES


def _float32() -> int:
    from nibabel.nifti1 import data_type_codes

    return int(data_type_codes.code[np.float32])


def new_gifti(points: np.ndarray, triangles: np.ndarray) -> bytes:
    """A surface in scanner RAS mm."""
    from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage

    scanner = GiftiCoordSystem("NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_SCANNER_ANAT", np.eye(4))
    arrays = [
        GiftiDataArray(points.astype(np.float32), "NIFTI_INTENT_POINTSET", coordsys=scanner),
        GiftiDataArray(triangles.astype(np.int32), "NIFTI_INTENT_TRIANGLE"),
    ]
    return bytes(GiftiImage(darrays=arrays).to_xml())
