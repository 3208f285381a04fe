"""The tables and the picture of `python -m bench registration`, from its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.peers.colours import COLOURS, UNKNOWN
from bench.registration.pairs import RECORD, UNSEEN
from fastreg.evaluation.metrics import mean
from fastreg.utils.files import atomic

MARKERS = "osD^vPX"
BUSY = 0.25
"""Cores that others kept busy from which on seconds are marked."""
COLUMNS = {
    "dice": ("Dice", "{:.3f}"),
    "hd95": ("HD95 mm", "{:.2f}"),
    "sdlogj": ("SDlogJ", "{:.3f}"),
    "ndv_percent": ("NDV %", "{:.2g}"),
    "corner_folds": ("corner folds", "{:.0f}"),
    "seconds": ("seconds", "{:.1f}"),
    "cpu_seconds": ("CPU seconds", "{:.1f}"),
    "peak_mb_above_inputs": ("peak MB above the inputs", "{:.0f}"),
}
KIND_FIGURES = {"dice": ("Dice", "{:.3f}"), "hd95": ("HD95", "{:.2f}"), "tre": ("TRE", "{:.2f}")}

Row = dict[str, Any]
Part = dict[str, Any]


def markdown(result: dict[str, Any]) -> str:
    """All tables, under headings."""
    brains, machine = result["brains"], result["machine"]
    parts = [
        f"Measured {machine['date']}, {machine['device']}, {machine['threads']} threads, one method after the other. "
        f"CPU seconds are user and system time of all threads; seconds with a star were taken while others kept more "
        f"than {BUSY:g} cores busy, and compare with nothing."
    ]
    for title, cases in (
        (f"Means over {len(UNSEEN)} pairs of which nothing was chosen", UNSEEN),
        (RECORD, (RECORD,)),
        ("Means over the pairs that settings of fastreg were chosen on", _others(brains)),
    ):
        if any(row["case"] in cases for row in brains["rows"]):
            parts += [f"### {title}", _table(brains, cases)]
    if brains["rows"]:
        methods = {row["method"]: row["what"] for row in brains["rows"]}
        parts.append("\n".join(f"- {method}: {what}" for method, what in methods.items()))
    if result["kinds"]["rows"]:
        parts += ["### Images of any kind, each program as it comes", kinds_table(result["kinds"])]
        parts += verdicts(result["kinds"])
    parts.append(f"Versions: {', '.join(f'{name} {version}' for name, version in _versions(result).items())}.")
    return "\n\n".join(parts)


def _others(brains: Part) -> tuple[str, ...]:
    return tuple(case for case in brains["before"] if case not in (RECORD, *UNSEEN))


def _versions(result: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ("brains", "kinds"):
        for row in result[part]["rows"]:
            found |= row.get("versions", {})
            if row["peer"].startswith("fastreg") and "versions" in row:
                found["fastreg"] = f"{row['versions'].get('fastreg', '')} ({row['commit']})"
    return dict(sorted(found.items()))


def _table(part: Part, cases: Sequence[str]) -> str:
    """A line for each method: means over those of the cases that it has."""
    lines = [_line(["method", *(title for title, _ in COLUMNS.values())]), "| --- " * (len(COLUMNS) + 1) + "|"]
    begun = [part["before"][case] for case in cases if case in part["before"]]
    lines.append(_line(["before", *(_mean(begun, key, text) for key, (_, text) in COLUMNS.items())]))
    for method in dict.fromkeys(row["method"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["method"] == method and row["case"] in cases]
        done = [row for row in rows if "absent" not in row]
        name = method if len(done) in (0, len(cases)) else f"{method} ({len(done)} of {len(cases)} pairs)"
        if done:
            cells = {key: _mean(done, key, text) for key, (_, text) in COLUMNS.items()}
            cells["seconds"] += "*" if any((row["others_busy"] or 0) > BUSY for row in done) else ""
            lines.append(_line([name, *cells.values()]))
        elif rows:
            lines.append(_line([method, f"absent: {rows[0]['absent'].replace('|', '/')}", *[""] * (len(COLUMNS) - 1)]))
    return "\n".join(lines)


def kinds_table(part: Part) -> str:
    """A line for each kind and figure, a column for each program; the kinds in the order of the list."""
    methods = list(dict.fromkeys(row["method"] for row in part["rows"]))
    lines = [_line(["kind", "pairs", "figure", "before", *methods]), "| --- " * (len(methods) + 4) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in part["before"].values()):
        cases = [case for case, row in part["before"].items() if row["kind"] == kind]
        for key, (title, text) in KIND_FIGURES.items():
            start = [part["before"][case] for case in cases if key in part["before"][case]]
            if start:
                unit = "" if key == "dice" else " px" if kind.startswith("2d") else " mm"
                cells = [_of_kind(part["rows"], method, cases, key, text) for method in methods]
                lines.append(_line([kind, str(len(start)), f"{title}{unit}", _mean(start, key, text), *cells]))
    done = {m: [row for row in part["rows"] if row["method"] == m and "absent" not in row] for m in methods}
    lines.append(_line(["all", "", "CPU seconds", "", *(_mean(done[m], "cpu_seconds", "{:.1f}") for m in methods)]))
    return "\n".join(lines)


def verdicts(part: Part) -> list[str]:
    """What each program's own verdict is worth: a sentence for each that gives one."""
    found = []
    for method in dict.fromkeys(row["method"] for row in part["rows"]):
        told = [row for row in part["rows"] if row["method"] == method and "suspect" in row]
        worse = [row for row in told if _is_worse(row, part["before"][row["case"]])]
        named = [row for row in told if row["suspect"]]
        if told:
            hits = sum(row in worse for row in named)
            found.append(
                f"{method}'s own verdict: of {len(told)} pairs {len(worse)} are worse than before (Dice by more than "
                f"{WORSE_DICE:g}, or TRE by more than {100 * WORSE_TRE:g} %) and it calls {hits} of these suspect; "
                f"of the other {len(told) - len(worse)} it calls {len(named) - hits} so."
            )
    return found


WORSE_DICE, WORSE_TRE = 0.01, 0.05


def _is_worse(row: Row, before: Row) -> bool:
    if "tre" in before:
        return bool(row["tre"] > (1 + WORSE_TRE) * before["tre"])
    return bool(row["dice"] < before["dice"] - WORSE_DICE)


def _of_kind(rows: list[Row], method: str, cases: list[str], key: str, text: str) -> str:
    """The mean of a figure, and how many pairs it lacks because the program failed."""
    ours = [row for row in rows if row["method"] == method and row["case"] in cases]
    failed = sum("absent" in row for row in ours)
    shown = _mean([row for row in ours if "absent" not in row], key, text)
    return f"{shown} ({failed} failed)" if failed and shown else "failed" if failed else shown


def _mean(rows: Sequence[Row], key: str, text: str) -> str:
    value = mean(row[key] for row in rows if key in row)
    return "" if value != value else text.format(value)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def pictures(result: dict[str, Any], path: Path) -> None:
    """Curves over each method's own smoothness: means over the unseen pairs above, the pair of record below.

    Of a method that lacks pairs the legend says so: means over other pairs compare with care.
    """
    brains = result["brains"]
    rows = [(UNSEEN, f"mean of {len(UNSEEN)} pairs"), ((RECORD,), RECORD)]
    rows = [row for row in rows if _means(brains, row[0])]
    figure = Figure((13, 4.2 * len(rows)), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(PANELS), squeeze=False)
    names = list(dict.fromkeys(name for cases, _ in rows for name in _means(brains, cases)))
    marks: dict[str, tuple[str, Any]] = {}
    for (cases, title), line in zip(rows, panels, strict=True):
        for axes, (x, y) in zip(line, PANELS, strict=True):
            _panel(axes, brains, cases, x, y, names, marks)
        line[0].set_title(f"{title} (dotted: before)", fontsize=9, loc="left")
    words, drawn = zip(*marks.values(), strict=True)
    figure.legend(drawn, words, loc="center right", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 0.85, 1))
    with atomic(path) as partial:
        figure.savefig(partial, dpi=130)


PANELS = (("sdlogj", "dice"), ("sdlogj", "hd95"), ("cpu_seconds", "dice"))
"""What each picture has along x and y."""
_AXES = {"sdlogj": "SDlogJ, less is smoother", "dice": "Dice", "hd95": "HD95 mm", "cpu_seconds": "CPU seconds"}


def _panel(
    axes: Axes, part: Part, cases: Sequence[str], x: str, y: str, names: list[str], marks: dict[str, tuple[str, Any]]
) -> None:
    """One picture; `marks` is what the legend shows, curve -> its words and its mark."""
    curves = _means(part, cases)
    for name, points in curves.items():
        points.sort(key=lambda point: point["sdlogj"])
        short = min(point["pairs"] for point in points)
        label = name if short == len(cases) else f"{name} ({short} of {len(cases)} pairs)"
        colour = COLOURS.get(points[0]["peer"], UNKNOWN)
        width = 1.3 if x == "sdlogj" else 0  # seconds hardly depend on the smoothness
        (drawn,) = axes.plot(
            [point[x] for point in points], [point[y] for point in points],
            ms=7, lw=width, mew=0.6, mec="white", color=colour, marker=_marker(name, names, part),
        )  # fmt: skip
        marks.setdefault(name, (label, drawn))
    begun = [part["before"][case][y] for case in cases if y in part["before"].get(case, {})]
    if begun:
        axes.axhline(mean(begun), color="#999999", lw=0.9, ls=":")
    axes.set_xlabel(_AXES[x], fontsize=9)
    axes.set_ylabel(_AXES[y], fontsize=9)
    axes.grid(alpha=0.25, lw=0.5)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    if x == "cpu_seconds":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _means(part: Part, cases: Sequence[str] = UNSEEN) -> dict[str, list[Row]]:
    """Curve -> its points: means over those of the pairs that a method has."""
    curves: dict[str, list[Row]] = {}
    for method in dict.fromkeys(row["method"] for row in part["rows"]):
        rows = [r for r in part["rows"] if r["method"] == method and r["case"] in cases and "absent" not in r]
        if rows:
            point = {key: mean(row[key] for row in rows) for key in ("dice", "hd95", "sdlogj", "cpu_seconds")}
            about = {"peer": rows[0]["peer"], "pairs": len(rows)}
            curves.setdefault(rows[0]["line"] or method, []).append({**about, **point})
    return curves


def _marker(name: str, names: list[str], part: Part) -> str:
    """Curves of one program share its colour, so their marks differ."""
    peers = {row["line"] or row["method"]: row["peer"] for row in part["rows"]}
    same = [other for other in names if peers[other] == peers[name]]
    return MARKERS[same.index(name) % len(MARKERS)]
