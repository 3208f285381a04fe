// What the portable part of the local correlation (lncc.cpp) hands to the sweep, compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "common/lncc_window.h"

namespace fastreg::cpu {

constexpr int lncc_lanes = 8;

// One image pair: addresses of its first voxel, and what they are centred by.
struct LnccImage {
  const void *a, *b;
  const void* mask;             // or null: every voxel counts
  const void* weight;           // or null
  void *grad_a, *grad_b, *map;  // or null
  double shift_a, shift_b;
  double outside_a, outside_b;  // what the outside of the image reads
};

// What is the same for every tile.
struct LnccPlan {
  int64_t depth, height, width;
  int half_x, half_y, half_z;  // of the window; half_z is 0 in 2-D
  int64_t segment;  // a row is kept as `segment` vectors of 8 lanes: lane k of vector j is voxel x = k * segment + j
  int gradients;    // 0: none, 1: to a, 2: to both
  LnccRule<double> rule;
  bool count;   // n is counted
  bool masked;  // the images have a mask
  double scale;
};

// Voxels z0 <= z < z1, y0 <= y < y1 and every x.
struct LnccTile {
  int64_t z0, z1, y0, y1;
};

// One instruction set's sweep.
struct LnccSweep {
  // Bytes of scratch memory for a tile of so many rows.
  size_t (*scratch)(const LnccPlan&, DType, int64_t rows);
  // Writes the tile's part of the outputs and returns its part of the sum. The scratch is aligned to 64 bytes.
  double (*run)(const LnccPlan&, const LnccImage&, const LnccTile&, DType, char* scratch);
};
extern const LnccSweep lncc_baseline, lncc_avx2, lncc_avx512;

}  // namespace fastreg::cpu
