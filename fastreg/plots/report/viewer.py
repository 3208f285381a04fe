"""The volumes that the page's optional 3-D viewer shows, and the viewer itself, NiiVue, where it was vendored."""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files

import nibabel
import numpy as np

from fastreg.geometry.image import Image
from fastreg.geometry.resample import resample_to_spacing
from fastreg.plots.slices import windowed
from fastreg.utils.files import InputError

LIMIT = 700_000
"""Bytes that the volumes of a pair may take."""
_SIDES = (112, 96, 80, 64, 48, 32)
"""Longest side in voxels; the first that keeps to the limit."""


def volumes(fixed: Image, moved: Image) -> dict[str, str]:
    """Fixed and moved image, [X, Y, Z], as NIfTI in base64, 8 bits a voxel, coarser where they are large."""
    for side in _SIDES:
        found = {"fixed": _coded(fixed, side), "moved": _coded(Image(moved.data, fixed.affine), side)}
        if len(json.dumps(found)) <= LIMIT:
            break
    return found


def _coded(image: Image, side: int) -> str:
    spacing = np.maximum(image.spacing_mm, (np.array(image.shape) * image.spacing_mm).max() / side)
    small = Image(windowed(image.data), image.affine)
    if not np.allclose(spacing, image.spacing_mm):
        small = resample_to_spacing(small, spacing)
    values = (255 * small.data).clip(0, 255).round().astype(np.uint8)
    stored = nibabel.Nifti1Image(values, small.affine)
    stored.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(stored.to_bytes(), 9, mtime=0)).decode()


def vendored() -> tuple[str, str]:
    """NiiVue as a script that may stand in a page, and the licences of all that is in it.

    Raises:
        InputError: it was not vendored.
    """
    folder = files("fastreg.plots.report") / "vendor"
    try:
        script, licences = ((folder / name).read_text(encoding="utf-8") for name in ("niivue.js", "LICENCES.txt"))
    except OSError as error:
        raise InputError(
            "--viewer: NiiVue is not in this installation; in a checkout, python packaging/vendor_viewer.py brings it"
        ) from error
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--"), licences
