"""Launches of the local correlation: images are worked on in slabs. docs/math.md has the definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .grid import COLUMNS, ROWS, WARPS, grid_3d, magnitude, programs, tuned, tuned_programs, work_type
from .lncc_backward_kernels import lncc_backward_gradient_kernel, lncc_backward_spread_kernel
from .lncc_forward_kernels import lncc_forward_correlate_kernel, lncc_forward_merge_kernel

if TYPE_CHECKING:
    from fastreg.types import LnccForm

WORKSPACE_BYTES = 128 * 2**20
"""Images are worked on in slabs, or several at a time, so that the workspace stays below this or two windows deep."""
WORKSPACE_PER_VOXEL = 15
"""Numbers: three times five fields."""

_merge = tuned(lncc_forward_merge_kernel, ("magnitude", "AXIS", "FIRST", "WINDOWS", "MASKED"))
_spread = tuned(lncc_backward_spread_kernel, ("magnitude", "AXIS", "FIRST", "WINDOW", "NEED_A", "NEED_B"))
_gradient = tuned(lncc_backward_gradient_kernel, ("magnitude", "AXIS", "WINDOW", "NEED_A", "NEED_B"))


def lncc(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
    form: LnccForm,
    scale: float,
    grad_a: torch.Tensor | None,
    grad_b: torch.Tensor | None,
    cc_map: torch.Tensor | None,
) -> torch.Tensor:
    """Sum of weight * cc (0-d float64, on the device); fills the gradients of scale * that sum, and the map.

    Voxels where `mask` is 0 or less enter no sum.
    Tensors are dense and not empty, [batch, channels, (D,) H, W].
    """
    images, (depth, height, width) = a.shape[0] * a.shape[1], grid_3d(a.shape[2:])
    size = images, depth, height, width
    need_grad = grad_a is not None or grad_b is not None
    work = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    halo = form.window[0] // 2 if need_grad and a.ndim == 5 else 0
    room = WORKSPACE_BYTES // (WORKSPACE_PER_VOXEL * work.itemsize * height * width)  # planes
    at_once, planes = (min(images, room // depth), depth) if room >= depth else (1, max(1, room - 2 * halo))
    sums = []
    counts = _counts(mask, a, form, work)
    for first in range(0, images, at_once):
        some = slice(first, first + at_once)
        a_, b_ = (tensor.view(size)[some] for tensor in (a, b))
        grad_a_, grad_b_, cc_ = (
            None if tensor is None else tensor.view(size)[some] for tensor in (grad_a, grad_b, cc_map)
        )
        counts_ = [tensor[some] for tensor in counts]
        shift_a, shift_b = (_shift(tensor, counts_, work) for tensor in (a_, b_))
        for from_plane in range(0, depth, planes):
            to_plane = min(from_plane + planes, depth)
            extent = max(from_plane - halo, 0), from_plane, to_plane, min(to_plane + halo, depth)
            slab = _Slab(a_, b_, shift_a, shift_b, counts_, a.ndim - 2, form, work, extent)
            sums.append(slab.correlate(weight, first, a.shape[1], scale, cc_, need_grad))
            if need_grad:
                slab.gradient(grad_a_, grad_b_)
    if mask is not None:
        for tensor in (grad_a, grad_b):
            if tensor is not None:
                tensor.masked_fill_(mask <= 0, 0)
    return torch.stack(sums).sum()


def _counts(mask: torch.Tensor | None, a: torch.Tensor, form: LnccForm, work: torch.dtype) -> list[torch.Tensor]:
    """[images, D, H, W] each: what counts, and how many of it windows hold on the first axis, the first two, ...

    The outside of the image counts where n is fixed. Nothing without a mask.
    """
    if mask is None:
        return []
    counts = [(mask > 0).to(work).expand(a.shape).reshape(-1, *grid_3d(a.shape[2:])).contiguous()]
    beyond = 0.0 if form.count else 1.0
    for axis, window in enumerate(form.window, 5 - a.ndim):
        edges = [0, 0] * (2 - axis) + [window // 2] * 2
        padded = torch.nn.functional.pad(counts[-1], edges, value=beyond)
        counts.append(padded.unfold(1 + axis, window, 1).sum(-1).contiguous())
        beyond *= window
    return counts


def _shift(image: torch.Tensor, counts: list[torch.Tensor], work: torch.dtype) -> torch.Tensor:
    """The mean of what counts, an image: what it is centred by."""
    if not counts:
        return image.mean((1, 2, 3), dtype=work)
    known = torch.where(counts[0] > 0, image, 0).sum((1, 2, 3), dtype=work)
    return known / counts[0].sum((1, 2, 3)).clamp_min(1)


class _Slab:
    """Some planes of some images, with the workspace that the kernels hand on."""

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        shift_a: torch.Tensor,
        shift_b: torch.Tensor,
        counts: list[torch.Tensor],
        ndim: int,
        form: LnccForm,
        work: torch.dtype,
        extent: tuple[int, int, int, int],
    ) -> None:
        self.inputs = a, b, shift_a, shift_b
        self.masked = bool(counts)
        self.counts = counts or [a] * (ndim + 1)  # not read without a mask
        self.ndim, self.form, self.work = ndim, form, work_type(work)
        self.windows = grid_3d(form.window)
        self.first_plane, self.from_plane, self.to_plane, last = extent
        self.images, depth, height, width = a.shape
        self.size, self.planes = (depth, height, width), last - self.first_plane
        self.slab = self.planes * height * width
        self.wide = depth * height * width >= 2**31
        self.fields, self.spare, self.adjoint = (a.new_empty((self.images, 5, self.slab), dtype=work) for _ in range(3))

    def _grid(self, planes: int) -> Callable[[dict[str, Any]], tuple[int]]:
        return tuned_programs(self.images, (planes, *self.size[1:]))

    def _options(self) -> dict[str, object]:
        return {"WORK": self.work, "WIDE": self.wide, "enable_fp_fusion": True}

    def correlate(
        self,
        weight: torch.Tensor | None,
        first_image: int,
        channels: int,
        scale: float,
        cc_map: torch.Tensor | None,
        need_grad: bool,
    ) -> torch.Tensor:
        """Sum of weight * cc over the slab's own planes; keeps the adjoints if a gradient is wanted."""
        a, b, shift_a, shift_b = self.inputs
        volume = self.size[0] * self.size[1] * self.size[2]
        for axis in range(3 - self.ndim, 2):
            first = axis == 3 - self.ndim
            _merge[self._grid(self.planes)](
                a if first else self.fields,
                b,
                *self.counts[axis - (3 - self.ndim) : axis - (3 - self.ndim) + 2],
                shift_a,
                shift_b,
                self.spare,
                *self.size,
                self.first_plane,
                self.planes,
                self.slab,
                volume,
                magnitude((self.planes, *self.size[1:])),
                AXIS=axis,
                FIRST=first,
                NDIM=self.ndim,
                WINDOWS=self.windows,
                COUNT=self.form.count,
                MASKED=self.masked,
                **self._options(),
            )
            self.fields, self.spare = self.spare, self.fields
        (count,) = grid = programs(self.images, (self.planes, *self.size[1:]), ROWS, COLUMNS)
        partial = a.new_empty((count,), dtype=torch.float64)
        lncc_forward_correlate_kernel[grid](
            self.fields,
            *self.counts[-2:],
            shift_a,
            shift_b,
            a if weight is None else weight,
            torch.full_like(shift_a[:1], scale),
            partial,
            a if cc_map is None else cc_map,
            self.adjoint,
            first_image,
            channels,
            1 if weight is None else weight.shape[1],
            *self.size,
            self.first_plane,
            self.from_plane,
            self.to_plane,
            self.planes,
            self.slab,
            volume,
            NDIM=self.ndim,
            FORM=self.form,
            WINDOWS=self.windows,
            WEIGHTED=weight is not None,
            MASKED=self.masked,
            NEED_MAP=cc_map is not None,
            NEED_GRAD=need_grad,
            BLOCK_Y=ROWS,
            BLOCK_X=COLUMNS,
            num_warps=WARPS,
            **self._options(),
        )
        return partial.sum()

    def gradient(self, grad_a: torch.Tensor | None, grad_b: torch.Tensor | None) -> None:
        """Fills the gradients in the slab's own planes."""
        wanted = {"NEED_A": grad_a is not None, "NEED_B": grad_b is not None}
        for axis in range(2, 3 - self.ndim, -1):
            _spread[self._grid(self.planes)](
                self.adjoint,
                self.fields,
                self.spare,
                *self.size[1:],
                self.planes,
                self.slab,
                magnitude((self.planes, *self.size[1:])),
                AXIS=axis,
                FIRST=axis == 2,
                WINDOW=self.windows[axis],
                **wanted,
                **self._options(),
            )
            self.fields, self.spare = self.spare, self.fields
        own = self.to_plane - self.from_plane
        _gradient[self._grid(own)](
            *self.inputs,
            self.adjoint,
            self.fields,
            self.adjoint if grad_a is None else grad_a,
            self.adjoint if grad_b is None else grad_b,
            *self.size[1:],
            self.first_plane,
            self.from_plane,
            own,
            self.planes,
            self.slab,
            self.size[0] * self.size[1] * self.size[2],
            magnitude((own, *self.size[1:])),
            AXIS=3 - self.ndim,
            WINDOW=self.windows[3 - self.ndim],
            **wanted,
            **self._options(),
        )
