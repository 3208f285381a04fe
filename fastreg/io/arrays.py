"""NumPy's .npz and .npy files, their sizes compared before memory is taken."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fastreg.io.limits import check_size
from fastreg.io.volumes import unreadable
from fastreg.utils.files import InputError

ARRAY_KEYS = ("vol", "seg", "vol_data", "data", "image", "labels", "arr_0")
"""Where an .npz file keeps its array, in the order tried; the first three are VoxelMorph's."""


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an .npz file by name, each read when it is asked for; an .npy file is one array, "arr_0".

    Raises:
        InputError: no such file, damaged, cut short, more than its size can hold, Python objects; on reading, too.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.name = path, f"{what} {path}"
        self._names: dict[str, str | None] = {"arr_0": None}
        try:
            with path.open("rb") as file:
                single = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
            if not single:
                with zipfile.ZipFile(path) as archive:
                    self._names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        except Exception as error:  # what zipfile raises on a damaged directory is of any kind
            raise unreadable(self.name, error) from error

    def __getitem__(self, key: str) -> np.ndarray:
        member = self._names[key]
        try:
            if member is None:
                with self.path.open("rb") as file:
                    return self._read(file, self.path.stat().st_size, False)
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(member)
                check_size(self.name, (entry.file_size,), 1, held=entry.compress_size, packed=entry.compress_type != 0)
                if entry.compress_size > self.path.stat().st_size:
                    raise ValueError(f"{member} claims {entry.compress_size} bytes")
                with archive.open(entry) as file:
                    return self._read(file, entry.file_size, True)
        except InputError:
            raise
        except Exception as error:  # as above
            raise unreadable(self.name, error) from error

    def _read(self, file: IO[bytes], size: int, checked: bool) -> np.ndarray:
        """An array whose header is compared with `size`, the bytes that follow from its start."""
        version: Any = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        check_size(self.name, shape, dtype.itemsize, offset=file.tell(), held=size)
        file.seek(0)
        array = npy.read_array(file, allow_pickle=False)
        if checked and file.read(1):  # a zip entry's checksum is looked at where the entry ends
            raise ValueError("more bytes than its header says")
        return np.asarray(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_numpy(path: Path, what: str) -> Arrays:
    """The arrays of an .npz or .npy file; InputError if it is none."""
    return Arrays(path, what)


def read_image_array(path: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine (the identity if the file has none) of an image in an .npz or .npy file."""
    arrays = open_numpy(path, what)
    key = next((key for key in ARRAY_KEYS if key in arrays), None)
    if key is None:
        raise InputError(f"{what} {path}: expected an array named {' or '.join(ARRAY_KEYS[:3])}, got {list(arrays)}")
    return arrays[key], arrays.get("affine", np.eye(4))
