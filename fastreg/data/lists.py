"""Lists of files as users write them: one reader of tables and text for training, registration and evaluation."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreg.utils.files import InputError, read_text

IMAGE_ENDINGS = (
    ".nii", ".nii.gz", ".mgz", ".mgh", ".npz", ".npy", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg",
    ".tif", ".tiff",
)  # fmt: skip
TABLE_ENDINGS = (".csv", ".tsv")
_SYNONYMS = {
    "moving_label": "moving_labels",
    "fixed_label": "fixed_labels",
    "moved_label": "moved_labels",
    "mask_moving": "moving_mask",
    "mask_fixed": "fixed_mask",
    "mask": "fixed_mask",
    "points": "points_fixed",
}


@dataclass(frozen=True)
class Row:
    """One entry of a list."""

    line: int
    """Where it stands, counted from 1."""
    cells: Mapping[str, str]
    """Column -> what is written there; empty cells are left out."""


def read_rows(
    path: Path,
    what: str,
    columns: Sequence[str],
    *,
    required: Sequence[str] = (),
    positional: Sequence[int] = (),
    headless: bool = False,
) -> list[Row]:
    """The rows of a list: .csv with a header, otherwise words on lines, with # before comments.

    Cells of a table are separated by commas, semicolons or tabs, columns come in any order, with - or _ in their names.

    Args:
        path: The list, UTF-8 or UTF-16, with any line endings.
        what: What it is to the user, for messages: "pairs".
        columns: Names that a header may have; words on a line are the first of these.
        required: Columns that every row must fill.
        positional: How many words a line may have; none: only tables are read.
        headless: A table without a header is read as lines of words.

    Raises:
        InputError: no such file, no text, no rows, a column or a line that is not understood.
    """
    text = read_text(path, what)
    if path.suffix.lower() not in TABLE_ENDINGS:
        if not positional:
            raise InputError(f"{what} {path}: expected a .csv file with a header of {', '.join(columns)}")
        rows = [_positional(path, what, line, words, columns, positional) for line, words in _lines(path, what, text)]
    else:
        rows = _table(path, what, text, columns, required, positional if headless else ())
    if not rows:
        raise InputError(f"{what} {path}: no {what} in it")
    return rows


def _positional(
    path: Path, what: str, line: int, words: Sequence[str], columns: Sequence[str], lengths: Sequence[int]
) -> Row:
    if len(words) not in lengths:
        shape = [" ".join(columns[:length]) for length in lengths]
        raise InputError(f"{what} {path}, line {line}: expected {' or '.join(shape)}, got {' '.join(words)!r}")
    return Row(line, dict(zip(columns, words, strict=False)))


def _lines(path: Path, what: str, text: str) -> list[tuple[int, list[str]]]:
    """Line number and words; a word with spaces stands in quotes."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        line = line.split(" #")[0].split("\t#")[0]
        try:
            words = shlex.split(line) if '"' in line or "'" in line else line.split()
        except ValueError as error:
            raise InputError(f"{what} {path}, line {number}: a quote that does not end in {line!r}") from error
        if words:
            found.append((number, words))
    return found


def _table(
    path: Path, what: str, text: str, columns: Sequence[str], required: Sequence[str], headless: Sequence[int]
) -> list[Row]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    told = re.match(r"\s*\"?sep=(.)\"?[ \t]*(?=[\r\n])", text)  # a first line that some spreadsheets write for others
    if told:
        delimiter, text = told[1], text[told.end() :]
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if any(map(str.strip, line))]
    except csv.Error as error:
        raise InputError(f"{what} {path}: not a CSV file ({error})") from error
    if not lines:
        return []
    wide = len(_cut(lines[0][1], 0))
    lines = [(number, _cut(line, wide)) for number, line in lines]  # empty columns at the end are a spreadsheet's
    header = [_column(word, columns) for word in lines[0][1]]
    if headless and not set(header) & set(columns):
        return [_positional(path, what, number, words, columns, headless) for number, words in lines]
    strange = [word for word in header if word not in columns]
    if strange or not set(required) <= set(header):
        wrong = f"the column {strange[0]!r}" if strange else ", ".join(header)
        needed = f"{', '.join(required)}, and some of " if required else ""
        raise InputError(f"{what} {path}: expected a header with {needed}{', '.join(columns)}; got {wrong}")
    twice = next((word for word in header if header.count(word) > 1), None)
    if twice is not None:
        raise InputError(f"{what} {path}: the column {twice!r} comes twice")
    rows = []
    for number, line in lines[1:]:
        cells = {name: cell for name, cell in zip(header, line, strict=False) if cell}
        missing = [name for name in required if name not in cells]
        if len(line) != len(header) or missing:
            wanted = f" with {' and '.join(required)}" if required else ""
            raise InputError(f"{what} {path}, line {number}: expected {len(header)} cells{wanted}, got {line}")
        rows.append(Row(number, cells))
    return rows


def _cut(line: list[str], wide: int) -> list[str]:
    """Without the empty cells beyond `wide`."""
    while len(line) > wide and not line[-1]:
        line = line[:-1]
    return line


def _column(word: str, columns: Sequence[str]) -> str:
    name = word.strip().lower().replace("-", "_")
    return name if name in columns else _SYNONYMS.get(name, name)


def find_file(listing: Path, word: str) -> Path:
    """The file that a word in a list means: relative to the list's folder, or to the current one; ~ is the home."""
    path = Path(os.path.expanduser(word))
    beside = listing.parent / path
    return path if path.is_absolute() or (path.exists() and not beside.exists()) else beside


def stem(path: Path) -> str:
    """The file's name without the endings of an image."""
    name = path.name
    for ending in sorted(IMAGE_ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            return name[: -len(ending)]
    return name
