"""The configuration with its defaults filled in, and its contradictions refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastreg.training.config import SYNTHETIC, DataConfig, TrainConfig
from fastreg.utils.files import InputError
from fastreg.utils.ranges import check_ranges


def resolved(config: TrainConfig) -> TrainConfig:
    """The configuration with defaults that depend on others filled in, checked."""
    check_ranges(config)
    data, model, loss = config.data, config.model, config.loss
    if loss.region_weight and (loss.bidir or data.atlas is not None):
        raise InputError(
            "region_weight: not with --bidir or --atlas: the network says the region of the fixed image alone"
        )
    _check_consistency(config)
    if loss.bidir and not model.diffeomorphic:
        raise InputError("bidir: needs --diffeomorphic, a displacement field has no inverse in closed form")
    if model.half and model.network == "match":
        raise InputError("half: not with --model match, which is on the half grid as it is")
    if model.network == "pyramid" and model.uncertainty:
        raise InputError("uncertainty: not with --model pyramid, which has a field on every level")
    if model.descriptors and model.network != "pyramid":
        raise InputError(f"descriptors: is for --model pyramid, not {model.network}")
    if data.voxels is not None and data.spacing is not None:
        raise InputError("voxels: says in place of --spacing how fine the working grid is; give one of them")
    if not model.passes:
        raise InputError("passes: expected numbers of at least 1, got none")
    if data.images == SYNTHETIC:
        _check_synthetic(data)
    if data.val_labels is not None and data.val is None:
        raise InputError("val_labels: needs --val, the images that the label maps belong to")
    return _with_loss(config)


def _check_consistency(config: TrainConfig) -> None:
    """Both ways are of networks and losses that say the same of either."""
    loss, others = config.loss, ("bidir", "uncertainty", "region_weight", "field_weight", "teacher", "atlas")
    for name in others if loss.consistency else ():
        if dict(config.options())[name]:
            raise InputError(f"consistency: registers both ways by itself, not with --{name.replace('_', '-')}")


def _check_synthetic(data: DataConfig) -> None:
    for name in ("atlas", "pairs", "masks", "unlabelled"):
        if getattr(data, name) is not None:
            raise InputError(f"{name}: not with --images synthetic, which makes its own pairs")
    for name in ("synth_outside", "synth_apart", "synth_invented"):
        if getattr(data, name) and data.labels is None:
            raise InputError(f"{name}: needs --labels, the maps that it is of")
    if data.shape is None and data.labels is None and data.val is None:
        raise InputError("shape: needed with --images synthetic, where nothing else says how large the images are")
    if data.shape is not None and len(data.shape) not in (2, 3):
        raise InputError(f"shape: expected 2 or 3 numbers of voxels, got {' '.join(map(str, data.shape))}")
    for name in ("synth_shapes", "synth_bends", "synth_zoom"):
        low, high = getattr(data, name)
        if low > high:
            raise InputError(f"{name}: expected two numbers, from <= to, got {low:g} {high:g}")


def _with_loss(config: TrainConfig) -> TrainConfig:
    """With the image loss and the weights of label maps and smoothness filled in; InputError where they disagree."""
    data, model, loss = config.data, config.model, config.loss
    synthetic = data.images == SYNTHETIC
    image = loss.image or ("none" if synthetic else "lncc")
    seg_weight = loss.seg_weight if loss.seg_weight is not None else float(synthetic)
    field_weight = loss.field_weight if loss.field_weight is not None else 0.1 if loss.teacher else 0.0
    if loss.teacher and synthetic:
        raise InputError("teacher: not with --images synthetic, whose deformations are known")
    if loss.teacher and not field_weight:
        raise InputError("teacher: needs a --field-weight above 0, otherwise nothing is learned from it")
    if image == "none" and not seg_weight and not field_weight:
        raise InputError("loss none: needs --seg-weight, otherwise there is nothing to learn from")
    if data.synth_apart and not seg_weight and image == "none":
        raise InputError("synth_apart: needs a --seg-weight above 0 or a --loss, of two maps nothing else is known")
    if model.uncertainty and not (model.diffeomorphic and image == "mse"):
        raise InputError("uncertainty: needs --diffeomorphic and --loss mse, the noise model of its likelihood")
    if loss.region_weight and data.masks is None:
        raise InputError("region_weight: needs --masks, from which the network learns the region")
    if field_weight and not synthetic and not loss.teacher:
        raise InputError("field_weight: needs --images synthetic, whose deformations are known, or --teacher")
    published = {"lncc": 1.5 if model.network == "vm2" else 1.0, "mse": 0.01, "none": 1.0}
    lambda_ = published[image] if loss.lambda_ is None else loss.lambda_
    return config.changed(loss=image, seg_weight=seg_weight, lambda_=lambda_, field_weight=field_weight)


def as_json(config: TrainConfig) -> dict[str, Any]:
    """What config.json and checkpoints say: the options that are set, under the command line's names."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in config.options() if v is not None}
