"""Linear alignment of any two images: find the place, fit rigidly, then the rest, and keep what two measures prefer.

No single similarity leads everywhere. Descriptors of self-similarity (MIND) and mutual information do not care for
contrast and fail on different images, so a map is sought by each, and of what they found the one is taken that has the
highest product of both: one loses less by it than the other gains. Where the images lie already is always among the
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Affine
from fastreg.registration.linear.fit import fit
from fastreg.registration.linear.objective import METRICS, Objective, Objectives
from fastreg.registration.linear.scans import (
    Body,
    Scan,
    default_levels,
    pyramid,
    without_background,
    without_field_of_view,
)
from fastreg.registration.linear.starts import correlated, everywhere, shifts, turns
from fastreg.utils.files import InputError

KINDS = ("translation", "rigid", "similarity", "affine")
"""Each adds to the one before it."""
STARTS = ("auto", "header", "mass", "centre", "search")
_BESIDE = {"mi": "mind"}
"""The second opinion on what a metric found; mutual information on the others."""
_LEAST_REFINED = 0.9
"""What of the product of both measures a refinement by local correlation must leave."""
_LEAST_OVERLAP = 0.01
_SPARING = (1.04, 1.06)
"""By how much a moved image must be better than one that stays, and a freer map better than a rigid one. Turns and
shifts that did two people's brains no good gained up to 1.03, in any contrast; 1.5 mm and degrees of error 1.02 to
1.07, 3 of each 1.08 to 1.16; strains that were none of the object's up to 1.05, true ones 1.08 to 1.3."""


@dataclass(frozen=True)
class Alignment:
    """What was found."""

    world: Affine
    """Fixed RAS mm -> moving RAS mm."""
    kept_start: bool
    """Nothing was found that is better than where the images lay: `world` is the start."""
    before: float
    """The product of both measures and the overlap, at the start."""
    after: float


def align(fixed: Image, moving: Image, **options: object) -> Affine:
    """The linear map alone of `find_alignment`, whose options it takes."""
    return find_alignment(fixed, moving, **options).world  # type: ignore[arg-type]


def find_alignment(
    fixed: Image,
    moving: Image,
    *,
    kind: str = "affine",
    metric: str = "auto",
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    init: str | Affine = "auto",
    levels_mm: Sequence[float] | None = None,
    iterations: int = 40,
    seed: int = 0,
    sparing: bool = False,
    others: Sequence[Other] = (),
    device: str | torch.device | None = None,
) -> Alignment:
    """The linear map of the fixed image's world to the moving image's that makes them look most alike.

    Args:
        fixed: [X, Y, Z] or [X, Y]. NaN voxels count as background, outside the mask.
        moving: As many axes; size, spacing and orientation are its own.
        kind: "translation", "rigid", "similarity" (one scale) or "affine".
        metric: "auto" (descriptors and mutual information, refined by local correlation), or one alone: "lncc" (local
            correlation, within a contrast), "mi" (mutual information), "mind" (descriptors) or "mse" (intensities of
            the same scale).
        fixed_mask: Where the fixed image counts, on any grid in its world; above 0 is inside.
        moving_mask: Likewise of the moving image.
        init: Start from the "header" (the images lie where their headers say), the centres of "mass" or of the grids
            ("centre"), an affine, "auto": the best of these, of turned ones and of all shifts, or "search": turned to
            any side and scaled, too.
        levels_mm: Spacings of the working grids, coarse to fine; by the size of the fixed image if None: a brain's are
            8, 4 and 2 mm.
        iterations: Of BFGS at every level, at most.
        seed: Of the points at which the images are compared.
        sparing: Move the image, and strain it, only where that clearly pays: for a deformation, which finds the rest.
        others: Further pairs of images of the same world: fixed, moving, their masks, and their weight against the
            first. They count in every fit and comparison; where fits begin is found by the first.
        device: Where it runs; the CPU if None.

    Raises:
        InputError: unknown names, images that do not overlap at the start, that are constant, NaN everywhere, or of
            different dimension, empty masks.

    Source: LNCC: Avants et al. 2008. Mutual information: Mattes et al. 2003. MIND: Heinrich et al. 2012. Correlation of
    all shifts: Padfield 2012. Matrix exponential: Alexa 2002.
    """
    _check_names(kind=(kind, KINDS), metric=(metric, ("auto", *METRICS)))
    if not isinstance(init, Affine):
        _check_names(init=(init, STARTS))
    if fixed.ndim != moving.ndim:
        raise InputError(f"moving image: {moving.ndim}-D, but the fixed image is {fixed.ndim}-D")
    device = torch.device(device or "cpu")
    levels = default_levels(fixed) if levels_mm is None else tuple(levels_mm)
    of = [(fixed, moving, fixed_mask, moving_mask, 1.0), *others]
    channels = [_pairs(one, other, (mask, moved), levels, device) for one, other, mask, moved, _ in of]
    search = _Search(channels, [weight for *_, weight in of], levels, metric, kind, iterations, seed, sparing)
    return search.run(init)


def _pairs(
    fixed: Image,
    moving: Image,
    masks: tuple[Image | None, Image | None],
    levels: tuple[float, ...],
    device: torch.device,
) -> list[tuple[Scan, Scan]]:
    """Both images at every level."""
    given = ((fixed, masks[0], "fixed"), (moving, masks[1], "moving"))
    scans = [pyramid(*of, levels, device) for of in given]
    return without_field_of_view(list(zip(*scans, strict=True)))


def _check_names(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {value}")


Other: TypeAlias = "tuple[Image, Image, Image | None, Image | None, float]"
"""Fixed, moving, their masks, weight."""


class _Search:
    """One alignment: its objectives by level and metric, made when they are first needed."""

    def __init__(
        self,
        channels: list[list[tuple[Scan, Scan]]],
        weights: list[float],
        levels_mm: Sequence[float],
        metric: str,
        kind: str,
        iterations: int,
        seed: int,
        sparing: bool,
    ) -> None:
        self.margins = _SPARING if sparing else (1.0, 1.0)
        pairs = channels[0]
        self.pairs, self.levels_mm, self.kind, self.iterations, self.seed = pairs, levels_mm, kind, iterations, seed
        self.channels, self.weights = channels, weights
        self.sought = ("mind", "mi") if metric == "auto" else (metric,)
        self.judges = ("mind", "mi") if metric == "auto" else (metric, _BESIDE.get(metric, "mi"))
        self.refine = metric == "auto"
        self.rigid = KINDS[min(KINDS.index(kind), KINDS.index("rigid"))]
        self.second = min(1, len(pairs) - 1)
        self.body = Body.of(pairs[0][0])
        self.made: dict[tuple[str, int], Objective | Objectives] = {}

    def run(self, init: str | Affine) -> Alignment:
        """From all starts to the best map."""
        surely, maybe = self._starts(init)
        best, name, kind = surely[0], "", ""
        before = after = self._agreed(best)
        rigid = {metric: self._place(metric, surely, maybe) for metric in self.sought}
        for kind_now, least in ((self.rigid, self.margins[0]), (self.kind, self.margins[1])):
            if kind_now == kind:
                break
            for metric, world in rigid.items():
                found = self._finer(metric, world, kind_now)
                agreed = self._agreed(found)
                if agreed > after * (least if kind != kind_now else 1):
                    best, after, kind, name = found, agreed, kind_now, metric
        if name and self.refine:
            refined = self._fit("lncc", len(self.pairs) - 1, best, kind, self.iterations // 2)
            if (agreed := self._agreed(refined)) > max(_LEAST_REFINED * after, before):
                best, after = refined, agreed
        if self._objective(self.judges[0], 0).weigh(best) < _LEAST_OVERLAP:
            raise InputError("moving image: it does not overlap the fixed image at the start; another init may help")
        return Alignment(Affine(best), not name, before, after)

    def _starts(self, init: str | Affine) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Where fits begin, first of all where the images lie; and where else they may, if it looks promising."""
        fixed, moving = self.pairs[0]
        if isinstance(init, Affine):
            world = np.array(init.matrix, np.float64)
            return [world], []
        shifted = shifts(self.body, fixed, moving)
        if init not in ("auto", "search"):
            return [shifted[init]], []
        if self.kind == "translation":
            around = [np.eye(4)]
        elif init == "search":
            around = everywhere(self.body)
        else:
            around = turns(self.body, _TURNS[fixed.ndim])
        # Pictures show at the finest level alone what tells one shift from another, and there are few turns of them.
        pair = self.pairs[0 if fixed.ndim == 3 else -1]
        objects = without_background(pair[0]), without_background(pair[1])
        found = correlated(*pair, around)[:_TRIED]
        best = found[:1]
        if objects[0] is not pair[0] or objects[1] is not pair[1]:  # an outline leads, and it misleads where it is cut
            inside = correlated(*objects, around)[:_TRIED]
            found, best = found + inside, best + inside[:1]
        surely, maybe = [shifted["header"], *(f.world for f in best)], [*shifted.values(), *(f.world for f in found)]
        return surely, maybe

    def _place(self, name: str, surely: list[np.ndarray], maybe: list[np.ndarray]) -> np.ndarray:
        """Where one metric puts the image rigidly, at the coarser levels, from the most promising starts."""
        ranked = [*surely, *self._ranked(name, 0, maybe)[:_TRIED]]
        found = [self._fit(name, 0, start, self.rigid, 15, once=True) for start in ranked]
        if self.second:
            found = [self._fit(name, 1, world, self.rigid, 15, once=True) for world in self._ranked(name, 1, found)[:3]]
        return max(found, key=self._agreed)

    def _finer(self, name: str, world: np.ndarray, kind: str) -> np.ndarray:
        """From a place on, at the finer levels."""
        for level in range(self.second, len(self.pairs)):
            world = self._fit(name, level, world, kind, self.iterations // 2)
        return world

    def _fit(
        self, name: str, level: int, world: np.ndarray, kind: str, iterations: int, once: bool = False
    ) -> np.ndarray:
        """Twice, as what of the moving image lies in the fixed one is weighed anew before each."""
        for _ in range(1 if once else 2):
            world = fit(self._objective(name, level), world, self.body, kind, self.levels_mm[level], iterations)
        return world

    def _ranked(self, name: str, level: int, worlds: list[np.ndarray]) -> list[np.ndarray]:
        return sorted(worlds, key=self._objective(name, level).score, reverse=True)

    def _agreed(self, world: np.ndarray) -> float:
        """The product of both similarities and the overlap."""
        scores = [self._objective(name, self.second).score(world) for name in self.judges]
        overlap = self._objective(self.judges[0], self.second).weigh(world)
        return max(scores[0], 0) * max(scores[1], 0) / max(overlap, 1e-6)

    def _objective(self, name: str, level: int) -> Objective | Objectives:
        key = (name, level)
        if key not in self.made:
            made = [Objective(*pairs[level], name, self.seed) for pairs in self.channels]
            self.made[key] = made[0] if len(made) == 1 else Objectives(made, self.weights)
        return self.made[key]


_TRIED = 5
"""Starts that are fitted, beside the header."""
_TURNS = {2: tuple(range(-180, 180, 15)), 3: (0, -30, 30)}
"""Degrees: of these all shifts are correlated."""
