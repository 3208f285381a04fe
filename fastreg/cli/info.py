"""`fastreg info`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass
class Info:
    """Show what a file holds: an image or label map, a warp, an affine transform, or a trained model.

    Example: `fastreg info warp.nii.gz`
    """

    file: Path
    """An image, a folder with a DICOM series, a warp, another transform, points or a model (docs/files.md); or general,
    the model that comes with fastreg."""
    moving: Annotated[Path | None, Parameter(alias="-i")] = field(default=None, kw_only=True)
    """The moving image of an FSL or Learn2Reg warp, without which its length in mm is not known."""
    json: bool = field(default=False, kw_only=True)
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Prints the figures; InputError if the file is none of these."""
        from fastreg.cli.output import print_json, print_table

        figures = {"file": str(self.file), **self._figures()}
        if self.json:
            print_json(figures)
        else:
            print_table(["", ""], [[name.replace("_", " "), _shown(value)] for name, value in figures.items()])

    def _figures(self) -> dict[str, Any]:
        from fastreg.io.foreign import reader_of
        from fastreg.io.points import ENDINGS
        from fastreg.io.transforms import holds_transforms
        from fastreg.io.warp_kinds import detect_format
        from fastreg.nn.checkpoint import MODELS, read_header
        from fastreg.utils.files import check_exists

        if self.file.suffix == ".safetensors" or str(self.file) in MODELS:
            return {"kind": "model", **read_header(self.file)}
        path = check_exists(self.file, "file", folder=True)
        if path.is_dir():
            return _image_figures(path)
        if path.name.lower().endswith(ENDINGS) and reader_of(path) is None:
            return _point_figures(path)
        if holds_transforms(path):
            return _transform_figures(path)
        format = detect_format(path)
        return _image_figures(path) if format is None else _warp_figures(path, format, self.moving)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ("\n" if value and isinstance(value[0], list) else " ").join(_shown(item) for item in value)
    if isinstance(value, dict):
        return "\n".join(f"{name} {_shown(item)}" for name, item in value.items())
    return "" if value is None else str(value)


def _point_figures(path: Path) -> dict[str, Any]:
    from fastreg.io.points import load_points

    found = load_points(path)
    return {
        "kind": found.kind,
        "points": len(found.points),
        "space": found.space or "not said",
        "from": found.points.min(0).tolist(),
        "to": found.points.max(0).tolist(),
    }


def _transform_figures(path: Path) -> dict[str, Any]:
    """Of one transform its figures, of several the kinds, the one that is applied to the fixed places first."""
    from fastreg.geometry.bsplines import BSpline
    from fastreg.geometry.transforms import Affine, Warp
    from fastreg.io.transforms import load_transforms

    found = load_transforms(path)
    if len(found) == 1 and isinstance(found[0], Warp):
        return {"kind": "warp", **_field_figures(found[0])}
    if len(found) == 1 and isinstance(found[0], BSpline):
        return {"kind": "B-spline", "control_points": list(found[0].control.shape[:-1])}
    if len(found) == 1 and isinstance(found[0], Affine):
        return {"kind": "affine", **_affine_figures(found[0].matrix)}
    kinds = {"Affine": "affine", "Warp": "warp", "BSpline": "B-spline"}
    return {"kind": "composite", "transforms": [kinds[type(one).__name__] for one in found]}


def _affine_figures(matrix: Any) -> dict[str, Any]:
    import numpy as np

    return {"fixed_to_moving_ras_mm": matrix.tolist(), "volume_change": float(np.linalg.det(matrix[:3, :3]))}


def _image_figures(path: Path) -> dict[str, Any]:
    import numpy as np

    from fastreg.geometry.image import check_affine, orientation, spacing_mm
    from fastreg.io.foreign import reader_of
    from fastreg.io.images import load_image
    from fastreg.io.volumes import affine_mm, close, forms_distance_mm, open_nibabel, unit

    by_nibabel = path.is_file() and path.suffix.lower() not in (".npz", ".npy") and reader_of(path) is None
    header = open_nibabel(path, "image") if by_nibabel else None
    close(header)
    if header is not None and len(header.shape) > 3 and math.prod(header.shape[3:]) > 1:
        volumes = math.prod(header.shape[3:])
        affine = check_affine(affine_mm(header), f"image {path}")
        return {
            "kind": f"series of {volumes} volumes: commands take one volume, or the mean of all",
            "shape": list(header.shape),
            "volumes": volumes,
            "spacing_mm": list(spacing_mm(affine)),
            "orientation": orientation(affine),
            "stored_as": str(header.get_data_dtype()),
            "affine": affine.tolist(),
        }
    image = load_image(path, integers=True)
    finite = image.data[np.isfinite(image.data)]
    labels = np.unique(image.data) if image.is_labels else None
    return {
        "kind": "label map or integer image" if image.is_labels else "image",
        "shape": list(image.shape),
        "spacing_mm": list(image.spacing_mm),
        "orientation": orientation(image.affine)[: image.ndim],
        "stored_as": str(image.data.dtype if header is None else header.get_data_dtype()),
        "minimum": finite.min().item() if finite.size else None,
        "maximum": finite.max().item() if finite.size else None,
        "not_finite_voxels": int(image.data.size - finite.size),
        "different_values": None if labels is None else len(labels),
        "stored_unit": None if header is None else unit(header),
        "q_and_s_form_differ_by_mm": forms_distance_mm(header),
        "affine": image.affine.tolist(),
    }


def _warp_figures(path: Path, format: str, moving: Path | None) -> dict[str, Any]:
    from fastreg.io.images import load_image
    from fastreg.io.warps import load_warp

    warp = load_warp(path, moving=None if moving is None else load_image(moving, what="moving image"), format=format)
    return {"kind": "warp", "format": format, **_field_figures(warp)}


def _field_figures(warp: Any) -> dict[str, Any]:
    import numpy as np

    from fastreg.geometry.image import orientation, spacing_mm

    length = np.linalg.norm(warp.displacement_mm(), axis=-1)
    jacobian = warp.jacobian()
    return {
        "shape": list(warp.fixed_shape),
        "spacing_mm": list(spacing_mm(warp.fixed_affine)[: warp.ndim]),
        "orientation": orientation(warp.fixed_affine)[: warp.ndim],
        "moving_shape": None if warp.moving_shape is None else list(warp.moving_shape),
        "displacement_mm": {"min": float(length.min()), "mean": float(length.mean()), "max": float(length.max())},
        "jacobian": {"min": float(jacobian.min()), "mean": float(jacobian.mean()), "max": float(jacobian.max())},
        "folds": int((jacobian <= 0).sum()),
        "voxels": int(jacobian.size),
    }
