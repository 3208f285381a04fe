"""From a configuration to what a run needs: cohorts, working grid, pairs, network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from fastreg.data.cohorts import Cohort, Subject, read_cohort
from fastreg.data.datasets import LabelMaps, Pairs, Volumes
from fastreg.data.pairs import read_subject_pairs
from fastreg.data.synthesis import Recipe, SyntheticPairs
from fastreg.evaluation.metrics import labels_of
from fastreg.geometry.grid import Grid, spacing_of, working_grid
from fastreg.io.images import load_image
from fastreg.io.labels import read_structures
from fastreg.training.config import SYNTHETIC, TrainConfig
from fastreg.training.options import resolved
from fastreg.utils.files import InputError, check_exists


def validation_subjects(pairs: list[tuple[Subject, Subject]]) -> list[Subject]:
    """Everybody who takes part."""
    return list({subject.id: subject for pair in pairs for subject in pair}.values())


def grid_of(working: dict[str, Any]) -> dict[str, Any]:
    """What the weights depend on; the rest says how they are used."""
    return {name: value for name, value in working.items() if name not in ("passes", "align")}


def network_options(config: TrainConfig) -> dict[str, Any]:
    """The arguments of `RegistrationNet` besides the architecture and the axes."""
    return {
        "width": config.width,
        "half": config.half,
        "diffeomorphic": config.diffeomorphic,
        "steps": config.int_steps,
        "downsize": config.int_downsize,
        "uncertainty": config.uncertainty,
        "region": config.region_weight > 0,
        "channels_last": config.channels_last,
        "amp": config.amp,
    }


def validation_pairs(config: TrainConfig) -> list[tuple[Subject, Subject]]:
    """The pairs (moving, fixed) that a run validates on."""
    return find_cohorts(resolved(config))[1]


def find_cohorts(config: TrainConfig) -> tuple[Cohort, list[tuple[Subject, Subject]], Subject | None]:
    """Training cohort, validation pairs and atlas."""
    if config.images == SYNTHETIC:  # label maps stand in for the images, which are made of them
        cohort = Cohort(())
        if config.labels is not None:
            maps = read_cohort(config.labels).subjects
            cohort = Cohort(tuple(replace(subject, label=subject.image) for subject in maps))
    else:
        cohort = read_cohort(config.images, config.labels, config.img_prefix, config.img_suffix, config.masks)
    atlas = None
    if config.atlas is not None:
        labels = check_exists(config.atlas_labels, "atlas labels") if config.atlas_labels else None
        atlas = Subject("atlas", check_exists(config.atlas, "atlas"), labels)
    chosen = Cohort(())
    if config.val is not None:
        ids = {word.strip() for word in config.val.split(",")}
        if ids <= {s.id for s in cohort.subjects} and config.images != SYNTHETIC:
            cohort, chosen = cohort.split(ids)
        else:
            chosen = _validation_cohort(config, ids, cohort)
    pairs = cohort.pairs
    if config.pairs is not None:
        pairs = read_subject_pairs(config.pairs, cohort)
    if config.unlabelled is not None:
        if pairs:
            raise InputError(f"unlabelled {config.unlabelled}: the pairs to train on are given, none has these")
        cohort = cohort.joined(read_cohort(config.unlabelled, None, config.img_prefix, config.img_suffix))
    return Cohort(cohort.subjects, pairs), _validation_pairs(chosen, atlas, config.val_pairs), atlas


def pick_grid(
    config: TrainConfig, training: Cohort, validation: list[tuple[Subject, Subject]], atlas: Subject | None
) -> Grid:
    """The working grid: that of the atlas, the first fixed image or the first subject, or of --shape alone."""
    reference = atlas or (training.pairs[0][1] if training.pairs else next(iter(training.subjects), None))
    if reference is None and validation:
        reference = validation[0][1]
    if reference is not None:
        free = config.images == SYNTHETIC and not training.subjects  # the pairs need no grid of the images'
        image = load_image(reference.image)
        if config.shape is not None and len(config.shape) != image.ndim:
            raise InputError(f"shape: expected {image.ndim} numbers for image {reference.image}, got {config.shape}")
        return working_grid(image, spacing_of(image, config.spacing, config.voxels), None if free else config.shape)
    assert config.shape is not None
    spacing = config.spacing or 1.0
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[: len(config.shape), 3] = [-spacing * (length - 1) / 2 for length in config.shape]
    return Grid(tuple(config.shape), affine)


def build_pairs(
    config: TrainConfig, volumes: Volumes, training: Cohort, atlas: Subject | None
) -> Dataset[dict[str, Tensor]]:
    """What the training draws from."""
    subjects = [*training.subjects, *([atlas] if atlas else [])]
    if config.images == SYNTHETIC:
        recipe = Recipe(
            labels=config.synth_labels,
            pair_warp=config.synth_warp,
            shape_scale=config.synth_shapes,
            warp_scale=config.synth_bends,
        )
        maps = LabelMaps(volumes, training.subjects, _present(volumes, subjects)) if training.subjects else None
        shape = volumes.grid.shape if maps or config.shape is None else config.shape
        return SyntheticPairs(shape, recipe, config.seed, maps, flows=config.field_weight > 0)
    return Pairs(
        volumes,
        training.subjects,
        atlas=atlas,
        pairs=training.pairs,
        seed=config.seed,
        flip=config.flip,
        structures=_structures(config, volumes, subjects),
        masked=any(subject.mask is not None for subject in training.subjects),
    )


def _present(volumes: Volumes, subjects: list[Subject]) -> tuple[tuple[int, ...], ...]:
    """Every label of the subjects, each a structure."""
    found = {label for s in subjects if s.label is not None for label in labels_of(volumes.labels(s))}
    return tuple((label,) for label in sorted(found))


def _structures(config: TrainConfig, volumes: Volumes, subjects: list[Subject]) -> tuple[tuple[int, ...], ...]:
    """The structures of the auxiliary loss; none without it."""
    if not config.seg_weight:
        return ()
    labelled = [subject for subject in subjects if subject.label is not None]
    if len(labelled) < 2:
        raise InputError(f"seg_weight: needs --labels, {len(labelled)} of {len(subjects)} subjects have a label map")
    chosen = read_structures(config.seg_labels, "seg labels")
    present = _present(volumes, labelled)
    if chosen is None:
        return present
    wanted = tuple(chosen.values())
    if not any((label,) in present for group in wanted for label in group):
        raise InputError(f"seg labels {config.seg_labels}: no label map of the training holds any of them")
    return wanted


def _validation_cohort(config: TrainConfig, ids: set[str], cohort: Cohort) -> Cohort:
    assert config.val is not None
    try:
        return read_cohort(config.val, config.val_labels, config.img_prefix, config.img_suffix)
    except InputError as error:
        unknown = sorted(ids - {s.id for s in cohort.subjects})
        raise InputError(f"val {config.val}: neither a cohort nor ids of this one ({unknown[0]!r} is not)") from error


def _validation_pairs(cohort: Cohort, atlas: Subject | None, most: int) -> list[tuple[Subject, Subject]]:
    """Each subject to the atlas, or to the others, the nearest in the list first."""
    subjects = cohort.subjects
    if cohort.pairs:
        return list(cohort.pairs)[:most]
    if atlas is not None:
        return [(subject, atlas) for subject in subjects][:most]
    gaps = range(1, len(subjects))
    return [(subjects[k], subjects[(k + gap) % len(subjects)]) for gap in gaps for k in range(len(subjects))][:most]
