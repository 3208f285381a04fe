"""PNG, JPEG, BMP, GIF, WebP by Pillow and TIFF by tifffile, placed in the world as ITK places them.

A picture is [rows, columns]; its columns run along LPS x and its rows along LPS y, as in ITK, ANTs and Slicer. A stack
of pictures in a TIFF file is [columns, rows, pictures], the order of ITK's volumes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.geometry.transforms import LPS
from fastreg.io.limits import check_size
from fastreg.io.volumes import unreadable
from fastreg.utils.extras import need
from fastreg.utils.files import InputError

PNG_ENDINGS = (".png",)
"""What is written here."""
_INCH = 25.4
_UNITS_MM = {
    "nm": 1e-6, "um": 1e-3, "\u00b5m": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "inch": _INCH, "in": _INCH, "m": 1000.0,
}  # fmt: skip


def read_picture(path: Path, what: str, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pixels, affine, and whether the last axis is that of channels.

    Args:
        path: .png, .jpg, .bmp, .gif or .webp.
        what: What it is to the user, for messages.
        indices: Of a palette the indices, which are labels, and not the colours.

    Returns:
        [rows, columns] or [rows, columns, channels], unsigned integers; [4, 4], pixel -> RAS mm, of 1 mm where a JPEG
        does not say how large its pixels are.

    Raises:
        InputError: no Pillow, no picture, one that is damaged or cut short, an animation.
    """
    name = f"{what} {path}"
    pillow = need("PIL.Image", "io", name)
    try:
        with warnings.catch_warnings(), pillow.open(path) as picture:
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            if getattr(picture, "n_frames", 1) > 1:
                raise InputError(f"{name}: expected one picture, got an animation of {picture.n_frames}")
            bands = len(picture.getbands())
            size = path.stat().st_size
            # JPEG and WebP pack better than deflate, and are held to the limit alone.
            held = size if picture.format == "PNG" else None
            check_size(name, (picture.height, picture.width, bands), 1, held=held, packed=True)
            spacing = _density_mm(picture)
            if picture.mode not in ("1", "L", "LA", "I", "F", "RGB", "RGBA") and not picture.mode.startswith("I;"):
                with_alpha = "transparency" in picture.info
                picture = (
                    picture if picture.mode == "P" and indices else picture.convert("RGBA" if with_alpha else "RGB")
                )
            pixels = np.array(picture)
    except InputError:
        raise
    except Exception as error:  # what Pillow raises on a damaged file is of any kind
        raise unreadable(name, error) from error
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    return pixels, _picture_affine(spacing), pixels.ndim == 3


def _density_mm(picture: Any) -> tuple[float, float]:
    """Height and width of a pixel; ITK believes a JPEG's density, and no other picture's."""
    unit = {1: _INCH, 2: 10.0}.get(picture.info.get("jfif_unit", 0))
    across, down = picture.info.get("jfif_density", (0, 0))
    return (1.0, 1.0) if unit is None or not across or not down else (unit / down, unit / across)


def _picture_affine(spacing: Sequence[float]) -> np.ndarray:
    """[4, 4] of [rows, columns] -> RAS mm: rows along LPS y, columns along LPS x."""
    affine = np.eye(4)
    affine[:2, :2] = [[0, -spacing[1]], [-spacing[0], 0]]
    return affine


def save_picture(path: Path, pixels: np.ndarray, name: str) -> None:
    """Write [rows, columns] as PNG: whole numbers of 8 bits, or of 16 where it takes them; what is beyond is cut."""
    pillow = need("PIL.Image", "io", name)
    high = 65535 if np.nanmax(pixels) > 255 else 255
    whole = np.rint(np.clip(np.nan_to_num(pixels), 0, high)).astype(np.uint16 if high > 255 else np.uint8)
    pillow.fromarray(whole).save(path)


def read_tiff(path: Path, what: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """As `read_picture`, of the first series of a TIFF file: a picture, or a stack of them.

    Pixels are as large as OME's or ImageJ's description says, otherwise the tags of the resolution; 1 mm without.

    Raises:
        InputError: no tifffile, a codec that needs imagecodecs, no TIFF, damaged, or several moments.
    """
    name = f"{what} {path}"
    tifffile = need("tifffile", "io", name)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it then raises
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            check_size(name, series.shape, series.dtype.itemsize)
            pixels, axes = series.asarray(), series.axes
            spacing = _tiff_spacing_mm(file, tifffile)
    except InputError:
        raise
    except Exception as error:  # as above
        if "imagecodecs" in str(error):
            raise InputError(f"{name}: this compression needs imagecodecs: pip install 'fastreg[io]'") from error
        raise unreadable(name, error) from error
    long = [k for k, axis in enumerate(axes) if axis in "YX" or pixels.shape[k] > 1]
    pixels, axes = pixels.reshape([pixels.shape[k] for k in long]), "".join(axes[k] for k in long)
    channels = [axis for axis in axes if axis in "CS"]
    depth = [axis for axis in axes if axis not in "CSYX"]
    if len(channels) > 1 or len(depth) > 1 or (depth and depth[0] == "T"):
        raise InputError(f"{name}: expected a picture or a stack of pictures, got axes {axes} of shape {pixels.shape}")
    order = [*depth, "Y", "X"] if not depth else ["X", "Y", *depth]
    pixels = pixels.transpose([axes.index(axis) for axis in (*order, *channels)])
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    affine = LPS @ np.diag([*spacing[::-1], 1.0]) if depth else _picture_affine(spacing[1:])
    return pixels, affine, bool(channels)


def _tiff_spacing_mm(file: Any, tifffile: Any) -> tuple[float, float, float]:
    """Along z, y and x."""
    if file.ome_metadata:
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
        return tuple(_length_mm(pixels, axis) for axis in "ZYX")  # type: ignore[return-value]
    tags = file.pages[0].tags
    described = file.imagej_metadata or {}
    unit = _UNITS_MM.get(str(described.get("unit", "")).lower())
    if unit is None and not file.is_imagej:
        unit = {2: _INCH, 3: 10.0}.get(int(tags["ResolutionUnit"].value)) if "ResolutionUnit" in tags else None
    if unit is None:
        return float(described.get("spacing", 1.0)), 1.0, 1.0
    y, x = (_pixel(tags, key, unit) for key in ("YResolution", "XResolution"))
    return float(described.get("spacing", 1.0)) * (unit if file.is_imagej else 1.0), y, x


def _length_mm(pixels: dict[str, Any], axis: str) -> float:
    length = float(pixels.get(f"PhysicalSize{axis}", 0))
    return length * _UNITS_MM.get(str(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m")), 1e-3) if length > 0 else 1.0


def _pixel(tags: Any, key: str, unit: float) -> float:
    """`unit` over the pixels in it; 1 where they are not said."""
    over, under = tags[key].value if key in tags else (0, 1)
    return unit * under / over if over and under else 1.0
