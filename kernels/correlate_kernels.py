"""The cost volume on the device: scores, the softmax over displacements, and the gradients to either image."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import flat, tile


@triton.jit
def clamped(place, size):
    """The nearest place of an axis."""
    return tl.minimum(tl.maximum(place, 0), size - 1)


@triton.jit
def moved(place, k, SIGN: tl.constexpr, RADIUS: tl.constexpr, NDIM: tl.constexpr):
    """`place` and SIGN times displacement number k."""
    reach: tl.constexpr = 2 * RADIUS + 1
    z, y, x = place
    if NDIM == 3:
        z = z + SIGN * (k // reach // reach - RADIUS)
    return z, y + SIGN * (k // reach % reach - RADIUS), x + SIGN * (k % reach - RADIUS)


@triton.jit
def inside_of(place, D, H, W):
    """Where a place lies in the grid."""
    z, y, x = place
    return (z >= 0) & (z < D) & (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def there(place, D, H, W, valid, BORDER: tl.constexpr, WIDE: tl.constexpr):
    """Index of the voxel of b that is read at a place, and where there is one."""
    if BORDER:
        return flat(clamped(place[0], D), clamped(place[1], H), clamped(place[2], W), H, W, WIDE), valid
    else:
        return flat(place[0], place[1], place[2], H, W, WIDE), valid & inside_of(place, D, H, W)


@triton.jit
def score_of(
    a, b, place, index, valid, k, D, H, W, volume, channels,
    NDIM: tl.constexpr, RADIUS: tl.constexpr, SSD: tl.constexpr, BORDER: tl.constexpr,
    WORK: tl.constexpr, WIDE: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Displacement k at every voxel of the tile. `a` and `b`: of the image."""
    at, known = there(moved(place, k, 1, RADIUS, NDIM), D, H, W, valid, BORDER, WIDE)
    total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
    for c in range(channels):
        here = tl.load(a + c * volume + index, mask=valid, other=0.0).to(WORK)
        other = tl.load(b + c * volume + at, mask=known, other=0.0).to(WORK)
        if SSD:
            total += (here - other) * (here - other)
        else:
            total += here * other
    return total / channels


@triton.jit
def correlate_forward_kernel(
    a,  # [batch, channels, D, H, W]
    b,  # like a
    out,  # [batch, displacements, D, H, W], or [batch, NDIM, D, H, W] with MEAN
    grad,  # like a mean, or unused
    slope,  # [1] float64: what scores are multiplied by before the softmax
    D,
    H,
    W,
    volume,  # D * H * W
    channels,
    NDIM: tl.constexpr,
    RADIUS: tl.constexpr,
    SSD: tl.constexpr,
    BORDER: tl.constexpr,
    MEAN: tl.constexpr,  # the mean displacement
    SLOPES: tl.constexpr,  # the gradient to the scores, [batch, displacements, D, H, W], from that to the mean
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """The scores, or what the softmax makes of them: scores are made anew, not kept."""
    image, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    reach: tl.constexpr = 2 * RADIUS + 1
    count: tl.constexpr = reach * reach * reach if NDIM == 3 else reach * reach
    a += image * channels * volume
    b += image * channels * volume
    if not MEAN and not SLOPES:
        out += image * count * volume + index
        for k in range(count):
            score = score_of(
                a, b, place, index, valid, k, D, H, W, volume, channels,
                NDIM, RADIUS, SSD, BORDER, WORK, WIDE, BLOCK_Y, BLOCK_X,
            )  # fmt: skip
            tl.store(out, score, mask=valid)
            out += volume
    else:
        steep = tl.load(slope).to(WORK)
        most = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), WORK)
        total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        mean_z = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        mean_y = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        mean_x = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        for k in range(count):
            score = steep * score_of(
                a, b, place, index, valid, k, D, H, W, volume, channels,
                NDIM, RADIUS, SSD, BORDER, WORK, WIDE, BLOCK_Y, BLOCK_X,
            )  # fmt: skip
            higher = tl.where(score > most, score, most)
            rescale = tl.exp(most - higher)
            weight = tl.exp(score - higher)
            most = higher
            total = total * rescale + weight
            mean_z = mean_z * rescale + weight * (k // reach // reach - RADIUS)
            mean_y = mean_y * rescale + weight * (k // reach % reach - RADIUS)
            mean_x = mean_x * rescale + weight * (k % reach - RADIUS)
        mean_z, mean_y, mean_x = mean_z / total, mean_y / total, mean_x / total
        field = image * NDIM * volume + index
        if MEAN:
            if NDIM == 3:
                tl.store(out + field, mean_z, mask=valid)
                field += volume
            tl.store(out + field, mean_y, mask=valid)
            tl.store(out + field + volume, mean_x, mask=valid)
        else:
            grad_z = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
            if NDIM == 3:
                grad_z += tl.load(grad + field, mask=valid, other=0.0).to(WORK)
                field += volume
            grad_y = tl.load(grad + field, mask=valid, other=0.0).to(WORK)
            grad_x = tl.load(grad + field + volume, mask=valid, other=0.0).to(WORK)
            out += image * count * volume + index
            for k in range(count):
                score = steep * score_of(
                    a, b, place, index, valid, k, D, H, W, volume, channels,
                    NDIM, RADIUS, SSD, BORDER, WORK, WIDE, BLOCK_Y, BLOCK_X,
                )  # fmt: skip
                rest = (k // reach % reach - RADIUS - mean_y) * grad_y + (k % reach - RADIUS - mean_x) * grad_x
                if NDIM == 3:
                    rest += (k // reach // reach - RADIUS - mean_z) * grad_z
                tl.store(out, steep * tl.exp(score - most) / total * rest, mask=valid)
                out += volume


@triton.jit
def correlate_backward_kernel(
    a,  # [batch, channels, D, H, W]
    b,  # like a
    slopes,  # [batch, displacements, D, H, W]: the gradient to the scores
    grad,  # like a: to a, or to b
    D,
    H,
    W,
    volume,  # D * H * W
    channels,
    NDIM: tl.constexpr,
    RADIUS: tl.constexpr,
    SSD: tl.constexpr,
    BORDER: tl.constexpr,
    TO_B: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """The gradient to one image, gathered. To b, at a border that goes on, also from what lies beyond its voxels."""
    image, place, index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    reach: tl.constexpr = 2 * RADIUS + 1
    count: tl.constexpr = reach * reach * reach if NDIM == 3 else reach * reach
    a += image * channels * volume
    b += image * channels * volume
    slopes += image * count * volume
    grad += image * channels * volume + index
    for _ in range(channels):
        total = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        here = tl.zeros((BLOCK_Y, BLOCK_X), WORK)
        if SSD:
            here += tl.load((b if TO_B else a) + index, mask=valid, other=0.0).to(WORK)
        for k in range(count):
            if not TO_B:
                at, known = there(moved(place, k, 1, RADIUS, NDIM), D, H, W, valid, BORDER, WIDE)
                other = tl.load(b + at, mask=known, other=0.0).to(WORK)
                total += tl.load(slopes + index, mask=valid, other=0.0).to(WORK) * (other - here)
            elif not BORDER:
                total += read_back(
                    a, slopes, here, moved(place, k, -1, RADIUS, NDIM), D, H, W, valid, valid, WORK, WIDE
                )
            else:
                for beyond in range(count):  # the voxels q that read as this one
                    q = moved(place, beyond, 1, RADIUS, NDIM)
                    own = (clamped(q[0], D) == place[0]) & (clamped(q[1], H) == place[1])
                    own = own & (clamped(q[2], W) == place[2])
                    if tl.max(own.to(tl.int32)) > 0:  # of most tiles only the voxels themselves
                        total += read_back(
                            a, slopes, here, moved(q, k, -1, RADIUS, NDIM), D, H, W, valid, own, WORK, WIDE
                        )
            slopes += volume
        slopes -= count * volume
        if SSD:
            total = -2 * total
        tl.store(grad, total / channels, mask=valid)
        a += volume
        b += volume
        grad += volume


@triton.jit
def read_back(a, slopes, here, place, D, H, W, valid, own, WORK: tl.constexpr, WIDE: tl.constexpr):
    """What a voxel of a, at `place`, says of the voxel of b that it has read."""
    known = valid & own & inside_of(place, D, H, W)
    at = flat(place[0], place[1], place[2], H, W, WIDE)
    other = tl.load(a + at, mask=known, other=0.0).to(WORK)
    return tl.where(known, tl.load(slopes + at, mask=known, other=0.0).to(WORK) * (other - here), 0.0)
