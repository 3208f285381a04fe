"""Checkpoints: one safetensors file with weights and, in its header, everything it takes to use them as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass
class Checkpoint:
    """What a file holds.

    `working` says what images the network expects: spacing_mm (or voxels, as in `data.spacing_of`), orientation, shape,
    normalise; whether they are to be aligned first (align) and the passes of `cascade`, if these are not one.
    """

    network: dict[str, Any]
    working: dict[str, Any]
    step: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    """Validation figures of these weights."""
    progress: dict[str, Any] = field(default_factory=dict)
    """What a resumed run must know besides the step."""


def save(path: Path, net: RegistrationNet, about: Checkpoint, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Writes weights (to resume from: with the optimizer and the random state), whole or not at all."""
    tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in net.state_dict().items()}
    header: dict[str, Any] = {"format": FORMAT, "fastreg": __version__, "torch": torch.__version__, **vars(about)}
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


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[RegistrationNet, Checkpoint]:
    """The network with its weights, on `device`, and what is known about it."""
    header = read_header(path)
    about = Checkpoint(**{name: header[name] for name in Checkpoint.__dataclass_fields__})
    net = RegistrationNet(**about.network)
    load_weights(path, net)
    return net.to(device), about


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
    return Checkpoint(**{name: header[name] for name in Checkpoint.__dataclass_fields__})
