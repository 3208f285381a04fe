"""Files that are whole or not there, and the error that a user's input raises."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class InputError(ValueError):
    """The input is at fault. The message is one line that names the file or argument, what was expected, what came."""


def check_exists(path: str | Path, what: str) -> Path:
    """`path` as a Path; InputError if no file is there."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what} {path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    return path


def read_text(path: str | Path, what: str) -> str:
    """A text file as spreadsheets, editors and shells write them: UTF-8, with or without a mark, or UTF-16 with one.

    Raises:
        InputError: no such file, or bytes that are no text.
    """
    content = check_exists(path, what).read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {path}: expected text in UTF-8, got bytes that are none (at {error.start})"
        ) from error
    if "\0" in text:
        raise InputError(f"{what} {path}: expected text, got a binary file")
    return text


def check_free(path: str | Path, overwrite: bool) -> Path:
    """`path` as a Path; InputError if something is there that may not be overwritten, or no folder can hold it."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"output {path} exists; use --overwrite to replace it")
    if path.is_dir():
        raise InputError(f"output {path} is a folder, not a file")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise InputError(f"output {path}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"output {path}: the folder {above} may not be written")
    return path


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same endings, which becomes `path` when the block ends well.

    After an error nothing stays behind; a reader never sees half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.name, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
