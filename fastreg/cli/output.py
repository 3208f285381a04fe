"""What commands print: figures as a table for people or as JSON for programs. Progress goes to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

# Names of files go through these: brackets and colons in them are no markup and no pictures.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(figures: Any) -> None:
    """`figures` as one JSON document on stdout; NaN becomes null."""
    print(json.dumps(_plain(figures), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def shown(figure: float | None, missing: str = "") -> str:
    """A figure in a table: three decimals, or one digit of what is too small for them; `missing` if there is none."""
    if figure is None or figure != figure:
        return missing
    if isinstance(figure, int):
        return str(figure)
    return f"{figure:.3f}" if figure == 0 or abs(figure) >= 0.001 else f"{figure:.1e}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def progress(*extra: str | ProgressColumn) -> Progress:
    """A progress bar on stderr with what is done, `extra` columns and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *extra,
        TimeRemainingColumn(),
        console=err,
    )
