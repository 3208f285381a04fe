"""Ctrl-C, SIGTERM (a scheduler, docker stop) and SIGHUP (a closed terminal): a word, a saved state, an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal ended the work; the message is one line."""

    def __init__(self, number: int, said: str = "") -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"stopped by {name}{f': {said}' if said else ''}")
        self.number = number

    @property
    def code(self) -> int:
        """The exit code that shells give such an end."""
        return 128 + self.number


class Flag:
    """Whether a signal came, for work that stops where it is safe."""

    number: int | None = None


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` for the signals that are not ignored (nohup, jobs in the background), in this process alone."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows none
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:  # a child that has not set its own yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {}
    for number in SIGNALS:
        there = signal.getsignal(number)
        if there not in (signal.SIG_IGN, None):
            before[number] = there
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, there in before.items():
            signal.signal(number, there)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """A signal raises `Stopped` wherever the work is: temporary files go, and nothing is half done."""

    def handler(number: int, frame: FrameType | None) -> None:
        stopped = Stopped(number)
        if _torch_is_loading():  # C++ that calls Python there aborts at an exception; nothing has begun yet
            os.write(2, f"{stopped}\n".encode())
            os._exit(stopped.code)
        raise stopped

    with _handled(handler):
        yield


def _torch_is_loading() -> bool:
    return bool(getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False))


@contextlib.contextmanager
def stopping_between_steps() -> Iterator[Flag]:
    """The first signal sets the flag, which the work asks for between its steps; a second one raises `Stopped`."""
    flag = Flag()

    def handler(number: int, frame: FrameType | None) -> None:
        if flag.number is not None:
            raise Stopped(number)
        flag.number = number

    with _handled(handler):
        yield flag


def outlive_signals(_: int = 0) -> None:
    """For a process that loads data: Ctrl-C and a scheduler's signal reach the whole group, and the parent finishes
    its step first. SIGTERM, by which torch ends one that hangs, ends it a while later."""

    def later(number: int, frame: FrameType | None) -> None:
        signal.alarm(10)

    for number in SIGNALS:
        signal.signal(number, later if number == signal.SIGTERM else signal.SIG_IGN)
