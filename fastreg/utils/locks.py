"""One run in a folder at a time: a file that names the process which works there.

A file with host and process says whose it is on network file systems too, where locks of the system do not everywhere
reach. The lock of a process that is gone is taken over; of a process on another machine nobody here can tell.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastreg.utils.files import InputError, atomic

_NAME = re.compile(r"\.fastreg-(\d+)-of-(\d+)\.lock")


@contextlib.contextmanager
def locked(folder: Path, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Holds `folder` while the block runs.

    Args:
        folder: Made if it is not there.
        part: What this process does of the work there: (k, n) and another k of the same n may be there together.

    Raises:
        InputError: another process works there; one line that names it.
    """
    with _held(folder, folder / f".fastreg-{part[0] + 1}-of-{part[1]}.lock"):
        for path in folder.glob(".fastreg-*-of-*.lock"):
            found = _NAME.fullmatch(path.name)
            if found and int(found[2]) != part[1]:  # its part and ours have pairs in common
                _clear(folder, path)
        yield


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Holds one output, by a file beside it, as `locked` does a folder."""
    with _held(path, path.with_name(f".{path.name[:200]}.lock")):
        yield


@contextlib.contextmanager
def _held(place: Path, lock: Path) -> Iterator[None]:
    mine = json.dumps(_myself())
    while not _written(lock, mine):
        _clear(place, lock)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if lock.read_text(encoding="utf-8") == mine:
                lock.unlink()


def _written(lock: Path, text: str) -> bool:
    """Whether the lock was free and is ours now. It appears whole, by a hard link, and never over another."""
    partial = lock.with_name(f"{lock.name}.{secrets.token_hex(4)}")
    try:
        with atomic(partial) as new:
            new.write_text(text, encoding="utf-8")
        try:
            os.link(partial, lock)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with lock.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        return True
    finally:
        partial.unlink(missing_ok=True)


def _clear(place: Path, lock: Path) -> None:
    """Takes away the lock of a process that is gone; InputError if it is there."""
    stale = _refuse_if_alive(place, lock)
    if stale is not None:
        _remove(lock, stale)


def _refuse_if_alive(place: Path, lock: Path) -> str | None:
    """The text of a lock whose process is gone; None if the lock is gone itself; otherwise InputError."""
    try:
        text = lock.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    try:
        owner = json.loads(text)
        host, pid = str(owner["host"]), int(owner["pid"])
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"output {place}: {lock} is no lock of fastreg's; remove it if no other run works here"
        ) from None
    if _gone(owner, pid):
        return text
    raise InputError(
        f"output {place}: process {pid} on {host} works there; wait for it, or remove {lock} if that process is gone"
    )


def _gone(owner: dict[str, Any], pid: int) -> bool:
    me = _myself()
    if owner["host"] != me["host"]:
        return False
    if owner.get("boot") != me["boot"]:
        return True
    return owner.get("space") == me["space"] and (not _alive(pid) or owner.get("began") != _began(pid))


def _remove(lock: Path, stale: str) -> None:
    """Removes the lock if it is still the stale one: another process may have taken it over in the meantime."""
    aside = lock.with_name(f"{lock.name}.{secrets.token_hex(4)}")
    try:
        os.rename(lock, aside)
    except FileNotFoundError:
        return
    try:
        if aside.read_text(encoding="utf-8", errors="replace") != stale:
            with contextlib.suppress(OSError):
                os.link(aside, lock)
    finally:
        aside.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    """This process, so that another of the same number is told from it: after a restart, in another container."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "began": _began(pid), "boot": _boot(), "space": _space()}


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _space() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where it does not say."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
