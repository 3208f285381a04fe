"""Files that are whole or not there, that are not put over others, and the error that a user's input raises."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """The input is at fault. The message is one line that names the file or argument, what was expected, what came."""


def check_exists(path: str | Path, what: str, *, folder: bool = False) -> Path:
    """`path` as a Path; InputError if no file is there; with `folder` a folder will do, as a DICOM series is one."""
    path = Path(path)
    if not path.is_file() and not (folder and path.is_dir()):
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
    return text.replace("\ufeff", "").rstrip("\x1a")  # the mark of a file that was appended; the end mark of DOS


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file says; InputError if it is none."""
    try:
        return json.loads(read_text(path, what))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{what} {path}: not JSON ({error})") from error


def check_free(path: str | Path, overwrite: bool) -> Path:
    """`path` as a Path; InputError if something is there that may not be overwritten, or no folder can hold it.

    A link is something too, wherever it leads: with `overwrite` it is replaced, and what it leads to stays.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {path} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise InputError(f"output {path} is a device or a pipe, not a file: it would be replaced, not written to")
    if path.is_symlink() and not overwrite:
        raise InputError(f"output {path} is a link to {os.readlink(path)}; use --overwrite to replace the link")
    if path.exists() and not overwrite:
        raise InputError(f"output {path} exists; use --overwrite to replace it")
    above = next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
    if not above.is_dir():
        raise InputError(
            f"output {path}: {above} is a {'link to nothing' if above.is_symlink() else 'file'}, not a folder"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"output {path}: the folder {above} may not be written")
    return path


def check_apart(outputs: Mapping[str, Path], inputs: Iterable[tuple[str, Path]] = ()) -> None:
    """InputError where two of the outputs are one file, or one of them is an input, by whatever names and links.

    Args:
        outputs: What the user calls an output -> its path.
        inputs: What the user calls an input, and its path; one that is not there does not count.
    """
    taken: dict[str, str] = {}
    for name, path in outputs.items():
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"two outputs have the same path: {taken[place]} and {name} {path}")
        taken[place] = name
    for name, path in inputs:
        place = os.path.realpath(path)
        if place in taken and os.path.lexists(place):
            raise InputError(f"output {taken[place]} is the input {name} {path}; give it another name")


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same endings, which becomes `path` when the block ends well.

    After an error nothing stays behind; a reader never sees half a file. A file that is replaced keeps its mode; a link
    is replaced itself.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, mode = _partial(path)
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None or str(partial) in str(error.filename):
            raise _not_written(path, error) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def save_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def _partial(path: Path) -> tuple[Path, int]:
    """A new, empty file beside `path`, and the mode that `path` is to have: that of the file there, or the umask's."""
    try:
        before = path.lstat().st_mode
    except OSError:
        before = 0
    if before and not (stat.S_ISREG(before) or stat.S_ISLNK(before) or stat.S_ISDIR(before)):
        raise OSError(errno.EEXIST, "a device or a pipe is there, which would be replaced")
    kept = stat.S_IMODE(before) if stat.S_ISREG(before) else None
    ending = path.name if len(os.fsencode(path.name)) < 200 else "".join(path.suffixes[-2:])
    while True:
        partial = path.parent / f".partial-{secrets.token_hex(4)}{ending}"
        try:  # the umask counts here and nowhere else: reading it would set it, for all threads
            handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if kept is None else kept | 0o200)
        except FileExistsError:
            continue
        with open(handle, "wb"):
            mode = stat.S_IMODE(os.fstat(handle).st_mode) if kept is None else kept
        return partial, mode


def _not_written(path: Path, error: OSError) -> OSError:
    """The same error with the name of the file that the user asked for."""
    said = error.strerror or " ".join(str(error).split())
    kind = BrokenPipeError if isinstance(error, BrokenPipeError) else OSError
    return kind(error.errno or errno.EIO, f"cannot be written: {said}", str(path))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
