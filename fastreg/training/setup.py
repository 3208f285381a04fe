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
from fastreg.training.config import SYNTHETIC, DataConfig, LossConfig, ModelConfig, TrainConfig
from fastreg.training.options import resolved
from fastreg.training.teacher import Teacher
from fastreg.utils.files import InputError, check_exists


def validation_subjects(pairs: list[tuple[Subject, Subject]]) -> list[Subject]:
    """Everybody who takes part."""
    return list({subject.id: subject for pair in pairs for subject in pair}.values())


def network_options(model: ModelConfig, region: bool) -> dict[str, Any]:
    """The arguments of `RegistrationNet` besides the architecture and the axes; `region`: it predicts one."""
    return {
        "width": model.width,
        "half": model.half,
        "diffeomorphic": model.diffeomorphic,
        "steps": model.int_steps,
        "downsize": model.int_downsize,
        "uncertainty": model.uncertainty,
        "region": region,
        "descriptors": model.descriptors,
        "channels_last": model.channels_last,
        "amp": model.amp,
        "save_memory": model.save_memory,
    }


def validation_pairs(config: TrainConfig) -> list[tuple[Subject, Subject]]:
    """The pairs (moving, fixed) that a run validates on."""
    return find_cohorts(resolved(config).data)[1]


def find_cohorts(data: DataConfig) -> tuple[Cohort, list[tuple[Subject, Subject]], Subject | None]:
    """Training cohort, validation pairs and atlas."""
    if data.images == SYNTHETIC:  # label maps stand in for the images, which are made of them
        cohort = Cohort(())
        if data.labels is not None:
            maps = read_cohort(data.labels).subjects
            cohort = Cohort(tuple(replace(subject, label=subject.image) for subject in maps))
    else:
        cohort = read_cohort(data.images, data.labels, data.img_prefix, data.img_suffix, data.masks)
    atlas = None
    if data.atlas is not None:
        labels = check_exists(data.atlas_labels, "atlas labels") if data.atlas_labels else None
        atlas = Subject("atlas", check_exists(data.atlas, "atlas"), labels)
    chosen = Cohort(())
    if data.val is not None:
        ids = {word.strip() for word in data.val.split(",")}
        if ids <= {s.id for s in cohort.subjects} and data.images != SYNTHETIC:
            cohort, chosen = cohort.split(ids)
        else:
            chosen = _validation_cohort(data, ids, cohort)
    pairs = cohort.pairs
    if data.pairs is not None:
        pairs = read_subject_pairs(data.pairs, cohort)
    if data.unlabelled is not None:
        if pairs:
            raise InputError(f"unlabelled {data.unlabelled}: the pairs to train on are given, none has these")
        cohort = cohort.joined(read_cohort(data.unlabelled, None, data.img_prefix, data.img_suffix))
    return Cohort(cohort.subjects, pairs), _validation_pairs(chosen, atlas, data.val_pairs), atlas


def pick_grid(
    data: DataConfig, training: Cohort, validation: list[tuple[Subject, Subject]], atlas: Subject | None
) -> Grid:
    """The working grid: that of the atlas, the first fixed image or the first subject, or of --shape alone."""
    reference = atlas or (training.pairs[0][1] if training.pairs else next(iter(training.subjects), None))
    if reference is None and validation:
        reference = validation[0][1]
    if reference is not None:
        free = data.images == SYNTHETIC and not training.subjects  # the pairs need no grid of the images'
        image = load_image(reference.image)
        if data.shape is not None and len(data.shape) != image.ndim:
            raise InputError(f"shape: expected {image.ndim} numbers for image {reference.image}, got {data.shape}")
        return working_grid(image, spacing_of(image, data.spacing, data.voxels), None if free else data.shape)
    assert data.shape is not None
    spacing = data.spacing or 1.0
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[: len(data.shape), 3] = [-spacing * (length - 1) / 2 for length in data.shape]
    return Grid(tuple(data.shape), affine)


def build_pairs(
    data: DataConfig, loss: LossConfig, seed: int, volumes: Volumes, training: Cohort, atlas: Subject | None
) -> Dataset[dict[str, Tensor]]:
    """What the training draws from."""
    subjects = [*training.subjects, *([atlas] if atlas else [])]
    if data.images == SYNTHETIC:
        recipe = Recipe(
            labels=data.synth_labels,
            pair_warp=data.synth_warp,
            shape_scale=data.synth_shapes,
            warp_scale=data.synth_bends,
            damage=data.synth_damage,
            alike=data.synth_alike,
            apart=data.synth_apart,
            invented=data.synth_invented,
            zoom=data.synth_zoom,
        )
        maps = None
        if training.subjects:
            structures = _present(volumes, subjects)
            maps = LabelMaps(volumes, training.subjects, structures)
            recipe = replace(recipe, outside=_codes_of(data.synth_outside, structures))
        shape = volumes.grid.shape if maps or data.shape is None else data.shape
        return SyntheticPairs(shape, recipe, seed, maps, bool(loss.field_weight), loss.image != "none")
    pairs, teacher = training.pairs, None
    if loss.teacher is not None:
        teacher = Teacher(volumes, volumes.folder / "teacher")
        if not pairs and atlas is None:
            pairs = _drawn(training.subjects, loss.teacher_pairs, seed)
    return Pairs(
        volumes,
        training.subjects,
        atlas=atlas,
        pairs=pairs,
        fields=teacher,
        seed=seed,
        flip=data.flip,
        structures=_structures(loss, volumes, subjects),
        masked=any(subject.mask is not None for subject in training.subjects),
    )


def _codes_of(labels: str | None, structures: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The codes that maps have for these labels, InputError if there is one that no map has."""
    codes = {label: code for code, structure in enumerate(structures, 1) for label in structure}
    given = read_structures(labels, "synth outside") if labels is not None else {}
    wanted = [label for group in (given or {}).values() for label in group]
    missing = [label for label in wanted if label not in codes]
    if missing:
        raise InputError(f"synth_outside: no label map holds {missing[0]}")
    return tuple(codes[label] for label in wanted)


def _drawn(subjects: tuple[Subject, ...], most: int, seed: int) -> tuple[tuple[Subject, Subject], ...]:
    """Pairs (moving, fixed) of different subjects by chance: `most` of them, or all."""
    others = len(subjects) - 1
    chosen = np.random.default_rng([seed, 3]).permutation(len(subjects) * others)[:most]
    return tuple((subjects[k // others], subjects[(k // others + 1 + k % others) % len(subjects)]) for k in chosen)


def _present(volumes: Volumes, subjects: list[Subject]) -> tuple[tuple[int, ...], ...]:
    """Every label of the subjects, each a structure."""
    found = {label for s in subjects if s.label is not None for label in labels_of(volumes.labels(s))}
    return tuple((label,) for label in sorted(found))


def _structures(loss: LossConfig, volumes: Volumes, subjects: list[Subject]) -> tuple[tuple[int, ...], ...]:
    """The structures of the auxiliary loss; none without it."""
    if not loss.seg_weight:
        return ()
    labelled = [subject for subject in subjects if subject.label is not None]
    if len(labelled) < 2:
        raise InputError(f"seg_weight: needs --labels, {len(labelled)} of {len(subjects)} subjects have a label map")
    chosen = read_structures(loss.seg_labels, "seg labels")
    present = _present(volumes, labelled)
    if chosen is None:
        return present
    wanted = tuple(chosen.values())
    if not any((label,) in present for group in wanted for label in group):
        raise InputError(f"seg labels {loss.seg_labels}: no label map of the training holds any of them")
    return wanted


def _validation_cohort(data: DataConfig, ids: set[str], cohort: Cohort) -> Cohort:
    assert data.val is not None
    try:
        return read_cohort(data.val, data.val_labels, data.img_prefix, data.img_suffix)
    except InputError as error:
        unknown = sorted(ids - {s.id for s in cohort.subjects})
        raise InputError(f"val {data.val}: neither a cohort nor ids of this one ({unknown[0]!r} is not)") from error


def _validation_pairs(cohort: Cohort, atlas: Subject | None, most: int) -> list[tuple[Subject, Subject]]:
    """Each subject to the atlas, or to the others, the nearest in the list first."""
    subjects = cohort.subjects
    if cohort.pairs:
        return list(cohort.pairs)[:most]
    if atlas is not None:
        return [(subject, atlas) for subject in subjects][:most]
    gaps = range(1, len(subjects))
    return [(subjects[k], subjects[(k + gap) % len(subjects)]) for gap in gaps for k in range(len(subjects))][:most]
