"""How `fastreg train` shows a run."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich.progress import TaskID, TextColumn

from fastreg.cli.output import err, progress
from fastreg.training.record import Log, Step, Validation


class TrainBar(Log):
    """Configuration, then a bar with loss, speed and time left; a line per validation above it."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar = progress(TextColumn("{task.fields[what]}"))
        self.task: TaskID | None = None
        self.last_validation: dict[str, Any] = {}
        self.began, self.first = 0.0, 0
        self.mean = math.nan

    def __enter__(self) -> TrainBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.task is not None:  # one that never started would leave an empty line
            self.bar.stop()

    def config(self, config: dict[str, Any]) -> None:
        """The resolved configuration, one line."""
        if not self.quiet:
            shown = "  ".join(f"{name}={value}" for name, value in config.items() if value not in (False, ""))
            err.print(shown, style="dim", markup=False)

    def preparing(self, done: int, total: int) -> None:
        """The bar of the decoding."""
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("decoding", total=total, what="")
        self.bar.update(self.task, completed=done)

    def started(self, first: int, last: int, subjects: int, validation: int) -> None:
        """The bar of the training."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.bar.start()
        err.print(f"{subjects} subjects to train on, {validation} validation pairs, steps {first} to {last}")
        self.task = self.bar.add_task("training", total=last, completed=first, what="")
        self.began, self.first = time.perf_counter(), first

    def step(self, step: Step) -> None:
        """Moves the bar on."""
        assert self.task is not None
        self.mean = step.loss if math.isnan(self.mean) else 0.98 * self.mean + 0.02 * step.loss
        rate = (step.step - self.first) / max(time.perf_counter() - self.began, 1e-9)
        self.bar.update(self.task, completed=step.step, what=f"loss {self.mean:.4f}  {rate:.2f} it/s")

    def validated(self, validation: Validation) -> None:
        """A line above the bar."""
        self.last_validation = asdict(validation)
        parts = [f"step {validation.step}", f"loss {validation.image:.4f}"]
        if not math.isnan(validation.dice):
            parts.append(f"Dice {validation.dice_before:.3f} -> {validation.dice:.3f}")
        parts.append(f"folds {validation.folds_percent:.3f} %  NDV {validation.ndv_percent:.3g} %")
        err.print("validation  " + "  ".join(parts))
