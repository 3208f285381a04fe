"""`fastreg template`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fastreg.utils.ranges import Range


@Parameter(name="*")
@dataclass(kw_only=True)
class Template:
    """Build a template: the average image of a cohort at its average shape.

    Example: `fastreg template --images 'scans/*_t1.nii.gz' --affine --spacing 2 -o template.nii.gz`

    Every round registers all images to the template, averages them and undoes the mean displacement, by optimisation
    or with a network (--model), which is faster. The template can then serve as `--atlas` of `fastreg train`.
    """

    images: str
    """The cohort: a folder, a quoted glob, a list file (.txt), a CSV with a header (image, label) or a .json."""
    output: Annotated[Path, Parameter(alias="-o")]
    """Write the template here; intensities 0 to 1, on the first image's grid."""
    labels: str | None = None
    """A quoted glob of label maps, matched to the images by what the `*` stands for."""
    labels_out: Path | None = None
    """Write the label map of the template here: the label that most subjects have at each voxel."""
    rounds: Annotated[int, Range(1, 1000)] = 4
    """How often every image is registered."""
    spacing: Annotated[float | None, Range(0, 1e4, above=True, unit="mm")] = None
    """Resolution of the template in mm; that of the first image if not given."""
    affine: bool | None = None
    """Align every image linearly first; otherwise images lie where their headers place them. If not given, only with a
    model that was trained on no images (general)."""
    model: Path | None = None
    """A checkpoint of `fastreg train` to register with, or general. If not given, images are registered by
    optimisation."""
    refine: Annotated[int | None, Range(0, unit="iterations")] = None
    """Iterations of optimisation after the network."""
    metric: Literal["lncc", "mse"] = "lncc"
    """Similarity of the images in the optimisation."""
    smoothness: Annotated[float, Parameter(alias="--lambda"), Range(0)] = 1.5
    """Weight of the smoothness penalty in the optimisation."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, ...; if not given, a GPU where there is one."""
    overwrite: bool = False
    """Replace outputs that exist."""
    json: bool = False
    """Print the figures of each round as JSON."""

    def run(self) -> None:
        """Builds, prints a row for each round and writes."""
        from dataclasses import asdict

        from fastreg.cli.output import print_json, print_table, progress
        from fastreg.data.cohorts import read_cohort
        from fastreg.io.images import check_ending, save_image
        from fastreg.nn.checkpoint import find
        from fastreg.registration.template import build_template
        from fastreg.utils.files import InputError, check_apart, check_free
        from fastreg.utils.locks import locked_file

        for path in (self.output, self.labels_out):
            if path is not None:
                check_ending(check_free(path, self.overwrite))
        cohort = read_cohort(self.images, self.labels)
        outputs = {"--output": self.output, "--labels-out": self.labels_out}
        images = [("image", subject.image) for subject in cohort.subjects]
        labels = [("label map", subject.label) for subject in cohort.subjects if subject.label is not None]
        check_apart({name: path for name, path in outputs.items() if path is not None}, [*images, *labels])
        if self.labels_out is not None and any(subject.label is None for subject in cohort.subjects):
            raise InputError("labels_out: needs a label map of every image (--labels)")
        if self.model is not None:
            find(self.model)
        with locked_file(self.output), progress() as bar:
            task = bar.add_task("registering", total=self.rounds * len(cohort.subjects))
            found = build_template(
                cohort.subjects,
                rounds=self.rounds,
                spacing_mm=self.spacing,
                affine=self.affine,
                model=self.model,
                refine=self.refine,
                metric=self.metric,
                smoothness=self.smoothness,
                device=self.device,
                on_progress=lambda done, total: bar.update(task, completed=done),
            )
            check_free(self.output, self.overwrite)  # again: hours may have passed
            save_image(self.output, found.image)
            if self.labels_out is not None and found.labels is not None:
                save_image(self.labels_out, found.labels)
        if self.json:
            print_json({"rounds": [asdict(row) for row in found.rounds], "output": str(self.output)})
            return
        print_table(
            ["round", "distance from the mean shape, mm", "change of the image", "spread of the moved images"],
            [[str(r.number), f"{r.drift_mm:.3f}", f"{r.change:.4f}", f"{r.spread:.4f}"] for r in found.rounds],
        )
