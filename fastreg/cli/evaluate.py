"""`fastreg evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(kw_only=True)
class Evaluate:
    """Score registrations: Dice and HD95 of structures, folds, NDV and SDlogJ of the warp, TRE of landmarks.

    Example: `fastreg evaluate --fixed-labels fixed_seg.nii.gz --moving-labels moving_seg.nii.gz --warp warp.nii.gz`

    What is not given is not scored. With a warp and moving labels, the labels are warped first (nearest voxel).
    """

    fixed_labels: Path | None = None
    """Label map of the fixed image."""
    moved_labels: Path | None = None
    """Label map of the moved image, on the fixed grid."""
    moving_labels: Path | None = None
    """Label map of the moving image: for the figures before registration, and to be moved by --warp."""
    warp: Path | None = None
    """Displacement field (ITK, FreeSurfer, FSL, Learn2Reg, .npz): folds, NDV and SDlogJ."""
    fixed: Path | None = None
    """The fixed image, if its labels are not given."""
    moving: Path | None = None
    """The moving image, if its labels are not given."""
    mask: Path | None = None
    """A mask on the fixed grid: folds, NDV and SDlogJ are also reported inside it."""
    points_fixed: Path | None = None
    """Landmarks in the fixed image: .csv (columns x, y, z), Slicer's .fcsv or .mrk.json, or the points of a surface."""
    points_moving: Path | None = None
    """The same landmarks in the moving image, in the same order, or with the same labels in both files."""
    points_space: Literal["ras", "lps", "voxel"] = "ras"
    """Coordinates of landmarks whose file does not say them: RAS mm, LPS mm (ITK, ANTs), or voxel indices of their own
    image."""
    pairs: Path | None = None
    """CSV of many pairs: a column `name`, and columns named after the options above."""
    labels: str | None = None
    """The structures: 1,2,3 or a JSON file (a list, or a table of names); by default all of the fixed image."""
    learn2reg: bool = False
    """Score as Learn2Reg does: leave out structures that the fixed or moving image lacks, and give HD95 in voxels."""
    hd95: bool = True
    """Compute HD95, the slowest of the figures (extra: eval)."""
    csv: Path | None = None
    """Write a CSV file with a row for each pair and a column for each figure."""
    plot: Path | None = None
    """Draw a box plot of Dice per structure, before and after, here (.png, .pdf, .svg; extra: plot)."""
    against: tuple[Path, ...] = ()
    """Other methods for --plot: files with what this command printed with --json, each named after its file. Repeat for
    several."""
    overwrite: bool = False
    """Replace the CSV file and the plot if they exist."""
    json: bool = False
    """Print JSON instead of tables."""

    def run(self) -> None:
        """Scores, prints and writes."""
        import contextlib
        from collections.abc import Iterable
        from dataclasses import fields

        from fastreg.cli.output import print_json, progress
        from fastreg.data.pairs import read_scored_files
        from fastreg.evaluation.scoring import Pair, evaluate
        from fastreg.evaluation.table import average, save_csv
        from fastreg.io.images import check_ending
        from fastreg.io.labels import read_labels
        from fastreg.plots.canvas import PICTURE_ENDINGS
        from fastreg.utils.files import InputError, check_free

        roles = [field.name for field in fields(Pair)]
        single = {role: getattr(self, role) for role in roles if getattr(self, role) is not None}
        if self.pairs is not None and single:
            raise InputError(
                f"--pairs names the files of every pair; leave out --{next(iter(single)).replace('_', '-')}"
            )
        for output in (self.csv, self.plot):
            if output is not None:
                check_free(output, self.overwrite)
        if self.plot is not None:
            check_ending(self.plot, PICTURE_ENDINGS)
        if self.against and self.plot is None:
            raise InputError("--against adds methods to the picture of --plot, which is not given")
        others = {path.stem: _dice_of(path) for path in self.against}
        if len(others) < len(self.against):
            raise InputError("--against: two files have the same name, which is what the picture calls a method")
        names = (None if self.labels is None else read_labels(self.labels)) or {}
        options: dict[str, Any] = {
            "labels": list(names) or None,
            "learn2reg": self.learn2reg,
            "hd95": self.hd95,
            "points_space": self.points_space,
        }
        listed = {"pair": single} if self.pairs is None else read_scored_files(self.pairs, roles)
        pairs = {name: Pair(**files) for name, files in listed.items()}
        scored: dict[str, dict[str, Any]] = {}
        with contextlib.ExitStack() as stack:
            rows: Iterable[tuple[str, Pair]] = pairs.items()
            if len(pairs) > 1:
                rows = stack.enter_context(progress()).track(rows, total=len(pairs), description="pairs")
            for name, pair in rows:
                try:
                    scored[name] = evaluate(**options, **vars(pair))
                except InputError as error:
                    raise InputError(str(error) if self.pairs is None else f"pair {name}: {error}") from error
        if self.csv is not None:
            save_csv(scored, self.csv)
        if self.plot is not None:
            _plot(scored, others, names, self.plot)
        mean = average(scored.values())
        if self.json:
            print_json(scored["pair"] if self.pairs is None else {"pairs": scored, "mean": mean})
            return
        if len(scored) > 1:
            _print_pairs(scored)
        _print_structures(mean, names, f"mean of {len(scored)} pairs" if len(scored) > 1 else None)
        _print_rest(mean)


def _plot(
    scored: dict[str, dict[str, Any]],
    others: dict[str, list[dict[str, float]]],
    names: dict[int, str],
    path: Path,
) -> None:
    """The box plot: before, the other methods, this one."""
    from fastreg.plots.dice import dice_boxplot
    from fastreg.utils.files import InputError

    def rows(key: str) -> list[dict[str, float]]:
        return [{str(k): value for k, value in row[key].items()} for row in scored.values() if key in row]

    methods = {"before": rows("dice_before"), **others, "this" if others else "after": rows("dice")}
    methods = {name: found for name, found in methods.items() if found}
    if not set(methods) - {"before", *others}:
        raise InputError("plot: expected Dice of moved labels, got none; give fixed labels and moved or moving labels")
    title = "" if len(scored) == 1 else f"{len(scored)} pairs"
    structures = dict.fromkeys(key for found in methods.values() for row in found for key in row)
    given = {str(number): name for number, name in names.items()}
    dice_boxplot(
        {
            method: {given.get(key, key): [row[key] for row in found if key in row] for key in structures}
            for method, found in methods.items()
        },
        path,
        title=title,
    )


def _dice_of(path: Path) -> list[dict[str, float]]:
    """Dice per structure of every pair in a file that `--json` printed."""
    import math

    from fastreg.utils.files import InputError, read_json

    figures = read_json(path, "against")
    pairs = figures.get("pairs", {"pair": figures}) if isinstance(figures, dict) else {}
    pairs = pairs if isinstance(pairs, dict) else {}
    found = [row["dice"] for row in pairs.values() if isinstance(row, dict) and isinstance(row.get("dice"), dict)]
    if not found:
        raise InputError(f"against {path}: expected what fastreg evaluate --json prints, with dice, got none")
    try:
        return [{key: math.nan if value is None else float(value) for key, value in row.items()} for row in found]
    except (TypeError, ValueError) as error:
        raise InputError(f"against {path}: expected a number for each structure ({error})") from error


def _print_pairs(scored: dict[str, dict[str, Any]]) -> None:
    from fastreg.cli.output import print_table, shown
    from fastreg.evaluation.table import flat

    columns = ["dice_before_mean", "dice_mean", "hd95_mm_mean", "hd95_voxels_mean", "sdlogj", "ndv_percent"]
    columns += ["folds_central", "folds_corner"]
    rows = {name: flat(figures) for name, figures in scored.items()}
    kept = [c for c in (*columns, "tre_mm_before_mean", "tre_mm_mean") if any(c in row for row in rows.values())]
    print_table(
        ["pair", *(column.replace("_", " ") for column in kept)],
        [[name, *(shown(row.get(column)) for column in kept)] for name, row in rows.items()],
    )


def _print_structures(figures: dict[str, Any], names: dict[int, str], title: str | None) -> None:
    from fastreg.cli.output import print_table, shown

    known = ("dice_before", "dice", "hd95_mm_before", "hd95_mm", "hd95_voxels_before", "hd95_voxels")
    columns = [column for column in known if column in figures]
    if columns:
        labels = dict.fromkeys(label for column in columns for label in figures[column])
        rows = [
            [names.get(label, str(label)), *(shown(figures[column].get(label)) for column in columns)]
            for label in labels
        ]
        rows.append(["mean", *(shown(figures[f"{column}_mean"]) for column in columns)])
        print_table(["structure", *(column.replace("_", " ") for column in columns)], rows, title)


def _print_rest(figures: dict[str, Any]) -> None:
    from fastreg.cli.output import print_table, shown

    rows = []
    schemes = {"central": "central differences", "forward": "forward differences", "corner": "at any corner"}
    for where, suffix in (("", ""), (" in the mask", "_mask")):
        for scheme, name in schemes.items():
            if (key := f"folds_{scheme}{suffix}") in figures:
                count, total = figures[key], figures[f"{key}_of"]
                share = f" ({100 * count / total:.3g} %)" if total else ""
                rows.append([f"folds, {name}{where}", f"{count:.10g} of {total:.10g}{share}"])
        if (key := f"ndv_percent{suffix}") in figures:
            rows.append([f"NDV, %{where}", f"{figures[key]:.3g}"])
        for key, name in ((f"sdlogj{suffix}", "SDlogJ"), (f"learn2reg_sdlogj{suffix}", "SDlogJ, Learn2Reg's")):
            if key in figures:
                rows.append([f"{name}{where}", shown(figures[key])])
    for key, name in (("tre_mm_before", "TRE before, mm"), ("tre_mm", "TRE, mm")):
        if key in figures:
            tre = figures[key]
            rows.append(
                [name, f"{tre['mean']:.3f} ± {tre['sd']:.3f}, at most {tre['max']:.3f} ({tre['n']:.10g} points)"]
            )
    if rows:
        print_table(["warp", ""], rows)
