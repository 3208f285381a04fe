"""`fastreg.mind`: what an image looks like, whatever its contrast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg import backends
from fastreg.backends import reference
from fastreg.ops._autograd import needs_reference, no_double_backward
from fastreg.ops._define import define_op
from fastreg.types import Volume
from fastreg.utils.checks import check_choice, check_volume

KINDS = ("mind", "ssc")


def mind(image: Volume, kind: str = "mind", backend: str | None = None) -> Tensor:
    """Modality independent neighbourhood descriptors: how alike the patches around a voxel are, whatever the contrast.

    ``exp(-d_k / v)`` for pairs k of patches, d_k their mean squared difference over 3^ndim voxels, v the mean of d_k
    over k, at least a thousandth of its mean over the image: 1 where nothing changes. Beyond the border the border's
    values go on, those of the image and those of the squared differences.

        described = fastreg.mind(image)  # [1, 1, D, H, W] -> [1, 6, D, H, W]
        alike = fastreg.lncc(described, fastreg.mind(of_another_contrast))

    Args:
        image: [batch, channels, D, H, W] or [batch, channels, H, W], any intensity unit. A value that is not finite
            makes all of its channel NaN, or 1 far from an infinite one.
        kind: "mind": the patch around the voxel and those one voxel further and one back along every axis, in this
            order. "ssc": the patches around every two of these neighbours that are not opposite each other (MIND-SSC),
            12 pairs or in 2-D 4: +D+H, +D-H, +D+W, +D-W, -D+H, -D-H, -D+W, -D-W, +H+W, +H-W, -H+W, -H-W.
        backend: A name from `fastreg.backends.status()`; the fastest that fits if None.

    Returns:
        [batch, pairs * channels, D, H, W], the channels of a pair side by side, 0 to 1, dtype of `image`; half
        precision is computed in float32. Differentiable; in the gradient a thousandth of the mean of v counts as a
        constant.

    Raises:
        TypeError: `image` is no floating-point tensor.
        ValueError: shapes or names that do not fit.

    Source: Heinrich et al. 2012, "MIND: Modality independent neighbourhood descriptor for multi-modal deformable
    registration", with the six-neighbourhood; Heinrich et al. 2013, "Towards realtime multimodal fusion for
    image-guided interventions using self-similarities". docs/math.md has the exact definition.
    """
    check_volume("image", image)
    check_choice("kind", kind, KINDS)
    if needs_reference(image) or torch.compiler.is_exporting():  # a program in plain steps runs where fastreg is not
        return reference.mind(image, kind)[0]
    return torch.ops.fastreg.mind(image, kind, backends.choose(backend, image))[0]


@define_op("mind")
def _mind(image: Tensor, kind: str, backend: str) -> tuple[Tensor, Tensor]:
    return backends.get(backend).mind(image, kind)


@_mind.register_fake
def _(image: Tensor, kind: str, backend: str) -> tuple[Tensor, Tensor]:
    batch, channels, *size = image.shape
    pairs = len(reference.mind_pairs(kind, len(size)))
    floor = image.new_empty((batch, channels), dtype=torch.promote_types(image.dtype, torch.float32))
    return image.new_empty((batch, pairs * channels, *size)), floor


@define_op("mind_backward")
def _mind_backward(grad: Tensor, image: Tensor, floor: Tensor, kind: str, backend: str) -> Tensor:
    return backends.get(backend).mind_backward(grad, image, floor, kind)


@_mind_backward.register_fake
def _(grad: Tensor, image: Tensor, floor: Tensor, kind: str, backend: str) -> Tensor:
    return image.new_empty(image.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, kind, backend = inputs
    ctx.save_for_backward(image, output[1])
    ctx.options = kind, backend
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, of_floor: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    return torch.ops.fastreg.mind_backward(grad, *ctx.saved_tensors, *ctx.options), None, None


_mind.register_autograd(_backward, setup_context=_setup)
_mind_backward.register_autograd(no_double_backward("mind"))
