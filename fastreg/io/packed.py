"""Images packed by gzip: by the fast instructions of the processor and by several threads, in one stream.

nibabel packs with zlib on one thread, which for a warp takes a good part of the time of finding it.
How a file is packed does not depend on the number of threads, nor on the time.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import torch
from isal import igzip_threaded

LEVEL = 1
"""Of 0 to 3: a warp gets no smaller by those above."""
MOST_THREADS = 4
"""More wait for the disk."""


def save(image: Any, path: str | Path) -> None:
    """Writes nibabel's `image`, packed where the name ends in .gz or .mgz."""
    if not str(path).lower().endswith((".gz", ".mgz")):
        nibabel.save(image, path)
        return
    threads = min(torch.get_num_threads(), MOST_THREADS)
    with igzip_threaded.open(path, "wb", compresslevel=LEVEL, threads=threads) as stream:
        image.to_stream(_Forward(stream))


class _Forward(io.RawIOBase):
    """A stream that goes forward only; nibabel asks to go to a place where zeros may be written up to."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.at = stream, 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.at += len(content)
        return int(self.stream.write(content))

    def tell(self) -> int:
        return self.at

    def seek(self, place: int, whence: int = 0) -> int:
        if whence != 0 or place < self.at:
            raise OSError("a packed stream goes forward only")
        self.write(bytes(place - self.at))
        return self.at
