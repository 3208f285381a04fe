"""Writes the page: text, style, scripts and pictures in one HTML file."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastreg.utils.files import atomic

MARK = "<!-- fastreg report -->"
"""In the second line of every page."""


@dataclass(frozen=True)
class Column:
    """A figure of the pairs."""

    key: str
    title: str
    """In the table's head, under it `sub`."""
    long: str
    """Where it stands alone."""
    help: str
    sub: str = ""
    unit: str = ""
    percent: bool = False
    whole: bool = False
    """A count."""
    table: bool = True
    strip: bool = False
    """Has a strip plot."""


_OTHER, _MEAN = "By a measure that was not optimised", "Mean of the structures"
COLUMNS = (
    Column("measure_before", "Similarity", "similarity before", _OTHER, "before"),
    Column("measure_after", "Similarity", "similarity after", _OTHER, "after", strip=True),
    Column("overlap", "Overlap", "overlap", "Share of the fixed image in the moving image", percent=True, strip=True),
    Column("dice_before", "Dice", "Dice before", _MEAN, "before"),
    Column("dice", "Dice", "Dice after", _MEAN, "after", strip=True),
    Column("hd95_mm_before", "HD95", "HD95 before", _MEAN, "before", "mm", table=False),
    Column("hd95_mm", "HD95", "HD95 after", _MEAN, unit="mm"),
    Column("tre_mm_before", "TRE", "TRE before", "Mean distance of the landmarks", "before", "mm", table=False),
    Column("tre_mm", "TRE", "TRE after", "Mean distance of the landmarks", unit="mm", strip=True),
    Column(
        "inverse_error_mm", "Inverse error", "inverse error",
        "How far from its start a voxel is after there and back, 95th percentile", unit="mm", strip=True,
    ),
    Column("log_jacobian_min", "log J", "log Jacobian, least", "Of the change of volume", table=False),
    Column("log_jacobian_low", "log J", "log Jacobian, 1 %", "1st percentile", "1 %", strip=True),
    Column("log_jacobian_high", "log J", "log Jacobian, 99 %", "99th percentile", "99 %", strip=True),
    Column("log_jacobian_max", "log J", "log Jacobian, largest", "Of the change of volume", table=False),
    Column("sdlogj", "SDlogJ", "SDlogJ", "Standard deviation of the log Jacobian", table=False),
    Column("corner_folds", "Folds", "corner folds", "Voxels that fold at a corner", "corners", whole=True, strip=True),
    Column("folds", "Folds", "folds", "Voxels with a central determinant of 0 or less", whole=True, table=False),
    Column("ndv_percent", "NDV", "non-diffeomorphic volume", "Of the field's simplices", unit="%", table=False),
    Column("seconds", "Seconds", "seconds", "Of all stages", unit="s", strip=True),
)  # fmt: skip
"""In the order of the table."""


@dataclass(frozen=True)
class Entry:
    """A pair on the page."""

    name: str
    state: str
    """done, suspect, failed, unfinished or unreadable."""
    why: str = ""
    note: str = ""
    """Why there are no pictures."""
    measure: str = ""
    moving: str = ""
    fixed: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Key of a column -> value, finite."""


def write_page(
    path: str | Path,
    title: str,
    made: str,
    options: Mapping[str, str],
    pairs: Iterable[tuple[Entry, Mapping[str, Any]]],
    viewer: tuple[str, str] | None = None,
) -> list[Entry]:
    """Writes the page whole or not at all; one pair after the other, so that a cohort need not fit into memory.

    Args:
        path: The .html file.
        title: Its heading.
        made: When, by what and from what.
        options: What the registrations were asked to do.
        pairs: Each with what the page shows of it: `views` as `fastreg.plots.report.views.views` gives them, and
            `volumes` for the viewer.
        viewer: NiiVue and its licences, as `fastreg.plots.report.viewer.vendored` gives them.

    Returns:
        The entries.
    """
    licences = (
        f"<details><summary>Licences of the viewer</summary><pre>{html.escape(viewer[1])}</pre></details>"
        if viewer
        else ""
    )
    start, rest = _text("page.html").replace("{{licences}}", licences).split("{{views}}")
    between, rest = rest.split("{{report}}")
    before, after = rest.split("{{viewer}}")
    entries: list[Entry] = []
    with atomic(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(start.replace("{{css}}", _text("page.css")).replace("{{title}}", html.escape(title)))
        for k, (entry, shown) in enumerate(pairs):
            for kind, value in shown.items():
                file.write(f'<script type="application/json" id="{kind}-{k}">{_json(value)}</script>\n')
            entries.append(entry)
        known = {key for entry in entries for key in entry.figures}
        columns = [asdict(column) for column in COLUMNS if column.key in known]
        report = {"made": made, "options": options, "columns": columns, "rows": [asdict(entry) for entry in entries]}
        file.write(between + _json(report))
        script = "\n".join(_text(name) for name in ("draw.js", "charts.js", "viewer.js", "page.js"))
        file.write(before + (f"<script>\n{viewer[0]}\n</script>\n" if viewer else ""))
        file.write(after.replace("{{script}}", script))
    return entries


def is_page(path: Path) -> bool:
    """Whether a file is a page that `write_page` wrote."""
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(100)


def _json(value: Any) -> str:
    """JSON that may stand in a script element, whatever names are in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _text(name: str) -> str:
    return (files("fastreg.plots.report") / name).read_text(encoding="utf-8").rstrip("\n")
