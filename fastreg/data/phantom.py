"""A cohort whose true deformations are known: the MNI152 template, warped, re-shaded and noised by a seed.

Subject s is ``template(p + to_template(p))`` with ``to_template = exp(v)`` of a smooth random velocity v, so that
``exp(-v)`` is the way back and the truth between any two subjects is a composition. The template is the one that
nilearn carries (ICBM 152 nonlinear 2009, skull-stripped); nothing is downloaded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastreg.geometry.fields import compose
from fastreg.ops.integrate import integrate
from fastreg.ops.warp import warp
from fastreg.utils.files import InputError

SHAPE = (64, 80, 64)
"""The cohort's grid, along right, anterior, superior; every axis divides by 16."""
VOXEL_MM = 2.75
CENTRE_MM = (0.0, -17.0, 5.0)
"""Of the grid, in MNI coordinates: the middle of the brain."""
AFFINE = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
AFFINE[:3, 3] = [c - VOXEL_MM * (n - 1) / 2 for c, n in zip(CENTRE_MM, SHAPE, strict=True)]

STRUCTURES = {
    1: "left cortex",
    2: "right cortex",
    3: "left white matter",
    4: "right white matter",
    5: "left deep grey matter",
    6: "right deep grey matter",
    7: "left lateral ventricle",
    8: "right lateral ventricle",
    9: "left cerebellum",
    10: "right cerebellum",
    11: "brainstem",
}
"""Label -> name. Tissue from the template's probability maps, regions by MNI coordinates: for scoring, not anatomy."""

SCALES = ((30.0, 3.2), (12.0, 1.4))
"""Of the random velocity: (distance between control points, standard deviation of each component), both in mm."""


@dataclass(frozen=True)
class Subject:
    """One member of the cohort. Its grid is SHAPE with AFFINE."""

    image: np.ndarray[Any, Any]
    """[D, H, W], float32 in about [0, 1], zero outside the brain."""
    labels: np.ndarray[Any, Any]
    """[D, H, W], int16, keys of STRUCTURES or 0."""
    to_template: np.ndarray[Any, Any]
    """[3, D, H, W], voxels: the subject is the template at p + to_template(p)."""
    from_template: np.ndarray[Any, Any]
    """[3, D, H, W], voxels: the inverse."""


def subject(seed: int) -> Subject:
    """The subject that belongs to `seed`, always the same.

    Raises:
        InputError: nilearn or scipy is not installed.
    """
    image, labels = _template()
    rng = np.random.default_rng(seed)
    noise = sum(sd * _smooth(rng, 3, distance) for distance, sd in SCALES) / VOXEL_MM
    velocity = torch.from_numpy(noise * _inside())[None].float()
    flow, inverse = integrate(velocity), integrate(-velocity)
    codes = torch.arange(len(STRUCTURES) + 1).reshape(-1, 1, 1, 1)
    soft = warp((torch.from_numpy(labels) == codes)[None].float(), flow)
    moved = warp(torch.from_numpy(image)[None, None], flow)[0, 0].numpy()
    return Subject(_shade(moved, rng), soft[0].argmax(0).numpy().astype(np.int16), flow[0].numpy(), inverse[0].numpy())


def true_displacement(fixed: Subject, moving: Subject) -> np.ndarray[Any, Any]:
    """[3, D, H, W], voxels: warping `moving` by it gives the anatomy of `fixed`.

    First to the template by the fixed subject's field, then from there to the moving subject. Moved by nearest voxel,
    the labels reach a Dice of about 0.89 with it, and no more: both maps are sampled at VOXEL_MM.
    """
    outer, inner = (torch.from_numpy(field)[None] for field in (moving.from_template, fixed.to_template))
    return compose(outer, inner)[0].numpy()


def _shade(image: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Another scanner: gamma, a smooth bias field, noise; the background stays zero."""
    brain = image > 0.05
    bias = np.exp(0.12 * _smooth(rng, 1, 40.0)[0])
    shaded = image ** rng.uniform(0.8, 1.25) * bias * rng.uniform(0.85, 1.15)
    noise = 0.02 * rng.standard_normal(SHAPE)
    return np.where(brain, (shaded + noise).clip(0), 0).astype(np.float32)


def _smooth(rng: np.random.Generator, channels: int, distance_mm: float) -> np.ndarray[Any, Any]:
    """[channels, *SHAPE] of unit variance: white noise on control points that far apart, under Gaussians as wide."""
    distance = distance_mm / VOXEL_MM
    bases = []
    for length in SHAPE:
        points = np.arange(-2 * distance, length + 2 * distance, distance)
        basis = np.exp(-0.5 * ((np.arange(length)[:, None] - points) / distance) ** 2)
        bases.append(basis / np.linalg.norm(basis, axis=1, keepdims=True))
    noise = rng.standard_normal((channels, *(basis.shape[1] for basis in bases)))
    return np.einsum("cijk,xi,yj,zk->cxyz", noise, *bases, optimize=True)


@functools.cache
def _inside() -> np.ndarray[Any, Any]:
    """1 in the middle, falling to 0 at the grid's border, so that the deformations keep the grid."""
    ramps = []
    for length in SHAPE:
        t = np.minimum(np.arange(length), np.arange(length)[::-1]).clip(max=6) / 6
        ramps.append(t * t * (3 - 2 * t))
    return np.einsum("x,y,z->xyz", *ramps)


@functools.cache
def _template() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The template on the cohort's grid, and its structures."""
    try:
        from nilearn import datasets
        from scipy.ndimage import affine_transform, gaussian_filter
    except ImportError as error:
        raise InputError("the demo's cohort needs nilearn and scipy: pip install 'fastreg[demo]'") from error
    grids = []
    for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template):
        source = load(resolution=1)
        blurred = gaussian_filter(np.asarray(source.dataobj, dtype=np.float32), VOXEL_MM / 2.5, truncate=2.5)
        to_source = np.linalg.inv(source.affine) @ AFFINE
        grids.append(affine_transform(blurred, to_source[:3, :3], to_source[:3, 3], output_shape=SHAPE, order=1))
    image, grey, white = grids
    return image / np.float32(image.max()), _structures(image, grey, white)


def _structures(
    image: np.ndarray[Any, Any], grey: np.ndarray[Any, Any], white: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    x, y, z = (
        (AFFINE[k, 3] + VOXEL_MM * np.arange(SHAPE[k])).reshape([-1 if k == axis else 1 for axis in range(3)])
        for k in range(3)
    )
    lateral = abs(x)
    tissue = grey + white >= 0.5
    fluid = (image > 0.05) & ~tissue
    posterior = y < -34 + 0.3 * (z + 10)
    below_tentorium = z < -10 + 0.25 * (y + 50) - 0.35 * lateral
    thalamus = ((lateral - 11) / 10) ** 2 + ((y + 18) / 14) ** 2 + ((z - 6) / 11) ** 2 < 1
    nuclei = (lateral < 33) & (y > -32) & (y < 18) & (z > -9) & (z < 22) & (grey > white)
    ventricle = (lateral < 29) & (y > -52) & (y < 32) & (z > -4) & (z < 28) & ((y > -32) | (lateral > 10))
    labels = np.zeros(SHAPE, dtype=np.int16)
    # The first rule that holds wins.
    for label, where in reversed(
        [
            (7, fluid & ventricle),
            (11, tissue & (lateral < 15) & (z < -8) & (y < -8) & ~posterior),
            (9, tissue & below_tentorium & (y < -34)),
            (5, tissue & (thalamus | nuclei)),
            (3, tissue & (white > grey)),
            (1, tissue),
        ]
    ):
        labels[where] = label
    right = (x > 0) & (labels > 0) & (labels != 11)
    return labels + right.astype(np.int16)
