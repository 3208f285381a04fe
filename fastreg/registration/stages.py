"""The pyramid of the optimisation, and what it weighs against the images: metrics and regularity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastreg.utils.files import InputError


@dataclass(frozen=True)
class Stage:
    """One level of the pyramid."""

    factor: int
    """Images are averaged over cubes of this edge, in voxels."""
    iterations: int
    """At most this many."""
    window: int | None = None
    """Edge of the local correlation's window in voxels of the level, odd; about one size in space if None."""

    def __post_init__(self) -> None:
        if self.factor < 1 or self.iterations < 0:
            raise ValueError(f"a stage needs a factor of at least 1 and no fewer than 0 iterations, got {self}")
        if self.window is not None and (self.window < 3 or self.window % 2 == 0):
            raise ValueError(f"window must be odd and at least 3, got {self.window}")


STAGES = (Stage(4, 60), Stage(2, 40), Stage(1, 10))
"""Chosen on real brains, docs/register.md."""
WIDEST, NARROWEST = 31, 9
"""Windows of the finest and of the coarsest levels, where the image is large enough."""


def window_of(stage: Stage, size: Sequence[int]) -> int:
    """The stage's window: its own, or a quarter of the image, at most 31 voxels of the image, on any level at least 9.

    Args:
        stage: One level.
        size: Of the image at full resolution, in voxels.
    """
    if stage.window is not None:
        return stage.window
    mean = 1.0
    for length in size:
        mean *= length ** (1 / len(size))
    full = min(WIDEST, mean / 4)
    return max(NARROWEST, int(full / stage.factor + 1e-6) // 2 * 2 + 1)


def read_stages(text: str, windows: str | None = None) -> tuple[Stage, ...]:
    """The pyramid behind what a user wrote: "3" levels, or every level's "4x60,2x40,1x10" (factor x iterations).

    Args:
        text: Levels.
        windows: Edges of the windows, one for each level or one for all: "9,15,31".

    Raises:
        InputError: anything else.
    """
    if text.strip().isdecimal() and 1 <= int(text) <= 6:
        factors = [2**k for k in reversed(range(int(text)))]
        first, *middle, last = factors if len(factors) > 1 else (factors[0], 0)
        listed = [(first, 60), *((factor, 40) for factor in middle), (last, 10)]
        return _with_windows([Stage(*words) for words in listed if words[0]], windows)
    stages = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)x(\d+)\s*", word)
        if found is None:
            raise InputError(f"levels: expected 1 to 6, or factors and iterations such as 4x60,2x40,1x10, got {text!r}")
        stages.append(Stage(int(found[1]), int(found[2])))
    return _with_windows(stages, windows)


def _with_windows(stages: list[Stage], windows: str | None) -> tuple[Stage, ...]:
    if windows is None:
        return tuple(stages)
    words = [word.strip() for word in windows.split(",")]
    edges = [int(word) if word.isdecimal() else 0 for word in words]
    if len(edges) not in (1, len(stages)) or any(edge < 3 or edge % 2 == 0 for edge in edges):
        raise InputError(
            f"windows: expected one odd number of at least 3, or one for each of {len(stages)} levels, got {windows!r}"
        )
    edges = edges * len(stages) if len(edges) == 1 else edges
    return tuple(Stage(s.factor, s.iterations, edge) for s, edge in zip(stages, edges, strict=True))


METRICS: dict[str, float] = {"lncc": 1.0, "remap": 1.0, "mind": 1.0, "mse": 0.02, "mi": 7.0}
"""Name -> what scales the regularity to the metric's values."""
SEEN_AS = {"remap": "one contrast", "mind": "descriptors"}
"""Metric -> what it compares, where that is not the images' own intensities."""


@dataclass(frozen=True)
class Regularity:
    """Weights against the local correlation."""

    smoothness: float
    """Of the velocity's roughness, its mean squared forward difference."""
    volume: float
    """Of the mean squared log Jacobian determinant of the whole deformation."""


REGULARITIES: dict[str, Regularity] = {
    "close": Regularity(1.0, 0.02),
    "default": Regularity(1.25, 0.04),
    "smooth": Regularity(1.5, 0.25),
}
"""Names that a user says."""


def regularity_of(
    name: str,
    metric: str,
    smoothness: float | None = None,
    volume: float | None = None,
    stiffness: float = 1.0,
    share: float = 1.0,
) -> Regularity:
    """The weights of a run.

    Args:
        name: Of `REGULARITIES`.
        metric: Of `METRICS`.
        smoothness: Replaces the weight of the roughness, as it is; what suits the metric if None.
        volume: Likewise of the log Jacobian.
        stiffness: Multiplies the weights of the regularity's name.
        share: Of the voxels that count. The images' loss is a mean over them, the penalties are means over the grid:
            the fewer count, the harder each pulls. The root of the share is between pulling as without a mask and not
            caring; see docs/register.md.
    """
    preset, scale = REGULARITIES[name], METRICS[metric] * stiffness
    softer = max(share, 1e-3) ** 0.5
    return Regularity(
        (preset.smoothness * scale if smoothness is None else smoothness) / softer,
        (preset.volume * scale if volume is None else volume) / softer,
    )
