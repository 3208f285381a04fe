"""Greyscale PNG files as arrays, so that 2-D pictures need no imaging library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from fastreg.io.limits import check_size
from fastreg.utils.files import InputError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {2: "RGB", 3: "a palette", 4: "grey with transparency", 6: "RGB with transparency"}


def read_png(path: str | Path, what: str = "image") -> np.ndarray:
    """[rows, columns], uint8 or uint16, of a greyscale PNG of 1 to 16 bits, not interlaced.

    Raises:
        InputError: no PNG, one cut short or damaged, colours, or interlacing.
    """
    name = f"{what} {path}"
    content = Path(path).read_bytes()
    if not content.startswith(_SIGNATURE):
        raise InputError(f"{name}: not an image that can be read (no PNG)")
    try:
        header, body = _chunks(content)
        width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        if colour != 0:
            kind = _COLOURS.get(colour, f"colour type {colour}")
            raise InputError(f"{name}: expected greyscale, got {kind}; convert it first")
        if interlaced:
            raise InputError(f"{name}: expected a PNG that is not interlaced")
        if bits not in (1, 2, 4, 8, 16) or width < 1 or height < 1:
            raise ValueError(f"{width} x {height} pixels of {bits} bits")
        stride = (width * bits + 7) // 8 + 1
        size = check_size(name, (height, stride), 1, held=len(body), packed=True)
        return _pixels(_unpacked(body, size), height, width, bits)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: not an image that can be read, or cut short ({error})") from error


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """The header, and the compressed data of all its pieces."""
    position, header, body = len(_SIGNATURE), b"", b""
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        if zlib.crc32(kind + data) != checksum:
            raise ValueError(f"damaged chunk {kind!r}")
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            body += data
        elif kind == b"IEND":
            return header, body
        position += 12 + length
    raise ValueError("no end")


def _unpacked(body: bytes, size: int) -> bytes:
    """Not more than `size` bytes, whatever the stream holds; its checksum stands behind them."""
    stream = zlib.decompressobj()
    raw = stream.decompress(body, size)
    if len(raw) == size and not stream.eof:
        stream.decompress(stream.unconsumed_tail, 1)
    if not stream.eof:
        raise ValueError(f"expected {size} bytes of pixels, got {'more' if len(raw) == size else len(raw)}")
    return raw


def _pixels(raw: bytes, height: int, width: int, bits: int) -> np.ndarray:
    """Undoes the filters row by row. The step is the bytes of a pixel, at least one."""
    stride, step = (width * bits + 7) // 8, max(1, bits // 8)
    lines = np.frombuffer(raw, np.uint8, height * (stride + 1)).reshape(height, stride + 1)
    rows = np.zeros((height, stride), np.uint8)
    above = np.zeros(stride, np.uint8)
    for k, line in enumerate(lines):
        rows[k] = above = _unfiltered(int(line[0]), line[1:], above, step)
    if bits == 16:
        return rows.view(">u2").astype(np.uint16)
    if bits == 8:
        return rows
    unpacked = np.unpackbits(rows, axis=1).reshape(height, -1, bits)[:, :width]
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)
    return (unpacked * weights).sum(-1).astype(np.uint8)


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    if kind == 0:
        return line.copy()
    if kind == 1:  # the pixel to the left: a running sum, modulo 256
        out = line.copy()
        for first in range(step):
            out[first::step] = np.cumsum(line[first::step], dtype=np.uint8)
        return out
    if kind == 2:
        return line + above  # modulo 256
    if kind not in (3, 4):
        raise ValueError(f"filter {kind}")
    values, up, out = line.tolist(), above.tolist(), [0] * len(line)
    for k, value in enumerate(values):
        left, corner = (out[k - step], up[k - step]) if k >= step else (0, 0)
        guess = (left + up[k]) // 2 if kind == 3 else _paeth(left, up[k], corner)
        out[k] = (value + guess) & 255
    return np.array(out, np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    """Of the three neighbours the one nearest to left + up - corner."""
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
