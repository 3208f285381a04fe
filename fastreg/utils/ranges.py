"""The range of an option, declared with it: ``steps: Annotated[int, Range(1)] = 100``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from fastreg.utils.files import InputError


@dataclass(frozen=True)
class Range:
    """What an option may be; None, and what is no number, always may. Of several, at least one, each is checked."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """The number is larger than `low`, not equal to it."""
    odd: bool = False
    unit: str = ""

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, tuple | list):
            return len(value) > 0 and all(item in self for item in value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        fits = self.low < value if self.above else self.low <= value
        return fits and value <= self.high and math.isfinite(value) and not (self.odd and value % 2 != 1)

    def __str__(self) -> str:
        number = f"{'an odd' if self.odd else 'a'} number{f' of {self.unit}' if self.unit else ''}"
        if self.low > -math.inf and self.high < math.inf:
            return f"{number} {'above' if self.above else 'from'} {self.low:g} to {self.high:g}"
        if self.low > -math.inf:
            return f"{number} {'above' if self.above else 'of at least'} {self.low:g}"
        return number if self.high == math.inf else f"{number} of at most {self.high:g}"


def check_ranges(options: Any) -> None:
    """InputError where a field of a dataclass, or of one inside it, is not in the `Range` of its annotation."""
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            check_ranges(value)
            continue
        for mark in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(mark, Range) and value not in mark:
                got = (" ".join(map(str, value)) or "none") if isinstance(value, tuple | list) else value
                raise InputError(f"{field.name.rstrip('_')}: expected {mark}, got {got}")
