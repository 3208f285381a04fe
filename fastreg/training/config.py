"""What a training run is told: the command line's options, the config file's keys and the checkpoint's record in one.

Light on purpose: no torch, so that `fastreg train --help` answers at once. The annotations
are real ones: the command's class inherits them into another module.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

SYNTHETIC = "synthetic"
"""As `images`: no files, but random shapes."""


@dataclass(kw_only=True)
class TrainConfig:
    """Options of a training run. Names that VoxelMorph has mean what they mean there."""

    images: Annotated[str, Parameter(alias=["--img-list"])]
    """The cohort: a folder, a quoted glob, a list file (.txt: image [label] a line), a CSV with a header (image, label,
    id; or moving, fixed for pairs), a Learn2Reg dataset .json, or VoxelMorph .npz files by glob. Or "synthetic": random
    shapes of random contrast on a grid of --shape, no data at all; with --labels the shapes are those label maps'."""
    output: Annotated[Path, Parameter(alias=["--model-dir", "-o"])]
    """Folder for checkpoints, metrics.csv, config.json and the cache of decoded volumes."""
    labels: str | None = None
    """A quoted glob of label maps that pairs with the glob of images by what the `*` stands for."""
    masks: str | None = None
    """A quoted glob of masks that pairs with the images like --labels: the image loss sees only what lies inside."""
    unlabelled: str | None = None
    """More images to train on, in any of the forms of --images, which need neither label maps nor masks."""
    img_prefix: str = ""
    """Put before every path of a list file."""
    img_suffix: str = ""
    """Put after every path of a list file."""
    val: str | None = None
    """Validation: ids of subjects of the cohort, separated by commas, that are then not trained on; or another cohort
    in any of the forms of --images."""
    pairs: Path | None = None
    """Train on these pairs only: a text file or CSV of moving and fixed, paths or ids."""
    atlas: Path | None = None
    """Atlas-based: this image is always the fixed one. Without it any two subjects make a pair."""
    atlas_labels: Path | None = None
    """The atlas' label map, for validation."""

    spacing: float | None = None
    """Working resolution in mm; the atlas' or first image's own if not given."""
    shape: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True)] = None
    """Working grid in voxels, 2 or 3 numbers, centred; what the spacing gives if not given. Random shapes: the size of
    the pairs, while --val has its own grid."""
    voxels: int | None = None
    """In place of --spacing: cubic voxels so large that about this many cover the image, whatever its size in mm, but
    not finer than its own. The model registers every image on such a grid."""
    passes: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1,)
    """How the model is used, in validations too: a number for each time that it is applied, the moving image warped by
    what the times before found; images are averaged over cubes of that many voxels. Such as 2 1 1, coarse to fine."""
    normalise: Literal["percentile", "none"] = "percentile"
    """Intensities to [0, 1] by the 0.1st and 99.9th percentile, or as they are."""
    flip: bool = False
    """Mirror every other pair left to right: twice the data, if left and right may be exchanged."""

    model: Literal["vm1", "vm2", "vxm", "match"] = "vm2"
    """The network: vm1 and vm2 of CVPR 2018, vxm (VxmDense), or match: a smaller U-Net that sees how well each place
    fits its neighbours in the other image, whatever the contrast."""
    width: float = 1.0
    """Factor on the number of features of every layer."""
    half: bool = False
    """The network ends on the half grid and its field is upsampled (MICCAI 2018): less than half the time."""
    diffeomorphic: bool = False
    """The network predicts a velocity field, which is integrated."""
    int_steps: int = 7
    """Squarings of the velocity field."""
    int_downsize: int = 2
    """The velocity lives on a grid this many times coarser."""
    bidir: bool = False
    """Also compare the fixed image with the moving one (needs --diffeomorphic)."""
    uncertainty: bool = False
    """The probabilistic network of Dalca et al. 2018: mean and log variance of the velocity, a sample of it in every
    training step, and the KL divergence to the prior in place of the smoothness (needs --diffeomorphic, --loss mse)."""
    image_sigma: float = 0.02
    """With --uncertainty: standard deviation of the image noise, intensities being 0 to 1."""
    prior_lambda: float = 10.0
    """With --uncertainty: precision of the velocity's prior."""
    region_weight: float = 0.0
    """Above 0: the network also learns, with this weight, to say where the fixed image's mask (--masks) is, and images
    without one are compared where it says so (Shan et al. 2017)."""

    loss: Annotated[Literal["lncc", "mse", "none"] | None, Parameter(alias=["--image-loss"])] = None
    """Image loss; lncc if not given. none: label maps alone (--seg-weight), which --images synthetic implies."""
    window: int = 9
    """Edge of the LNCC's window in voxels, odd."""
    lambda_: Annotated[float | None, Parameter(name=["--lambda", "--smoothness"])] = None
    """Weight of the smoothness. The papers' if not given: LNCC 1 (vm2 1.5), MSE 0.01, none 1."""
    penalty: Literal["l2", "l1", "bending", "edge_aware"] = "l2"
    """Smoothness penalty, on the velocity if there is one; edge_aware (Shan et al. 2017) lets the fixed image's edges
    bend it."""
    seg_weight: Annotated[float | None, Parameter(alias=["--gamma"])] = None
    """Weight of the soft Dice of label maps (--labels) as an auxiliary loss; 0 if not given, synthetic: 1."""
    seg_labels: str = "all"
    """The structures of this loss: all, labels such as 3,42, or a JSON file: a list, or {name: [labels]} for groups."""

    synth_labels: int = 26
    """Synthetic: shapes of a random label map, the background among them."""
    synth_warp: float = 3.0
    """Synthetic: largest standard deviation of the two velocities that make a pair, in voxels."""
    synth_shapes: Annotated[tuple[float, float], Parameter(consume_multiple=True)] = (12.0, 40.0)
    """Synthetic: size of the random shapes, from and to, in voxels."""
    synth_bends: Annotated[tuple[float, float], Parameter(consume_multiple=True)] = (8.0, 32.0)
    """Synthetic: distance over which the velocities change, from and to, in voxels."""
    field_weight: float = 0.0
    """Synthetic: weight of the mean distance, in voxels, from the deformation that made the pair."""

    steps: int = 10000
    """Training steps."""
    minutes: float | None = None
    """Stop after this long, if the steps are not done by then; the schedule follows whichever is closer to its end."""
    batch_size: int = 1
    """Pairs per step and process."""
    lr: float = 1e-4
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run: constant, or a cosine down to zero."""
    amp: bool = False
    """Convolutions in bfloat16; in float32 on processors that would be slower in it."""
    channels_last: bool = False
    """Convolutions in channels-last memory format."""
    compile: bool = False
    """torch.compile the network."""
    device: str | None = None
    """"cpu", "cuda", "cuda:1" ...; a GPU if there is one."""
    workers: int = 2
    """Processes that load data; 0: none."""
    threads: int | None = None
    """Threads of the computation; as many as there are cores if not given."""
    seed: int = 0
    """Chance of weights, pairs and augmentation."""

    val_every: int = 500
    """Steps between validations; 0: none."""
    val_labels: str | None = None
    """A quoted glob of label maps that pairs with --val where that is a cohort."""
    val_pairs: int = 8
    """Pairs of a validation, at most."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 1
    """Steps between rows of metrics.csv."""
    cache: Path | None = None
    """Folder of decoded volumes; `cache` in --output if not given."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra: tensorboard)."""
    resume: bool = False
    """Continue the run in --output where its last checkpoint was."""
    load_model: Path | None = None
    """Start from the weights of this checkpoint."""
    overwrite: bool = False
    """Replace a run that is already in --output."""
