"""The motion of a head through a series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastreg.plots.canvas import new_figure, save_figure, tidy


def motion_figure(
    parameters: np.ndarray, fd_mm: np.ndarray, path: str | Path, *, threshold_mm: float = 0.5, title: str = ""
) -> None:
    """Translations, rotations and framewise displacement against the volume; what exceeds the threshold is marked.

    Args:
        parameters: [T, 6]: translations in mm, angles in radians.
        fd_mm: [T]; NaN is left out.
        path: .png, .pdf or .svg; written whole or not at all.
        threshold_mm: Of the framewise displacement.
        title: Above the curves.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = new_figure((8.0, 5.4), "white")
    volumes = np.arange(len(parameters))
    rows = figure.subplots(3, sharex=True)
    curves = (parameters[:, :3], np.degrees(parameters[:, 3:]))
    for axes, values, name in zip(rows, curves, ("translation, mm", "rotation, degrees"), strict=False):
        for k, axis in enumerate("xyz"):
            axes.plot(volumes, values[:, k], color=f"C{k}", lw=1.2, label=axis)
        tidy(axes, "", name)
    rows[0].legend(ncols=3, frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 1.28))
    above = fd_mm > threshold_mm  # NaN is not
    rows[2].plot(volumes, fd_mm, color="#3c4043", lw=1.0)
    rows[2].plot(volumes[above], fd_mm[above], "o", color="#d93025", ms=3.5)
    rows[2].axhline(threshold_mm, color="#d93025", ls=":", lw=1.0)
    rows[2].set_ylim(bottom=0)
    tidy(rows[2], "volume", "displacement, mm")
    mean = np.nanmean(fd_mm) if np.isfinite(fd_mm).any() else 0.0
    said = f"mean {mean:.3f} mm, {int(above.sum())} of {len(fd_mm)} volumes above {threshold_mm:g} mm"
    figure.suptitle(f"{title}     {said}" if title else said, fontsize=10)
    figure.align_ylabels(rows)
    figure.tight_layout()
    save_figure(figure, path)
