"""What a file may claim: sizes are compared before memory is taken, for a damaged header asks for all of it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastreg.utils.files import InputError

MAX_BYTES = 2**34
"""16 GiB: nothing that is compressed is read if it takes more once it is unpacked; no real image does."""
DEFLATE = 1032
"""Bytes that a byte of gzip, zip or PNG unpacks to at most."""
_BLOCK = 2**20


def check_size(
    name: str, shape: Sequence[int], itemsize: int, *, offset: int = 0, held: int | None = None, packed: bool = False
) -> int:
    """Bytes of an array that a header claims.

    Args:
        name: What it is to the user, for messages.
        shape: Axes, as the header has them.
        itemsize: Bytes a value.
        offset: Bytes before the array.
        held: Bytes of the file; None: not known.
        packed: The file is compressed by deflate.

    Raises:
        InputError: negative axes, more than the file can hold, more than `MAX_BYTES` unpacked.
    """
    axes = [int(length) for length in shape]
    if any(length < 0 for length in axes) or offset < 0:
        raise InputError(f"{name}: not an image that can be read (its header claims shape {tuple(axes)})")
    size = math.prod(axes) * itemsize
    can_hold = None if held is None else held * DEFLATE if packed else held
    if can_hold is not None and offset + size > can_hold:
        claim = f"its header claims shape {tuple(axes)}, {size} bytes"
        raise InputError(f"{name}: not an image that can be read, or cut short ({claim}; the file has {held})")
    if size > MAX_BYTES and (packed or held is None):  # otherwise the file is as large itself
        limit = f"{MAX_BYTES >> 30} GiB"
        raise InputError(f"{name}: expected an image of at most {limit} unpacked, got {tuple(axes)}, {size} bytes")
    return size


def read_to_end(stream: Any, name: str) -> None:
    """Reads what is left of a gzip stream, whose checksum and length stand at its end.

    Raises:
        InputError: more bytes than `MAX_BYTES`.
        OSError, EOFError, zlib.error: a stream that is damaged or cut short.
    """
    left = MAX_BYTES
    while block := stream.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise InputError(f"{name}: expected at most {MAX_BYTES >> 30} GiB unpacked, got more")


def is_gzip(head: bytes) -> bool:
    """Whether a file begins as gzip files do."""
    return head[:2] == b"\x1f\x8b"


def open_unpacked(path: Path) -> Any:
    """The file's content as a stream: unpacked if it is gzip, whatever its name says."""
    with path.open("rb") as file:
        packed = is_gzip(file.read(2))
    return gzip.open(path, "rb") if packed else path.open("rb")
