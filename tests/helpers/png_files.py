"""PNG files, byte by byte."""

import struct
import zlib


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(lines, width, bits=8, colour=0, interlaced=0):
    """A file of filtered lines: (filter, bytes)."""
    raw = b"".join(bytes([kind]) + bytes(line) for kind, line in lines)
    header = struct.pack(">IIBBBBB", width, len(lines), bits, colour, 0, 0, interlaced)
    body = zlib.compress(raw)
    pieces = chunk(b"IDAT", body[:5]) + chunk(b"IDAT", body[5:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"a\0b") + pieces + chunk(b"IEND", b"")
