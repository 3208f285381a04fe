"""A record's rows as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.implementations import is_ours
from bench.schema import Exactness, Job, Memory, Record, Row, Speed, Timing
from bench.tolerances import REASONS

NONE = "Not recorded yet: `make bench` writes it."
OPS = ("warp", "lncc", "integrate", "smoothness", "mind", "correlate")


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown; without rows the sentence that nothing was recorded."""
    if not rows:
        return NONE
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def size_of(row: Row) -> str:
    """[1, 1, 64, 64, 64] as people write it; batch and channels where there is more than one image."""
    shape = row.size
    channels = 3 if row.op in ("integrate", "smoothness") else 1
    inner = "x".join(map(str, shape[2:]))
    if len(set(shape[2:])) == 1:
        inner = f"{shape[2]}^3"
    return inner if shape[:2] == [1, channels] else f"{shape[0]}x{shape[1]}x{inner}"


def number(x: float | None, digits: int = 3) -> str:
    """A few significant digits, no exponent."""
    if x is None:
        return ""
    if x >= 10 ** (digits - 1):
        return f"{x:.0f}"
    return f"{x:.{digits}g}" if x >= 0.001 else f"{x:.1e}"


def ours_in(rows: list[Speed]) -> Speed | None:
    """fastreg's row among those of one case."""
    return next((row for row in rows if is_ours(row.backend) and row.median is not None), None)


def by_case(rows: list[Any]) -> list[list[Any]]:
    """Rows that took turns with each other."""
    found: dict[tuple, list[Any]] = {}
    for row in rows:
        found.setdefault((row.op, row.work, tuple(row.size), row.dtype, row.option, row.threads), []).append(row)
    return list(found.values())


def machine_table(record: Record, op: str) -> str:
    """Where, when, with what."""
    m = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items() if version != "absent")
    missing = ", ".join(name for name, version in m.versions.items() if version == "absent")
    lines = [
        f"{m.date}, commit {m.commit}. {m.device}, {m.cores} cores ({m.instructions}), {m.memory_gb:g} GB; {m.system}; "
        f"load before the run {m.load:g}. {versions}." + (f" Absent: {missing}." if missing else "")
    ]
    return "\n".join(lines)


def speed_table(record: Record, op: str, group: str) -> str:
    """Every implementation in every case of a group."""
    lines = []
    rows = [row for row in record.of(Speed, group=group) if op in ("", row.op)]
    for case in by_case(rows):
        ours = ours_in(case)
        for row in sorted(case, key=lambda one: (not is_ours(one.backend), one.absent is not None)):
            about = [f"{row.op}, {row.work}", size_of(row), row.option, row.dtype, row.backend]
            if row.absent is not None:
                lines.append([*about, f"absent: {row.absent}", "", "", ""])
                continue
            ratio = "" if ours is None or row is ours else f"{row.median / ours.median:.2g}x"
            if ratio and row.median / ours.median >= 10:
                ratio = f"{row.median / ours.median:.0f}x"
            spread = f"{number(row.median)} ({number(row.p20)} to {number(row.p80)}), {row.runs}"
            rate = row.bytes / row.median / 1e6 if row.bytes else None
            lines.append([*about, spread, ratio, number(rate), number(row.fraction_of_copy, 2)])
    heads = ["op", "size", "option", "dtype", "who", "ms: median (p20 to p80), runs", "fastreg is faster by"]
    heads += ["GB/s of needed bytes", "of a copy"]
    keep = [k for k in range(len(heads)) if k not in (2, 3) or len({line[k] for line in lines}) > 1]
    return table([heads[k] for k in keep], [[line[k] for k in keep] for line in lines])


def grid_table(record: Record, op: str, group: str, column: Callable[[Speed], str], what: str) -> str:
    """Growth, windows, batch: nanoseconds per voxel, a line for each implementation, a column for each size."""
    rows = [row for row in record.of(Speed, group=group) if op in ("", row.op)]
    columns = list(dict.fromkeys(column(row) for row in rows))
    lines = []
    for who in dict.fromkeys((row.op, row.work, row.backend) for row in rows):
        cells = {column(row): row for row in rows if (row.op, row.work, row.backend) == who}
        shown = [_per_voxel(cells.get(name)) for name in columns]
        lines.append([f"{who[0]}, {who[1]}", who[2], *shown])
    return table(["op", f"who, ns per voxel; {what}", *columns], lines)


def _per_voxel(row: Speed | None) -> str:
    if row is None or row.median is None:
        return "" if row is None else "absent"
    return number(1e6 * row.median / _points(row))


def _points(row: Row) -> int:
    """Voxels, where a vector counts once."""
    return row.voxels // 3 if row.op in ("integrate", "smoothness") else row.voxels


def memory_table(record: Record, op: str) -> str:
    """Peaks above the inputs."""
    lines = []
    for case in by_case([row for row in record.of(Memory) if op in ("", row.op)]):
        least = next((row.peak for row in case if is_ours(row.backend) and row.peak is not None), None)
        for row in case:
            about = [f"{row.op}, {row.work}", size_of(row), row.backend]
            if row.peak is None:
                lines.append([*about, f"absent: {row.absent}", "", ""])
                continue
            more = "" if least is None or is_ours(row.backend) else f"{row.peak / max(least, 1):.1f}x"
            lines.append([*about, f"{row.peak / 1e6:.0f}", more, f"{(row.bytes or 0) / 1e6:.0f}"])
    return table(["op", "size", "who", "peak, MB", "of fastreg's", "results themselves, MB"], lines)


def jobs_table(record: Record, op: str) -> str:
    """Networks."""
    lines = []
    for row in record.of(Job):
        if row.absent is not None:
            lines.append([row.work, size_of(row), row.backend, f"absent: {row.absent}", "", ""])
            continue
        spread = f"{number(row.median)} ({number(row.p20)} to {number(row.p80)}), {row.runs}"
        share = "" if row.share is None else f"{100 * row.share:.1f} %"
        lines.append([row.work, size_of(row), row.backend, spread, number(row.images_per_second), share])
    heads = ["job", "size", "with", "ms: median (p20 to p80), runs", "images/s", "in the ops (or waiting for data)"]
    return table(heads, lines)


def exactness_table(record: Record, op: str) -> str:
    """fastreg's own: the worst error on easy and on hard data, and how near the tolerance anything came."""
    lines = []
    rows = [
        row for row in record.of(Exactness) if (row.tolerance is not None or row.op == "all") and op in ("", row.op)
    ]
    groups: dict[tuple, list[Exactness]] = {}
    for row in rows:
        groups.setdefault((row.op, row.work, row.option, row.backend, row.dtype), []).append(row)
    for (name, work, option, backend, dtype), members in groups.items():
        if members[0].absent is not None:
            lines.append([name, work, backend, dtype, option, f"absent: {members[0].absent}", "", ""])
            continue
        worst = max(members, key=lambda row: row.error if row.error is not None else 0.0)
        near = max(members, key=_used)
        verdict = f"{_used(near):.2f} ({near.data})" if all(row.ok for row in members) else "FAILS"
        lines.append([name, work, backend, dtype, option, f"{worst.error:.1e}", worst.data, verdict])
    heads = ["op", "what", "backend", "dtype", "option", "worst error", "on", "of its tolerance, at most"]
    return table(heads, lines)


def summary_table(record: Record, op: str) -> str:
    """`exactness_table` with the worst option alone, for the overview."""
    groups: dict[tuple, list[Exactness]] = {}
    for row in record.of(Exactness):
        if row.tolerance is not None and row.error is not None:
            groups.setdefault((row.op, row.backend, row.dtype), []).append(row)
    lines = []
    for (name, backend, dtype), members in groups.items():
        parts = [
            [row for row in members if row.work.startswith(how)] for how in ("value", "gradient to", "gradient along")
        ]
        cells = [max(part, key=lambda row: row.error) if part else None for part in parts]
        shown = ["" if one is None else f"{one.error:.1e} ({one.data}, {one.option or one.work})" for one in cells]
        passed = sum(row.ok for row in members)
        lines.append([name, backend, dtype, *shown, f"{passed} of {len(members)}"])
    return table(
        ["op", "backend", "dtype", "worst value", "worst gradient", "its finite differences", "rows within tolerance"],
        lines,
    )


def _used(row: Exactness) -> float:
    """Part of its tolerance."""
    return 0.0 if not row.error else row.error / row.tolerance if row.tolerance else float("inf")


def peers_table(record: Record, op: str) -> str:
    """The same data, float32: fastreg's error and the peers'; the worst padding or window counts."""
    if not op:
        tables = [peers_table(record, one) for one in OPS]
        return "\n\n".join(one for one in tables if one != NONE) or NONE
    rows = record.of(Exactness, dtype="float32", op=op)
    rows = [row for row in rows if row.tolerance is None or row.backend == f"native {record.machine.instructions}"]
    who = list(dict.fromkeys(row.backend for row in rows))
    lines = []
    for about in dict.fromkeys((row.op, row.work, row.data) for row in rows):
        cells = []
        for name in who:
            mine = [row for row in rows if (row.op, row.work, row.data) == about and row.backend == name]
            cells.append(_worst(mine))
        lines.append([*about, *cells])
    return table(["op", "what", "data", *who], lines)


def _worst(rows: list[Exactness]) -> str:
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        return f"{max(errors):.1e}"
    refusals = [row.absent for row in rows if row.absent]
    return f"refuses: {refusals[0].split(':')[0]}" if refusals else ""


def reasons(record: Record, op: str) -> str:
    """What the tolerances are made of."""
    used = {row.reason for row in record.of(Exactness) if row.reason}
    return "\n".join(f"- {REASONS[name]}" for name in REASONS if name in used) or NONE


def gpu_page(record: Record) -> str:
    """What a GPU's run leaves: where it ran, and all its figures as one table."""
    about = "\n".join(f"{name}: {said}  " for name, said in record.about.items())
    return "\n\n".join([machine_table(record, ""), about, gpu_table(record)])


def gpu_table(record: Record) -> str:
    """Times, floors and memory. A floor is the time of a copy of the bytes that an op cannot avoid."""
    lines = []
    for row in record.of(Timing):
        floor = row.copy if isinstance(row, Speed) else None
        share = row.fraction_of_copy if isinstance(row, Speed) else None
        figures = ["" if x is None else f"{x:.3f}" for x in (row.median, row.p20, row.p80, floor, share)]
        if row.absent is not None:
            figures = [f"absent: {row.absent}", "", "", "", ""]
        memory = ["" if x is None else f"{x / 1e6:.0f}" for x in (row.peak, row.kept)]
        what = row.work if isinstance(row, Job) else f"{row.op}, {row.work}"
        lines.append([what, size_of(row), row.option, row.dtype, row.backend, *figures, *memory])
    heads = ["op", "size", "option", "dtype", "who", "median, ms", "p20", "p80", "floor, ms", "floor / median"]
    return table([*heads, "peak, MB", "kept, MB"], lines)
