"""Modality independent neighbourhood descriptors on the device. Patches are read again for every voxel, from cache."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import flat, tile


@triton.jit
def value_at(image, place, size, STEP: tl.constexpr, valid, WORK: tl.constexpr, WIDE: tl.constexpr):
    """The image one voxel further (STEP 1, 3, 5 along D, H, W) or back (2, 4, 6) or there (0), clamped to the grid."""
    z, y, x = place
    D, H, W = size
    if STEP == 1 or STEP == 2:
        z = tl.minimum(tl.maximum(z + (3 - 2 * STEP), 0), D - 1)
    elif STEP == 3 or STEP == 4:
        y = tl.minimum(tl.maximum(y + (7 - 2 * STEP), 0), H - 1)
    elif STEP == 5 or STEP == 6:
        x = tl.minimum(tl.maximum(x + (11 - 2 * STEP), 0), W - 1)
    return tl.load(image + flat(z, y, x, H, W, WIDE), mask=valid, other=0.0).to(WORK)


@triton.jit
def square(image, place, size, A: tl.constexpr, B: tl.constexpr, valid, WORK: tl.constexpr, WIDE: tl.constexpr):
    """The squared difference of a pair at a voxel."""
    difference = value_at(image, place, size, A, valid, WORK, WIDE) - value_at(image, place, size, B, valid, WORK, WIDE)
    return difference * difference


@triton.jit
def moved(place, size, offset, PLANES: tl.constexpr):
    """One of the voxels of a patch, clamped to the grid."""
    z, y, x = place
    D, H, W = size
    z = tl.minimum(tl.maximum(z + offset // 9 - PLANES // 2, 0), D - 1)
    y = tl.minimum(tl.maximum(y + offset // 3 % 3 - 1, 0), H - 1)
    x = tl.minimum(tl.maximum(x + offset % 3 - 1, 0), W - 1)
    return z, y, x


@triton.jit
def distance(
    image, place, size, A: tl.constexpr, B: tl.constexpr, valid, PLANES: tl.constexpr, WORK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """d_k of a pair at a voxel."""
    total = tl.zeros_like(valid.to(WORK))
    for offset in range(PLANES * 9):
        total += square(image, moved(place, size, offset, PLANES), size, A, B, valid, WORK, WIDE)
    return total / (PLANES * 9)


@triton.jit
def inverse_of(v, floor, tiny):
    """1 / max(v, floor), 0 where nothing changes; NaN stays NaN."""
    scale = tl.where(v > floor, v, floor)
    return tl.where(scale <= tiny, 0.0, 1 / scale)


@triton.jit
def mind_forward_mean_kernel(
    image,  # [images, D, H, W]
    partial,  # [programs] float64
    D,
    H,
    W,
    volume,  # D * H * W
    PAIRS: tl.constexpr,
    COUNT: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Adds up the squared differences of a tile: their mean is that of v."""
    which, place, _, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    total = tl.zeros_like(valid.to(WORK))
    for k in tl.static_range(COUNT):
        total += square(image + which * volume, place, (D, H, W), PAIRS[2 * k], PAIRS[2 * k + 1], valid, WORK, WIDE)
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(valid, total, 0.0).to(tl.float64)))


@triton.jit
def mind_forward_kernel(
    image,  # [images, D, H, W], images = batch * channels
    floor,  # [images]
    out,  # [batch, COUNT, channels, D, H, W]
    D,
    H,
    W,
    volume,
    channels,
    tiny,
    PAIRS: tl.constexpr,
    COUNT: tl.constexpr,
    PLANES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """exp(-d_k / v). The distances are made twice: for v, and for each value."""
    which, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    image += which * volume
    v = tl.zeros_like(valid.to(WORK))
    for k in tl.static_range(COUNT):
        v += distance(image, place, (D, H, W), PAIRS[2 * k], PAIRS[2 * k + 1], valid, PLANES, WORK, WIDE)
    inverse = inverse_of(v / COUNT, tl.load(floor + which), tiny)
    out += (which // channels * COUNT * channels + which % channels) * volume + index
    for k in tl.static_range(COUNT):
        d = distance(image, place, (D, H, W), PAIRS[2 * k], PAIRS[2 * k + 1], valid, PLANES, WORK, WIDE)
        tl.store(out, tl.exp(-d * inverse), mask=valid)
        out += channels * volume


@triton.jit
def mind_backward_slopes_kernel(
    image,  # [images, D, H, W]
    floor,  # [images]
    grad,  # [batch, COUNT, channels, D, H, W]
    slope,  # [images, COUNT, D, H, W]
    D,
    H,
    W,
    volume,
    channels,
    tiny,
    PAIRS: tl.constexpr,
    COUNT: tl.constexpr,
    PLANES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """The slopes of the loss against the distances."""
    which, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    image += which * volume
    slope += which * COUNT * volume + index
    to = slope
    v = tl.zeros_like(valid.to(WORK))
    for k in tl.static_range(COUNT):
        d = distance(image, place, (D, H, W), PAIRS[2 * k], PAIRS[2 * k + 1], valid, PLANES, WORK, WIDE)
        v += d
        tl.store(to, d, mask=valid)
        to += volume
    v /= COUNT
    least = tl.load(floor + which)
    inverse = inverse_of(v, least, tiny)
    grad += (which // channels * COUNT * channels + which % channels) * volume + index
    weighed = tl.zeros_like(v)
    to = slope
    of = grad
    for _ in tl.static_range(COUNT):
        ratio = tl.load(to, mask=valid, other=0.0) * inverse
        weighed += tl.load(of, mask=valid, other=0.0).to(WORK) * tl.exp(-ratio) * ratio
        to += volume
        of += channels * volume
    shared = tl.where(v > least, weighed / COUNT, 0.0)
    to = slope
    of = grad
    for _ in tl.static_range(COUNT):
        product = tl.load(of, mask=valid, other=0.0).to(WORK) * tl.exp(-tl.load(to, mask=valid, other=0.0) * inverse)
        tl.store(to, (shared - product) * inverse, mask=valid)
        to += volume
        of += channels * volume


@triton.jit
def mind_backward_weights_kernel(
    slope,  # [images * COUNT, D, H, W]
    weight,  # likewise
    D,
    H,
    W,
    volume,
    PLANES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Twice the mean of the slopes over a patch."""
    which, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    slope += which * volume
    total = tl.zeros_like(valid.to(WORK))
    for offset in range(PLANES * 9):
        z, y, x = moved(place, (D, H, W), offset, PLANES)
        total += tl.load(slope + flat(z, y, x, H, W, WIDE), mask=valid, other=0.0)
    tl.store(weight + which * volume + index, total * 2 / (PLANES * 9), mask=valid)


@triton.jit
def pushes(
    image, weight, place, size, volume, M: tl.constexpr, valid, PAIRS: tl.constexpr, COUNT: tl.constexpr,
    WORK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """What the pairs of a voxel push its place M by."""
    z, y, x = place
    at = flat(z, y, x, size[1], size[2], WIDE)
    total = tl.zeros_like(valid.to(WORK))
    for k in tl.static_range(COUNT):
        if PAIRS[2 * k] == M or PAIRS[2 * k + 1] == M:
            a = value_at(image, place, size, PAIRS[2 * k], valid, WORK, WIDE)
            b = value_at(image, place, size, PAIRS[2 * k + 1], valid, WORK, WIDE)
            push = tl.load(weight + at, mask=valid, other=0.0) * (a - b)
            if PAIRS[2 * k] == M:
                total += push
            else:
                total -= push
        weight += volume
    return total


@triton.jit
def mind_backward_kernel(
    image,  # [images, D, H, W]
    weight,  # [images, COUNT, D, H, W]
    grad_image,  # [images, D, H, W]
    D,
    H,
    W,
    volume,
    PAIRS: tl.constexpr,
    COUNT: tl.constexpr,
    PLANES: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """What comes to a voxel: as place M of others, and as its own where place M lies outside."""
    which, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    image += which * volume
    weight += which * COUNT * volume
    z, y, x = place
    size = D, H, W
    total = pushes(image, weight, place, size, volume, 0, valid, PAIRS, COUNT, WORK, WIDE)
    for m in tl.static_range(7 - 2 * (2 + PLANES // 2), 7):
        step = 1 - (m - 1) % 2 * 2
        if m < 3:
            position, length, other = z + y * 0, D, (z - step, y, x)
        elif m < 5:
            position, length, other = y, H, (z, y - step, x)
        else:
            position, length, other = x, W, (z, y, x - step)
        outside = valid & ((position + step < 0) | (position + step >= length))
        inside = valid & (position - step >= 0) & (position - step < length)
        own = pushes(image, weight, place, size, volume, m, outside, PAIRS, COUNT, WORK, WIDE)
        theirs = pushes(image, weight, other, size, volume, m, inside, PAIRS, COUNT, WORK, WIDE)
        total += tl.where(outside, own, 0.0) + tl.where(inside, theirs, 0.0)
    tl.store(grad_image + which * volume + index, total, mask=valid)
