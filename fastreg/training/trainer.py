"""Training, from top to bottom: cohort -> working grid -> pairs -> network -> loss -> step -> checkpoint.

Runs as it is under torchrun: every process takes its share of the pairs, and the first one writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from fastreg.data.cohorts import Subject
from fastreg.data.datasets import Share, Volumes, loader, read_ahead
from fastreg.nn import checkpoint
from fastreg.nn.checkpoint import Checkpoint, WorkingSpace
from fastreg.nn.registration_net import RegistrationNet
from fastreg.training.config import SYNTHETIC, TrainConfig
from fastreg.training.objective import Objective
from fastreg.training.options import as_json, resolved
from fastreg.training.record import LAST, MODEL, Log, Step, Table, Validation, check_folder, claim, open_board
from fastreg.training.setup import build_pairs, find_cohorts, network_options, pick_grid, validation_subjects
from fastreg.training.validation import validate
from fastreg.utils.allocation import keep_freed_memory
from fastreg.utils.distributed import Process, join
from fastreg.utils.files import InputError
from fastreg.utils.locks import locked
from fastreg.utils.stop import Flag, Stopped, stopping_between_steps


def fit(config: TrainConfig, log: Log | None = None) -> Path:
    """Trains a network as `config` says; returns the path of its weights.

    Raises:
        InputError: a cohort, image, option or existing output that cannot be used, another run in the output folder, or
            a loss that is not finite; the message is one line.
        Stopped: Ctrl-C, SIGTERM or SIGHUP; the run is saved as it was between two steps.
    """
    log = log or Log()
    config = resolved(config)
    process = join(config.run.device, config.run.threads)
    if process.device.type == "cpu":
        keep_freed_memory()
    try:
        with locked(check_folder(config.run.output)) if process.first else contextlib.nullcontext():
            return _fit(config, log if process.first else Log(), process)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _fit(config: TrainConfig, log: Log, process: Process) -> Path:
    torch.manual_seed(config.run.seed)
    training, validation, atlas = find_cohorts(config.data)
    if process.first:
        claim(config)
        log.config(as_json(config))

    grid = pick_grid(config.data, training, validation, atlas)
    volumes = Volumes(grid, config.data.normalise, config.run.cache or config.run.output / "cache")
    subjects = [*training.subjects, *validation_subjects(validation), *([atlas] if atlas else [])]
    volumes.prepare(subjects[process.rank :: process.world], max(1, config.run.workers), log.preparing)
    if process.world > 1:
        dist.barrier()

    net = RegistrationNet(
        config.model.network, len(grid.shape), **network_options(config.model, config.loss.region_weight > 0)
    ).to(process.device)
    if config.model.load_model is not None:
        checkpoint.load_weights(config.model.load_model, net)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.run.lr)
    average = averaged(net, config.run.ema)
    about = Checkpoint(
        network=net.options,
        working=WorkingSpace(
            spacing_mm=config.data.spacing,
            orientation=grid.orientation,
            shape=grid.shape,
            normalise=config.data.normalise,
            voxels=config.data.voxels,
            passes=tuple(config.model.passes),
            align=config.data.images == SYNTHETIC,
        ),
        config=as_json(config),
    )
    if config.run.resume and (config.run.output / LAST).is_file():
        there = checkpoint.read_header(config.run.output / LAST)
        if there["network"] != about.network or WorkingSpace.from_json(there["working"]).grid() != about.working.grid():
            raise InputError(f"resume {config.run.output}: the run there has another network or working grid")
        before = checkpoint.resume(config.run.output / LAST, net, optimizer, average)
        about = replace(about, step=before.step, figures=before.figures, progress=before.progress)
    pairs = build_pairs(config.data, config.loss, config.run.seed, volumes, training, atlas)
    log.started(about.step, config.run.steps, len(training.subjects), len(validation))
    run = _Run(config, log, process, net, optimizer, average, about, volumes, pairs, validation)
    return run.train()


_Batches: TypeAlias = "tuple[dict[str, Tensor], ...]"


def averaged(net: RegistrationNet, decay: float) -> AveragedModel | None:
    """A copy of the network with the moving average of its weights; None without one.

    Over the first steps the average is shorter, or the weights of the start would stay in it for long.
    """

    def mean(kept: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
        return kept.lerp(new, max(1 - decay, 9 / (10 + int(steps))))

    return AveragedModel(net, avg_fn=mean) if decay else None


class _Run:
    """The loop and what it carries from step to step."""

    def __init__(
        self,
        config: TrainConfig,
        log: Log,
        process: Process,
        net: RegistrationNet,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        about: Checkpoint,
        volumes: Volumes,
        pairs: Dataset[dict[str, Tensor]],
        validation: list[tuple[Subject, Subject]],
    ) -> None:
        self.config, self.run, self.log, self.process = config, config.run, log, process
        self.net, self.optimizer, self.average, self.about = net, optimizer, average, about
        self.volumes, self.pairs, self.validation = volumes, pairs, validation
        self.objective = Objective(config.loss)
        self.step = about.step
        self.lost = torch.zeros((), dtype=torch.long, device=process.device)
        """First step whose loss was not finite; 0: none. On the device, for asking at every step would wait for it."""
        self.seconds = float(about.progress.get("seconds", 0.0))
        self.data_seconds = float(about.progress.get("data_seconds", 0.0))
        if process.first:
            self.metrics = Table(config.run.output / "metrics.csv", Step, self.step)
            self.validations = Table(config.run.output / "validation.csv", Validation, self.step)
            self.board = open_board(config.run)

    def train(self) -> Path:
        """Runs to the last step (or minute), saving on the way and at the end, also when interrupted."""
        config, device = self.config, self.process.device
        net: nn.Module = self.net
        if config.model.compile:
            self.net.compile()
        if self.process.world > 1:
            net = nn.parallel.DistributedDataParallel(self.net)
        steps = self.step if self._is_late() else config.run.steps  # of a run whose minutes are over, resumed: none
        many = config.run.accumulate
        share = Share(self.step * many, steps * many, config.run.batch_size, self.process.rank, self.process.world)
        batches = loader(self.pairs, share, config.run.workers, pin=device.type == "cuda")
        with stopping_between_steps() as stop:
            for step in self._timed(zip(*[read_ahead(iter(batches))] * many, strict=True)):
                lr = self._set_lr()
                if config.model.uncertainty:  # every step and process its own noise, the same after a resume
                    torch.manual_seed(self._rng())
                self.optimizer.zero_grad(set_to_none=True)
                losses = [self._gradient(net, batch, last=k == many) for k, batch in enumerate(step, 1)]
                if self.run.clip:
                    nn.utils.clip_grad_norm_(self.net.parameters(), self.run.clip)
                self.optimizer.step()
                if self.average is not None:
                    self.average.update_parameters(self.net)
                self.step += 1
                self._after_step(torch.stack(losses).mean(0), lr)
                if self._is_last(stop):
                    break
            if stop.number is not None and self.step < steps:
                self._save()
                said = f"step {self.step} of {steps} is saved in {config.run.output}; --resume goes on from it"
                raise Stopped(stop.number, said)
            if self.run.val_every and self.validation and self._validated() < self.step:
                self._validate()
            if self.step > self.about.step or not (config.run.output / MODEL).is_file():
                self._save()
        return config.run.output / MODEL

    def _gradient(self, net: nn.Module, batch: dict[str, Tensor], last: bool) -> Tensor:
        """Adds the gradient of a step's batch; its `Terms` as one tensor. Processes meet at the last of a step."""
        device = self.process.device
        batch = {name: volume.to(device, non_blocking=True) for name, volume in batch.items()}
        waits = not last and isinstance(net, nn.parallel.DistributedDataParallel)
        with cast(Any, net).no_sync() if waits else contextlib.nullcontext():
            moving, fixed = batch["moving"], batch["fixed"]
            if self.config.loss.consistency:
                found = net(torch.cat([moving, fixed]), torch.cat([fixed, moving]))
                terms = self.objective.both_ways(found, batch)
            else:
                terms = self.objective(net(moving, fixed, inverse=self.config.loss.bidir), batch)
            torch.autograd.backward(terms.total / self.run.accumulate)
        return torch.stack(terms).detach()

    def _validated(self) -> int:
        """The step of the last validation; this one in the processes that do not validate."""
        return self.validations.last if self.process.first else self.step

    def _rng(self) -> int:
        """The seed of this step's noise in this process."""
        return int(np.random.SeedSequence([self.run.seed, self.step, self.process.rank]).generate_state(1)[0])

    def _timed(self, batches: Iterator[_Batches]) -> Iterator[_Batches]:
        """The batches of each step, with the clock running: all of it, and the part spent waiting for data."""
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
        done = self.step / max(1, self.run.steps)
        if self.run.minutes is not None:
            done = max(done, self.seconds / (60 * self.run.minutes))
        return min(1.0, done)

    def _set_lr(self) -> float:
        lr = self.run.lr
        if self.run.schedule == "cosine":
            lr *= 0.5 * (1 + math.cos(math.pi * self._progress()))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _is_late(self) -> bool:
        return self.run.minutes is not None and self.seconds >= 60 * self.run.minutes

    def _is_last(self, stop: Flag) -> bool:
        """Whether time is up or a signal came, to any of the processes: all of them stop at the same step."""
        late = self._is_late()
        if self.process.world > 1:
            ends = torch.tensor([float(late), float(stop.number or 0)], device=self.process.device)
            dist.all_reduce(ends, op=dist.ReduceOp.MAX)
            late, number = bool(ends[0]), int(ends[1])
            stop.number = number or stop.number
        return late or stop.number is not None

    def _after_step(self, losses: Tensor, lr: float) -> None:
        config = self.config
        first_lost = (self.lost == 0) & ~losses.isfinite().all()
        self.lost = torch.where(first_lost, self.step, self.lost)
        if self.step % config.run.log_every == 0:
            if self.process.world > 1:
                dist.all_reduce(losses)
                losses /= self.process.world
            total, *terms = losses.tolist()
            if not math.isfinite(total):
                self._stop_lost(f"loss is {total} at step {self.step}")
            if self.process.first:
                image, rough, overlap, distance, region, apart = terms
                clock = self.seconds, self.data_seconds
                row = Step(self.step, total, image, rough, overlap, distance, region, apart, lr, *clock)
                self.metrics.add(row)
                self.log.step(row)
                self._to_board(row)
        if config.run.val_every and self.step % config.run.val_every == 0 and self.validation:
            self._validate()
        if config.run.save_every and self.step % config.run.save_every == 0:
            self._save()

    def _validate(self) -> None:
        if not self.process.first:
            return
        figures = validate(
            self._kept(), self.volumes, self.validation, self.objective.image, self.step, self.config.model.passes
        )
        self.validations.add(figures)
        self.log.validated(figures)
        self._to_board(figures)
        score = figures.image if math.isnan(figures.dice) else -figures.dice
        if not math.isfinite(score):
            self._stop_lost(f"validation loss is {score} at step {self.step}")
        best = self.about.progress.get("best")
        if best is None or score <= best:
            self.about.progress["best"] = score
            self.about.figures = asdict(figures)
            self._write(MODEL, replace(self.about, step=self.step))

    def _kept(self) -> RegistrationNet:
        """The network to use: its weights as they are, or their average."""
        if self.average is None:
            return self.net
        kept = self.average.module
        assert isinstance(kept, RegistrationNet)
        return kept

    def _stop_lost(self, what: str) -> None:
        """InputError; the files keep the last state that was finite."""
        last, kept = self.run.output / LAST, "nothing was saved"
        if last.is_file():
            kept = f"{last} is of step {checkpoint.read_header(last)['step']}"
        raise InputError(
            f"{what}: an image with infinite values, or a learning rate too high (--lr {self.run.lr}); {kept}"
        )

    def _write(self, name: str, about: Checkpoint) -> None:
        if self.lost.item():
            self._stop_lost(f"loss is not finite at step {int(self.lost)}")
        try:
            if name == LAST:
                checkpoint.save(self.run.output / name, self.net, about, self.optimizer, self.average)
            else:
                checkpoint.save(self.run.output / name, self._kept(), about)
        except InputError as error:
            self._stop_lost(f"step {self.step}: {error}")

    def _save(self) -> None:
        if not self.process.first:
            return
        progress = {**self.about.progress, "seconds": self.seconds, "data_seconds": self.data_seconds}
        about = replace(self.about, step=self.step, progress=progress)
        if "best" not in progress:  # without a validation the last weights are the ones to use
            self._write(MODEL, about)
        self._write(LAST, about)  # after the model: a run that is cut off between them does both again

    def _to_board(self, row: Step | Validation) -> None:
        if self.board is not None:
            kind = "train" if isinstance(row, Step) else "validation"
            for name, value in asdict(row).items():
                self.board.add_scalar(f"{kind}/{name}", value, row.step)
