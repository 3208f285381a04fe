"""Registration of two images, top to bottom: read, align, network, optimisation, warp on the fixed grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastreg.geometry import fields
from fastreg.geometry.grid import Grid, spacing_of, working_grid
from fastreg.geometry.image import Image, named
from fastreg.geometry.resample import reorient
from fastreg.geometry.transforms import Affine
from fastreg.nn import checkpoint
from fastreg.nn.cascade import cascade
from fastreg.nn.checkpoint import TrainedModel, WorkingSpace
from fastreg.registration.budget import Deadline, check_memory
from fastreg.registration.channels import Channel, Guides, read_channels
from fastreg.registration.contrast import Choice, candidates
from fastreg.registration.deformable import deform
from fastreg.registration.discrete import discrete_start, start_if_worth_it
from fastreg.registration.guarded import guarded
from fastreg.registration.image_grid import between_grids, inverse_on_image_grid, on_image_grid, without_folds
from fastreg.registration.inputs import differ_by_noise_alone
from fastreg.registration.landmarks import left_mm
from fastreg.registration.linear.align import KINDS, find_alignment
from fastreg.registration.quality import field_figures
from fastreg.registration.result import RegistrationResult
from fastreg.registration.stages import REGULARITIES, STAGES, Stage
from fastreg.registration.start import Init, Start, starting_point
from fastreg.registration.terms import Term
from fastreg.registration.verdict import judge, of_field
from fastreg.types import RegistrationOutput
from fastreg.utils.devices import pick_device
from fastreg.utils.files import InputError


def register(
    fixed: Any,
    moving: Any,
    *,
    model: str | Path | TrainedModel | None = None,
    transform: str = "deformable",
    affine: bool | None = None,
    init: Init = "auto",
    refine: int | None = None,
    stages: Sequence[Stage] | None = None,
    metric: str | Sequence[str] = "auto",
    weights: Sequence[float] | None = None,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    labels_weight: float = 0.0,
    landmarks_weight: float = 0.0,
    regularity: str = "default",
    smoothness: float | None = None,
    volume: float | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    device: str | torch.device | None = None,
    inverse: bool = False,
    bidir: bool = False,
    discrete: bool | None = False,
    background: float | None = None,
    channel: str | int | None = None,
    deadline: Deadline | None = None,
    on_progress: Callable[[str, float], None] = lambda what, seconds: None,
) -> RegistrationResult:
    """Registers `moving` to `fixed`: linear alignment, then a network, an optimisation, or one after the other.

    The images may differ in size, orientation and spacing; they start where their headers place them.

    Args:
        fixed: What `fastreg.io.images.load_image` takes: a path, an image of nibabel, SimpleITK, ...; or a tensor. A
            list of them for several channels, such as T1 and T2: the first gives the grid.
        moving: Likewise, as many.
        model: A checkpoint of `fastreg train`, what `fastreg.nn.checkpoint.load` gave, or "general", the network that
            comes with fastreg. None: by optimisation.
        transform: Where to stop: "translation", "rigid", "similarity", "affine" or "deformable".
        affine: Align linearly first; if None, only without a model (networks are trained on aligned images) and with
            one that was trained on no images.
        init: Start of the linear alignment: "auto" (any shift, turns of 30 degrees), "search" (turned to any side and
            scaled, too), "header", "mass" or "centre"; or where to start from: a file or transforms from fixed to
            moving, as `fastreg.io.transforms.load_transforms` reads them. Linear ones are where the alignment starts,
            or are used as they are without one; a warp stands in its place, and the optimisation goes on from it. Or
            `fastreg.registration.landmarks.Landmarks`, two files of points.
        refine: Iterations of optimisation on the network's grid after it; without a model, on the image's in place of
            the pyramid.
        stages: The pyramid of the optimisation, `fastreg.registration.deformable.Stage`s from coarse to fine; with a
            model it goes on from what the network found, on the image's own grid. None: `STAGES`, and none with a
            model.
        metric: "auto": what suits the images, see `fastreg.registration.contrast`; or "lncc" (local correlation),
            "mse", between contrasts "mind" (descriptors) or "mi" (mutual information). One for all channels, or a list.
        weights: Of the channels, above 0; equal if None.
        fixed_labels: A label map in the fixed image's space that leads the deformation, with `moving_labels`.
        moving_labels: Likewise of the moving image; labels that both have count.
        labels_weight: Of the label maps' mean soft Dice against the images' similarity; 0 leaves them out.
        landmarks_weight: Of the distance between the landmarks of `init`; 0: they are a start alone.
        regularity: "close", "default" or "smooth": how far the optimisation may bend space for the images' sake.
        smoothness: Weight of the field's roughness in place of the regularity's.
        volume: Likewise of its mean squared log Jacobian determinant.
        fixed_mask: Where the fixed image counts: as `fixed`, on any grid.
        moving_mask: Likewise of the moving image.
        device: Where it is computed; a GPU if there is one.
        inverse: Also find the inverse warp.
        bidir: The optimisation compares the images on both grids, by the warp and by its inverse, which is kept.
        discrete: Start the optimisation from an exhaustive search over displacements of up to 16 voxels along each
            axis, for motion that the pyramid does not bridge; None: where the coarsest level gains from it by more than
            chance.
        background: What lies outside the moving image in the moved one; None: 0, or the moving image's minimum where
            that is below 0, as the air of a CT is.
        channel: Of colours, or of a series: as in `load_image`, which leaves grey images as they are.
        deadline: When the optimisation is to end with what it has, so that all is done in time; see
            `fastreg.registration.budget.Deadline.after`.
        on_progress: Called with what was done and its seconds after each stage.

    Raises:
        InputError: a file or option that cannot be used, or images of another number of axes than the network's.
    """
    if transform not in (*KINDS, "deformable"):
        raise InputError(f"transform: expected one of {', '.join(KINDS)}, deformable, got {transform}")
    if regularity not in REGULARITIES:
        raise InputError(f"regularity: expected one of {', '.join(REGULARITIES)}, got {regularity}")
    for name, weight in (("smoothness", smoothness), ("volume", volume)):
        if weight is not None and not 0 <= weight < math.inf:
            raise InputError(f"{name}: expected a number of at least 0, got {weight}")
    if background is not None and not math.isfinite(background):
        raise InputError(f"background: expected a finite number, got {background}")
    inverse = inverse or (bidir and transform == "deformable")
    clock = _Clock(on_progress)
    device = pick_device(device)
    if isinstance(model, str | Path):
        model = checkpoint.load(model, device)
    ndim = None if model is None else model.net.config.ndim
    channels = read_channels(fixed, moving, fixed_mask, moving_mask, metric, weights, ndim=ndim, channel=channel)
    fixed_image, moving_image, masks = channels[0].fixed, channels[0].moving, channels[0].masks
    labels = None if fixed_labels is None or moving_labels is None else (fixed_labels, moving_labels)
    given = starting_point(init, fixed_image, moving_image, transform)
    guides = Guides.read(labels, given.landmarks, (labels_weight, landmarks_weight), fixed_image.ndim)
    clock.lap("read")

    world, stayed = given.world or Affine(np.eye(4)), False
    if affine is None:
        affine = given.warp is None and (model is None or model.working.align)
    if given.warp is not None:
        given.check(affine, model is not None)
    elif affine and init == "auto" and differ_by_noise_alone(fixed_image, moving_image):
        clock.lap("affine")
    elif affine:
        kind = "affine" if transform == "deformable" else transform
        alignment = find_alignment(
            fixed_image,
            moving_image,
            kind=kind,
            metric=_LINEAR.get(channels[0].metric, "auto"),
            fixed_mask=masks[0],
            moving_mask=masks[1],
            others=[(c.fixed, c.moving, *c.masks, c.weight / channels[0].weight) for c in channels[1:]],
            init=given.world or str(init),
            sparing=transform == "deformable",
            device=device,
        )
        world, stayed = alignment.world, alignment.kept_start
        clock.lap("affine")
    optimised = False
    log: dict[str, Any] = {"device": str(device), "transform": transform, "affine_kept_start": stayed}
    if given.landmarks is not None and given.world is not None:
        log["landmarks_left_mm"] = round(left_mm(given.world, *given.landmarks), 4)
    if transform != "deformable":
        grid = Grid(fixed_image.shape, fixed_image.affine)
        zero = torch.zeros(1, fixed_image.ndim, *grid.shape)
        found = RegistrationOutput(zero[:, :1], zero, inverse_flow=zero if inverse else None)
    else:
        own = None if model is None else _network_grid(fixed_image, model.working)
        grid = _isotropic_grid(fixed_image) if own is None or stages else own
        if refine is not None:
            stages = (Stage(1, refine),) if refine else ()
        elif stages is None:
            stages = STAGES if model is None else ()
        check_memory(grid.shape, moving_image.shape, stages, inverse)
        if deadline is not None:
            deadline.reserve(2 * clock.laps["read_seconds"] + _AFTER * math.prod(grid.shape))
        held = {"regularity": regularity, "smoothness": smoothness, "volume": volume}
        plain = own is not grid and smoothness is None and volume is None
        how = _How(plain, own, tuple(stages), bidir, discrete, {**held, "deadline": deadline}, given, guides)
        found = _deformable(grid, channels, world, model, how, device, inverse, clock)
        optimised = bool(stages)
        log |= {"metric": metric, "metric_because": how.chosen.reason, "stiffness": how.chosen.stiffness}
        log |= {"network": model.net.config.name if model else None, "working_shape": list(grid.shape)}
    warp = on_image_grid(found.flow.cpu(), grid, fixed_image, moving_image, world)
    if optimised and grid.shape != fixed_image.shape:
        warp = without_folds(warp)
    inverse_warp = None
    if found.inverse_flow is not None:
        inverse_warp = inverse_on_image_grid(found.inverse_flow.cpu(), grid, moving_image, fixed_image, world)
    clock.lap("warp")
    metric = channels[0].metric if transform != "deformable" else how.chosen.metric
    verdict = judge(fixed_image, moving_image, warp, given.world or Affine(np.eye(4)), metric, masks, world)
    figures = field_figures(warp, inverse_warp)
    suspect = verdict.suspect or of_field(figures, math.prod(fixed_image.shape))
    clock.lap("judge")
    log |= {"suspect": suspect, "measure": verdict.measure, "measure_before": round(verdict.before, 4)}
    log |= {"measure_after": round(verdict.after, 4), "overlap": round(verdict.overlap, 4), **figures}
    result = RegistrationResult(fixed_image, moving_image, warp, inverse_warp, world, suspect, background)
    result.log = {**log, **clock.laps}
    return result


_AFTER = 6e-7
"""Seconds a voxel that the warp, the verdict and the files take after the optimisation."""


_LINEAR = {"mi": "mi", "mse": "mse"}
"""Metric of the deformation -> of the alignment before it, where that is not found by several."""


@dataclass
class _How:
    """The optimisation that was asked for, and what the images made of it."""

    plain: bool
    """Nobody has said how stiff the field is: with one pair of images and no metric, both are tried first."""
    own: Grid | None
    """The network's grid."""
    stages: tuple[Stage, ...]
    bidir: bool
    discrete: bool | None
    weights: dict[str, Any]
    given: Start
    guides: Guides
    chosen: Choice = field(default_factory=lambda: Choice("none"))


def _deformable(
    grid: Grid,
    channels: Sequence[Channel],
    world: Affine,
    model: TrainedModel | None,
    how: _How,
    device: torch.device,
    inverse: bool,
    clock: _Clock,
) -> RegistrationOutput:
    """The flow on the working grid: the network's, and what the optimisation makes of it."""
    first, ndim = channels[0], channels[0].fixed.ndim
    scale, own = ("percentile", grid) if model is None or how.own is None else (model.working.normalise, how.own)
    fixed, moving = (image.to(device) for image in first.working(own, scale, world))
    clock.lap("prepare")
    found = None
    if model is not None:
        net = model.net.to(device).eval()
        with torch.inference_mode():
            found = cascade(net, moving, fixed, model.working.passes, inverse)
        clock.lap("network")
    if own is not grid:
        assert found is not None
        fixed, moving = (image.to(device) for image in first.working(grid, "percentile", world))
        found = RegistrationOutput(moving, between_grids(found.flow, own, grid))
        clock.lap("prepare")
    if not how.stages:
        if found is None:
            start = how.given.flow_on(grid, device)
            start = torch.zeros(1, ndim, *grid.shape) if start is None else start
            found = RegistrationOutput(moving, start, inverse_flow=fields.invert(start) if inverse else None)
        return found
    if moving.max() == moving.min():
        name = named("fixed image", first.fixed.path)
        raise InputError(f"moving image: nothing of it lies in the {name}; check the headers")
    counted = first.counted(grid, world, device)
    guides = how.guides.label_term(grid, world, device), how.guides.point_term(grid, world, ndim)
    others = [_term(channel, grid, scale, world, device) for channel in channels[1:]]
    terms = [*others, *([] if guides[0] is None else [guides[0]])]
    given = {
        "stages": how.stages, "mask": counted[0], "moving_mask": counted[1], "inverse": inverse, "bidir": how.bidir,
        "on_progress": lambda p: clock.lap(f"level_{p.factor}"), **how.weights,
    }  # fmt: skip
    start = how.given.flow_on(grid, device) if found is None else found.flow.clone()
    if start is None and how.discrete is not False:
        start = (discrete_start if how.discrete else start_if_worth_it)(fixed, moving, *counted)
        clock.lap("discrete")
    if len(channels) > 1 or any(guide is not None for guide in guides):
        how.chosen = Choice(first.chosen(world))
        return deform(
            fixed, moving, flow=start, metric=how.chosen.metric, weight=first.weight, terms=terms, points=guides[1],
            **given,
        )  # fmt: skip
    auto = first.metric == "auto"
    metrics = candidates(first.fixed, first.moving, world, first.masks) if auto else (first.metric,)
    if how.plain and auto:
        output, how.chosen = guarded(fixed, moving, metrics, flow=start, **given)
        return output
    how.chosen = Choice(metrics[0])
    return deform(fixed, moving, flow=start, metric=metrics[0], **given)


def _term(channel: Channel, grid: Grid, scale: str, world: Affine, device: torch.device) -> Term:
    """A further channel on the working grid."""
    fixed, moving = (image.to(device) for image in channel.working(grid, scale, world))
    return Term(fixed, moving, channel.chosen(world), channel.weight, *channel.counted(grid, world, device))


class _Clock:
    """Seconds of each stage."""

    def __init__(self, on_progress: Callable[[str, float], None]) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()
        self.on_progress = on_progress

    def lap(self, name: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        key = f"{name}_seconds"
        self.laps[key] = self.laps.get(key, 0.0) + now - self.last  # a level may come twice
        self.on_progress(name, now - self.last)
        self.last = now


def _network_grid(fixed: Image, working: WorkingSpace) -> Grid:
    """The fixed image's extent, in the orientation and as fine as the network has it."""
    turned = reorient(fixed, working.orientation) if fixed.ndim == 3 else fixed
    return working_grid(turned, spacing_of(turned, working.spacing_mm, working.voxels))


def _isotropic_grid(fixed: Image) -> Grid:
    """The fixed image's own grid, or, if its voxels are far from cubes, one of cubes of the same volume."""
    spacing = np.asarray(fixed.spacing_mm)
    if spacing.max() <= 1.25 * spacing.min():
        return Grid(fixed.shape, fixed.affine)
    return working_grid(fixed, float(np.prod(spacing) ** (1 / len(spacing))))
