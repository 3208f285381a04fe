"""Training, from top to bottom: cohort -> working grid -> pairs -> network -> loss -> step -> checkpoint.

Runs as it is under torchrun: every process takes its share of the pairs, and the first one writes.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastreg import checkpoint
from fastreg.cascade import cascade
from fastreg.checkpoint import Checkpoint
from fastreg.cohorts import Cohort, Subject, read_cohort, read_pairs
from fastreg.config import SYNTHETIC, TrainConfig
from fastreg.data import Grid, LabelMaps, Pairs, Share, Volumes, loader, spacing_of, working_grid
from fastreg.devices import pick_device
from fastreg.fields import jacobian_determinant
from fastreg.files import InputError, check_exists
from fastreg.images import load_image
from fastreg.metrics import dice, labels_of, mean
from fastreg.model import RegistrationNet
from fastreg.objective import Objective, resolved_objective
from fastreg.ops.warp import warp
from fastreg.segmentation import read_structures
from fastreg.synthesis import Recipe, SyntheticPairs

LAST, MODEL = "last.safetensors", "model.safetensors"


@dataclass(frozen=True)
class Step:
    """One row of metrics.csv."""

    step: int
    loss: float
    image: float
    smoothness: float
    """Or the KL divergence, with --uncertainty."""
    segmentation: float
    """Minus the soft Dice of the label maps; 0 without --seg-weight."""
    field: float
    """Mean distance from the known deformation, in voxels; 0 without --field-weight."""
    region: float
    """Cross-entropy of the region of interest, in nats; 0 without --region-weight."""
    lr: float
    seconds: float
    """Since the run began, pauses left out."""
    data_seconds: float
    """Of these, waiting for data."""


@dataclass(frozen=True)
class Validation:
    """One row of validation.csv; means over the validation pairs."""

    step: int
    image: float
    dice: float
    """Over all structures; NaN without label maps."""
    dice_before: float
    folds_percent: float
    """Voxels whose Jacobian determinant (central differences) is not positive."""


class Log:
    """What a run tells while it runs; the command line draws it. Does nothing by itself."""

    def config(self, config: dict[str, Any]) -> None:
        """The resolved configuration."""

    def preparing(self, done: int, total: int) -> None:
        """Volumes decoded so far."""

    def started(self, first: int, last: int, subjects: int, validation: int) -> None:
        """First and last step, training subjects, validation pairs."""

    def step(self, step: Step) -> None:
        """A training step."""

    def validated(self, validation: Validation) -> None:
        """A validation."""


@dataclass(frozen=True)
class Process:
    """This process among those of a parallel run."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def fit(config: TrainConfig, log: Log | None = None) -> Path:
    """Trains a network as `config` says; returns the path of its weights.

    Raises:
        InputError: a cohort, image, option or existing output that cannot be used; the message is one line.
    """
    log = log or Log()
    process = _join(config)
    try:
        return _fit(config, log if process.first else Log(), process)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(config: TrainConfig) -> Process:
    """Takes its place under torchrun, if there is one; otherwise this process is alone."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    local, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = pick_device(config.device)
    if device.type == "cuda" and device.index is None and world > 1:
        device = torch.device("cuda", local)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // local_world))
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Process(rank, world, device)


def _fit(config: TrainConfig, log: Log, process: Process) -> Path:
    config = _resolved(config)
    torch.manual_seed(config.seed)
    training, validation, atlas = _cohorts(config)
    if process.first:
        _claim(config)
        log.config(_plain(config))

    grid = _grid(config, training, validation, atlas)
    volumes = Volumes(grid, config.normalise, config.cache or config.output / "cache")
    everybody = [*training.subjects, *validation_subjects(validation), *([atlas] if atlas else [])]
    if process.first:
        volumes.prepare(everybody, max(1, config.workers), log.preparing)
    if process.world > 1:
        dist.barrier()

    net = RegistrationNet(config.model, len(grid.shape), **_network_options(config)).to(process.device)
    if config.load_model is not None:
        checkpoint.load_weights(config.load_model, net)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    about = Checkpoint(
        network=net.options,
        working={
            "spacing_mm": config.spacing,
            "orientation": grid.orientation,
            "shape": list(grid.shape),
            "normalise": config.normalise,
            **({"voxels": config.voxels} if config.voxels else {}),
            **({"passes": list(config.passes)} if config.passes != (1,) else {}),
            **({"align": True} if config.images == SYNTHETIC else {}),
        },
        config=_plain(config),
    )
    if config.resume and (config.output / LAST).is_file():
        there = checkpoint.read_header(config.output / LAST)
        if there["network"] != about.network or _grid_of(there["working"]) != _grid_of(about.working):
            raise InputError(f"resume {config.output}: the run there has another network or working grid")
        before = checkpoint.resume(config.output / LAST, net, optimizer)
        about = replace(about, step=before.step, figures=before.figures, progress=before.progress)
    pairs = _pairs(config, volumes, training, atlas)
    log.started(about.step, config.steps, len(training.subjects), len(validation))
    run = _Run(config, log, process, net, optimizer, about, volumes, pairs, validation)
    return run.train()


class _Run:
    """The loop and what it carries from step to step."""

    def __init__(
        self,
        config: TrainConfig,
        log: Log,
        process: Process,
        net: RegistrationNet,
        optimizer: torch.optim.Optimizer,
        about: Checkpoint,
        volumes: Volumes,
        pairs: Dataset[dict[str, Tensor]],
        validation: list[tuple[Subject, Subject]],
    ) -> None:
        self.config, self.log, self.process = config, log, process
        self.net, self.optimizer, self.about = net, optimizer, about
        self.volumes, self.pairs, self.validation = volumes, pairs, validation
        self.objective = Objective(config)
        self.step = about.step
        self.seconds = float(about.progress.get("seconds", 0.0))
        self.data_seconds = float(about.progress.get("data_seconds", 0.0))
        if process.first:
            self.metrics = _Table(config.output / "metrics.csv", Step, self.step)
            self.validations = _Table(config.output / "validation.csv", Validation, self.step)
            self.board = _board(config)

    def train(self) -> Path:
        """Runs to the last step (or minute), saving on the way and at the end, also when interrupted."""
        config, device = self.config, self.process.device
        net: nn.Module = self.net
        if config.compile:
            self.net.compile()
        if self.process.world > 1:
            net = nn.parallel.DistributedDataParallel(self.net)
        share = Share(self.step, config.steps, config.batch_size, self.process.rank, self.process.world)
        try:
            for batch in self._timed(iter(loader(self.pairs, share, config.workers, pin=device.type == "cuda"))):
                lr = self._set_lr()
                batch = {name: volume.to(device, non_blocking=True) for name, volume in batch.items()}
                if config.uncertainty:  # every step and process its own noise, the same after a resume
                    torch.manual_seed(self._chance())
                terms = self.objective(net(batch["moving"], batch["fixed"], inverse=config.bidir), batch)
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(terms.total)
                self.optimizer.step()
                self.step += 1
                self._after_step(torch.stack(terms).detach(), lr)
                if self._out_of_time():
                    break
        except KeyboardInterrupt:
            self._save()
            raise
        if self.config.val_every and self.validation and self.step % self.config.val_every:
            self._validate()
        self._save()
        return config.output / MODEL

    def _chance(self) -> int:
        """The seed of this step's noise in this process."""
        return int(np.random.SeedSequence([self.config.seed, self.step, self.process.rank]).generate_state(1)[0])

    def _timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The batches, with the clock running: all of it, and the part spent waiting for data."""
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            waited = time.perf_counter() - start
            self.data_seconds += waited
            yield batch
            self.seconds += time.perf_counter() - start

    def _progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        done = self.step / max(1, self.config.steps)
        if self.config.minutes is not None:
            done = max(done, self.seconds / (60 * self.config.minutes))
        return min(1.0, done)

    def _set_lr(self) -> float:
        lr = self.config.lr
        if self.config.schedule == "cosine":
            lr *= 0.5 * (1 + math.cos(math.pi * self._progress()))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _out_of_time(self) -> bool:
        if self.config.minutes is None:
            return False
        late = torch.tensor(float(self.seconds >= 60 * self.config.minutes))
        if self.process.world > 1:  # all processes stop at the same step
            late = late.to(self.process.device)
            dist.all_reduce(late, op=dist.ReduceOp.MAX)
        return bool(late)

    def _after_step(self, losses: Tensor, lr: float) -> None:
        config = self.config
        if self.step % config.log_every == 0:
            if self.process.world > 1:
                dist.all_reduce(losses)
                losses /= self.process.world
            total, image, rough, overlap, distance, region = losses.tolist()
            if not math.isfinite(total):
                raise InputError(
                    f"loss is {total} at step {self.step}: an image with infinite values, or a learning rate too high "
                    f"(--lr {config.lr})"
                )
            if self.process.first:
                row = Step(
                    self.step, total, image, rough, overlap, distance, region, lr, self.seconds, self.data_seconds
                )
                self.metrics.add(row)
                self.log.step(row)
                self._to_board(row)
        if config.val_every and self.step % config.val_every == 0 and self.validation:
            self._validate()
        if config.save_every and self.step % config.save_every == 0:
            self._save()

    def _validate(self) -> None:
        if not self.process.first:
            return
        figures = validate(self.net, self.volumes, self.validation, self.objective.image, self.step, self.config.passes)
        self.validations.add(figures)
        self.log.validated(figures)
        self._to_board(figures)
        score = figures.image if math.isnan(figures.dice) else -figures.dice
        best = self.about.progress.get("best")
        if best is None or score <= best:
            self.about.progress["best"] = score
            self.about.figures = asdict(figures)
            checkpoint.save(self.config.output / MODEL, self.net, replace(self.about, step=self.step))

    def _save(self) -> None:
        if not self.process.first:
            return
        progress = {**self.about.progress, "seconds": self.seconds, "data_seconds": self.data_seconds}
        about = replace(self.about, step=self.step, progress=progress)
        checkpoint.save(self.config.output / LAST, self.net, about, self.optimizer)
        if "best" not in progress:  # without a validation the last weights are the ones to use
            checkpoint.save(self.config.output / MODEL, self.net, about)

    def _to_board(self, row: Step | Validation) -> None:
        if self.board is not None:
            kind = "train" if isinstance(row, Step) else "validation"
            for name, value in asdict(row).items():
                self.board.add_scalar(f"{kind}/{name}", value, row.step)


@torch.no_grad()
def validate(
    net: RegistrationNet,
    volumes: Volumes,
    pairs: list[tuple[Subject, Subject]],
    image_loss: nn.Module,
    step: int,
    passes: tuple[int, ...] = (1,),
) -> Validation:
    """Figures of the network over pairs (moving, fixed), on the working grid; labels are warped by nearest voxel."""
    device = next(net.parameters()).device
    rows = []
    net.eval()
    for moving, fixed in pairs:
        there, here = (volumes.image(subject)[None].to(device) for subject in (moving, fixed))
        found = cascade(net, there, here, passes)
        before = after = math.nan
        if moving.label is not None and fixed.label is not None:
            theirs, ours = volumes.labels(moving), volumes.labels(fixed)
            moved = warp(theirs[None].double(), found.flow.cpu().double(), mode="nearest")[0].round().int()
            before, after = _mean_dice(ours, theirs), _mean_dice(ours, moved)
        folds = (jacobian_determinant(found.flow) <= 0).float().mean().item()
        rows.append([image_loss(found.moved, here).item(), after, before, 100 * folds])
    net.train()
    return Validation(step, *(mean(column) for column in zip(*rows, strict=True)))


def _mean_dice(fixed: Tensor, moved: Tensor) -> float:
    """Over all structures; one that a map lacks counts 0."""
    return mean(dice(fixed.numpy(), moved.numpy()).values())


def validation_subjects(pairs: list[tuple[Subject, Subject]]) -> list[Subject]:
    """Everybody who takes part."""
    return list({subject.id: subject for pair in pairs for subject in pair}.values())


def _resolved(config: TrainConfig) -> TrainConfig:
    """The configuration with defaults that depend on others filled in, checked."""
    if config.region_weight and (config.bidir or config.atlas is not None):
        raise InputError(
            "region_weight: not with --bidir or --atlas: the network says the region of the fixed image alone"
        )
    if config.bidir and not config.diffeomorphic:
        raise InputError("bidir: needs --diffeomorphic, a displacement field has no inverse in closed form")
    if config.window < 1 or config.window % 2 == 0:
        raise InputError(f"window: expected an odd number, got {config.window}")
    for name in ("steps", "batch_size", "log_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}: expected at least 1, got {getattr(config, name)}")
    if config.half and config.model == "match":
        raise InputError("half: not with --model match, which is on the half grid as it is")
    if config.voxels is not None and config.spacing is not None:
        raise InputError("voxels: says in place of --spacing how fine the working grid is; give one of them")
    if config.voxels is not None and config.voxels < 1:
        raise InputError(f"voxels: expected at least 1, got {config.voxels}")
    if not config.passes or min(config.passes) < 1:
        raise InputError(f"passes: expected numbers of at least 1, got {' '.join(map(str, config.passes)) or 'none'}")
    if config.spacing is not None and not config.spacing > 0:
        raise InputError(f"spacing: expected a length in mm above 0, got {config.spacing}")
    if config.images == SYNTHETIC:
        _check_synthetic(config)
    if config.val_labels is not None and config.val is None:
        raise InputError("val_labels: needs --val, the images that the label maps belong to")
    return resolved_objective(config)


def _check_synthetic(config: TrainConfig) -> None:
    for name in ("atlas", "pairs", "masks", "unlabelled"):
        if getattr(config, name) is not None:
            raise InputError(f"{name}: not with --images synthetic, which makes its own pairs")
    if config.shape is None and config.labels is None and config.val is None:
        raise InputError("shape: needed with --images synthetic, where nothing else says how large the images are")
    if config.shape is not None and (len(config.shape) not in (2, 3) or min(config.shape) < 1):
        raise InputError(f"shape: expected 2 or 3 numbers of voxels, got {' '.join(map(str, config.shape))}")
    if config.synth_labels < 2:
        raise InputError(f"synth_labels: expected at least 2, got {config.synth_labels}")
    for name in ("synth_shapes", "synth_bends"):
        low, high = getattr(config, name)
        if not 1 <= low <= high:
            raise InputError(f"{name}: expected two numbers of voxels, 1 <= from <= to, got {low:g} {high:g}")
    if config.synth_warp < 0:
        raise InputError(f"synth_warp: expected 0 or more voxels, got {config.synth_warp}")


def _plain(config: TrainConfig) -> dict[str, Any]:
    """As JSON has it, under the names that the command line and config files use."""
    values = {f.name.strip("_"): getattr(config, f.name) for f in fields(config)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items() if v is not None}


def _grid_of(working: dict[str, Any]) -> dict[str, Any]:
    """What the weights depend on; the rest says how they are used."""
    return {name: value for name, value in working.items() if name not in ("passes", "align")}


def _network_options(config: TrainConfig) -> dict[str, Any]:
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
    return _cohorts(_resolved(config))[1]


def _cohorts(config: TrainConfig) -> tuple[Cohort, list[tuple[Subject, Subject]], Subject | None]:
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
        pairs = read_pairs(config.pairs, cohort)
    if config.unlabelled is not None:
        if pairs:
            raise InputError(f"unlabelled {config.unlabelled}: the pairs to train on are given, none has these")
        cohort = cohort.joined(read_cohort(config.unlabelled, None, config.img_prefix, config.img_suffix))
    return Cohort(cohort.subjects, pairs), _validation_pairs(chosen, atlas, config.val_pairs), atlas


def _grid(
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


def _pairs(
    config: TrainConfig, volumes: Volumes, training: Cohort, atlas: Subject | None
) -> Dataset[dict[str, Tensor]]:
    """What the training draws from."""
    everybody = [*training.subjects, *([atlas] if atlas else [])]
    if config.images == SYNTHETIC:
        recipe = Recipe(
            labels=config.synth_labels,
            pair_warp=config.synth_warp,
            shape_scale=config.synth_shapes,
            warp_scale=config.synth_bends,
        )
        maps = LabelMaps(volumes, training.subjects, _present(volumes, everybody)) if training.subjects else None
        shape = volumes.grid.shape if maps or config.shape is None else config.shape
        return SyntheticPairs(shape, recipe, config.seed, maps, flows=config.field_weight > 0)
    return Pairs(
        volumes,
        training.subjects,
        atlas=atlas,
        pairs=training.pairs,
        seed=config.seed,
        flip=config.flip,
        structures=_structures(config, volumes, everybody),
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
    wanted = read_structures(config.seg_labels)
    present = _present(volumes, labelled)
    if wanted is None:
        return present
    if not any((label,) in present for group in wanted for label in group):
        raise InputError(f"seg labels {config.seg_labels}: no label map of the training holds any of them")
    return wanted


def _validation_cohort(config: TrainConfig, ids: set[str], cohort: Cohort) -> Cohort:
    assert config.val is not None
    try:
        return read_cohort(config.val, config.val_labels, config.img_prefix, config.img_suffix)
    except InputError as error:
        strangers = sorted(ids - {s.id for s in cohort.subjects})
        raise InputError(f"val {config.val}: neither a cohort nor ids of this one ({strangers[0]!r} is not)") from error


def _validation_pairs(cohort: Cohort, atlas: Subject | None, most: int) -> list[tuple[Subject, Subject]]:
    """Each subject to the atlas, or to the others, the nearest in the list first."""
    people = cohort.subjects
    if cohort.pairs:
        return list(cohort.pairs)[:most]
    if atlas is not None:
        return [(subject, atlas) for subject in people][:most]
    gaps = range(1, len(people))
    return [(people[k], people[(k + gap) % len(people)]) for gap in gaps for k in range(len(people))][:most]


def _claim(config: TrainConfig) -> None:
    """Makes the output folder this run's; InputError if another run is there."""
    taken = config.output / LAST
    if config.output.exists() and not config.output.is_dir():
        raise InputError(f"output {config.output}: expected a folder, got a file")
    if taken.exists() and not (config.resume or config.overwrite):
        raise InputError(
            f"output {config.output}: a run is there; use --resume to continue it, --overwrite to replace it"
        )
    if config.overwrite and not config.resume:
        for name in (LAST, MODEL, "metrics.csv", "validation.csv"):
            (config.output / name).unlink(missing_ok=True)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.json").write_text(json.dumps(_plain(config), indent=2) + "\n")


class _Table:
    """A CSV that grows row by row; rows after `step`, of a run that was cut off, are dropped."""

    def __init__(self, path: Path, row: type, step: int) -> None:
        names = [f.name for f in fields(row)]
        kept = []
        if path.is_file() and step > 0:
            with path.open(newline="") as file:
                kept = [line for line in csv.DictReader(file) if int(line["step"]) <= step]
        self.file = path.open("w", newline="", buffering=1)
        self.writer = csv.DictWriter(self.file, names)
        self.writer.writeheader()
        self.writer.writerows(kept)

    def add(self, row: Step | Validation) -> None:
        """One more row."""
        self.writer.writerow(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
        )


def _board(config: TrainConfig) -> Any:
    if not config.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard is not installed: pip install 'fastreg[tensorboard]'") from error
    return SummaryWriter(str(config.output))
