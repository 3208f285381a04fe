"""A template of a cohort: the average image at the average shape, in rounds of registering everybody to it.

Each round registers all images to the template, averages the moved ones, and pulls the average to the mean of the
shapes by undoing the mean displacement (Avants et al. 2004, "Geodesic estimation for large deformation anatomical
shape averaging"; Joshi et al. 2004). The mean displacement holds the linear parts too, so the first image, where the
template starts, leaves no mark on size or place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastreg.data.cohorts import Subject
from fastreg.data.intensity import normalised
from fastreg.geometry import fields
from fastreg.geometry.grid import on_grid, working_grid
from fastreg.geometry.image import Image
from fastreg.geometry.resample import sample
from fastreg.io.images import load_image, load_labels
from fastreg.nn.checkpoint import load
from fastreg.ops.warp import warp
from fastreg.registration.pairwise import register
from fastreg.utils.files import InputError

FOREGROUND = 0.05
"""Mean intensity, of 0 to 1, above which a voxel counts as part of the template."""


@dataclass(frozen=True)
class Round:
    """What a round changed."""

    number: int
    drift_mm: float
    """Mean length of the mean displacement over the foreground: how far the template was from the mean shape. It does
    not reach 0, for where the images are flat nothing says how they correspond."""
    change: float
    """Root mean square difference from the template before, intensities being 0 to 1."""
    spread: float
    """Mean over voxels of the standard deviation of the moved images: how far they are from each other."""


@dataclass(frozen=True)
class Template:
    """The result."""

    image: Image
    """Float32, 0 to 1."""
    labels: Image | None
    """The label that most of the subjects have there, if all of them have label maps."""
    rounds: tuple[Round, ...]


def build_template(
    subjects: Sequence[Subject],
    *,
    rounds: int = 4,
    spacing_mm: float | None = None,
    affine: bool | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[Round], None] = lambda row: None,
    **options: Any,
) -> Template:
    """Builds a template of at least two images.

    Args:
        subjects: The cohort; images of one contrast.
        rounds: Times that everybody is registered.
        spacing_mm: Of the template; the first image's own if None. Its grid is the first image's.
        affine: Align each image linearly first. Without it the images lie as their headers place them. None: only with
            a model that was trained on no images.
        on_progress: Called after each registration with how many are done of all.
        finished: Called after each round.
        options: Further arguments of `fastreg.register`: model, refine, stages, metric, smoothness, device.

    Raises:
        InputError: too few images, or what `fastreg.register` finds at fault.
    """
    if len(subjects) < 2:
        raise InputError(f"template: expected at least 2 images, got {len(subjects)}")
    if rounds < 1:
        raise InputError(f"rounds: expected at least 1, got {rounds}")
    if isinstance(options.get("model"), str | bytes) or hasattr(options.get("model"), "__fspath__"):
        options["model"] = load(options["model"])  # once for all registrations
    if affine is None:
        affine = options.get("model") is not None and options["model"].working.align
    template = _start(subjects, spacing_mm, affine)
    log: list[Round] = []
    vote = None
    for number in range(1, rounds + 1):
        shape = template.shape
        total, square = np.zeros(shape), np.zeros(shape)
        displacement = torch.zeros(1, len(shape), *shape)
        ballots: list[np.ndarray] = []
        for k, subject in enumerate(subjects, 1):
            found = register(template, subject.image, affine=affine, **options)
            moved = found.apply(_scaled(found.moving)).data
            total += moved
            square += moved.astype(np.float64) ** 2
            displacement += found.warp.onto(template.affine, shape).tensor() / len(subjects)
            if number == rounds and all(s.label is not None for s in subjects):
                ballots.append(found.apply(load_labels(subject.label), "nearest").data)
            on_progress((number - 1) * len(subjects) + k, rounds * len(subjects))
        mean = total / len(subjects)
        spread = np.sqrt((square / len(subjects) - mean**2).clip(min=0)).mean()
        back = fields.invert(displacement)
        moved_mean = torch.from_numpy(mean.astype(np.float32))[None, None]
        new = Image(warp(moved_mean, back, padding="border")[0, 0].numpy(), template.affine)
        axes = torch.from_numpy(template.affine[:3, : len(shape)]).float()
        length = torch.einsum("rc,bc...->br...", axes, displacement).norm(dim=1)
        drift = length[moved_mean[:, 0] > FOREGROUND].mean()
        change = np.sqrt(np.mean((new.data - template.data) ** 2))
        log.append(Round(number, float(drift), float(change), float(spread)))
        finished(log[-1])
        template = new
        if ballots:
            vote = Image(sample(Image(_majority(ballots), template.affine), back, "nearest"), template.affine)
    return Template(template, vote, tuple(log))


def _start(subjects: Sequence[Subject], spacing_mm: float | None, affine: bool) -> Image:
    """The mean of the images where they are, or, if they are yet to be aligned, the first of them."""
    first = load_image(subjects[0].image)
    grid = working_grid(first, spacing_mm)
    chosen = subjects[:1] if affine else subjects
    data = np.zeros(grid.shape)
    for subject in chosen:
        image = load_image(subject.image)
        if image.ndim != len(grid.shape):
            raise InputError(f"image {subject.image}: expected {len(grid.shape)}-D like the first, got {image.ndim}-D")
        data += on_grid(_scaled(image), grid)
    return Image((data / len(chosen)).astype(np.float32), grid.affine)


def _scaled(image: Image) -> Image:
    return Image(normalised(image.data, "percentile"), image.affine, image.path)


def _majority(maps: Sequence[np.ndarray]) -> np.ndarray:
    """At each voxel the label of most maps; of equals the smallest."""
    best, most = np.zeros_like(maps[0]), np.zeros(maps[0].shape, np.int32)
    for label in np.unique(np.concatenate([np.unique(labels) for labels in maps])):
        count = np.zeros_like(most)
        for labels in maps:
            count += labels == label
        best, most = np.where(count > most, label, best), np.maximum(count, most)
    return best
