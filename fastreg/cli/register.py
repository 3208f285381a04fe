"""`fastreg register`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter

from fastreg.utils.ranges import Range

if TYPE_CHECKING:
    from fastreg.registration.result import RegistrationResult


@Parameter(name="*")
@dataclass(kw_only=True)
class Register:
    """Register two images, or many pairs: bring the moving one onto the fixed one's grid.

    Example: `fastreg register -f fixed.nii.gz -m moving.nii.gz -o moved.nii.gz --warp warp.nii.gz --qc qc.png`

    Many pairs: `fastreg register --pairs pairs.csv -o folder` (again to go on where it stopped)

    Without a model: linear alignment, then optimisation from coarse to fine, in seconds. With --model: a network
    trained by `fastreg train`, and --refine N iterations after it. The images may differ in size, orientation and
    spacing. No output is touched unless all inputs could be read and all outputs can be written.
    """

    fixed: Annotated[list[Path], Parameter(alias="-f", negative=())] = field(default_factory=list)
    """The fixed image: the result is on its grid. A file, or a folder with a DICOM series (docs/files.md). Repeat for
    several channels, such as T1 and T2."""
    moving: Annotated[list[Path], Parameter(alias="-m", negative=())] = field(default_factory=list)
    """The moving image: it is brought onto the fixed one. Repeat for several channels, as many as fixed ones; what is
    written is the first."""
    moved: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write the moved image here. With --pairs: the folder for all results."""
    warp: Path | None = None
    """Write the displacement field here (ITK's format, which ANTs, SimpleITK and Slicer read). It includes the linear
    part."""
    inverse_warp: Path | None = None
    """Write the inverse displacement field, on the moving image's grid, here."""
    affine_out: Path | None = None
    """Write the linear part here: .mat or .tfm (ITK, ANTs) or .txt (4x4, RAS mm)."""
    ants_prefix: str | None = None
    """Write what antsRegistrationSyN.sh does, under names that begin so: 0GenericAffine.mat, 1Warp.nii.gz,
    1InverseWarp.nii.gz and Warped.nii.gz, for antsApplyTransforms."""
    bids_prefix: str | None = None
    """Write the transforms both ways under BIDS' names that begin so, such as derivatives/sub-01:
    sub-01_from-T1w_to-MNI_mode-image_xfm.h5 for --bids-spaces T1w,MNI."""
    bids_spaces: str | None = None
    """Labels of the moving and of the fixed space in BIDS' names."""
    qc: Path | None = None
    """Draw a picture of the result here (.png; extra: plot)."""
    report: Path | None = None
    """Write a page that shows whether it worked here (.html; extra: plot), as `fastreg report` does; with --pairs once
    every pair of the list has a result or an error."""
    moving_labels: Path | None = None
    """A label map of the moving image, warped along with it."""
    moved_labels: Path | None = None
    """Write the moved labels (nearest voxel) here."""
    fixed_labels: Path | None = None
    """A label map of the fixed image: with --moving-labels, the mean Dice before and after is printed."""
    points: Path | None = None
    """Points (.csv with columns x, y, z; .fcsv, .mrk.json), a surface (.vtk, .ply, .stl, .gii) or streamlines (.trk,
    .tck) of the fixed image, mapped into the moving image as `fastreg warp` does."""
    points_output: Path | None = None
    """Write the points in the moving image here, in the format that was read, or as .csv."""
    points_moving: Path | None = None
    """The same of the moving image, mapped into the fixed image by the inverse warp."""
    points_moving_output: Path | None = None
    """Write the points in the fixed image here."""
    points_space: Literal["ras", "lps", "voxel"] = "ras"
    """Coordinates of points whose file does not say them: RAS mm, LPS mm (ITK, ANTs), or voxel indices of the image
    that they lie in, before and after."""

    within_subject: bool = False
    """The images are visits of one person, two or more, the first as --fixed and the others as --moving: brings all
    into the space in the middle of them, none preferred. Writes into the folder -o the mean image, and for each visit
    its rigid map, its warp and its change of volume (docs/within_subject.md)."""
    pairs: Path | None = None
    """Many pairs: a CSV file with the columns moving, fixed, and any of name, moving_labels, fixed_labels, moving_mask,
    fixed_mask, points_fixed, points_moving; or text, a line for each: moving fixed [moving_labels fixed_labels].
    Writes a folder for each pair and results.csv (Dice, HD95, folds, NDV, TRE, seconds, errors) into -o. Pairs that are
    done are left as they are; those that failed are tried again."""
    save: str = "moved,warp"
    """With --pairs, what to keep of moved, warp, inverse-warp, affine. Given labels and points are always kept."""
    part: str | None = None
    """With --pairs, the share of this process, such as 2/8; under torchrun and in Slurm's job arrays it is known."""

    model: Path | None = None
    """A checkpoint of `fastreg train`, or general: the network that comes with fastreg and takes images of any kind and
    contrast. If not given, images are registered by optimisation."""
    refine: Annotated[int | None, Range(0, unit="iterations")] = None
    """Iterations of optimisation after a model on its grid, or without one in place of the pyramid."""
    preset: Literal["fast", "default", "best"] = "default"
    """How long the optimisation may take: fast leaves the finest level out, best has twice the iterations
    (docs/register.md has what each gives)."""
    seconds: Annotated[float | None, Range(0, above=True, unit="s")] = None
    """End after about so many seconds with the best that was found by then, whatever the levels still to come."""
    threads: Annotated[int | None, Range(1)] = None
    """Threads to compute with; if not given, as many as torch takes. The result is the same for any number."""
    levels: str | None = None
    """The pyramid of the optimisation: the number of levels (3 if not given), or factors and iterations, such as
    4x60,2x40,1x10. A level ends early when it stops improving. With --model it goes on from what the network found, on
    the fixed image's grid; if not given, there is none after a network."""
    transform: Literal["translation", "rigid", "similarity", "affine", "deformable"] = "deformable"
    """What kind of transform to find."""
    affine: bool | None = None
    """Align linearly before a deformable registration. If not given: without a model, and with one that was trained on
    no images (general)."""
    init: str = "auto"
    """Start of the linear alignment: auto (any shift, turns up to 45 degrees), search (turned to any side and scaled,
    too), header, mass (centres of mass), centre (of the grids), or a file with a transform: a linear one is where the
    alignment starts, a warp stands in its place and the deformation goes on from it."""
    landmarks_fixed: Path | None = None
    """Start from landmarks: a file of points in the fixed image (as --points takes them). The linear map that fits them
    in least squares is where the alignment starts."""
    landmarks_moving: Path | None = None
    """The same places in the moving image, matched by label where both files have labels, else by order."""
    metric: str = "auto"
    """Similarity of the images; of several channels one for all, or a list such as lncc,mi. auto looks at them and says
    what it chose; lncc is local correlation; between contrasts remap is that after one image is mapped into the other's
    contrast, mind that of descriptors; mse is squared differences, mi mutual information."""
    weights: str | None = None
    """Of several channels, such as 1,0.5; equal if not given."""
    labels_weight: Annotated[float, Range(0)] = 0.0
    """Let --fixed-labels and --moving-labels lead the deformation, too: the weight of their mean Dice against the
    images' similarity."""
    landmarks_weight: Annotated[float, Range(0)] = 0.0
    """Let the landmarks lead the deformation, too: the weight of their distance against the images' similarity."""
    regularity: Literal["close", "default", "smooth"] = "default"
    """How far the field may bend for the images' sake: close fits more, smooth keeps volumes."""
    smoothness: Annotated[float | None, Parameter(alias="--lambda"), Range(0)] = None
    """Weight of the field's roughness in the optimisation, in place of --regularity's (default, LNCC: 1.25)."""
    volume: Annotated[float | None, Range(0)] = None
    """Weight of the field's mean squared log Jacobian, in place of --regularity's (default, LNCC: 0.04)."""
    windows: str | None = None
    """Edges of the windows of lncc and mind in voxels of each level, such as 9,15,31, or one for all levels; if not
    given, about one size in space."""
    discrete: Literal["no", "yes", "auto"] = "no"
    """Start the deformation from an exhaustive search over displacements of up to 16 voxels along each axis, for motion
    that the pyramid does not bridge, such as breathing. auto: where the coarsest level gains from it by more than
    chance."""
    bidir: bool = False
    """Compare the images on the moving image's grid too, by the inverse warp, so that neither image is preferred."""
    background: float | None = None
    """Value of the moved image where the moving one does not reach; if not given, 0, or the moving image's minimum
    where that is below 0: the air of a CT."""
    interpolation: Literal["linear", "bspline", "lanczos"] = "linear"
    """Of the moved image: bspline and lanczos keep it sharper, and overshoot at edges."""
    mask_fixed: Annotated[list[Path], Parameter(negative=())] = field(default_factory=list)
    """Mask of the fixed image: only what is above 0 counts. Of several channels one for all, or one for each."""
    mask_moving: Annotated[list[Path], Parameter(negative=())] = field(default_factory=list)
    """Mask of the moving image: only what is above 0 counts. Likewise."""
    channel: str | None = None
    """Of colour pictures the channel to compare: luminance (if not given), red, green, blue, or a number from 0, which
    takes a volume of a series too. Grey images are taken as they are."""

    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, ...; if not given, a GPU where there is one."""
    strict: bool = False
    """End with exit code 1 where a result is suspect: it is written all the same."""
    overwrite: bool = False
    """Replace outputs that exist."""
    json: bool = False
    """Print the seconds of each stage and the figures as JSON."""

    def run(self) -> None:
        """Registers and writes."""
        began = time.monotonic()
        from fastreg.cli._pairs import run_pairs
        from fastreg.cli._visits import run_visits
        from fastreg.utils.files import InputError

        other = [name for name in ("levels", "windows", "model", "refine") if getattr(self, name) is not None]
        if self.preset != "default" and other:
            raise InputError(f"--preset is a pyramid of its own: not with --{other[0]}")
        if self.seconds is not None and self.pairs is not None:
            raise InputError("--seconds is of one pair; not with --pairs")
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        if self.levels is not None and self.refine is not None:
            raise InputError("--levels is a pyramid, --refine the finest level alone: give one of them")
        if self.levels is not None and self.transform != "deformable":
            raise InputError(f"--levels is the pyramid of a deformation; not with --transform {self.transform}")
        network_alone = self.model is not None and self.levels is None
        if self.windows is not None and (network_alone or self.transform != "deformable"):
            raise InputError(
                "--windows are those of a deformation by optimisation; not with a linear --transform, "
                "with --model only where --levels is given"
            )
        if self.discrete != "no" and (self.model is not None or self.transform != "deformable"):
            raise InputError(
                "--discrete starts a deformation by optimisation; not with --model or a linear --transform"
            )
        if self.pairs is not None and self.within_subject:
            raise InputError("--within-subject takes its visits as --fixed and --moving; not with --pairs")
        if self.pairs is not None:
            run_pairs(self, self.pairs)
        elif not self.fixed or not self.moving:
            raise CycloptsError(msg="register needs --fixed and --moving, or --pairs")
        elif self.within_subject:
            run_visits(self)
        else:
            self._run_one(began)

    def arguments(self) -> dict[str, Any]:
        """The arguments of `register_files` that one pair and many have in common."""
        from fastreg.registration.budget import PRESETS
        from fastreg.registration.stages import read_stages

        metrics = [word.strip() for word in self.metric.split(",")]
        options: dict[str, Any] = {
            "model": self.model,
            "transform": self.transform,
            "affine": self.affine,
            "init": self._init(),
            "refine": self.refine,
            "metric": metrics[0] if len(metrics) == 1 else metrics,
            "weights": None if self.weights is None else _numbers(self.weights),
            "labels_weight": self.labels_weight,
            "landmarks_weight": self.landmarks_weight,
            "regularity": self.regularity,
            "smoothness": self.smoothness,
            "volume": self.volume,
            "bidir": self.bidir,
            "discrete": {"no": False, "yes": True, "auto": None}[self.discrete],
            "background": self.background,
            "channel": self.channel,
            "interpolation": self.interpolation,
        }
        if self.levels is not None or self.windows is not None:
            options["stages"] = read_stages(self.levels or "3", self.windows)
        elif self.preset != "default":
            options["stages"] = PRESETS[self.preset]
        return options

    def _init(self) -> Any:
        from fastreg.registration.landmarks import Landmarks
        from fastreg.registration.start import check_start
        from fastreg.utils.files import InputError

        if self.landmarks_fixed is None and self.landmarks_moving is None:
            check_start(self.init, "--init")
            return self.init
        if self.landmarks_fixed is None or self.landmarks_moving is None:
            raise InputError("--landmarks-fixed and --landmarks-moving go together")
        if self.init != "auto":
            raise InputError("--landmarks-fixed and --landmarks-moving are a start: not with --init")
        return Landmarks(self.landmarks_fixed, self.landmarks_moving, self.points_space)

    def _run_one(self, began: float) -> None:
        from fastreg.cli._outputs import check_outputs, outputs_of, paths_of
        from fastreg.cli._report import write_report_of_one
        from fastreg.cli.output import err, out, print_json, shown
        from fastreg.data.pairs import PairFiles
        from fastreg.registration.budget import Deadline
        from fastreg.registration.files import register_files
        from fastreg.utils.files import check_exists, digest

        check_outputs(self)
        for paths, what in ((self.fixed, "fixed image"), (self.moving, "moving image")):
            for path in paths:
                check_exists(path, what, folder=True)
        masks = [given[0] if len(given) == 1 and len(self.fixed) == 1 else None for given in self._masks()]
        pair = PairFiles(
            "pair", self.moving[0], self.fixed[0], self.moving_labels, self.fixed_labels, masks[1], masks[0],
            self.points, self.points_moving,
        )  # fmt: skip
        found, figures = register_files(
            pair,
            outputs_of(self),
            points_space=self.points_space,
            landmarks=False,  # the two lists of points are carried each its own way
            scored=self.fixed_labels is not None,
            overwrite=self.overwrite,
            channels=self._channels(),
            deadline=None if self.seconds is None else Deadline.after(self.seconds, began),
            device=self.device,
            on_progress=lambda what, seconds: None if self.json else err.print(f"{what:10} {seconds:6.2f} s"),
            **self.arguments(),
        )
        if self.qc is not None:
            _draw(found, self.qc)
        if self.report is not None:
            write_report_of_one(found, figures, self.report)
        if self.json:
            written = {str(path): digest(path) for path in paths_of(self)}
            figures = {k: v for k, v in figures.items() if k not in ("seconds", "suspect")}
            print_json({**found.log, **figures, "written": written})
            self.end(found.suspect is not None)
            return
        if "dice" in figures:
            before, after = (shown(figures.get(key), "-") for key in ("dice_before", "dice"))
            hd95 = f"; HD95 {shown(figures['hd95_mm'], '-')} mm" if "hd95_mm" in figures else ""
            out.print(f"mean Dice {before} before, {after} after{hd95}; folds {figures.get('folds', '')}")
        if "landmarks_left_mm" in found.log:
            err.print(f"landmarks: {found.log['landmarks_left_mm']:.3g} mm left by the start that fits them")
        if "metric_because" in found.log and self.metric == "auto" and len(self.fixed) == 1:
            err.print(f"metric {found.log['metric']}: {found.log['metric_because']}", soft_wrap=True)
        if found.log.get("affine_kept_start"):
            err.print("linear: nothing was found that is better than the start, which stays", soft_wrap=True)
        if found.suspect is not None:
            err.print(f"suspect: {found.suspect}", soft_wrap=True)
        out.print(f"registered in {found.seconds:.1f} s: {', '.join(map(str, paths_of(self)))}", soft_wrap=True)
        self.end(found.suspect is not None)

    def _masks(self) -> tuple[list[Path], list[Path]]:
        """Of the fixed and the moving images: none, one, or one for each; one is for all."""
        count = len(self.fixed)
        fixed, moving = (
            list(given) * count if len(given) == 1 else given for given in (self.mask_fixed, self.mask_moving)
        )
        return fixed, moving

    def _channels(self) -> dict[str, Any]:
        """The images of several channels, in place of the pair's."""
        if len(self.fixed) == len(self.moving) == 1:
            return {}
        fixed_masks, moving_masks = self._masks()
        return {
            "fixed": self.fixed,
            "moving": self.moving,
            "fixed_mask": fixed_masks or None,
            "moving_mask": moving_masks or None,
        }

    def end(self, suspect: bool) -> None:
        """Ends with exit code 1 where a result is suspect and --strict is given."""
        if suspect and self.strict:
            raise SystemExit(1)


def _numbers(text: str) -> list[float]:
    from fastreg.utils.files import InputError

    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"--weights: expected numbers such as 1,0.5, got {text}") from error


def _draw(found: RegistrationResult, path: Path) -> None:
    """The picture that shows whether to trust the registration, on the fixed grid."""
    from fastreg.plots.registration import qc_picture

    fixed = found.fixed
    flow = found.warp.onto(fixed.affine).tensor()[0].numpy()  # in fixed voxels, so that the grid can be drawn
    affine = fixed.affine if fixed.ndim == 3 else None
    qc_picture(fixed.data, None, found.moved[0, 0].numpy(), flow, path, spacing_mm=fixed.spacing_mm, affine=affine)
