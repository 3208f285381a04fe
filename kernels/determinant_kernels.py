"""det(I + grad u) on the device."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import tile


@triton.jit
def sides(u, index, position, size, stride, valid, WORK: tl.constexpr):
    """The forward and the backward difference of a component along one axis: where one leaves the grid, the other."""
    after = (position + 1 < size) & valid
    before = (position > 0) & valid
    here = tl.load(u + index, mask=valid, other=0.0).to(WORK)
    up = tl.load(u + index + stride, mask=after, other=0.0).to(WORK) - here
    down = here - tl.load(u + index - stride, mask=before, other=0.0).to(WORK)
    return tl.where(after, up, down), tl.where(before, down, up)


@triton.jit
def one_sided(u, index, position, size, stride, volume, valid, NDIM: tl.constexpr, WORK: tl.constexpr):
    """`sides` of every component: the forward ones, then the backward ones."""
    first = sides(u, index, position, size, stride, valid, WORK)
    second = sides(u + volume, index, position, size, stride, valid, WORK)
    if NDIM == 2:
        return first[0], second[0], first[1], second[1]
    else:
        third = sides(u + volume + volume, index, position, size, stride, valid, WORK)
        return first[0], second[0], third[0], first[1], second[1], third[1]


@triton.jit
def determinant_2d(a, b, A: tl.constexpr, B: tl.constexpr):
    """Of the columns that begin at element A of `a` and B of `b`."""
    return (1 + a[A]) * (1 + b[B + 1]) - b[B] * a[A + 1]


@triton.jit
def determinant_3d(a, b, c, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Of the columns that begin at element A of `a`, B of `b` and C of `c`."""
    first = (1 + a[A]) * ((1 + b[B + 1]) * (1 + c[C + 2]) - c[C + 1] * b[B + 2])
    second = b[B] * (a[A + 1] * (1 + c[C + 2]) - c[C + 1] * a[A + 2])
    return first - second + c[C] * (a[A + 1] * b[B + 2] - (1 + b[B + 1]) * a[A + 2])


@triton.jit
def lesser(a, b):
    """The smaller one, NaN if one is NaN."""
    return tl.where((b < a) | (b != b), b, a)


@triton.jit
def averaged(sides, NDIM: tl.constexpr):
    """The central differences: at a border both sides are the same one."""
    if NDIM == 2:
        return (sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2
    else:
        return (sides[0] + sides[3]) / 2, (sides[1] + sides[4]) / 2, (sides[2] + sides[5]) / 2


@triton.jit
def determinant_kernel(
    flow,  # [batch, NDIM, D, H, W]
    out,  # [batch, D, H, W]
    D,
    H,
    W,
    volume,  # D * H * W
    NDIM: tl.constexpr,
    LEAST: tl.constexpr,
    WORK: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """By central differences, or the smallest of those by one-sided ones."""
    image, (z, y, x), index, valid = tile(D, H, W, WIDE, BLOCK_Y, BLOCK_X)
    u = flow + image * NDIM * volume
    along_y = one_sided(u, index, y, H, W, volume, valid, NDIM, WORK)
    along_x = one_sided(u, index, x, W, 1, volume, valid, NDIM, WORK)
    if NDIM == 2:
        if LEAST:
            least = determinant_2d(along_y, along_x, 0, 0)
            for choice in tl.static_range(1, 4):
                least = lesser(least, determinant_2d(along_y, along_x, choice // 2 * 2, choice % 2 * 2))
        else:
            least = determinant_2d(averaged(along_y, 2), averaged(along_x, 2), 0, 0)
    else:
        along_z = one_sided(u, index, z, D, H * W, volume, valid, NDIM, WORK)
        if LEAST:
            least = determinant_3d(along_z, along_y, along_x, 0, 0, 0)
            for choice in tl.static_range(1, 8):
                corner = determinant_3d(along_z, along_y, along_x, choice // 4 * 3, choice // 2 % 2 * 3, choice % 2 * 3)
                least = lesser(least, corner)
        else:
            least = determinant_3d(averaged(along_z, 3), averaged(along_y, 3), averaged(along_x, 3), 0, 0, 0)
    tl.store(out + image * volume + index, least, mask=valid)
