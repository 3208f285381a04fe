"""The pictures of a record: who is faster by how much, how time grows, how near a copy of the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.implementations import is_ours
from bench.peers.colours import COLOURS, UNKNOWN
from bench.schema import Memory, Record, Speed, Timing
from bench.tables import size_of
from fastreg.utils.files import atomic


def family(backend: str) -> str:
    """Who a backend belongs to."""
    return "fastreg" if is_ours(backend) else backend.split(",")[0].split(" ")[0]


def colour(backend: str) -> str:
    """One for each family."""
    return COLOURS.get(family(backend), UNKNOWN)


def draw(record: Record, folder: Path) -> list[Path]:
    """Writes those pictures for which the record has figures."""
    written = []
    for name, make in (("bench_ratios", ratios), ("bench_growth", growth), ("bench_copy", roofline)):
        figure = make(record)
        if figure is not None:
            path = folder / f"{name}.png"
            with atomic(path) as partial:
                figure.savefig(partial, dpi=130)
            written.append(path)
    return written


def _figure(width: float, height: float) -> Any:
    figure = Figure((width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _plain(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    low, high = axis.get_view_interval()
    few = axis.get_scale() == "log" and high < 20 * low  # else a log axis may be left without a label
    axis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}" if few and f"{x:.0e}"[0] in "25" else ""))


def _title(record: Record) -> str:
    m = record.machine
    return f"{m.device}, {m.cores} cores, {m.date}, commit {m.commit}"


def _groups(rows: list[Speed]) -> dict[str, list[Speed]]:
    found: dict[str, list[Speed]] = {}
    for row in rows:
        if row.median is not None:
            found.setdefault(f"{row.op}, {row.work}", []).append(row)
    return found


def ratios(record: Record) -> Any:
    """A bar for each op and peer: how many times longer the peer takes; the line is its p20 to p80."""
    groups = _groups(record.of(Speed, group="all threads"))
    bars = []
    for name, rows in groups.items():
        ours = next((row for row in rows if is_ours(row.backend)), None)
        peers = sorted((row for row in rows if not is_ours(row.backend)), key=lambda row: row.median)
        bars += [(name, row, row.median / ours.median) for row in peers if ours is not None]
    if not bars:
        return None
    figure = _figure(9, 1.2 + 0.2 * len(bars) + 0.3 * len(groups))
    axes = figure.subplots()
    place, last = 0.0, None
    for name, row, ratio in bars:
        if name != last:
            place, last = place + 0.9, name
            axes.text(0.72, place, name, fontsize=8, fontweight="bold", va="center")
            place += 1
        low, high = row.p20 / row.median * ratio, row.p80 / row.median * ratio
        axes.barh(place, ratio, 0.8, color=colour(row.backend), left=0)
        axes.plot([low, high], [place, place], color="#222222", lw=0.8)
        axes.text(max(ratio, high) * 1.06, place, f"{ratio:.3g}x  {row.backend}", fontsize=7.5, va="center")
        place += 1
    axes.set_xscale("log")
    axes.set_xlim(0.7, max(ratio for *_, ratio in bars) * 30)
    axes.axvline(1, color=COLOURS["fastreg"], lw=1.2)
    axes.set_yticks([])
    axes.set_ylim(place, 0)
    _tidy(axes)
    _plain(axes.xaxis)
    size = "x".join(map(str, bars[0][1].size[2:]))
    axes.set_xlabel(f"time of the peer / time of fastreg, {size}, float32, threads: {bars[0][1].threads}", fontsize=9)
    axes.set_title(_title(record), fontsize=9)
    figure.tight_layout()
    return figure


def growth(record: Record) -> Any:
    """Nanoseconds per voxel against voxels, a panel for each op; and against the window for LNCC."""
    groups = _groups(record.of(Speed, group="growth"))
    widths = [row for row in record.of(Speed, group="windows") if row.median is not None]
    panels = len(groups) + bool(widths)
    if not panels:
        return None
    columns = min(3, panels)
    lines = -(-panels // columns)
    figure = _figure(3.6 * columns, 3.0 * lines + 0.3)
    all_axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (name, rows) in zip(all_axes, groups.items(), strict=False):
        _lines(axes, rows, lambda row: row.size[2] * row.size[3] * row.size[4] / 1e6)
        axes.set_xscale("log")
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("million voxels", fontsize=8)
    if widths:
        axes = all_axes[len(groups)]
        _lines(axes, widths, lambda row: float(row.option.removeprefix("window ")))
        axes.set_title(f"lncc, {widths[0].work}", fontsize=8)
        axes.set_xlabel("edge of the window, voxels", fontsize=8)
    for axes in all_axes[panels:]:
        axes.set_visible(False)
    for axes in all_axes[:panels]:
        axes.set_ylabel("ns per voxel", fontsize=8)
        axes.set_yscale("log")
        _tidy(axes)
        _plain(axes.xaxis)
        _plain(axes.yaxis)
        axes.legend(fontsize=6.5, frameon=False)
    figure.suptitle(_title(record), fontsize=8)
    figure.tight_layout()
    return figure


def _lines(axes: Any, rows: list[Speed], x: Any) -> None:
    for backend in dict.fromkeys(row.backend for row in rows):
        mine = sorted((row for row in rows if row.backend == backend), key=x)
        points = [row.size[0] * row.size[2] * row.size[3] * row.size[4] for row in mine]
        each = [1e6 * row.median / n for row, n in zip(mine, points, strict=True)]
        axes.plot([x(row) for row in mine], each, "o-", ms=3.5, lw=1.3, color=colour(backend), label=backend)
        low = [1e6 * row.p20 / n for row, n in zip(mine, points, strict=True)]
        high = [1e6 * row.p80 / n for row, n in zip(mine, points, strict=True)]
        axes.fill_between([x(row) for row in mine], low, high, color=colour(backend), alpha=0.2, lw=0)
    copies = [row for row in rows if is_ours(row.backend) and row.copy is not None]
    if copies:
        copies.sort(key=x)
        points = [row.size[0] * row.size[2] * row.size[3] * row.size[4] for row in copies]
        floor = [1e6 * row.copy / n for row, n in zip(copies, points, strict=True)]
        axes.plot([x(row) for row in copies], floor, ":", lw=1.2, color="#222222", label="copy of the same bytes")


def roofline(record: Record) -> Any:
    """Needed bytes over time, beside the copy's: how much of the machine's bandwidth each op uses."""
    groups = _groups(record.of(Speed, group="all threads"))
    rows = [row for members in groups.values() for row in members if row.fraction_of_copy is not None]
    if not rows:
        return None
    peaks = {f"{row.op}, {row.work}": row.peak for row in record.of(Memory) if is_ours(row.backend)}
    figure = _figure(8.5, 0.8 + 0.62 * len(groups))
    axes = figure.subplots()
    for place, (name, members) in enumerate(groups.items()):
        for row in members:
            if row.fraction_of_copy is None:
                continue
            mark = {"marker": "D", "ms": 7} if is_ours(row.backend) else {"marker": "o", "ms": 4.5}
            label = family(row.backend)
            axes.plot(
                row.fraction_of_copy, place, ls="", color=colour(row.backend), mec="white", mew=0.5, label=label, **mark
            )
        rate = next(row.bytes / row.copy / 1e6 for row in members if row.copy)
        said = f"copy {rate:.0f} GB/s"
        if peaks.get(name) is not None:
            said += f"; peak {peaks[name] / 1e6:.0f} MB"
        axes.text(1.03, place, said, fontsize=7, va="center", transform=axes.get_yaxis_transform())
    axes.axvline(1, color="#222222", ls=":", lw=1.2)
    axes.set_xscale("log")
    axes.set_yticks(range(len(groups)), list(groups), fontsize=8)
    axes.invert_yaxis()
    _tidy(axes)
    _plain(axes.xaxis)
    axes.set_xlabel("time of a copy of the bytes that the op cannot avoid / time of the op", fontsize=8)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(shown.values(), shown.keys(), fontsize=7, frameon=False, loc="lower left")
    axes.set_title(_title(record), fontsize=8)
    figure.tight_layout()
    return figure


def draw_gpu(record: Record, folder: Path) -> list[Path]:
    """A picture for each size of a GPU's run: float32 times of every implementation, and floors as lines."""
    written = []
    rows = [row for row in record.of(Timing) if row.dtype == "float32" and row.median is not None]
    sizes = [row.group if isinstance(row, Speed) else size_of(row) for row in rows]
    for number, size in enumerate(dict.fromkeys(sizes)):
        figure = gpu_bars([row for row, one in zip(rows, sizes, strict=True) if one == size], size)
        path = folder / f"size_{number}.png"
        with atomic(path) as partial:
            figure.savefig(partial, dpi=120)
        written.append(path)
    return written


def gpu_bars(rows: list[Timing], size: str) -> Any:
    """A group of bars for each op, a bar for each implementation."""
    names = {id(row): ", ".join(part for part in (row.op, row.work, row.option) if part) for row in rows}
    ops, who = list(dict.fromkeys(names.values())), list(dict.fromkeys(row.backend for row in rows))
    figure = _figure(10, 0.5 * len(ops) + 2)
    axes = figure.subplots()
    height = 0.8 / len(who)
    for k, backend in enumerate(who):
        mine = [row for row in rows if row.backend == backend]
        places = [ops.index(names[id(row)]) + k * height for row in mine]
        axes.barh(places, [row.median for row in mine], height, label=backend)
    for place, op in enumerate(ops):
        floor = next((row.copy for row in rows if names[id(row)] == op and isinstance(row, Speed)), None)
        if floor:
            axes.plot([floor, floor], [place - 0.1, place + 0.8], "k:")
    axes.set_yticks([place + 0.4 for place in range(len(ops))], ops)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"ms, {size}, float32; dotted: a copy of the same bytes")
    axes.legend()
    figure.tight_layout()
    return figure
