"""The configuration with its defaults filled in, and its contradictions refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fastreg.training.config import SYNTHETIC, TrainConfig
from fastreg.utils.files import InputError


def resolved_objective(config: TrainConfig) -> TrainConfig:
    """The configuration with the loss, its weights and the smoothness' filled in; InputError where they disagree."""
    synthetic = config.images == SYNTHETIC
    if synthetic and config.loss not in (None, "none"):
        raise InputError(f"loss {config.loss}: --images synthetic has no image term, its contrasts differ by chance")
    loss = config.loss or ("none" if synthetic else "lncc")
    weight = config.seg_weight if config.seg_weight is not None else float(synthetic)
    if loss == "none" and not weight and not config.field_weight:
        raise InputError("loss none: needs --seg-weight, otherwise there is nothing to learn from")
    if config.uncertainty and not (config.diffeomorphic and loss == "mse"):
        raise InputError("uncertainty: needs --diffeomorphic and --loss mse, the noise model of its likelihood")
    for name in ("image_sigma", "prior_lambda"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name}: expected a number above 0, got {getattr(config, name)}")
    if config.region_weight and config.masks is None:
        raise InputError("region_weight: needs --masks, from which the network learns the region")
    others = (("field_weight", config.field_weight), ("region_weight", config.region_weight))
    for name, value in (("seg_weight", weight), *others):
        if value < 0:
            raise InputError(f"{name}: expected 0 or more, got {value}")
    if config.field_weight and not synthetic:
        raise InputError("field_weight: needs --images synthetic, whose deformations are known")
    published = {"lncc": 1.5 if config.model == "vm2" else 1.0, "mse": 0.01, "none": 1.0}
    lambda_ = published[loss] if config.lambda_ is None else config.lambda_
    return replace(config, loss=loss, seg_weight=weight, lambda_=lambda_)


def resolved(config: TrainConfig) -> TrainConfig:
    """The configuration with defaults that depend on others filled in, checked."""
    if config.region_weight and (config.bidir or config.atlas is not None):
        raise InputError(
            "region_weight: not with --bidir or --atlas: the network says the region of the fixed image alone"
        )
    if config.bidir and not config.diffeomorphic:
        raise InputError("bidir: needs --diffeomorphic, a displacement field has no inverse in closed form")
    if config.window < 1 or config.window % 2 == 0:
        raise InputError(f"window: expected an odd number, got {config.window}")
    for name in ("steps", "batch_size", "log_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}: expected at least 1, got {getattr(config, name)}")
    if config.half and config.model == "match":
        raise InputError("half: not with --model match, which is on the half grid as it is")
    if config.voxels is not None and config.spacing is not None:
        raise InputError("voxels: says in place of --spacing how fine the working grid is; give one of them")
    if config.voxels is not None and config.voxels < 1:
        raise InputError(f"voxels: expected at least 1, got {config.voxels}")
    if not config.passes or min(config.passes) < 1:
        raise InputError(f"passes: expected numbers of at least 1, got {' '.join(map(str, config.passes)) or 'none'}")
    if config.spacing is not None and not config.spacing > 0:
        raise InputError(f"spacing: expected a length in mm above 0, got {config.spacing}")
    if config.images == SYNTHETIC:
        _check_synthetic(config)
    if config.val_labels is not None and config.val is None:
        raise InputError("val_labels: needs --val, the images that the label maps belong to")
    return resolved_objective(config)


def _check_synthetic(config: TrainConfig) -> None:
    for name in ("atlas", "pairs", "masks", "unlabelled"):
        if getattr(config, name) is not None:
            raise InputError(f"{name}: not with --images synthetic, which makes its own pairs")
    if config.shape is None and config.labels is None and config.val is None:
        raise InputError("shape: needed with --images synthetic, where nothing else says how large the images are")
    if config.shape is not None and (len(config.shape) not in (2, 3) or min(config.shape) < 1):
        raise InputError(f"shape: expected 2 or 3 numbers of voxels, got {' '.join(map(str, config.shape))}")
    if config.synth_labels < 2:
        raise InputError(f"synth_labels: expected at least 2, got {config.synth_labels}")
    for name in ("synth_shapes", "synth_bends"):
        low, high = getattr(config, name)
        if not 1 <= low <= high:
            raise InputError(f"{name}: expected two numbers of voxels, 1 <= from <= to, got {low:g} {high:g}")
    if config.synth_warp < 0:
        raise InputError(f"synth_warp: expected 0 or more voxels, got {config.synth_warp}")


def plain(config: TrainConfig) -> dict[str, Any]:
    """As JSON has it, under the names that the command line and config files use."""
    values = {f.name.strip("_"): getattr(config, f.name) for f in fields(config)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items() if v is not None}
