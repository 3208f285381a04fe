"""What the kernels of every op share: how programs are laid over images, and how voxels and fields are addressed."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile(D, H, W, WIDE: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """This program's image (int64), its voxels' (z, y, x), their index in the image, and which are of the image.

    A tile lies in one plane: only the program, not every voxel, divides by the sizes. y is [BLOCK_Y, 1] and x is
    [1, BLOCK_X]. z has the shape of y because the interpreter gets conditions wrong that mix scalars with tiles.
    """
    program = tl.program_id(0)
    across = tl.cdiv(W, BLOCK_X)
    down = tl.cdiv(H, BLOCK_Y)
    x = (program % across) * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    program = program // across
    y = (program % down) * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    program = program // down
    z = program % D + y * 0
    valid = (y < H) & (x < W)
    return (program // D).to(tl.int64), (z, y, x), flat(z, y, x, H, W, WIDE), valid


@triton.jit
def flat(z, y, x, H, W, WIDE: tl.constexpr):
    """Index of a voxel in its image; 64 bits only where the image needs them."""
    if WIDE:
        z = z.to(tl.int64)
    return (z * H + y) * W + x


@triton.jit
def along(place, size, AXIS: tl.constexpr):
    """Position, size and stride on one axis."""
    if AXIS == 0:
        return place[0], size[0], size[1] * size[2]
    elif AXIS == 1:
        return place[1], size[1], size[2]
    else:
        return place[2], size[2], 1


@triton.jit
def field(fields, slab, WHICH: tl.constexpr):
    """One of several fields of `slab` numbers each. Added up, because `WHICH * slab` may not fit into 32 bits."""
    for _ in tl.static_range(WHICH):
        fields += slab
    return fields


@triton.jit
def store_fields(out, image, index, valid, slab, values):
    """One voxel of five fields [images, 5, slab]."""
    out += image * 5 * slab + index
    for which in tl.static_range(5):
        tl.store(field(out, slab, which), values[which], mask=valid)
