// What the portable part of the cost volume (correlate.cpp) hands to the sweep, compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "api.h"

namespace fastreg::cpu {

// Voxels z0 <= z < z1, y0 <= y < y1 and every x of one item of the batch.
struct CorrelateTile {
  int64_t item, z0, z1, y0, y1;
};

// One instruction set's sweep.
struct CorrelateSweep {
  size_t (*scratch)(const CorrelateArgs&, int64_t rows);  // bytes for a tile of so many rows
  // Writes the tile's part of the outputs: of the backward where there is an upstream gradient. The scratch is aligned
  // to 64 bytes.
  void (*run)(const CorrelateArgs&, const CorrelateTile&, char* scratch);
};
extern const CorrelateSweep correlate_baseline, correlate_avx2, correlate_avx512;

}  // namespace fastreg::cpu
