"""One number a voxel from several: the luminance of a picture, or a channel that is named."""

from __future__ import annotations

import numpy as np

from fastreg.utils.files import InputError

_NAMES = {"red": 0, "green": 1, "blue": 2, "alpha": 3}
_LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow and most programs have it."""
CHANNELS = "luminance, red, green, blue, alpha or a number from 0"
"""What a channel may be, as messages say it."""


def check_channel(channel: str | int | None) -> str | int | None:
    """A channel's number, or "luminance", or None: not said; InputError for anything else."""
    if channel is None or channel == "luminance":
        return channel
    found = _NAMES.get(str(channel), channel)
    if isinstance(found, bool) or not str(found).isascii() or not str(found).isdigit():
        raise InputError(f"channel: expected {CHANNELS}, got {channel}")
    return int(found)


def one_channel(data: np.ndarray, channel: str | int | None, name: str) -> np.ndarray:
    """[..., channels] -> [...].

    Args:
        data: Red, green, blue and perhaps alpha; grey and alpha; or channels of any meaning.
        channel: As `check_channel` takes it; None is the luminance of colours, which ignores alpha.
        name: What the image is to the user, for messages.

    Raises:
        InputError: a channel that it does not have, or channels that are no colours and none of them named.
    """
    channel, count = check_channel(channel), data.shape[-1]
    if isinstance(channel, int):
        if channel >= count:
            raise InputError(f"{name}: expected a channel of 0 to {count - 1}, got {channel}")
        return np.ascontiguousarray(data[..., channel])
    if count <= 2:
        return np.ascontiguousarray(data[..., 0])
    if count > 4:
        raise InputError(f"{name}: expected one number a voxel, got {count} channels; say which with --channel")
    weights = np.array(_LUMINANCE, np.float32)
    return np.asarray(data[..., :3].astype(np.float32) @ weights)
