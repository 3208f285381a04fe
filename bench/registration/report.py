"""The table and the picture of `python -m bench registration`, from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.peers.colours import COLOURS, UNKNOWN

MARKERS = "osD^vPX"
HEADS = ("case", "method", "Dice", "folds", "SDlogJ", "seconds", "peak GB above the inputs")


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = ["| " + " | ".join(HEADS) + " |", "| --- " * len(HEADS) + "|"]
    for case, overlap in result["before"].items():
        lines.append(f"| {case} | before | {overlap:.3f} | | | | |")
        lines += [f"| {case} | {row['method']} | {_figures(row)} |" for row in result["rows"] if row["case"] == case]
    methods = {row["method"]: row["what"] for row in result["rows"]}
    return "\n".join([*lines, "", *(f"- {method}: {what}" for method, what in methods.items())])


def _figures(row: dict[str, Any]) -> str:
    if "absent" in row:
        return f"absent: {row['absent'].replace('|', '/')} | | | | "
    folds = f"{row['folds']} ({row['folds_percent']:.2g} %)"
    gigabytes = row["peak_mb_above_inputs"] / 1024
    return f"{row['dice']:.3f} | {folds} | {row['sdlogj']:.3f} | {row['seconds']:.1f} | {gigabytes:.2f}"


def scatter(result: dict[str, Any], path: Path) -> None:
    """Dice against seconds, a panel for each case; colours are programs, marks their settings."""
    rows = [row for row in result["rows"] if "absent" not in row]
    style = _styles(rows)
    names = list(result["before"])
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = Figure((3.9 * columns + 2.2, 3.1 * lines), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes, case in zip(panels.flat, names, strict=False):
        axes.axhline(result["before"][case], color="#999999", lw=0.9, ls=":", label="before")
        for row in rows:
            if row["case"] == case:
                axes.plot(row["seconds"], row["dice"], ls="", ms=8, mec="white", mew=0.6, **style[row["method"]])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(case, fontsize=9)
        axes.grid(alpha=0.25, lw=0.5)
        axes.tick_params(labelsize=8)
        axes.set_axisbelow(True)
    for axes in panels[:, 0]:
        axes.set_ylabel("mean Dice", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("seconds", fontsize=9)
    marks = {label: mark for axes in panels.flat for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [method for method in (*style, "before") if method in marks]
    figure.legend([marks[m] for m in shown], shown, loc="center right", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1 - 2.1 / figure.get_figwidth(), 1))
    figure.savefig(path, dpi=150)


def _styles(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method -> its colour, mark and label, the same in every panel."""
    style: dict[str, dict[str, Any]] = {}
    used: dict[str, int] = {}
    for row in rows:
        if row["method"] not in style:
            k = used[row["peer"]] = used.get(row["peer"], -1) + 1
            colour = COLOURS.get(row["peer"], UNKNOWN)
            style[row["method"]] = {"color": colour, "marker": MARKERS[k % len(MARKERS)], "label": row["method"]}
    return style
