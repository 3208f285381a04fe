"""Adam on the device: the update, and the filter that it goes through along one axis."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import along, tile


@triton.jit
def adam_update_kernel(
    grad,  # [images, D, H, W], becomes the update
    mean,  # like grad
    square,  # like grad
    rates,  # [7] float64: beta1, 1 - beta1, beta2, 1 - beta2, the scales of mean and square, eps
    D,
    H,
    W,
    volume,  # D * H * W
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Moments and update of a tile."""
    image, _, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    at = image * volume + index
    g = tl.load(grad + at, mask=valid, other=0.0).to(WORK)
    m = tl.load(mean + at, mask=valid, other=0.0).to(WORK)
    s = tl.load(square + at, mask=valid, other=1.0).to(WORK)
    m = tl.load(rates).to(WORK) * m + tl.load(rates + 1).to(WORK) * g
    s = tl.load(rates + 2).to(WORK) * s + tl.load(rates + 3).to(WORK) * g * g
    root = tl.sqrt(s * tl.load(rates + 5).to(WORK))
    tl.store(mean + at, m, mask=valid)
    tl.store(square + at, s, mask=valid)
    tl.store(grad + at, m * tl.load(rates + 4).to(WORK) / (root + tl.load(rates + 6).to(WORK)), mask=valid)


@triton.jit
def mirrored(at, size):
    """Where an index lies when the axis goes on as its mirror image, the border voxel repeated."""
    period = 2 * size
    inside = (at % period + period) % period
    return tl.where(inside < size, inside, period - 1 - inside)


@triton.jit
def adam_filter_kernel(
    source,  # [images, D, H, W]
    target,  # like source
    weights,  # [2 * PASSES + 1] float64: of the taps
    D,
    H,
    W,
    volume,  # D * H * W
    AXIS: tl.constexpr,
    PASSES: tl.constexpr,
    ADD: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """A weighted sum along one axis, written to the target or added to it."""
    image, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    position, size, stride = along(place, (D, H, W), AXIS)
    total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    for tap in tl.static_range(2 * PASSES + 1):
        step = mirrored(position + tap - PASSES, size) - position
        if WIDE:
            step = step.to(tl.int64)
        value = tl.load(source + image * volume + index + step * stride, mask=valid, other=0.0).to(WORK)
        total += tl.load(weights + tap).to(WORK) * value
    at = target + image * volume + index
    if ADD:
        total += tl.load(at, mask=valid, other=0.0).to(WORK)
    tl.store(at, total, mask=valid)
