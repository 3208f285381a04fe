"""Pictures: a registration at a glance, a training run's curves, Dice before and after.

Matplotlib (extra `plot`) draws on its own canvas: no global state, no display. Slices are shown as radiologists see
them (the patient's right on the left) where an affine says which way the axes run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastreg.evaluation.metrics import Array, as_array, as_field, dice, mean
from fastreg.geometry.fields import jacobian_determinant
from fastreg.plots.canvas import INK, PAPER, Grid, new_figure, save_figure
from fastreg.plots.slices import Plane, Turn, planes_of, sample, windowed

FOLD, OUTLINE, MESH = "#39ff14", "#ffb000", "#4cc9f0"
SHRINKS, GROWS = ("#9be1ff", "#1f77b4"), ("#b5462f", "#ffc48c")

PANELS = ("fixed", "moving", "moved", "before", "after", "grid", "jacobian")
QC_PANELS = ("fixed", "moved", "after", "grid")
_TITLES = {
    "before": "|fixed − moving|",
    "after": "|fixed − moved|",
    "grid": "deformation",
    "jacobian": "log Jacobian",
}


def registration_figure(
    fixed: Array,
    moving: Array | None,
    moved: Array,
    flow: Array,
    path: str | Path,
    *,
    spacing_mm: Sequence[float] | None = None,
    affine: Array | None = None,
    fixed_labels: Array | None = None,
    moving_labels: Array | None = None,
    moved_labels: Array | None = None,
    title: str = "",
    panels: Sequence[str] = PANELS,
    grid_every: int | None = None,
) -> None:
    """One picture of a registration, on the middle slices of the fixed image.

    The images, their differences, the moving image's voxel grid as it comes to lie on the moved image, and the log of
    the Jacobian determinant with folds in green. Outlines are the fixed image's structures, on every image alike.
    Constant images and NaN are drawn, not refused.

    Args:
        fixed: [D, H, W] or [H, W], any intensity unit.
        moving: The same shape (resampled onto the fixed grid if it had its own); None if no panel shows it.
        moved: The same shape.
        flow: [3, D, H, W], voxels.
        path: .png, .pdf, .svg, ...; written whole or not at all.
        spacing_mm: Voxel size; from `affine`, or ones, if None.
        affine: 4x4, voxel to RAS mm, of a 3-D fixed image: turns the slices and letters their sides.
        fixed_labels: Outlined; with `moving_labels` and `moved_labels` the heading says Dice before and after.
        moving_labels: The same shape.
        moved_labels: The same shape.
        title: First words of the heading.
        panels: Names from PANELS, in order.
        grid_every: Voxels between grid lines; about 24 lines along the longest axis if None.

    Raises:
        InputError: matplotlib is not installed.
        ValueError: shapes that differ.
    """
    images = {"fixed": fixed, "moved": moved} | ({} if moving is None else {"moving": moving})
    if moving is None and {"moving", "before"} & set(panels):
        raise ValueError(f"moving must be given for the panels moving and before, got None for {', '.join(panels)}")
    view = _View.of(images, flow, fixed_labels, spacing_mm, affine)
    heading = _heading(title, view, fixed_labels, moving_labels, moved_labels)
    planes = view.planes()
    width = max(plane.width_mm for plane in planes)
    heights = [plane.height_mm for plane in planes]
    inch = 2.1 / width
    space, top, bottom = 0.06, 0.75, 0.12 if "jacobian" not in panels else 0.42
    size = (
        len(panels) * (2.1 + space) + space,
        sum(heights) * inch + len(planes) * space + top + bottom,
    )
    figure = new_figure(size, PAPER)
    figure.text(0.5, 1 - 0.24 / size[1], heading, color=INK, ha="center", va="center", fontsize=11)
    step = grid_every or max(2, round(max(view.folded.shape) / 24))
    y = size[1] - top
    for row, plane in enumerate(planes):
        y -= heights[row] * inch
        for column, panel in enumerate(panels):
            x = space + column * (2.1 + space) + (width - plane.width_mm) * inch / 2
            box = (x / size[0], y / size[1], plane.width_mm * inch / size[0], heights[row] * inch / size[1])
            axes = figure.add_axes(box)
            axes.set_axis_off()
            shown = _draw(axes, panel, view, plane, step)
            if row == 0:
                middle = (space + column * (2.1 + space) + 1.05) / size[0]
                name = _TITLES.get(panel, panel)
                figure.text(middle, 1 - (top - 0.14) / size[1], name, color=INK, ha="center", va="center", fontsize=9.5)
            if column == 0:
                _letter(axes, plane)
            if panel == "jacobian" and row == len(planes) - 1:
                left = (space + column * (2.1 + space) + 0.3) / size[0]
                bar = figure.add_axes((left, 0.24 / size[1], 1.5 / size[0], 0.07 / size[1]))
                figure.colorbar(shown, cax=bar, orientation="horizontal")
                bar.tick_params(colors=INK, labelsize=7, length=2, pad=1)
                bar.set_xticks([-view.log_range, 0, view.log_range])
                bar.set_xticklabels([f"−{view.log_range:.2g}", "0", f"+{view.log_range:.2g}"])
                for spine in bar.spines.values():
                    spine.set_visible(False)
        y -= space
    save_figure(figure, path)


def qc_picture(fixed: Array, moving: Array | None, moved: Array, flow: Array, path: str | Path, **options: Any) -> None:
    """`registration_figure` with the four panels that show whether to trust a registration; same arguments."""
    registration_figure(fixed, moving, moved, flow, path, **{"panels": QC_PANELS, **options})


@dataclass(frozen=True)
class _View:
    """What is drawn, with axes turned to right, anterior, superior."""

    images: Mapping[str, Grid]
    """fixed, moved, after and, where it is known, moving and before: [D, H, W] in [0, 1]."""
    flow: tuple[Grid, ...]
    """Of each turned axis, in the original voxels."""
    places: tuple[Grid, ...]
    """The voxels' own coordinates along each, to which the flow is added."""
    determinant: Grid
    folded: Grid
    labels: Grid | None
    spacing_mm: tuple[float, ...]
    lettered: bool
    loudest: float
    """The difference that is drawn brightest."""
    log_range: float

    @staticmethod
    def of(
        images: Mapping[str, Array],
        flow: Array,
        labels: Array | None,
        spacing_mm: Sequence[float] | None,
        affine: Array | None,
    ) -> _View:
        field = as_field(flow).float()
        shape = tuple(field.shape[2:])
        ndim = len(shape)
        for name, array in (*images.items(), ("fixed_labels", labels)):
            if array is not None and tuple(array.shape) != shape:
                raise ValueError(f"{name} must have the flow's shape {shape}, got {tuple(array.shape)}")
        matrix = None if affine is None else np.asarray(as_array(affine), dtype=float)
        if spacing_mm is None:
            spacing_mm = [1.0] * ndim if matrix is None else np.linalg.norm(matrix[:ndim, :ndim], axis=0).tolist()
        turn = Turn.of(ndim, matrix)
        flat = min(shape) < 2  # an axis of one voxel has no derivative
        determinant = np.ones(shape) if flat else jacobian_determinant(field)[0].cpu().numpy()
        index = [np.broadcast_to(part, shape) for part in np.ogrid[tuple(slice(n) for n in shape)]]
        shown = {name: turn(windowed(as_array(image))) for name, image in images.items()}
        for name, of in (("before", "moving"), ("after", "moved")):
            if of in shown:
                shown[name] = np.abs(shown["fixed"] - shown[of])
        return _View(
            images=shown,
            loudest=max(float(np.percentile(sample(shown.get("before", shown["after"])), 99.5)), 0.2),
            flow=tuple(turn(field[0, k].cpu().numpy()) for k in turn.order),
            places=tuple(turn(index[k]) for k in turn.order),
            determinant=turn(determinant),
            folded=turn(~(determinant > 0)),
            labels=None if labels is None else turn(as_array(labels)),
            spacing_mm=tuple(float(spacing_mm[k]) for k in turn.order),
            lettered=ndim == 3 and matrix is not None,
            log_range=float(np.clip(np.percentile(np.abs(_log(sample(determinant))), 99.5), 0.1, 2.0)),
        )

    def planes(self) -> list[Plane]:
        """Axial, coronal and sagittal through the middle of the fixed image's content; in 2-D the image itself."""
        return planes_of(self.images["fixed"], self.spacing_mm, self.lettered)


def _log(determinant: Grid) -> Grid:
    """0 where it folds."""
    return np.log(np.where(determinant > 0, determinant, 1))


def _draw(axes: Any, panel: str, view: _View, plane: Plane, step: int) -> Any:
    """Draws a panel; returns what a colour bar would describe."""
    extent = (0, plane.width_mm, plane.height_mm, 0)
    options = {"extent": extent, "aspect": "auto"}
    if panel == "jacobian":
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("volume", [*SHRINKS, "#16161c", *GROWS])
        limits = {"vmin": -view.log_range, "vmax": view.log_range}
        shown = axes.imshow(_log(plane.cut(view.determinant)), cmap=colours, **limits, **options)
        _overlay(axes, plane.cut(view.folded), FOLD, options)
        return shown
    name = "moved" if panel == "grid" else panel
    shown = axes.imshow(
        plane.cut(view.images[name]),
        cmap="inferno" if panel in ("before", "after") else "gray",
        vmin=0,
        vmax=view.loudest if panel in ("before", "after") else 1,
        interpolation="bicubic",
        alpha=0.55 if panel == "grid" else 1,
        **options,
    )
    if panel == "grid":
        _mesh(axes, view, plane, step)
        _overlay(axes, plane.cut(view.folded), FOLD, options)
    elif view.labels is not None and panel in ("fixed", "moving", "moved"):
        _outlines(axes, plane, plane.cut(view.labels))
    return shown


def _centres(plane: Plane) -> tuple[Grid, Grid]:
    """Voxel centres along the columns and rows, in mm."""
    rows, columns = plane.spacing_mm
    return (np.arange(plane.size[1]) + 0.5) * columns, (np.arange(plane.size[0]) + 0.5) * rows


def _mesh(axes: Any, view: _View, plane: Plane, step: int) -> None:
    """The moving image's voxel grid as it comes to lie on the moved image: where p + flow(p) crosses every step-th."""
    for k, parts in enumerate(zip(view.flow, view.places, strict=True)):
        values = np.add(*map(plane.cut, parts))
        if k == plane.axis or min(values.shape) < 2 or not np.isfinite(values).any():
            continue
        lowest, highest = np.nanmin(values), np.nanmax(values)
        levels = np.arange(math.floor(lowest / step), math.ceil(highest / step) + 1) * float(step)
        axes.contour(*_centres(plane), values, levels=levels, colors=MESH, linewidths=0.55, alpha=0.9)


def _outlines(axes: Any, plane: Plane, labels: Grid) -> None:
    """The border of every structure, its voxel stairs rounded off."""
    x, y = _centres(plane)
    for label in np.unique(labels):
        if label == 0:
            continue
        inside = np.pad((labels == label).astype(np.float32), 1, mode="edge")
        inside = (inside[:-2] + 2 * inside[1:-1] + inside[2:]) / 4
        inside = (inside[:, :-2] + 2 * inside[:, 1:-1] + inside[:, 2:]) / 4
        if inside.max() > 0.5 and min(inside.shape) > 1:
            axes.contour(x, y, inside, levels=[0.5], colors=OUTLINE, linewidths=0.6, alpha=0.9)


def _overlay(axes: Any, where: Grid, colour: str, options: Mapping[str, Any]) -> None:
    if where.any():
        from matplotlib.colors import to_rgba

        rgba = np.zeros((*where.shape, 4))
        rgba[where] = to_rgba(colour)
        axes.imshow(rgba, interpolation="nearest", **options)


def _letter(axes: Any, plane: Plane) -> None:
    if plane.letters is None:
        return
    places = ((0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center"), (0.5, 0.97, "center", "top"))
    for letter, (x, y, h, v) in zip(plane.letters, (*places, (0.5, 0.03, "center", "bottom")), strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=h, va=v, color=INK, fontsize=7.5, alpha=0.85)


def _heading(title: str, view: _View, fixed: Array | None, moving: Array | None, moved: Array | None) -> str:
    words = [title] if title else []
    if fixed is not None and moved is not None:
        after = mean(dice(fixed, moved).values())
        before = "" if moving is None else f"{mean(dice(fixed, moving).values()):.3f} → "
        words.append(f"Dice {before}{after:.3f}")
    count = int(view.folded.sum())
    words.append("no folds" if count == 0 else f"{count} of {view.folded.size} voxels fold")
    return "     ".join(words)
