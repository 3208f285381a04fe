"""How a command fails: one line on stderr and an exit code. Only a fault of fastreg's own shows a traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, metadata

from cyclopts import CycloptsError
from rich.console import Console

from fastreg.utils.files import InputError
from fastreg.utils.stop import Stopped

INPUT, USAGE, BUG, PIPE = 1, 2, 70, 141
_FILES = (
    "json",
    "zipfile",
    "zlib",
    "gzip",
    "safetensors_rust",
    "nibabel",
    "h5py",
    "tomllib",
    "tomli",
    "yaml",
    "_csv",
    "_lzma",
)
"""Modules whose errors mean a file that is not what its name says."""


def failed(error: BaseException) -> int:
    """Says what went wrong; the exit code."""
    known = explain(error)
    try:
        if known is None:
            traceback.print_exception(error)
            complain(
                f"this is a fault of fastreg's, not of your input; please report it with the lines above: {_issues()}"
            )
            return BUG
        if known[0]:
            complain(known[0])
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        known = known or ("", BUG)
        # What is left in the buffer goes nowhere; Python would complain of it while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return known[1]


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code of what the user, the files or the machine did; None if it is fastreg's fault."""
    text = " ".join(str(error).split())
    kind = type(error)
    if isinstance(error, InputError):
        return str(error), INPUT
    if isinstance(error, CycloptsError):
        return f"{text} (see fastreg --help)", USAGE
    if isinstance(error, Stopped):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, BrokenPipeError):
        return "", PIPE
    if isinstance(error, MemoryError) or _out_of_memory(error, text):
        return f"not enough memory{f': {text}' if text else ''}", INPUT
    if isinstance(error, UnicodeEncodeError):
        return f"expected names that {error.encoding} can write, got {error.object!r}; set LC_ALL=C.UTF-8", INPUT
    if isinstance(error, UnicodeDecodeError):
        return f"expected text in {error.encoding}, got the byte {error.object[error.start]:#04x} in a file", INPUT
    if isinstance(error, OSError):
        return _system(error, text), INPUT
    if isinstance(error, EOFError) or kind.__module__.split(".")[0] in _FILES:
        return f"a file cannot be read: {kind.__name__}: {text}", INPUT
    return None


def _out_of_memory(error: BaseException, text: str) -> bool:
    """torch's are RuntimeErrors, of a class of their own on a GPU and without one on the CPU."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "out of memory" in text
    )


def _system(error: OSError, text: str) -> str:
    if error.errno == errno.ENOSPC and not error.filename:
        return "standard output: no space left on device"
    said = error.strerror or text
    return f"{os.fsdecode(error.filename)}: {said}" if isinstance(error.filename, str | bytes) else said


def _issues() -> str:
    try:
        urls = metadata("fastreg").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    found = dict(url.split(", ", 1) for url in urls)
    return found.get("Issues", "https://github.com/fastreg/fastreg/issues")


def complain(line: str) -> None:
    """One line on stderr, whatever the names in it hold: brackets, line ends, a terminal's commands."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in f"fastreg: {line}")
    console = Console(stderr=True, emoji=False)
    console.print(shown, style="red", markup=False, highlight=False, soft_wrap=True)
