"""Options before they are options: `--config FILE`, and what every word must be that cyclopts would let pass."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, CycloptsError, config

from fastreg.utils.files import InputError, check_exists

_READERS: dict[str, Any] = {".toml": config.Toml, ".json": config.Json, ".yaml": config.Yaml, ".yml": config.Yaml}


def take_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE`, and FILE."""
    rest = list(arguments)
    for k, word in enumerate(rest):
        if word == "--config" and k + 1 < len(rest):
            return rest[:k] + rest[k + 2 :], Path(os.path.expanduser(rest[k + 1]))
        if word.startswith("--config="):
            return rest[:k] + rest[k + 1 :], Path(os.path.expanduser(word.split("=", 1)[1]))
    return rest, None


def use_config(app: App, path: Path) -> None:
    """Lets the file say what the words do not."""
    check_exists(path, "config")
    ending = path.suffix.lower()
    reader = _READERS.get(ending)
    if reader is None:
        raise InputError(f"config {path}: expected one of {', '.join(_READERS)}, got {path.suffix or 'no ending'}")
    if reader is config.Yaml and importlib.util.find_spec("yaml") is None:
        raise InputError(f"config {path}: TOML and JSON are read as they are, YAML needs PyYAML (pip install pyyaml)")
    source = reader(path, use_commands_as_keys=False, must_exist=True)
    try:
        _ = source.config
    except (CycloptsError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"config {path}: expected {ending[1:].upper()}, {' '.join(str(error).split())}") from error
    app.config = (source, check_words)


def check_words(app: App, commands: Any, arguments: Iterable[Any]) -> None:
    """InputError for a number of a file that is no integer where one is due; CycloptsError for words and missing ones.

    cyclopts rounds 1.5 to 2, and of a group of options that lacks one it names the group.
    """
    missing = []
    for argument in arguments:
        if any("\0" in token.value for token in argument.tokens):  # a file may say what no command line can
            raise InputError(f"{argument.name.lstrip('-')}: expected text, got a zero byte in it")
        kinds = _kinds(argument.hint)
        for token in argument.tokens:
            if int in kinds:
                _check_integer(argument.name, token)
            if kinds & {str, Path} and not token.value.strip() and argument.field_info.default != "":
                _refuse(argument.name, token, "expected a name, got nothing")  # "$NAME" of a script that set none
        plain = argument.name.startswith("--") and argument.parse and argument.required
        if plain and not argument.has_tokens:
            missing.append(argument.name)
    if missing:
        raise CycloptsError(msg=f"{' '.join(commands)} needs {' and '.join(missing)}")


def _kinds(hint: Any) -> set[Any]:
    """What may stand in an option: int for `tuple[int, ...] | None`."""
    inner = [arg for arg in get_args(hint) if not isinstance(arg, str)]
    return set().union(*(_kinds(arg) for arg in inner)) if inner else {hint}


def _check_integer(name: str, token: Any) -> None:
    try:
        number = float(token.value)
    except ValueError:
        return  # cyclopts says so
    if number != number or number % 1:  # NaN and fractions; infinity has none
        _refuse(name, token, f"expected an integer, got {token.value}")


def _refuse(name: str, token: Any, why: str) -> None:
    wrong = f"{name.lstrip('-')}: {why}"
    if str(token.source) in ("", "cli"):
        raise CycloptsError(msg=wrong)
    raise InputError(f"config {token.source}: {wrong}")
