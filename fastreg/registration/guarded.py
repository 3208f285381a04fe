"""A deformation whose metric and stiffness the images choose: tried at the coarsest level, where a trial costs little.

Similarity can always be bought by bending space; the question is whether it was worth it. A trial's field is looked at
by a second opinion (`Opinion`). Of metrics the one is taken whose field that approves of most, of stiffnesses the
highest that gains nearly as much; where nothing gains, the linear alignment stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastreg.registration.contrast import Choice
from fastreg.registration.deformable import deform
from fastreg.registration.opinion import Opinion
from fastreg.registration.stages import STAGES, Stage
from fastreg.types import Flow, Mask, RegistrationOutput, Volume

STIFFER = (1.0, 8.0, 64.0)
"""Factors on the regularity that are tried."""
PLAIN = 1.15
"""A gain (opinion after over before) that needs no further trials. Brains of different people had 3.3, beating hearts
2.9 and 3.1, a growing tumour, abdomens and hippocampi 1.2 to 1.4; two visits of one person and serial sections 1.07."""
ENOUGH = 0.65
"""Of the best gain: a stiffer field that has so much of it is preferred. The sections had 0.74, the visits 0.70."""
ACROSS = 2.0
"""Between contrasts the least gain that lets the field be as soft as usual: with less it follows what the contrasts
show differently. Simulated contrasts had 2.7 and 2.8; T1 with CT 1.4, with FLAIR, T2 or EPI 1.0, prostates in MR and
ultrasound 1.4 to 1.7."""
EVIDENCE = 0.05
"""And the least agreement: below it chance gains as much. Simulated contrasts had 0.09, two stains 0.03."""
_AS_GOOD = 0.97
"""Of the best gain: of metrics with so much the one that is named first is taken."""
LEAST_EDGE = 9.5
"""Voxels along the mean axis of a trial's last level."""


@dataclass(frozen=True)
class Trial:
    """What the first stage did by one metric at one stiffness."""

    metric: str
    stiffness: float
    agreement: float
    """The opinion on the field, 0 to 1."""
    gain: float
    """That over the opinion on none."""
    flow: Flow


def guarded(
    fixed: Volume,
    moving: Volume,
    metrics: Sequence[str],
    *,
    flow: Flow | None = None,
    stages: Sequence[Stage] = STAGES,
    mask: Mask | None = None,
    moving_mask: Mask | None = None,
    inverse: bool = False,
    bidir: bool = False,
    **options: Any,
) -> tuple[RegistrationOutput, Choice]:
    """`deform` by one of `metrics`, as stiff as needed; and what was chosen.

    Args:
        fixed: As in `deform`.
        moving: Likewise.
        metrics: One for images of one contrast, several for others.
        flow: Where to start.
        stages: Likewise.
        mask: Likewise.
        moving_mask: Likewise.
        inverse: Likewise.
        bidir: Likewise.
        options: Further arguments of `deform`.
    """
    given = {"mask": mask, "moving_mask": moving_mask, **options}
    first = _stages_of_a_trial(stages, fixed.shape[2:])
    opinion = Opinion(fixed, moving, mask, moving_mask)
    before = opinion.of(None)

    def tried(metric: str, stiffness: float) -> Trial:
        found = deform(
            fixed, moving, flow=flow, metric=metric, stiffness=stiffness, stages=stages[:first], unfold=False, **given
        ).flow
        agreement = opinion.of(found)
        return Trial(metric, stiffness, agreement, agreement / max(before, 1e-12), found)

    trial = _soft(tried, metrics) if len(metrics) == 1 else _across(tried, metrics)
    if trial is None:
        found = deform(fixed, moving, flow=flow, stages=(), inverse=inverse, bidir=bidir, **given)
        return found, Choice("none", "no deformation makes the images agree better")
    choice = Choice(trial.metric, f"agreement x {trial.gain:.2f} at the coarsest level", trial.stiffness)
    chosen = {"metric": trial.metric, "stiffness": trial.stiffness, **given}
    if inverse or bidir:  # the inverse grows with the stages, the first among them
        return deform(fixed, moving, flow=flow, stages=stages, inverse=inverse, bidir=bidir, **chosen), choice
    return deform(fixed, moving, flow=trial.flow, stages=stages[first:], **chosen), choice


def _stages_of_a_trial(stages: Sequence[Stage], size: Sequence[int]) -> int:
    """How many: up to the first whose grid is fine enough to show whether the images meet."""
    mean = math.prod(size) ** (1 / len(size))
    return next((k for k, stage in enumerate(stages, 1) if mean / stage.factor >= LEAST_EDGE), len(stages))


def _soft(tried: Any, metrics: Sequence[str]) -> Trial | None:
    """One contrast: as soft as usual, unless a stiffer field gains nearly as much."""
    trials = [tried(metrics[0], STIFFER[0])]
    if trials[0].gain >= PLAIN:
        return trials[0]
    trials += [tried(metrics[0], stiffness) for stiffness in STIFFER[1:]]
    return _stiffest(trials)


def _across(tried: Any, metrics: Sequence[str]) -> Trial | None:
    """Several contrasts: the metric that gains most; hardly deformed where none gains much."""
    trials = [tried(metric, STIFFER[0]) for metric in metrics]
    most = max(trial.gain for trial in trials)
    best = next(trial for trial in trials if trial.gain >= _AS_GOOD * most)
    if best.gain >= ACROSS and best.agreement >= EVIDENCE:
        return best
    return _stiffest([max((tried(metric, STIFFER[-1]) for metric in metrics), key=lambda trial: trial.gain)])


def _stiffest(trials: list[Trial]) -> Trial | None:
    best = max(trial.gain for trial in trials)
    if best <= 1:
        return None
    return [trial for trial in trials if trial.gain - 1 >= ENOUGH * (best - 1)][-1]
