"""What all pictures share: formats, axes, saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

from fastreg.utils.files import InputError, atomic

Grid: TypeAlias = "np.ndarray[Any, Any]"
"""Pixels or voxels."""
PICTURE_ENDINGS = (".png", ".pdf", ".svg")
"""Formats that pictures are written in."""
INK, PAPER = "#e8e8ec", "#000000"


def tidy(axes: Any, x: str, y: str) -> None:
    """Labels, a light grid, no box."""
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def new_figure(size: tuple[float, float], background: str) -> Any:
    """A figure of `size` inches that needs no display; InputError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib: pip install 'fastreg[plot]'") from error
    figure = Figure(size, facecolor=background)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Writes the picture whole or not at all."""
    with atomic(path) as partial:
        figure.savefig(partial, dpi=130, facecolor=figure.get_facecolor())
