"""Known motion in a real EPI: how nearly `fastreg.motion` finds it, and how soon. The image is not part of the project.

python -m bench motion                            # 64x64x36, 200 volumes: a few minutes, most of it to make the series
python -m bench motion --volumes 10 --ants        # ANTsPy on the same series

The EPI (any/brain_epi_t1/epi_t2.nii.gz of --data) is a spline of order 5, read at the places where the head has moved
to: a drift of up to 2 mm and 2 degrees, and jerks. Then come activation (four blobs of 2 % in blocks), a drift of
intensity of 2 %, noise (--tsnr) and whole numbers, as a scanner writes them. Settings were chosen on seed 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from bench.peers.packages import module
from bench.registration.pairs import add_data, check_data
from fastreg.geometry.image import affine_field
from fastreg.geometry.rigid import framewise_displacement, rigid_matrix, rigid_parameters, turn
from fastreg.io.affines import load_affine
from fastreg.registration.motion import motion

EPI = Path("any") / "brain_epi_t1" / "epi_t2.nii.gz"
SPACING_MM = (3.4, 3.4, 3.5)
_PAD = 8
COLUMNS = (
    "mm, mean", "mm, 95 %", "degrees, mean", "degrees, 95 %", "FD, mm, mean", "s", "s of all cores", "volumes/s",
)  # fmt: skip


class Head:
    """The EPI as a function of the place."""

    def __init__(self, path: Path) -> None:
        image = nibabel.load(path)
        ndimage = module("scipy.ndimage")
        smoothed = ndimage.gaussian_filter(np.asarray(image.dataobj, np.float64), 0.5)  # voxels here are larger
        self.coefficients = ndimage.spline_filter(np.pad(smoothed, _PAD), 5)
        self.back = np.linalg.inv(image.affine)
        self.centre = image.affine[:3, :3] @ ((np.array(image.shape) - 1) / 2) + image.affine[:3, 3]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """[...] of places [..., 3], RAS mm."""
        voxels = places @ self.back[:3, :3].T + self.back[:3, 3] + _PAD
        at = np.moveaxis(voxels, -1, 0)
        return module("scipy.ndimage").map_coordinates(self.coefficients, at, order=5, prefilter=False)


def head_motion(count: int, rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """[T, 4, 4], reference RAS mm -> volume RAS mm."""
    t = np.linspace(0, 1, count)
    parameters = np.zeros((count, 6))
    for k, size in enumerate([1.5] * 3 + [np.radians(1.5)] * 3):
        waves = sum(
            rng.normal() / (1 + j / 2) * np.sin(np.pi * (j + 1) * t + rng.uniform(0, 2 * np.pi)) for j in range(4)
        )
        parameters[:, k] = size * waves / np.abs(waves).max()
    for at in rng.choice(count, max(1, count // 25), replace=False):
        parameters[at : at + rng.integers(1, 4)] += rng.normal(size=6) * ([0.5] * 3 + [np.radians(0.5)] * 3)
    return np.array([rigid_matrix(row, centre) for row in parameters])


def simulate(path: Path, shape: Sequence[int], count: int, seed: int, tsnr: float) -> tuple[Any, np.ndarray, Head]:
    """The series as a nibabel image of int16, oblique, and its motion."""
    rng, head = np.random.default_rng(seed), Head(path)
    affine = np.eye(4)
    affine[:3, :3] = turn(0, 0.1) @ turn(2, 0.05) @ np.diag([-SPACING_MM[0], *SPACING_MM[1:]])
    affine[:3, 3] = head.centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    motions = head_motion(count, rng, head.centre)
    places = affine_field(affine[:3], shape)
    still = head(places)
    level = still[still > 0.25 * np.percentile(still, 98)].mean()
    blobs = head.centre + rng.uniform(-40, 40, (4, 3))
    data = np.empty((*shape, count), np.int16)
    for k, matrix in enumerate(motions):
        back = np.linalg.inv(matrix)
        there = places @ back[:3, :3].T + back[:3, 3]
        volume = head(there) * (1 + 0.02 * np.sin(2 * np.pi * k / count))
        if (k // 10) % 2:
            volume *= 1 + 0.02 * sum(np.exp(-((there - blob) ** 2).sum(-1) / (2 * 8**2)) for blob in blobs)
        data[..., k] = np.rint(np.maximum(volume + rng.normal(0, level / tsnr, shape), 0))
    return nibabel.Nifti1Image(data, affine), motions, head


def by_fastreg(image: Any, reference: str) -> np.ndarray:
    """[T, 4, 4], reference RAS mm -> volume RAS mm."""
    return motion(image, reference=reference).matrices


def by_command(image: Any) -> np.ndarray:
    """[T, 4, 4] of `fastreg motion`, which writes the series without motion too."""
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, f"{folder}/bold.nii.gz")
        words = ["bold.nii.gz", "-o", "moco.nii.gz", "--matrices", "mats"]
        subprocess.run([sys.executable, "-m", "fastreg", "motion", *words], cwd=folder, check=True, capture_output=True)
        return np.array([load_affine(path).matrix for path in sorted(Path(folder, "mats").iterdir())])


def by_ants(image: Any, reference: int) -> np.ndarray:
    """[T, 4, 4] of ANTsPy's motion_correction with its defaults, to the same volume."""
    ants = module("ants")
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, f"{folder}/series.nii.gz")
        series = ants.image_read(f"{folder}/series.nii.gz")
        found = ants.motion_correction(series, fixed=ants.slice_image(series, axis=3, idx=reference))
        return np.array([load_affine(files[0]).matrix for files in found["motion_parameters"]])


def row(name: str, found: np.ndarray, motions: np.ndarray, centre: np.ndarray, seconds: float, busy: float) -> str:
    """Of the table; `motions` are from where the reference lies."""
    apart = rigid_parameters(np.linalg.inv(motions) @ found, centre)
    mm, degrees = np.linalg.norm(apart[:, :3], axis=1), np.degrees(np.linalg.norm(apart[:, 3:], axis=1))
    fd = [framewise_displacement(rigid_parameters(m, centre))[1:] for m in (found, motions)]
    errors = [x for one in (mm, degrees) for x in (one.mean(), np.percentile(one, 95))]
    figures = [f"{x:.4f}" for x in (*errors, np.abs(fd[0] - fd[1]).mean())]
    figures += [f"{x:.1f}" for x in (seconds, busy, len(found) / seconds)]
    return f"| {name} | {' | '.join(figures)} |"


def main(words: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench motion", description=__doc__)
    add_data(parser)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 64, 36))
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--tsnr", type=float, default=75.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(11,))
    parser.add_argument("--ants", action="store_true", help="ANTsPy too, which takes seconds for each volume")
    options = parser.parse_args(words)
    check_data(options.data)
    print(f"| | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    for seed in options.seeds:
        image, motions, head = simulate(options.data / EPI, options.size, options.volumes, seed, options.tsnr)
        middle = options.volumes // 2
        true = motions @ np.linalg.inv(motions[middle])
        ways: dict[str, Callable[[], np.ndarray]] = {
            "fastreg.motion, mean": partial(by_fastreg, image, "mean"),
            "fastreg.motion, middle": partial(by_fastreg, image, "middle"),
            "command, .nii.gz to .nii.gz, mean": partial(by_command, image),
        }
        if options.ants:
            ways["ANTsPy, middle"] = partial(by_ants, image, middle)
        for name, way in ways.items():
            before = os.times()
            found = way()
            taken = np.subtract(os.times(), before)
            print(row(f"{name}, seed {seed}", found, true, head.centre, taken[4], taken[:4].sum()), flush=True)
    return 0
