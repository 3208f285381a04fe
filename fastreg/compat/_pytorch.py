"""VoxelMorph's PyTorch .pt files: VxmDense with its configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastreg.compat._keras import vxm_dense_options
from fastreg.compat._layout import Found, Layer
from fastreg.utils.files import InputError

# Names of the convolutions in the dev branch's network, and in its predecessor with stride-2 convolutions.
POOLED = {
    "encoder": r"unet_model\.encoder\.(\d+)\.(\d+)\.main",
    "decoder": r"unet_model\.decoder\.(\d+)\.(\d+)\.main",
    "tail": r"unet_model\.remaining\.(\d+)\.main",
    "flow": r"flow",
}
STRIDED = {
    "encoder": r"unet_model\.downarm\.(\d+)\.main",
    "decoder": r"unet_model\.uparm\.(\d+)\.main",
    "tail": r"unet_model\.extras\.(\d+)\.main",
    "flow": r"flow",
}


def read(path: Path) -> Found:
    """The network of a .pt file, read without running code from it."""
    config, state = _content(path)
    pooled = not any(".downarm." in name for name in state)
    parts = _layers(path, state, POOLED if pooled else STRIDED)
    if len(parts["encoder"]) != len(parts["decoder"]):
        raise InputError(
            f"weights {path}: expected as many decoder as encoder levels, got {len(parts['decoder'])} and "
            f"{len(parts['encoder'])}"
        )
    half = bool(config.get("unet_half_res", False))
    options = vxm_dense_options(path, int(config.get("int_steps", 7)), int(config.get("int_downsize", 2)), half)
    shape = config.get("inshape")
    return Found(
        path=str(path),
        encoder=parts["encoder"],
        decoder=parts["decoder"],
        tail_half=[],
        tail=parts["tail"],
        flow=parts["flow"][0],
        pooled=pooled,
        half=half,
        options=options if pooled else {**options, "strided_padding": "symmetric"},
        shape=None if shape is None else tuple(int(n) for n in shape),
    )


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle the unpickler raises whatever it stumbles over
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(f"weights {path}: expected a PyTorch file of tensors and plain values: {reason}") from error
    if not isinstance(content, dict) or not {"config", "model_state"} <= set(content):
        got = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"weights {path}: expected config and model_state, as VoxelMorph's save() writes, got {got}")
    return content["config"], content["model_state"]


def _layers(path: Path, state: dict[str, Tensor], patterns: dict[str, str]) -> dict[str, list[Layer]]:
    """The convolutions of every part of the network, in order."""
    parts: dict[str, dict[int, Layer]] = {part: {} for part in patterns}
    for name in state:
        if name.endswith(".grid"):  # of the warps; they follow from the shape
            continue
        owner = name.removesuffix(".weight").removesuffix(".bias")
        hits = [(part, hit) for part, pattern in patterns.items() if (hit := re.fullmatch(pattern, owner))]
        if not hits:
            raise InputError(f"weights {path}: expected the layers of VxmDense, got an unknown one, {name}")
        part, hit = hits[0]
        if len(hit.groups()) == 2 and hit[2] != "0":
            raise InputError(f"weights {path}: {owner}: expected one convolution a level, got more")
        for key in (f"{owner}.weight", f"{owner}.bias"):
            if key not in state:
                raise InputError(f"weights {path}: expected {key} in model_state, which is missing")
        place = int(hit[1]) if hit.groups() else 0
        parts[part][place] = Layer(owner, state[f"{owner}.weight"].float(), state[f"{owner}.bias"].float())
    for part, found in parts.items():
        if sorted(found) != list(range(len(found))) or (not found and part != "tail"):
            numbers = ", ".join(map(str, sorted(found))) or "none"
            raise InputError(f"weights {path}: expected all layers of the {part} in model_state, got {numbers}")
    return {part: [found[k] for k in sorted(found)] for part, found in parts.items()}
