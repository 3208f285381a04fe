"""The command line. A command is a file here: a dataclass (options and their help) and its `run()`.

Command modules import torch and the jobs inside `run`, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter, config
from rich.console import Console

from fastreg._version import __version__
from fastreg.utils.files import InputError

COMMANDS = {
    "demo": "Demo",
    "train": "Train",
    "sweep": "Sweep",
    "template": "Template",
    "register": "Register",
    "warp": "Warp",
    "evaluate": "Evaluate",
    "convert": "Convert",
    "info": "Info",
    "doctor": "Doctor",
}
"""Command name -> its dataclass in `fastreg.cli.<name>`, in the order of the help."""

_READERS: dict[str, Any] = {".toml": config.Toml, ".json": config.Json, ".yaml": config.Yaml, ".yml": config.Yaml}


def _command(cls: type) -> Callable[..., None]:
    def run(options: Any) -> None:
        options.run()

    run.__doc__ = cls.__doc__
    run.__annotations__ = {"options": cls, "return": None}
    if all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(cls)):
        run.__defaults__ = (cls(),)
    return run


def build() -> App:
    """The application with all its commands."""
    app = App(
        name="fastreg",
        default_parameter=Parameter(negative_iterable=()),
        help="Fast, exact registration of medical images.",
        version=__version__,
        help_format="markdown",
        help_epilogue="Every command has --help with an example. Exit codes: 0 done, 1 input at fault, 2 usage.",
    )
    for name, cls in COMMANDS.items():
        module = importlib.import_module(f"fastreg.cli.{name}")
        app.command(_command(getattr(module, cls)), name=name)
    return app


def _config_file(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE`, and FILE."""
    rest = list(arguments)
    for k, word in enumerate(rest):
        if word == "--config" and k + 1 < len(rest):
            return rest[:k] + rest[k + 2 :], Path(rest[k + 1])
        if word.startswith("--config="):
            return rest[:k] + rest[k + 1 :], Path(word.split("=", 1)[1])
    return rest, None


def _use_config(app: App, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"config {path}: no such file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"config {path}: expected one of {', '.join(_READERS)}, got {path.suffix or 'no ending'}")
    source = reader(path, use_commands_as_keys=False, must_exist=True)
    try:
        _ = source.config
    except CycloptsError as error:
        raise InputError(f"config {path}: {' '.join(str(error).split())}") from error
    app.config = (source,)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `fastreg` command; ends the process with exit code 0, 1 (input at fault) or 2 (usage)."""
    console = Console(stderr=True)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _complain(console, f"warning: {message}")
        _run(console, arguments)


def _run(console: Console, arguments: Sequence[str] | None) -> None:
    tokens, path = _config_file(sys.argv[1:] if arguments is None else arguments)
    app = build()
    try:
        if path is not None:
            _use_config(app, path)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        from_file = path is not None and str(path.absolute()) in str(error)
        line = " ".join(str(error).split())
        _complain(console, f"config {path}: {line}" if from_file else f"{line} (see fastreg --help)")
        sys.exit(1 if from_file else 2)
    except InputError as error:
        _complain(console, str(error))
        sys.exit(1)
    except OSError as error:
        _complain(console, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _complain(console, "interrupted")
        sys.exit(130)
    sys.exit(0)


def _complain(console: Console, line: str) -> None:
    console.print(f"fastreg: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
