"""A network as an ONNX file of standard operators, for programs without PyTorch."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreg.nn.cascade import cascade
from fastreg.nn.registration_net import RegistrationNet
from fastreg.ops.onnx_translation import OPSET, onnx_translations
from fastreg.types import Volume
from fastreg.utils.files import InputError, atomic

INPUTS = ("moving", "fixed")


def export_onnx(
    net: RegistrationNet,
    path: str | Path,
    *,
    shape: Sequence[int] | None = None,
    passes: Sequence[int] = (1,),
    inverse: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes `net` as an ONNX model of opset 20, in float32: standard operators alone, weights inside.

        net, about = fastreg.nn.checkpoint.load("general")
        fastreg.export_onnx(net, "general.onnx", passes=about.working.passes)
        moved, flow = onnxruntime.InferenceSession("general.onnx").run(None, {"moving": moving, "fixed": fixed})

    Inputs "moving" and "fixed": [batch, channels, D, H, W] or [batch, channels, H, W], float32, as `net` takes them:
    on one grid, intensities normalised. Outputs "moved" and "flow" (voxels), with `inverse` also "inverse_flow" and
    "moved_back", from networks with `region` also "region".

    Args:
        net: The network; what is written is its evaluation mode.
        path: The file to write.
        shape: D, H, W of the images. If None, the model takes any batch and any image of at least `smallest_axis(net,
            passes)` voxels along every axis; a fixed shape has batch 1 and runs somewhat faster.
        passes: As in `fastreg.nn.cascade.cascade`, and in the checkpoint's `working`.
        inverse: Also give the inverse (diffeomorphic networks only).
        metadata: Written into the file, values as JSON.

    Returns:
        The names of the outputs.

    Raises:
        InputError: onnx or onnxscript is not installed (extra: onnx).
        ValueError: a shape or an inverse that the network does not have.
        OSError: the file cannot be written.
    """
    least = smallest_axis(net, passes)
    ndim = net.config.ndim
    if shape is not None and (len(shape) != ndim or min(shape) < 1):
        raise ValueError(f"shape must be {ndim} lengths in voxels, got {tuple(shape)}")
    if inverse and not net.config.diffeomorphic:
        raise ValueError("inverse needs a diffeomorphic network; that of a displacement field is found by iteration")
    plain = RegistrationNet(**{**net.options, "amp": False, "channels_last": False})
    plain.load_state_dict(net.state_dict())
    module = _Exported(plain, passes, inverse).eval()
    # No two of these lengths are alike: the exporter would take them for one.
    size = tuple(shape) if shape is not None else tuple(least + 8 * (k + 1) for k in range(ndim))
    images = torch.zeros(2, 2 if shape is None else 1, net.config.channels, *size)
    dynamic = None
    if shape is None:
        axes = {2 + k: torch.export.Dim(name, min=least) for k, name in enumerate(("depth", "height", "width")[-ndim:])}
        dynamic = ({0: torch.export.Dim("batch"), **axes},) * 2
    with _quiet():
        try:
            table = onnx_translations()
            program = torch.onnx.export(
                module,
                tuple(images),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=module.outputs,
                dynamic_shapes=dynamic,
                custom_translation_table=table,
                verbose=False,
            )
        except ImportError as error:
            raise InputError("ONNX needs onnx and onnxscript: pip install 'fastreg[onnx]'") from error
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in (metadata or {}).items()})
    with atomic(path) as partial:
        program.save(partial)
    return module.outputs


def smallest_axis(net: RegistrationNet, passes: Sequence[int] = (1,)) -> int:
    """The fewest voxels along an axis that a graph of any shape takes: two on the coarsest grid of the U-Net."""
    return max(passes) * net.divisor + 1


def worst_error(
    path: str | Path, net: RegistrationNet, shape: Sequence[int], passes: Sequence[int] = (1,)
) -> float | None:
    """Largest difference of the moved images of an exported model and of `net`, of noise in [0, 1] of this shape.

    None where onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    images = torch.rand(2, 1, net.config.channels, *shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["moved"], {name: image.numpy() for name, image in zip(INPUTS, images, strict=True)})[0]
    mode = net.training
    with torch.no_grad():
        expected = cascade(net.eval(), images[0], images[1], passes).moved
    net.train(mode)
    return float((expected - torch.from_numpy(found)).abs().max())


class _Exported(nn.Module):
    """The tensors of a `RegistrationOutput` that a model gives, and their names."""

    def __init__(self, net: RegistrationNet, passes: Sequence[int], inverse: bool) -> None:
        super().__init__()
        self.net, self.passes, self.inverse = net, tuple(passes), inverse
        self.outputs = ["moved", "flow"]
        self.outputs += ["inverse_flow", "moved_back"] if inverse else []
        self.outputs += ["region"] if net.config.region and self.passes == (1,) else []

    def forward(self, moving: Volume, fixed: Volume) -> tuple[Tensor, ...]:
        found = cascade(self.net, moving, fixed, self.passes, self.inverse)
        return tuple(getattr(found, name) for name in self.outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages and names that do not concern the network."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
