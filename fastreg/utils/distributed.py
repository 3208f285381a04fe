"""This process among others, as torchrun and Slurm tell it. No other module reads their variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from fastreg.utils.devices import pick_device
from fastreg.utils.files import InputError


@dataclass(frozen=True)
class Launch:
    """How torchrun started this process."""

    rank: int = 0
    world: int = 1
    local_rank: int | None = None
    """Among the processes of this machine; None without torchrun."""
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all have in common."""
        return self.rank == 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """What torchrun says of this process; the only one, if nothing started it."""
    local = environment.get("LOCAL_RANK")
    return Launch(
        int(environment.get("RANK", "0")),
        int(environment.get("WORLD_SIZE", "1")),
        None if local is None else int(local),
        int(environment.get("LOCAL_WORLD_SIZE", "1")),
    )


def pick_part(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process' part of the work, counted from 0, and how many there are.

    Args:
        text: "2/8", counted from 1; None: what torchrun (RANK, WORLD_SIZE) and a job array of Slurm
            (SLURM_ARRAY_TASK_ID, _MIN, _STEP, _COUNT) say, one within the other if there are both.

    Raises:
        InputError: no such part.
    """
    if text is not None:
        words = text.split("/")
        if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
            raise InputError(f"part: expected a part and how many there are, such as 2/8, got {text!r}")
        part, count = int(words[0]) - 1, int(words[1])
        if not 0 <= part < count:
            raise InputError(f"part: expected 1/{count} to {count}/{count}, got {text}")
        return part, count
    part, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        task, least, step, count = (
            int(environment.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("ID", "0"), ("MIN", "0"), ("STEP", "1"), ("COUNT", "1"))
        )
        part, odd = divmod(task - least, max(1, step))
        if odd or not 0 <= part < count:
            raise InputError(f"job array: its tasks are not evenly numbered (task {task} of {count}); give --part")
    launched = launch(environment)
    return part * launched.world + launched.rank, count * launched.world


def pick_local_device(name: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The device of this process under torchrun: a GPU of its own, if none was named."""
    local = launch(environment).local_rank
    if name is None and local is not None and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    return name


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


def join(device: str | torch.device | None, threads: int | None) -> Process:
    """Takes its place under torchrun, if there is one; otherwise this process is alone.

    Args:
        device: As in `pick_device`; a GPU without a number is this process' own.
        threads: Of the CPU's computations; this process' share of the cores if None.
    """
    launched = launch()
    device = pick_device(device)
    if device.type == "cuda" and device.index is None and launched.world > 1:
        device = torch.device("cuda", launched.local_rank or 0)
    if device.type == "cpu":
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // launched.local_world))
    if launched.world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Process(launched.rank, launched.world, device)
