"""The motion of a series on disk: parameters as FSL, ANTs, AFNI and BIDS have them, matrices, displacements."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastreg.geometry.image import Image, fsl_frame
from fastreg.geometry.rigid import (
    FD_RADIUS_MM,
    RMS_RADIUS_MM,
    framewise_displacement,
    rigid_parameters,
    rms_displacement,
)
from fastreg.geometry.transforms import LPS, Affine
from fastreg.io import afni
from fastreg.io.itk_files import matlab_of
from fastreg.io.itk_transforms import steps_of
from fastreg.io.matrices import flirt_matrix, text_of_matrix
from fastreg.utils.files import InputError, check_free, save_bytes

PARAMETER_ENDINGS = (".par", ".csv", ".tsv", ".aff12.1d")
"""mcflirt's, antsMotionCorr's, BIDS' and AFNI's."""
DISPLACEMENT_ENDINGS = (".tsv", ".csv", ".txt")
MATRIX_NAMES = {"itk": "volume_{:04}.mat", "flirt": "MAT_{:04}"}
"""Format -> how the file of a volume is called; flirt as mcflirt -mats does."""
_OURS = re.compile(r"(volume_|MAT_)\d{4,}(\.mat)?")
_AXES = ("x", "y", "z")


def fsl_parameters(matrices: np.ndarray, centre_mm: np.ndarray, reference: Image, volume: Image) -> np.ndarray:
    """[T, 6] as in mcflirt's .par: angles in radians, then translations in mm, volume -> reference.

    They are those of FLIRT's matrices R = Rx Ry Rz, in FSL's mm along the voxel axes (x from the other end where the
    image is not mirrored), with FSL's angles, which are left-handed; the translation is that of the centre of gravity.

    Args:
        matrices: [T, 4, 4], reference RAS mm -> volume RAS mm.
        centre_mm: [3], RAS mm, the reference's centre of gravity.
        reference: Its grid counts.
        volume: Likewise.
    """
    into = fsl_frame(reference.affine, reference.shape) @ np.linalg.inv(reference.affine)
    centre = into[:3, :3] @ centre_mm + into[:3, 3]
    rows = []
    for world in matrices:
        matrix = flirt_matrix(world, reference, volume, "parameters")
        angles = (
            np.arctan2(matrix[1, 2], matrix[2, 2]),
            np.arcsin(-matrix[0, 2]),
            np.arctan2(matrix[0, 1], matrix[0, 0]),
        )
        rows.append([*angles, *(matrix[:3, :3] @ centre + matrix[:3, 3] - centre)])
    return np.array(rows)


def itk_euler_parameters(matrices: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    """[T, 6]: of ITK's Euler3DTransform about `centre_mm` (RAS mm), reference -> volume in LPS mm, R = Rz Rx Ry."""
    lps = LPS @ matrices @ LPS
    centre, rotation = LPS[:3, :3] @ centre_mm, lps[:, :3, :3]
    angles = [
        np.arcsin(np.clip(rotation[:, 2, 1], -1, 1)),
        np.arctan2(-rotation[:, 2, 0], rotation[:, 2, 2]),
        np.arctan2(-rotation[:, 0, 1], rotation[:, 1, 1]),
    ]
    return np.column_stack([*angles, rotation @ centre + lps[:, :3, 3] - centre])


def parameter_files(
    path: Path,
    matrices: np.ndarray,
    centre_mm: np.ndarray,
    correlation: np.ndarray,
    reference: Image,
    volume: Image,
) -> dict[Path, bytes]:
    """What is to be written for `path`, by its ending one of `PARAMETER_ENDINGS`; BIDS' has a second file beside it.

    Args:
        path: .par, .csv, .tsv or .aff12.1D.
        matrices: [T, 4, 4], reference RAS mm -> volume RAS mm.
        centre_mm: [3], RAS mm.
        correlation: [T], of volumes and reference; ANTs' file holds its negative.
        reference: Its grid counts.
        volume: Likewise.
    """
    ending = path.name.lower()
    if ending.endswith(".par"):
        rows = fsl_parameters(matrices, centre_mm, reference, volume)
        return {path: "".join("  ".join(f"{x:.8g}" for x in row) + "  \n" for row in rows).encode()}
    if ending.endswith(".csv"):
        figures = itk_euler_parameters(matrices, centre_mm)
        columns = ["MetricPre", "MetricPost", *(f"MOCOparam{k}" for k in range(6))]
        table = np.column_stack([np.zeros(len(figures)), -correlation, figures])
        return {path: _table(dict(zip(columns, table.T, strict=True)), ",")}
    if ending.endswith(".tsv"):
        parameters = rigid_parameters(matrices, centre_mm)
        columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in _AXES]
        found = dict(zip(columns, parameters.T, strict=True)) | displacements(matrices, centre_mm)
        said = json.dumps(_bids_columns(centre_mm), indent=2) + "\n"
        return {path: _table(found, "\t"), path.with_suffix(".json"): said.encode()}
    return {path: afni.text_of([Affine(matrix) for matrix in matrices], reference, volume)}


def displacements(matrices: np.ndarray, centre_mm: np.ndarray) -> dict[str, np.ndarray]:
    """fMRIPrep's column -> [T] in mm: Power's framewise displacement and Jenkinson's; NaN first."""
    return {
        "framewise_displacement": framewise_displacement(rigid_parameters(matrices, centre_mm)),
        "rmsd": rms_displacement(matrices, centre_mm),
    }


def displacement_file(path: Path, matrices: np.ndarray, centre_mm: np.ndarray) -> bytes:
    """A table of `displacements`; .txt is Power's alone, a number a line, with 0 for the first volume."""
    found = displacements(matrices, centre_mm)
    if path.suffix.lower() == ".txt":
        return "".join(f"{x:.8g}\n" for x in np.nan_to_num(found["framewise_displacement"])).encode()
    return _table(found, "," if path.suffix.lower() == ".csv" else "\t")


def _table(columns: Mapping[str, np.ndarray], between: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=between, lineterminator="\n")
    writer.writerow(columns)
    missing = "n/a" if between == "\t" else ""  # BIDS' word
    writer.writerows(
        [f"{x:.8g}" if np.isfinite(x) else missing for x in row] for row in zip(*columns.values(), strict=True)
    )
    return text.getvalue().encode()


def _bids_columns(centre_mm: np.ndarray) -> dict[str, dict[str, str]]:
    about = ", ".join(f"{x:.3f}" for x in centre_mm)
    found = {}
    for axis, side in zip(_AXES, ("right", "front", "top"), strict=True):
        text = f"Translation of the reference's centre of gravity ({about} mm RAS) towards {side}"
        found[f"trans_{axis}"] = {"Description": text, "Units": "mm"}
    for axis in _AXES:
        text = f"Right-handed turn about {axis} (RAS) through the centre of gravity; x turns first, z last"
        found[f"rot_{axis}"] = {"Description": text, "Units": "rad"}
    text = f"Sum of absolute changes since the volume before (Power 2012), turns at {FD_RADIUS_MM:g} mm"
    found["framewise_displacement"] = {"Description": text, "Units": "mm"}
    text = f"Root mean square displacement since the volume before (Jenkinson 1999), ball of {RMS_RADIUS_MM:g} mm"
    found["rmsd"] = {"Description": text, "Units": "mm"}
    return found


def matrix_files(
    folder: Path, matrices: np.ndarray, reference: Image, volume: Image, format: str = "itk"
) -> dict[Path, bytes]:
    """What is to be written of a matrix a volume, in files whose names sort as the volumes do.

    Args:
        folder: Where they go.
        matrices: [T, 4, 4], reference RAS mm -> volume RAS mm.
        reference: Its grid counts, for FLIRT.
        volume: Likewise.
        format: "itk" for antsApplyTransforms and fastreg, "flirt" as mcflirt -mats.
    """
    found = {}
    for k, matrix in enumerate(matrices):
        path = folder / MATRIX_NAMES[format].format(k)
        if format == "itk":
            found[path] = matlab_of(steps_of([Affine(matrix)], f"output {path}")[0])
        else:
            found[path] = text_of_matrix(flirt_matrix(matrix, reference, volume, f"output {path}"), fsl=True)
    return found


def check_matrices(folder: Path, overwrite: bool) -> None:
    """InputError unless `folder` can take matrices: new, empty or, with `overwrite`, one that holds nothing else."""
    check_free(folder / "matrices", overwrite)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in there if not _OURS.fullmatch(name)]
    if others:
        raise InputError(f"output {folder}: expected a folder of its own for matrices, got one that holds {others[0]}")
    if there and not overwrite:
        raise InputError(f"output {folder} holds matrices; use --overwrite to replace them")


def save_files(files: Mapping[Path, bytes], folder: Path | None = None) -> None:
    """Writes every file whole; of `folder`, which `check_matrices` has seen, what is left of a longer series goes."""
    for path, content in files.items():
        save_bytes(path, content)
    for path in folder.iterdir() if folder is not None else ():
        if path not in files:
            path.unlink()
