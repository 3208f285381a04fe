"""Checkpoints: one safetensors file with weights and, in its header, everything it takes to use them as JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastreg._version import __version__
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils.files import InputError, atomic, check_exists

FORMAT = 1
MODELS = ("general",)
"""Names of the networks that come with fastreg."""
_WEIGHTS, _OPTIMIZER, _AVERAGE, _RNG_STATE = "model.", "optimizer.", "average.", "chance"


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


def save(
    path: Path,
    net: RegistrationNet,
    about: Checkpoint,
    optimizer: torch.optim.Optimizer | None = None,
    average: nn.Module | None = None,
) -> None:
    """Writes weights (to resume from: with the optimizer, their running average and the random state), or nothing.

    Raises:
        InputError: weights that are not finite; what was in the file stays.
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in net.state_dict().items()}
    header: dict[str, Any] = {"format": FORMAT, "fastreg": __version__, "torch": torch.__version__, **about.to_json()}
    if average is not None:
        tensors |= {_AVERAGE + name: value for name, value in average.state_dict().items()}
    if optimizer is not None:
        state = optimizer.state_dict()
        for index, slots in state["state"].items():
            for slot, value in slots.items():
                tensors[f"{_OPTIMIZER}{index}.{slot}"] = torch.as_tensor(value)
        header["optimizer"] = state["param_groups"]
        tensors[_RNG_STATE] = torch.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    lost = _not_finite(tensors)
    if lost is not None:
        raise InputError(f"model {path}: not saved, its weights {lost} are not finite")
    text = json.dumps(header)
    with atomic(path) as partial:
        try:
            save_file(tensors, partial, metadata={"fastreg": text, "sha256": _digest(text, tensors)})
        except SafetensorError as error:
            raise OSError(*_system_error(error)) from error


def _system_error(error: SafetensorError) -> tuple[int, str]:
    """Number and words of what the operating system said to safetensors: "... (os error 28)"."""
    found = re.search(r"os error (\d+)", str(error))
    return (int(found[1]), os.strerror(int(found[1]))) if found else (errno.EIO, str(error))


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of weights with NaN or infinity in them. Adam's squares may overflow, harmlessly."""
    weights = {n: v for n, v in tensors.items() if n.startswith(_WEIGHTS) and v.is_floating_point()}
    return next((n.removeprefix(_WEIGHTS) for n, v in weights.items() if not bool(v.isfinite().all())), None)


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(header.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def find(path: str | Path) -> Path:
    """The file of a model: `path`, or, for the name of one of `MODELS` where no file has that name, fastreg's own."""
    if str(path) in MODELS and not Path(path).is_file():
        return Path(__file__).parents[1] / "models" / f"{path}.safetensors"
    return check_exists(path, "model")


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON part alone; InputError if the file is none of ours."""
    path = find(path)
    return _header(path, _open(path, tensors=False)[0])


def _open(path: Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys()) if tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"model {path}: expected a safetensors file, {' '.join(str(error).split())}") from error


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "fastreg" not in metadata:
        raise InputError(f"model {path}: a safetensors file, but not written by fastreg")
    try:
        header: dict[str, Any] = json.loads(metadata["fastreg"])
        newer = header["format"] > FORMAT
        Checkpoint.from_json(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"model {path}: its header is damaged ({type(error).__name__}: {error})") from error
    if newer:
        raise InputError(f"model {path}: format {header['format']} is newer than this fastreg's {FORMAT}; upgrade")
    return header


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors, checked: nothing changed since they were written, and all of it finite.

    Files of before there was a checksum have none.
    """
    metadata, tensors = _open(path)
    header = _header(path, metadata)
    if "sha256" in metadata and metadata["sha256"] != _digest(metadata["fastreg"], tensors):
        raise InputError(f"model {path}: damaged, its SHA-256 is not the one that was written with it")
    lost = _not_finite(tensors)
    if lost is not None:
        raise InputError(f"model {path}: expected finite weights, got NaN or infinity in {lost}")
    return header, tensors


def load(path: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
    """The network of a file with its weights, on `device`."""
    path = find(path)
    header, tensors = _read(path)
    about = Checkpoint.from_json(header)
    try:
        net = RegistrationNet(**about.network)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"model {path}: no network of this fastreg ({' '.join(str(error).split())})") from error
    _put_weights(path, tensors, net)
    return TrainedModel(net.to(device), about)


def load_weights(path: str | Path, net: RegistrationNet) -> None:
    """Puts a checkpoint's weights into `net`; InputError if they are those of another network."""
    path = find(path)
    _put_weights(path, _read(path)[1], net)


def _put_weights(path: Path, tensors: Mapping[str, Tensor], net: RegistrationNet) -> None:
    weights = {name[len(_WEIGHTS) :]: value for name, value in tensors.items() if name.startswith(_WEIGHTS)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise InputError(f"model {path}: its weights do not fit the network {net.config.name}: {detail}") from error


def resume(
    path: Path, net: RegistrationNet, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> Checkpoint:
    """Puts weights, optimizer, average and random state back as they were; returns what else the file says.

    A file without an average, of a run that had none, leaves it where the weights are.
    """
    header, tensors = _read(path)
    _put_weights(path, tensors, net)
    if "optimizer" not in header or _RNG_STATE not in tensors:
        raise InputError(f"model {path}: holds weights alone; a run can only be resumed from its last.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for name, value in tensors.items():
            if name.startswith(_OPTIMIZER):
                index, slot = name[len(_OPTIMIZER) :].split(".", 1)
                state.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": state, "param_groups": header["optimizer"]})
        torch.set_rng_state(tensors[_RNG_STATE])
        if average is not None:
            kept = {name.removeprefix(_AVERAGE): value for name, value in tensors.items() if name.startswith(_AVERAGE)}
            average.load_state_dict(kept or {"n_averaged": torch.tensor(0)}, strict=bool(kept))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"model {path}: its optimizer's state does not fit this run: {detail}") from error
    return Checkpoint.from_json(header)
