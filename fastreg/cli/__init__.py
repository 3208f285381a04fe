"""The command line. A command is a file here: a dataclass (options and their help) and its `run()`.

Command modules import torch and the jobs inside `run`, so that `--help` answers at once. This file is light too: what
it imports at its top is what a Ctrl-C in the first moments can still interrupt with a traceback.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from fastreg._version import __version__
from fastreg.utils.files import InputError
from fastreg.utils.stop import stopping_at_once

if TYPE_CHECKING:
    from cyclopts import App

COMMANDS = {
    "demo": "Demo",
    "train": "Train",
    "sweep": "Sweep",
    "template": "Template",
    "register": "Register",
    "warp": "Warp",
    "motion": "Motion",
    "compose": "Compose",
    "invert": "Invert",
    "report": "Report",
    "evaluate": "Evaluate",
    "convert": "Convert",
    "export": "Export",
    "describe": "Describe",
    "info": "Info",
    "doctor": "Doctor",
}
"""Command name -> its dataclass in `fastreg.cli.<name>`, in the order of the help."""


def _command(name: str, cls: type) -> Callable[..., None]:
    def run(options: Any) -> None:
        from fastreg.cli._paths import check_paths, expand_home
        from fastreg.utils.memory import keep_freed_memory
        from fastreg.utils.ranges import check_ranges

        expand_home(options)
        check_ranges(options)
        check_paths(name, options)
        keep_freed_memory()
        options.run()

    run.__doc__ = cls.__doc__
    run.__annotations__ = {"options": cls, "return": None}
    if all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(cls)):
        run.__defaults__ = (cls(),)
    return run


def build() -> App:
    """The application with all its commands."""
    from cyclopts import App, Parameter

    from fastreg.cli._config import check_words

    app = App(
        name="fastreg",
        default_parameter=Parameter(negative_iterable=()),
        help="Fast, exact registration of medical images.",
        version=__version__,
        help_format="markdown",
        help_epilogue="Every command has --help with an example. Exit codes: 0 done, 1 input at fault, 2 usage, "
        "70 a fault of fastreg's, 128 + n stopped by signal n.",
        config=(check_words,),
        suppress_keyboard_interrupt=False,  # `main` has a line for it
    )
    for name, cls in COMMANDS.items():
        module = importlib.import_module(f"fastreg.cli.{name}")
        app.command(_command(name, getattr(module, cls)), name=name)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `fastreg` command; ends the process with an exit code as `build` lists them."""
    try:
        with stopping_at_once(), warnings.catch_warnings():
            from fastreg.cli._failures import complain

            # Names may hold what a terminal's encoding lacks: better an escape than no message.
            for stream in (sys.stdout, sys.stderr):
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace")
            warnings.showwarning = lambda message, *_: complain(f"warning: {message}")
            _run(sys.argv[1:] if arguments is None else arguments)
            if sys.stdout is not None:  # closed by `>&-`
                sys.stdout.flush()  # a full disk behind it is found here, not while Python ends
        code = 0
    except Exception as error:
        from fastreg.cli._failures import failed

        code = failed(error)
    except KeyboardInterrupt as error:
        from fastreg.cli._failures import failed

        code = failed(error)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> None:
    from cyclopts import CycloptsError

    from fastreg.cli._config import take_config, use_config

    tokens, path = take_config(arguments)
    app = build()
    try:
        if path is not None:
            use_config(app, path)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        line = " ".join(str(error).split())
        if path is not None and str(path.absolute()) in str(error):
            raise InputError(f"config {path}: {line}") from error
        raise
