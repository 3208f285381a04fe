"""The command in processes of its own, forked from one that has imported everything: real signals, in no time."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["fastreg.cli", "fastreg.cli.train_bar", "fastreg.registration.batch", "fastreg.training.trainer", "scipy.ndimage"]
)


@dataclass
class Ended:
    """How it went."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last line of the complaint."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


class Command:
    """`fastreg WORDS` under way; `limit`: bytes that a file may have; `group`: its processes are a group."""

    def __init__(self, words, folder: Path, limit: int | None = None, group: bool = False) -> None:
        self.texts = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        self.process = _context.Process(
            target=_main, args=([str(word) for word in words], folder, self.texts, limit, group)
        )
        self.process.start()

    def kill(self, number: int) -> None:
        """A signal, from outside."""
        os.kill(self.process.pid, number)

    def wait_for(self, true) -> None:
        """Until `true()`, while it runs."""
        end = time.monotonic() + 60
        while not true():
            assert self.process.is_alive() and time.monotonic() < end, self.end()
            time.sleep(0.002)

    def end(self) -> Ended:
        """Waits for its end."""
        self.process.join(120)
        assert not self.process.is_alive(), "does not end"
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in self.texts)
        for path in self.texts:
            path.unlink(missing_ok=True)
        return Ended(self.process.exitcode, out, err)


def _main(words, folder, texts, limit, group) -> None:
    import torch

    from fastreg.cli import main

    for number, path in enumerate(texts, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), number)
        stream = open(number, "w", closefd=False, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        setattr(sys, "stdout" if number == 1 else "stderr", stream)
    # As from a terminal: what a shell starts in the background ignores Ctrl-C, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(folder)
    if group:
        os.setpgid(0, 0)
    torch.set_num_threads(1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        main(words)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
