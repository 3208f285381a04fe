"""How the C library keeps memory."""

from __future__ import annotations

import contextlib
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""
_GROW_BY = 64 * 1024**2


def keep_freed_memory() -> None:
    """Memory that is freed stays with the process, where the C library is glibc; nothing elsewhere.

    By default every field of a volume is mapped anew, a page at a time, and given back: a tenth to a fifth of a
    registration's processor time. For a process that is ours alone, such as a command; whoever set glibc's own
    variables (`MALLOC_...`) is obeyed.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library: it has its own ways
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_TOP_PAD, _GROW_BY)
