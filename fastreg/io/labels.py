"""Label maps' numbers and names as users write them, and which labels make a structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastreg.utils.files import InputError, check_exists


def read_structures(text: str, what: str = "labels") -> dict[str, tuple[int, ...]] | None:
    """Structures, each one or more labels, from what a user wrote; None for "all".

    Args:
        text: "all"; labels as in "3,42"; or a JSON file: a list of labels or of lists of labels, a table
            {name: label}, {label: name} or, for coarse groups, {name: [labels]}.
        what: What they are to the user, for messages.

    Returns:
        Name -> labels, in the order given; a structure without a name is called by its labels, "3" or "3+42".

    Raises:
        InputError: anything else, a label in two structures, 0 (the background).
    """
    if text.strip().lower() == "all":
        return None
    if not text.lower().endswith(".json"):
        found: Any = [word.strip() for word in text.split(",") if word.strip()]
    else:
        try:
            found = json.loads(check_exists(Path(text), what).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{what} {text}: not a JSON file ({error})") from error
    if isinstance(found, dict) and all(_is_label(key) for key in found):
        names = [str(name) for name in found.values()]
        found = {
            name if names.count(name) == 1 else f"{name} {label}": label
            for label, name in zip(found, names, strict=True)
        }
    entries = (
        list(found.items())
        if isinstance(found, dict)
        else [(None, x) for x in found]
        if isinstance(found, list)
        else []
    )
    groups = [(name, entry if isinstance(entry, list) else [entry]) for name, entry in entries]
    words = [label for _, group in groups for label in group]
    bad = next((word for word in words if not _is_label(word) or int(word) == 0), None)
    if bad is not None or not words or not all(group for _, group in groups):
        raise InputError(f"{what} {text}: expected all, labels such as 3,42, or JSON of them, got {bad!r}")
    labels = [int(word) for word in words]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"{what} {text}: label {twice} comes twice")
    return {
        "+".join(str(int(label)) for label in group) if name is None else str(name): tuple(
            int(label) for label in group
        )
        for name, group in groups
    }


def read_labels(text: str) -> dict[int, str] | None:
    """Single labels and their names from what `read_structures` reads; None for "all".

    Raises:
        InputError: anything else, or a group of several labels.
    """
    structures = read_structures(text)
    if structures is None:
        return None
    for name, group in structures.items():
        if len(group) > 1:
            raise InputError(f"labels {text}: expected one label a structure, {name!r} has {len(group)}")
    return {group[0]: name for name, group in structures.items()}


def structure_codes(labels: Tensor, structures: Sequence[Sequence[int]]) -> Tensor:
    """The map with the labels of the k-th structure as k + 1 and all others as 0, int32."""
    known = sorted((label, k + 1) for k, group in enumerate(structures) for label in group)
    values = torch.tensor([label for label, _ in known])
    codes = torch.tensor([code for _, code in known], dtype=torch.int32)
    place = torch.searchsorted(values, labels.long()).clamp_max(len(known) - 1)
    return torch.where(values[place] == labels, codes[place], 0)


def _is_label(value: Any) -> bool:
    return not isinstance(value, bool) and str(value).strip().lstrip("-").isdigit()
