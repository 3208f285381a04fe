"""The ops in ONNX's own: what a warp or an integration is in standard operators, of opset 20.

Nothing here needs fastreg where the model runs, and shapes may be any: they are read from the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch

from fastreg.ops import integrate as _integrate  # noqa: F401 - registers torch.ops.fastreg.integrate
from fastreg.ops import warp as _warp  # noqa: F401 - registers torch.ops.fastreg.warp

OPSET = 20
"""The first whose GridSample takes volumes."""

_PADDINGS = {
    "zeros": "zeros",
    "border": "border",
    "reflection": "reflection",
    "symmetric": "reflection",
    "itk": "border",
}
"""What GridSample calls them, or comes nearest."""


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`fastreg.warp`, `grid_sample` and `integrate` as GridSample and arithmetic, for `torch.onnx.export` of a module.

    Coordinates pass through [-1, 1], as GridSample has them in float32: on an axis of n voxels they are exact to about
    n / 10^7 of a voxel.

        torch.onnx.export(module, images, "model.onnx", dynamo=True, opset_version=20,
                          custom_translation_table=fastreg.onnx_translations())

    Raises:
        ImportError: onnxscript is not installed (extra: onnx).
        ValueError: while exporting, `grid_sample` with padding_mode "itk" and align_corners.
    """
    from onnxscript import opset20 as op

    # The exporter reads the annotations: str, int and bool are attributes, all else is a tensor.
    def warp(  # type: ignore[no-untyped-def]
        vol,
        flow,
        mode: str,
        padding: str,
        channels_last: bool,
        backend: str,
        align_corners: Optional[bool] = None,  # noqa: UP045
    ):
        ndim, shared = len(vol.shape) - 2, vol.shape[0] == 1 and flow.shape[0] != 1
        if shared:  # one image for all fields
            vol = op.Expand(
                vol, op.Concat(op.Shape(flow, start=0, end=1), op.Constant(value_ints=[1] * (ndim + 1)), axis=0)
            )
        if align_corners is not None:  # torch's coordinates, which GridSample has too
            return _sample(op, vol, flow, mode, padding, align_corners)
        if channels_last:
            flow = op.Transpose(flow, perm=[0, ndim + 1, *range(1, ndim + 1)])
        grid = _Grid(op, ndim, vol, flow, padding)
        return _sample(op, vol, grid.at(flow), mode, padding, grid.corners)

    def integrate(velocity, steps: int, padding: str, need_grad: bool, backend: str):  # type: ignore[no-untyped-def]
        field = op.Div(velocity, float(2**steps))
        grid = _Grid(op, len(velocity.shape) - 2, velocity, velocity, padding)
        for _ in range(steps):
            there = op.GridSample(
                field, grid.at(field), mode="linear", padding_mode=padding, align_corners=grid.corners
            )
            field = op.Add(field, there)
        return field, op.Identity(velocity)  # the second is for a backward, and there is none

    return {torch.ops.fastreg.warp.default: warp, torch.ops.fastreg.integrate.default: integrate}


def _sample(op: Any, vol: Any, grid: Any, mode: str, padding: str, corners: bool) -> Any:
    """GridSample of coordinates in [-1, 1], which are the faces of the image, or with `corners` its corner voxels."""
    found = op.GridSample(vol, grid, mode=mode, padding_mode=_PADDINGS[padding], align_corners=int(corners))
    if padding != "itk":
        return found
    if corners:
        raise ValueError("padding 'itk' has no ONNX form where align_corners is set")
    inside = op.LessOrEqual(op.ReduceMax(op.Abs(grid), [-1], keepdims=0), 1.0)
    return op.Where(op.Unsqueeze(inside, [1]), found, op.CastLike(0.0, found))


class _Grid:
    """From displacements in voxels to GridSample's coordinates in [-1, 1], last axis first."""

    def __init__(self, op: Any, ndim: int, vol: Any, flow: Any, padding: str) -> None:
        self.op, self.ndim = op, ndim
        self.corners = padding == "reflection"  # about the centres of the outermost voxels
        size, grid = op.Cast(op.Shape(vol, start=2), to=_FLOAT), op.Shape(flow, start=2)
        self.lengths, self.places = [], []
        for axis in range(self.ndim):
            self.lengths.append(op.Gather(size, axis, axis=0))
            place = op.Cast(op.Range(0, op.Gather(grid, axis, axis=0), 1), to=_FLOAT)
            self.places.append(op.Unsqueeze(place, [k for k in range(self.ndim + 1) if k != axis + 1]))

    def at(self, flow: Any) -> Any:
        """[batch, ndim, D, H, W] -> [batch, D, H, W, ndim]."""
        op = self.op
        normalised = []
        for axis, (place, length) in enumerate(zip(self.places, self.lengths, strict=True)):
            point = op.Mul(op.Add(op.Cast(op.Gather(flow, axis, axis=1), to=_FLOAT), place), 2.0)
            if self.corners:
                scaled = op.Div(point, op.Max(op.Sub(length, 1.0), 1.0))
            else:
                scaled = op.Div(op.Add(point, 1.0), length)
            normalised.append(op.Unsqueeze(op.Sub(scaled, 1.0), [self.ndim + 1]))
        return op.Concat(*reversed(normalised), axis=self.ndim + 1)


_FLOAT = 1
"""TensorProto.FLOAT."""
