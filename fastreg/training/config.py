"""Options of a training run in four parts, one for each room that needs them.

They are the command line's options, the config file's keys and the checkpoint's record in one, flat and under the same
names there: `option_name` of the field. Light on purpose: no torch, so that `fastreg train --help` answers at once.
The annotations are real ones, for the command line reads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from fastreg.utils.ranges import Range

SYNTHETIC = "synthetic"
"""As `images`: no files, but random shapes."""


@dataclass(kw_only=True)
class DataConfig:
    """What is trained on: images, label maps, masks, the working grid, synthetic pairs."""

    images: Annotated[str, Parameter(alias=["--img-list"])]
    """The cohort: a folder, a quoted glob, a list file (.txt: image [label] a line), a CSV with a header (image, label,
    id; or moving, fixed for pairs), a Learn2Reg dataset .json, or VoxelMorph .npz files by glob. Or "synthetic": random
    shapes of random contrast on a grid of --shape, no data at all; with --labels the shapes are those label maps'."""
    labels: str | None = None
    """A quoted glob of label maps, matched to the images by what the `*` stands for."""
    masks: str | None = None
    """A quoted glob of masks, matched like --labels: the image loss counts only what lies inside."""
    unlabelled: str | None = None
    """More training images, in any of the forms of --images, that need neither label maps nor masks."""
    img_prefix: str = ""
    """Prepended to every path of a list file."""
    img_suffix: str = ""
    """Appended to every path of a list file."""
    val: str | None = None
    """Validation: ids of subjects in the cohort, separated by commas, which are then left out of training; or another
    cohort in any of the forms of --images."""
    val_labels: str | None = None
    """A quoted glob of label maps for --val where that is another cohort."""
    val_pairs: Annotated[int, Range(1)] = 8
    """Pairs per validation, at most."""
    pairs: Path | None = None
    """Train on these pairs only: a text file or CSV of moving and fixed, paths or ids."""
    atlas: Path | None = None
    """Atlas-based training: this image is always the fixed one. Without it any two subjects make a pair."""
    atlas_labels: Path | None = None
    """The atlas' label map, for validation."""
    spacing: Annotated[float | None, Range(0, 1e4, above=True, unit="mm")] = None
    """Working resolution in mm; if not given, that of the atlas or the first image."""
    shape: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True), Range(1)] = None
    """Working grid in voxels, 2 or 3 numbers, centred; if not given, it follows from the spacing. With random shapes it
    is the size of the pairs, while --val keeps its own grid."""
    voxels: Annotated[int | None, Range(1)] = None
    """Instead of --spacing: cubic voxels of such a size that about this many cover the image, whatever its size in mm,
    but no finer than its own. The model then registers every image on such a grid."""
    normalise: Literal["percentile", "none"] = "percentile"
    """Scale intensities to [0, 1] by the 0.1st and 99.9th percentiles, or leave them as they are."""
    flip: bool = False
    """Mirror every other pair left to right: twice the data, where left and right are interchangeable."""
    synth_labels: Annotated[int, Range(2)] = 26
    """Synthetic: number of labels in a random label map, background included."""
    synth_warp: Annotated[float, Range(0, unit="voxels")] = 3.0
    """Synthetic: largest standard deviation of the two velocity fields that make a pair, in voxels."""
    synth_shapes: Annotated[tuple[float, float], Parameter(consume_multiple=True), Range(1, unit="voxels")] = (
        12.0,
        40.0,
    )
    """Synthetic: smallest and largest size of the random shapes, in voxels."""
    synth_outside: str | None = None
    """Synthetic, with --labels: labels such as 502,503 that are taken off half of the pairs, as by skull-stripping."""
    synth_apart: Annotated[float, Range(0, 1)] = 0.0
    """Synthetic, with --labels: part of the pairs that are made of two subjects' maps instead of one; what belongs
    together they learn from the labels (--seg-weight or --loss)."""
    synth_alike: Annotated[float, Range(0, 1)] = 0.0
    """Synthetic: part of the pairs whose two images have about the same contrast."""
    synth_zoom: Annotated[tuple[float, float], Parameter(consume_multiple=True), Range(0.1, 10)] = (1.0, 1.0)
    """Synthetic, with --labels: smallest and largest factor on the size of a pair's shapes."""
    synth_invented: Annotated[float, Range(0, 1)] = 0.0
    """Synthetic, with --labels: part of the pairs that have random shapes all the same."""
    synth_damage: Annotated[float, Range(0, 1)] = 0.0
    """Synthetic: part of the images that may have a field of view cut short, thick slices or lesions."""
    synth_bends: Annotated[tuple[float, float], Parameter(consume_multiple=True), Range(1, unit="voxels")] = (8.0, 32.0)
    """Synthetic: shortest and longest distance over which the velocities vary, in voxels."""


@dataclass(kw_only=True)
class ModelConfig:
    """The network, and how it is applied."""

    network: Annotated[Literal["vm1", "vm2", "vxm", "match", "pyramid"], Parameter(name=["--model"])] = "vm2"
    """The network: vm1 and vm2 (CVPR 2018), vxm (VxmDense); match: a smaller U-Net that sees how well each place
    matches its surroundings in the other image, whatever the contrast; or pyramid: features of both images, matched
    from coarse grids to fine ones, which learns in less time than the others."""
    width: Annotated[float, Range(0, 100, above=True)] = 1.0
    """Multiplies the number of features of every layer."""
    descriptors: bool = False
    """The pyramid sees descriptors of the images (MIND), which contrast does not change, in place of intensities."""
    half: bool = False
    """Predict the field at half resolution and upsample it (MICCAI 2018): less than half the time."""
    diffeomorphic: bool = False
    """Predict a stationary velocity field and integrate it, which gives a diffeomorphism."""
    int_steps: Annotated[int, Range(0)] = 7
    """Number of squarings that integrate the velocity field."""
    int_downsize: Annotated[int, Range(1)] = 2
    """The velocity field lives on a grid this many times coarser than the image's."""
    uncertainty: bool = False
    """The probabilistic network of Dalca et al. 2018: it predicts mean and log variance of the velocity, training draws
    samples, and the KL divergence from the prior replaces the smoothness (needs --diffeomorphic, --loss mse)."""
    passes: Annotated[tuple[int, ...], Parameter(consume_multiple=True), Range(1)] = (1,)
    """How the model is applied, in validation too: a number for each pass, coarse to fine, such as 2 1 1. Images are
    averaged over cubes of that many voxels, and each pass starts from what the passes before it found."""
    amp: bool = False
    """Run convolutions in bfloat16; in float32 on processors where bfloat16 would be slower."""
    channels_last: bool = False
    """Run convolutions in channels-last memory format."""
    save_memory: bool = False
    """Compute the activations anew in the backward pass: less memory for about a third more time."""
    compile: bool = False
    """torch.compile the network."""
    load_model: Path | None = None
    """Start from the weights of this checkpoint."""


@dataclass(kw_only=True)
class LossConfig:
    """What a step minimises."""

    image: Annotated[Literal["lncc", "mse", "none"] | None, Parameter(name=["--loss", "--image-loss"])] = None
    """Image loss; lncc if not given. none: train on label maps alone (--seg-weight), as --images synthetic does if
    nothing is given; otherwise the shapes of such a pair are compared in one contrast that the network does not see."""
    window: Annotated[int, Range(1, odd=True)] = 9
    """Edge of the LNCC window in voxels, odd."""
    lambda_: Annotated[float | None, Parameter(name=["--lambda", "--smoothness"]), Range(0)] = None
    """Weight of the smoothness; if not given, that of the papers: LNCC 1 (vm2 1.5), MSE 0.01, none 1."""
    penalty: Literal["l2", "l1", "bending", "edge_aware"] = "l2"
    """Smoothness penalty, on the velocity field if there is one; edge_aware (Shan et al. 2017) relaxes it at edges of
    the fixed image."""
    bidir: bool = False
    """Also compare the fixed image, warped back, with the moving one (needs --diffeomorphic)."""
    consistency: Annotated[float, Range(0)] = 0.0
    """Above 0: register every pair both ways, and weigh with this how far from its start a voxel is, mean square in
    voxels, after there and back. Makes the two fields each other's inverse, for about twice the time of a step."""
    seg_weight: Annotated[float | None, Parameter(alias=["--gamma"]), Range(0)] = None
    """Weight of the soft Dice of label maps (--labels) as an auxiliary loss; if not given 0, or 1 if synthetic."""
    seg_labels: str = "all"
    """The structures in this loss: all, labels such as 3,42, or a JSON file: a list, or {name: [labels]} for groups."""
    field_weight: Annotated[float | None, Range(0)] = None
    """Synthetic, or with --teacher: weight of the mean distance, in voxels, from the deformation that made the pair or
    that the teacher found; if not given 0, or with a teacher 0.1."""
    teacher: Literal["register"] | None = None
    """Learn from another way to register, too: register is the optimisation. Its fields are made by the processes that
    load data (--workers), each once, and kept in the cache."""
    teacher_pairs: Annotated[int, Range(1)] = 400
    """With --teacher: so many pairs of subjects, at most, are drawn for the training."""
    region_weight: Annotated[float, Range(0)] = 0.0
    """Above 0: the network also learns, with this weight, to predict the fixed image's mask (--masks), and images
    without one are compared inside the predicted region (Shan et al. 2017)."""
    image_sigma: Annotated[float, Range(0, above=True)] = 0.02
    """With --uncertainty: standard deviation of the image noise, for intensities from 0 to 1."""
    prior_lambda: Annotated[float, Range(0, above=True)] = 10.0
    """With --uncertainty: precision of the prior on the velocity."""


@dataclass(kw_only=True)
class RunConfig:
    """How long, how, where to."""

    output: Annotated[Path, Parameter(alias=["--model-dir", "-o"])]
    """Folder for checkpoints, metrics.csv, config.json and the cache of decoded volumes."""
    steps: Annotated[int, Range(1)] = 10000
    """Training steps."""
    minutes: Annotated[float | None, Range(0, above=True)] = None
    """Stop after this many minutes if the steps are not done by then; the schedule follows what is nearer its end."""
    batch_size: Annotated[int, Range(1)] = 1
    """Pairs per step and process."""
    accumulate: Annotated[int, Range(1)] = 1
    """Batches per step, whose gradients are averaged: as a batch so many times larger, in the memory of one."""
    lr: Annotated[float, Range(0)] = 1e-4
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run: constant, or cosine decay to zero."""
    clip: Annotated[float, Range(0)] = 0.0
    """Above 0: scale a step's gradient so that its norm is at most this, for losses with rare but large gradients."""
    ema: Annotated[float, Range(0, 1)] = 0.0
    """Above 0, such as 0.999: the model that is validated and kept has the weights' exponential moving average."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, ...; if not given, a GPU where there is one."""
    workers: Annotated[int, Range(0, 1024)] = 2
    """Processes that load data; 0: load in the main process."""
    threads: Annotated[int | None, Range(1, 4096)] = None
    """CPU threads; if not given, one per core."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Random seed for weights, pairs and augmentation."""
    val_every: Annotated[int, Range(0)] = 500
    """Steps between validations; 0: none."""
    save_every: Annotated[int, Range(0)] = 500
    """Steps between checkpoints."""
    log_every: Annotated[int, Range(1)] = 1
    """Steps between rows of metrics.csv."""
    cache: Path | None = None
    """Folder for decoded volumes; `cache` in --output if not given."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra: tensorboard)."""
    resume: bool = False
    """Continue the run in --output from its last checkpoint."""
    overwrite: bool = False
    """Replace a run that is already in --output."""


def _part(name: str, order: int) -> Parameter:
    """The options of a part stand flat on the command line, under a heading of their own in the help."""
    return Parameter(name="*", group=Group(name, sort_key=order))


@dataclass(kw_only=True)
class TrainConfig:
    """Options of a training run. Names that VoxelMorph has mean what they mean there."""

    data: Annotated[DataConfig, _part("Data", 1)]
    model: Annotated[ModelConfig, _part("Network", 2)] = field(default_factory=ModelConfig)
    loss: Annotated[LossConfig, _part("Loss", 3)] = field(default_factory=LossConfig)
    run: Annotated[RunConfig, _part("Run", 4)]

    @classmethod
    def of(cls, **options: Any) -> "TrainConfig":
        """The configuration with these options, under the names that the command line has (`lambda_` for lambda).

        Raises:
            TypeError: an option that there is none of, or none for one that has no default.
        """
        given = {name.rstrip("_"): value for name, value in options.items()}
        parts = {
            part: kind(**{f.name: given.pop(option_name(f)) for f in fields(kind) if option_name(f) in given})
            for part, kind in PARTS.items()
        }
        if given:
            raise TypeError(f"no such option of a training run: {', '.join(given)}")
        return cls(**parts)

    def changed(self, **options: Any) -> "TrainConfig":
        """A copy with these options, named as in `of`."""
        return TrainConfig.of(**{**dict(self.options()), **{n.rstrip("_"): value for n, value in options.items()}})

    def options(self) -> Iterator[tuple[str, Any]]:
        """Every option by the name that the command line and config files use, and its value."""
        for part in PARTS:
            values = getattr(self, part)
            yield from ((option_name(f), getattr(values, f.name)) for f in fields(values))


PARTS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "loss": LossConfig, "run": RunConfig}
"""Field of `TrainConfig` -> its class."""


def option_name(option: Any) -> str:
    """The name of a field of a part on the command line, without dashes: "lambda" of `LossConfig.lambda_`."""
    for mark in getattr(option.type, "__metadata__", ()):
        if isinstance(mark, Parameter) and mark.name:
            return str(next(iter(mark.name))).lstrip("-").replace("-", "_")
    return str(option.name)
