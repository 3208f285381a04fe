"""Linear alignment of two images from header to affine: coarse to fine, from several starts, by any of three metrics.

The map is ``D(theta) @ start``: D is the exponential of a combination of generators (turns, one scale, strains) about
the fixed image's centre of mass. Each is scaled to move the image's mass by one voxel of the level, root mean square,
so that L-BFGS meets a well-conditioned problem; what follows from the metric reaches theta through `fastreg.warp`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastreg.geometry.fill import filled
from fastreg.geometry.image import Image
from fastreg.geometry.masks import inside
from fastreg.geometry.transforms import Affine
from fastreg.registration.affine_objective import LOSS_SCALE, METRICS, Objective, Scan, generators
from fastreg.utils.files import InputError

KINDS = ("translation", "rigid", "similarity", "affine")
"""Each adds to the one before it."""
STARTS = ("auto", "header", "mass")


def align(
    fixed: Image,
    moving: Image,
    *,
    kind: str = "affine",
    metric: str = "lncc",
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    init: str | Affine = "auto",
    levels_mm: Sequence[float] | None = None,
    iterations: int = 40,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Affine:
    """The linear map of the fixed image's world to the moving image's that makes them look most alike.

    Args:
        fixed: [X, Y, Z] or [X, Y]. NaN voxels count as background, outside the mask.
        moving: As many axes; size, spacing and orientation are its own.
        kind: "translation", "rigid", "similarity" (one scale) or "affine".
        metric: "lncc" (local correlation, within a contrast), "mi" (mutual information, between contrasts) or "mse"
            (intensities of the same scale).
        fixed_mask: Where the fixed image counts, on any grid in its world; above 0 is inside.
        moving_mask: Likewise of the moving image.
        init: Start from the "header" (the images lie where their headers say), the centres of "mass", an affine, or
            "auto": the best of these and of turned ones.
        levels_mm: Spacings of the working grids, coarse to fine; by the size of the fixed image if None: a brain's are
            8, 4 and 2 mm.
        iterations: Of L-BFGS at every level, at most.
        seed: Of the points at which "mi" and "mse" compare the images.
        device: Where it runs; the CPU if None.

    Raises:
        InputError: unknown names, images that do not overlap at the start, that are constant, NaN everywhere, or of
            different dimension, empty masks.

    Source: LNCC: Avants et al. 2008. Mutual information: Mattes et al. 2003. Matrix exponential: Alexa 2002. Search
    for a start: after FLIRT, Jenkinson and Smith 2001.
    """
    _check_names(kind=(kind, KINDS), metric=(metric, tuple(METRICS)))
    if not isinstance(init, Affine):
        _check_names(init=(init, STARTS))
    if fixed.ndim != moving.ndim:
        raise InputError(f"moving image: {moving.ndim}-D, but the fixed image is {fixed.ndim}-D")
    device = torch.device(device or "cpu")
    levels = _default_levels(fixed) if levels_mm is None else tuple(levels_mm)
    scans = list(
        zip(
            _pyramid(fixed, fixed_mask, "fixed", levels, device),
            _pyramid(moving, moving_mask, "moving", levels, device),
            strict=True,
        )
    )
    measures = [_Measures.of(*pair, metric, seed) for pair in scans]
    body = _Body.of(scans[0][0])
    world, objective = _best_start(measures[0], body, *scans[0], init, kind, levels[0])
    for measure, mm in zip(measures, levels, strict=True):
        coarse = measure is measures[0] and len(levels) > 1
        allowed = _at_most_rigid(kind) if coarse else kind
        for _ in range(2):  # what of the moving image lies in the fixed one is weighed anew
            found = _fit(objective if coarse else measure.own, world, body, allowed, mm, iterations // 2)
            if measure.agreed(found) > _LEAST_AGREED * measure.agreed(world):
                world = found
    return Affine(world)


def _at_most_rigid(kind: str) -> str:
    return KINDS[min(KINDS.index(kind), KINDS.index("rigid"))]


def _check_names(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {value}")


def _default_levels(fixed: Image) -> tuple[float, ...]:
    """Three spacings, each half of the one before; the finest has about 96 voxels along an axis (2-D: 192)."""
    extent_mm = float(np.prod(np.array(fixed.shape) * fixed.spacing_mm) ** (1 / fixed.ndim))
    finest = max(extent_mm / (96 if fixed.ndim == 3 else 192), min(fixed.spacing_mm))
    return (4 * finest, 2 * finest, finest)


def _pyramid(
    image: Image, mask: Image | None, what: str, levels_mm: Sequence[float], device: torch.device
) -> list[Scan]:
    """The image at each level, coarse to fine; InputError where there is nothing to align."""
    finite = np.isfinite(image.data)
    if not finite.any():
        raise InputError(f"{what} image: expected intensities, got NaN in every voxel")
    counts = finite
    if mask is not None:
        if mask.ndim != image.ndim:
            raise InputError(f"{what} mask: {mask.ndim}-D, but the {what} image is {image.ndim}-D")
        counts = finite & inside(mask, image.shape, image.affine)
    if not counts.any():
        raise InputError(f"{what} mask: expected voxels above 0 within the {what} image, got none")
    low, high = _range(image.data[counts])
    if not high > low:
        raise InputError(f"{what} image: expected structure, got the constant {low:g}")
    finest = min(levels_mm)
    weight = _block_means(Image(counts.astype(np.float32), image.affine), finest)
    data = _block_means(Image(np.where(counts, image.data.clip(low, high), 0), image.affine), finest)

    def scan(spacing_mm: float) -> Scan:
        """Averages of what counts; where nothing does, of what lies around it."""
        sums, share = _block_means(data, spacing_mm), _block_means(weight, spacing_mm)
        values, counted = (torch.from_numpy(x.data)[None, None] for x in (sums, share))
        values = filled(values / counted.clamp_min(1e-12), counted)
        return Scan(((values - low) / (high - low)).to(device), counted.to(device), sums.affine)

    return [scan(mm) for mm in levels_mm]


def _range(data: np.ndarray) -> tuple[float, float]:
    """Intensities without the outermost ones, of a sample."""
    sample = data.ravel()[:: max(1, data.size // 200_000)]
    low, high = np.percentile(sample, [0.5, 99.8])
    return (float(low), float(high)) if high > low else (float(data.min()), float(data.max()))


def _block_means(image: Image, spacing_mm: float) -> Image:
    """The image in voxels as near to `spacing_mm` as whole multiples of its own come; never finer than it is."""
    factors = [
        min(max(1, round(spacing_mm / own)), length) for own, length in zip(image.spacing_mm, image.shape, strict=True)
    ]
    pool = torch.nn.functional.avg_pool3d if image.ndim == 3 else torch.nn.functional.avg_pool2d
    data = pool(torch.from_numpy(np.ascontiguousarray(image.data, np.float32))[None, None], factors)
    change = np.eye(4)
    for axis, factor in enumerate(factors):
        change[axis, axis], change[axis, 3] = factor, (factor - 1) / 2
    return Image(data[0, 0].numpy(), image.affine @ change)


@dataclass(frozen=True)
class _Body:
    """Where the fixed image's mass lies: the frame of the parameters."""

    centre: np.ndarray
    """[3], RAS mm."""
    radius_mm: float
    """Root mean square distance from the centre."""
    axes: np.ndarray
    """[3, ndim], orthonormal: the directions in which the map may move anything."""

    @classmethod
    def of(cls, scan: Scan) -> _Body:
        ndim = scan.values.ndim - 2
        mass = _mass(scan)
        centre = _places(scan, mass)
        voxels = np.stack(np.meshgrid(*[np.arange(n) for n in mass.shape], indexing="ij"), -1)
        apart = (voxels @ scan.affine[:3, :ndim].T) + scan.affine[:3, 3] - centre
        radius = float(np.sqrt((mass * (apart**2).sum(-1)).sum() / mass.sum()))
        axes = np.eye(3) if ndim == 3 else np.linalg.qr(scan.affine[:3, :2])[0]
        return cls(centre, radius, axes)


def _mass(scan: Scan) -> np.ndarray:
    """How far each voxel is from the background, which is what lies along the border of the grid."""
    values, weight = scan.values[0, 0].cpu().numpy(), scan.weight[0, 0].cpu().numpy()
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) for _ in values.shape)] = False
    mass = np.abs(values - np.median(values[border])) * weight
    return mass if mass.any() else weight


def _places(scan: Scan, mass: np.ndarray) -> np.ndarray:
    """The centre of mass in RAS mm."""
    ndim = mass.ndim
    rest = [tuple(a for a in range(ndim) if a != axis) for axis in range(ndim)]
    voxel = [mass.sum(others) @ np.arange(n) / mass.sum() for others, n in zip(rest, mass.shape, strict=True)]
    return scan.affine[:3, :ndim] @ voxel + scan.affine[:3, 3]


def _fit(
    objective: Objective, world: np.ndarray, body: _Body, kind: str, spacing_mm: float, iterations: int
) -> np.ndarray:
    """The map near `world` where the similarity is highest; `world` itself where nothing is gained."""
    if objective.weigh(world) == 0:
        return world
    with torch.no_grad():
        before = float(objective(torch.from_numpy(world)))
    ndim = body.axes.shape[1]
    axes = torch.from_numpy(body.axes)
    basis = torch.from_numpy(body.axes @ generators(kind, ndim) @ body.axes.T * spacing_mm / body.radius_mm)
    start = torch.from_numpy(world)
    pivot = start[:3, :3] @ torch.from_numpy(body.centre) + start[:3, 3]
    theta = torch.zeros(ndim + len(basis), dtype=torch.float64, requires_grad=True)

    def mapped() -> Tensor:
        linear = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", theta[ndim:], basis))
        shift = pivot - linear @ pivot + spacing_mm * axes @ theta[:ndim]
        top = torch.cat([linear, shift[:, None]], 1) @ start
        return torch.cat([top, start[3:]])

    def closure() -> Tensor:
        theta.grad = None
        loss = -LOSS_SCALE * objective(mapped())
        torch.autograd.backward(loss)
        return loss

    optimiser = torch.optim.LBFGS(
        [theta], max_iter=iterations, tolerance_grad=0, tolerance_change=0.01, line_search_fn="strong_wolfe"
    )
    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = mapped()
        gain = float(objective(found)) - before
    return found.numpy() if gain > _LEAST_GAIN else world


_LEAST_AGREED = 0.9
"""A fit that loses more of the product of both similarities than this leaves is not taken."""
_LEAST_GAIN = 1e-5
"""Of similarity: what rounding may give a map that is no better."""


@dataclass(frozen=True)
class _Measures:
    """What is maximised on a level, and mutual information as a second opinion.

    A metric can have its highest value far from the truth: local correlation where a skull is in one image alone,
    squares where the contrasts differ. Mutual information has other weaknesses. So of two maps the better one is that
    of the higher product: one loses less than the other gains.
    """

    own: Objective
    second: Objective | None
    """None where mutual information itself is maximised."""

    @classmethod
    def of(cls, fixed: Scan, moving: Scan, metric: str, seed: int) -> _Measures:
        second = None if metric == "mi" else Objective(fixed, moving, "mi", seed)
        return cls(Objective(fixed, moving, metric, seed), second)

    def agreed(self, world: np.ndarray) -> float:
        """The product of both similarities, each times its overlap."""
        own = self.own.score(world)
        return own if self.second is None else own * self.second.score(world)


def _best_start(
    measures: _Measures, body: _Body, fixed: Scan, moving: Scan, init: str | Affine, kind: str, spacing_mm: float
) -> tuple[np.ndarray, Objective]:
    """Where to begin, and what led there; InputError where nothing of the two images meets."""
    shifts = _shifts(body, fixed, moving)
    best = measures.own
    if isinstance(init, Affine):
        world = np.array(init.matrix, np.float64)
    elif init != "auto":
        world = shifts[init]
    else:
        starts = [shift @ turn for shift in shifts.values() for turn in _turns(body, kind)]
        rigid = _at_most_rigid(kind)
        ranked = sorted(starts, key=measures.own.score, reverse=True)
        tried = [(measures.own, start) for start in ranked[:5]]
        if measures.second is not None:  # of those that have a chance: to score them all would take as long as the rest
            ranked = sorted([*ranked[:9], *shifts.values()], key=measures.second.score, reverse=True)
            tried += [(measures.second, start) for start in ranked[:2]]
        fitted = [(_fit(objective, start, body, rigid, spacing_mm, 15), objective) for objective, start in tried]
        world, best = max(fitted, key=lambda found: measures.agreed(found[0]))
    if measures.own.weigh(world) < 0.01:
        raise InputError("moving image: it does not overlap the fixed image at the start; another init may help")
    return world, best


def _shifts(body: _Body, fixed: Scan, moving: Scan) -> dict[str, np.ndarray]:
    """Translations by name, fixed RAS mm -> moving RAS mm."""
    across = {
        "header": np.zeros(3),
        "mass": _places(moving, _mass(moving)) - body.centre,
        "centre": _places(moving, np.ones(moving.values.shape[2:])) - _places(fixed, np.ones(fixed.values.shape[2:])),
    }
    found = {}
    for name, shift in across.items():
        found[name] = np.eye(4)
        found[name][:3, 3] = body.axes @ body.axes.T @ shift
    return found


def _turns(body: _Body, kind: str) -> list[np.ndarray]:
    """Rotations about the centre of the body, the identity first."""
    if kind == "translation":
        return [np.eye(4)]
    ndim = body.axes.shape[1]
    basis = generators("rigid", ndim) / np.sqrt(ndim / 2)
    angles = np.deg2rad([0, -30, 30] if ndim == 3 else [0, *[s * a for a in (30, 60, 90) for s in (-1, 1)]])
    turns = []
    for amounts in itertools.product(angles, repeat=len(basis)):
        turn = np.eye(4)
        tangent = torch.from_numpy(body.axes @ np.einsum("k,kij->ij", amounts, basis) @ body.axes.T)
        turn[:3, :3] = torch.linalg.matrix_exp(tangent).numpy()
        turn[:3, 3] = body.centre - turn[:3, :3] @ body.centre
        turns.append(turn)
    return turns
