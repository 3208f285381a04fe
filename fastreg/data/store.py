"""Arrays in files as they lie in memory, with a checksum: what a training run keeps on disk."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.utils.files import atomic


def name_of(recipe: Sequence[Any]) -> str:
    """Of what is made by a recipe of JSON's types: another name for another recipe."""
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]


def stored_bytes(shape: Sequence[int], itemsize: int = 4) -> int:
    """Of an array's file: the values and a checksum."""
    return itemsize * math.prod(shape) + 4


def save_array(path: Path, data: np.ndarray) -> None:
    """The values, then their CRC-32: damage is found at every reading, and costs little."""
    with atomic(path) as partial, partial.open("wb") as file:
        file.write(data.data)
        file.write(zlib.crc32(data.data).to_bytes(4, "little"))


def load_array(path: Path, shape: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
    """What `save_array` wrote; None if it is not there or not whole."""
    try:
        content = bytearray(path.read_bytes())
    except OSError:
        return None
    whole = len(content) == stored_bytes(shape, dtype.itemsize)
    if not whole or zlib.crc32(memoryview(content)[:-4]).to_bytes(4, "little") != content[-4:]:
        return None
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)
