"""What glibc does with memory that is given back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, for as long as it lives; whether it now does.

    A training step frees all that it has made, and glibc hands large blocks back to the system at once: every step then
    waits for the same pages to be cleared anew, a tenth of its time and more.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 1 << 28))
    return all([bool(mallopt(*setting)) for setting in settings])
