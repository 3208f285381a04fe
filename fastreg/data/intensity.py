"""Intensities as networks and optimisations expect them."""

from __future__ import annotations

import numpy as np

from fastreg.utils.files import InputError


def normalised(data: np.ndarray, how: str, where: np.ndarray | None = None) -> np.ndarray:
    """Float32 intensities; "percentile": 0.1st to 99.9th onto [0, 1], clipped; "minmax": all onto it; "none": as is.

    Args:
        data: Any shape.
        how: One of the three.
        where: Boolean, the same shape: whose intensities say the range; all that are finite if None.
    """
    data = np.ascontiguousarray(data, dtype=np.float32)
    if how == "none":
        return data
    known = np.isfinite(data)
    if where is not None and (known & where).any():
        known &= where
    finite = data[known]
    if finite.size == 0:
        raise InputError("an image has no finite voxel")
    low = high = 0.0
    if how == "percentile":
        # A million voxels, evenly taken, say it to a thousandth and in a twentieth of the time.
        low, high = np.percentile(finite[:: max(1, finite.size // 1_000_000)], (0.1, 99.9))
    if not high > low:
        low, high = float(finite.min()), float(finite.max())
    scaled = (data - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.clip(np.nan_to_num(scaled), 0, 1).astype(np.float32)
