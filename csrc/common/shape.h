// A grid of voxels and its addresses; z, y, x are the axes D, H, W of a tensor (docs/conventions.md). Everything is
// 64 bits: a batch may hold more than 2^31 elements.
#pragma once
#include <cstdint>

#include "common/portable.h"

namespace fastreg {

struct Shape {
  int64_t d, h, w;

  FR_HD int64_t count() const { return d * h * w; }
  FR_HD int64_t rows() const { return d * h; }
  FR_HD int64_t at(int64_t z, int64_t y, int64_t x) const { return (z * h + y) * w + x; }
  FR_HD int64_t operator[](int axis) const { return axis == 0 ? d : axis == 1 ? h : w; }
};

FR_HD Shape shape_of(const int64_t (&size)[3]) { return {size[0], size[1], size[2]}; }

}  // namespace fastreg
