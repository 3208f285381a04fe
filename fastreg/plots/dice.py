"""Box plots of Dice per structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreg.evaluation.metrics import mean
from fastreg.plots.canvas import new_figure, save_figure, tidy


def dice_boxplot(methods: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, *, title: str = "") -> None:
    """Dice of every structure over the pairs, the methods side by side, the structure that the last does best on top.

    Args:
        methods: Name of a method -> structure -> one value a pair; NaN is left out. "before" is drawn in grey.
        path: The picture.
        title: Above it.
    """
    last = list(methods.values())[-1]
    names = sorted(last, key=lambda name: mean(last[name]) if not math.isnan(mean(last[name])) else -1)
    row = 0.12 + 0.11 * len(methods)
    height = 1.1 + row * len(names)
    figure = new_figure((6.4, height), "white")
    axes = figure.add_subplot()
    palette = iter(("#1a73e8", "#e8710a", "#188038", "#9334e6", "#d93025", "#12b5cb") * len(methods))
    width = 0.8 / len(methods)
    for k, (method, structures) in enumerate(methods.items()):
        colour = "#9aa0a6" if method == "before" else next(palette)
        values = [[v for v in structures.get(name, ()) if not math.isnan(v)] for name in names]
        offset = (k - (len(methods) - 1) / 2) * width  # the first lowest, as the legend has it last to first
        places = [place + offset for place in range(len(names))]
        if max(map(len, values), default=0) == 1:  # one pair: a box of one value would be but a line
            axes.plot([found[0] if found else math.nan for found in values], places, "o", color=colour, ms=4)
        else:
            _boxes(axes, values, places, 0.8 * width, colour)
        overall = mean(v for found in values for v in found)
        axes.plot([], [], color=colour, lw=5, label=f"{method}, mean {overall:.3f}")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(names) - 0.4)
    tidy(axes, "Dice", "")
    lines = math.ceil(len(methods) / 3)
    figure.legend(loc="upper center", ncols=min(3, len(methods)), frameon=False, fontsize=9, title=title or None)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.12 + 0.18 * lines + (0.18 if title else 0)) / height))
    save_figure(figure, path)


def _boxes(axes: Any, values: Sequence[Sequence[float]], places: Sequence[float], width: float, colour: str) -> None:
    drawn = axes.boxplot(
        values,
        positions=places,
        widths=width,
        orientation="horizontal",
        patch_artist=True,
        manage_ticks=False,
        flierprops={"markersize": 2.5, "markeredgecolor": colour},
        medianprops={"color": "black", "lw": 1.2},
    )
    for box in drawn["boxes"]:
        box.set(facecolor=colour, alpha=0.75, edgecolor=colour)
    for line in (*drawn["whiskers"], *drawn["caps"]):
        line.set(color=colour)
