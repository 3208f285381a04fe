"""What every command promises of its paths: the home folder, and no output over an input or another output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from fastreg.utils.files import check_apart

WRITTEN: dict[str, tuple[str, ...]] = {
    "template": ("output", "labels_out"),
    "register": (
        "moved", "warp", "inverse_warp", "affine_out", "qc", "report", "moved_labels", "points_output",
        "points_moving_output",
    ),
    "warp": ("output", "points_output", "jacobian", "compose"),
    "motion": ("output", "parameters", "fd", "plot", "save_reference"),
    "compose": ("output",),
    "invert": ("output",),
    "describe": ("output",),
    "report": ("output",),
    "evaluate": ("csv", "plot"),
    "convert": ("output",),
    "export": ("output",),
}  # fmt: skip
"""Command -> its options that are files to write; every other path is read. Folders look after themselves."""


def expand_home(options: Any) -> None:
    """~ becomes the home folder in all options; shells leave it in `--output=~/x`."""
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            expand_home(value)
        elif isinstance(value, list | tuple) and any(str(item).startswith("~") for item in value):
            setattr(options, field.name, type(value)(_at_home(item) for item in value))
        elif str(value).startswith("~"):
            setattr(options, field.name, _at_home(value))


def _at_home(value: Any) -> Any:
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def check_paths(command: str, options: Any) -> None:
    """InputError where two outputs of a command, or an output and an input, are one file."""
    names = WRITTEN.get(command, ())
    outputs = {_option(name): path for name in names if (path := getattr(options, name)) is not None}
    if getattr(options, "ants_prefix", None) is not None:
        from fastreg.registration.files import ants_paths

        outputs |= {f"--ants-prefix {path.name}": path for path in ants_paths(options.ants_prefix)}
    inputs = [
        (_option(field.name), path)
        for field in fields(options)
        if field.name not in (*names, "ants_prefix", "bids_prefix")
        for path in _paths(getattr(options, field.name))
    ]
    check_apart(outputs, inputs)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _paths(value: Any) -> Iterator[Path]:
    """The files that an option names; a transform may stand in [FILE,1]."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name))
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Path):
            yield item
        elif isinstance(item, str):
            yield Path(item[1:].rpartition(",")[0] if item.startswith("[") and item.endswith("]") else item)
