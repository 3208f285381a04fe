"""Checkpoints: one safetensors file with weights and, in its header, everything it takes to use them as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastreg._version import __version__
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils.files import InputError, atomic, check_exists

FORMAT = 1
MODELS = ("general",)
"""Names of the networks that come with fastreg."""
_WEIGHTS, _OPTIMIZER, _RNG_STATE = "model.", "optimizer.", "chance"


@dataclass(frozen=True)
class WorkingSpace:
    """What images a network expects."""

    spacing_mm: float | None = None
    """Of the working grid; the image's own if None."""
    orientation: str = "RAS"
    """Where the axes of the working grid point."""
    shape: tuple[int, ...] = ()
    """Of the grid that it was trained on."""
    normalise: str = "percentile"
    """As in `intensity.normalised`."""
    voxels: int | None = None
    """In place of the spacing, as in `grid.spacing_of`."""
    passes: tuple[int, ...] = (1,)
    """Of `cascade`."""
    align: bool = False
    """Whether the images are to be aligned linearly first."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> WorkingSpace:
        """From the header of a checkpoint, of any version of fastreg."""
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**{**known, **lists})

    def to_json(self) -> dict[str, Any]:
        """For the header of a checkpoint; what is as it was before there was a choice is left out."""
        later = {"voxels": None, "passes": (1,), "align": False}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return {name: v for name, v in values.items() if name not in later or getattr(self, name) != later[name]}

    def grid(self) -> WorkingSpace:
        """What the weights depend on; the rest says how they are used."""
        return replace(self, passes=(1,), align=False)


@dataclass
class Checkpoint:
    """What a file says of its weights."""

    network: dict[str, Any]
    """Arguments of `RegistrationNet`."""
    working: WorkingSpace = field(default_factory=WorkingSpace)
    step: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """Options of the training run, flat."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Validation figures of these weights."""
    progress: dict[str, Any] = field(default_factory=dict)
    """What a resumed run must know besides the step."""

    @classmethod
    def from_json(cls, header: dict[str, Any]) -> Checkpoint:
        """From the header of a file."""
        known = {f.name: header[f.name] for f in fields(cls)}
        return cls(**{**known, "working": WorkingSpace.from_json(header["working"])})

    def to_json(self) -> dict[str, Any]:
        """For the header of a file."""
        return {**vars(self), "working": self.working.to_json()}


class TrainedModel(NamedTuple):
    """A network with its weights, and what is known of it."""

    net: RegistrationNet
    checkpoint: Checkpoint

    @property
    def working(self) -> WorkingSpace:
        """The images that it expects."""
        return self.checkpoint.working


def save(path: Path, net: RegistrationNet, about: Checkpoint, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Writes weights (to resume from: with the optimizer and the random state), whole or not at all."""
    tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in net.state_dict().items()}
    header: dict[str, Any] = {"format": FORMAT, "fastreg": __version__, "torch": torch.__version__, **about.to_json()}
    if optimizer is not None:
        state = optimizer.state_dict()
        for index, slots in state["state"].items():
            for slot, value in slots.items():
                tensors[f"{_OPTIMIZER}{index}.{slot}"] = torch.as_tensor(value)
        header["optimizer"] = state["param_groups"]
        tensors[_RNG_STATE] = torch.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic(path) as partial:
        save_file(tensors, partial, metadata={"fastreg": json.dumps(header)})


def find(path: str | Path) -> Path:
    """The file of a model: `path`, or, for the name of one of `MODELS` where no file has that name, fastreg's own."""
    if str(path) in MODELS and not Path(path).is_file():
        return Path(__file__).parents[1] / "models" / f"{path}.safetensors"
    return check_exists(path, "model")


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON part alone; InputError if the file is none of ours."""
    path = find(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"model {path}: expected a safetensors file, {error}") from error
    if "fastreg" not in metadata:
        raise InputError(f"model {path}: a safetensors file, but not written by fastreg")
    header: dict[str, Any] = json.loads(metadata["fastreg"])
    if header["format"] > FORMAT:
        raise InputError(f"model {path}: format {header['format']} is newer than this fastreg's {FORMAT}; upgrade")
    return header


def load(path: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
    """The network of a file with its weights, on `device`."""
    header = read_header(path)
    about = Checkpoint.from_json(header)
    net = RegistrationNet(**about.network)
    load_weights(path, net)
    return TrainedModel(net.to(device), about)


def load_weights(path: str | Path, net: RegistrationNet) -> None:
    """Puts a checkpoint's weights into `net`; InputError if they are those of another network."""
    path = find(path)
    read_header(path)
    with safe_open(path, framework="pt") as file:
        weights = {n[len(_WEIGHTS) :]: file.get_tensor(n) for n in file.keys() if n.startswith(_WEIGHTS)}  # noqa: SIM118
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise InputError(f"model {path}: its weights do not fit the network {net.config.name}: {detail}") from error


def resume(path: Path, net: RegistrationNet, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Puts weights, optimizer and random state back as they were; returns what else the file says."""
    header = read_header(path)
    load_weights(path, net)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        slots = {n: file.get_tensor(n) for n in names if n.startswith(_OPTIMIZER)}
        if "optimizer" not in header or _RNG_STATE not in names:
            raise InputError(f"model {path}: holds weights alone; a run can only be resumed from its last.safetensors")
        rng_state = file.get_tensor(_RNG_STATE)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in slots.items():
        index, slot = name[len(_OPTIMIZER) :].split(".", 1)
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": header["optimizer"]})
    torch.set_rng_state(rng_state)
    return Checkpoint.from_json(header)
