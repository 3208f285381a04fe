// Sums over windows of any size in float64, marching along z: for float64 images, for windows that the fast march does
// not know, and for tiles where float32 was not exact enough.
//
// z: running sums of the columns in memory, shared or the block's own piece of the device's; done afresh where they
// have met a NaN or an infinity. x and y: plain sums.
#pragma once
#include "cuda/lncc_job.cuh"

namespace fastreg::cuda {

// Nine blocks share a tile of the fast march.
constexpr int kAnyX = 40, kAnyY = 8, kAnyParts = 9;
constexpr int kAnySumThreads = kAnyX * kAnyY;
static_assert(kTileX == 3 * kAnyX && kTileY == 3 * kAnyY);

// Doubles that a block needs: the columns' sums along z, those along z and x, and what reductions use.
FR_HD constexpr int64_t any_memory(int fields, int radius_y, int radius) {
  return int64_t(fields) * (kAnyY + 2 * radius_y) * (kAnyX + 2 * radius + kAnyX);
}

// source.fields(z, y, x, out): what is summed, also outside the image. sink.advanced(z): all threads, when the sums of
// plane z are ready and before anybody emits. sink.voxel(z, y, x, sums).
template <int FIELDS, class Source, class Sink>
__device__ void any_march(const LnccJob& job, const LnccTile& tile, double* memory, Source& source, Sink& sink) {
  const int radius = job.radius, radius_y = job.radius_y;
  const int width = kAnyX + 2 * radius, height = kAnyY + 2 * radius_y, columns = width * height;
  double* const across = memory + int64_t(FIELDS) * columns;
  const int mine_x = threadIdx.x % kAnyX, mine_y = threadIdx.x / kAnyX;
  const int64_t out_x = tile.x + mine_x, out_y = tile.y + mine_y;

  const auto fresh = [&](int column, int64_t z) {
    const int64_t y = tile.y - radius_y + column / width, x = tile.x - radius + column % width;
    double sum[FIELDS] = {}, value[FIELDS];
    for (int64_t k = z - job.radius_z; k <= z + job.radius_z; ++k) {
      source.fields(k, y, x, value);
      for (int f = 0; f < FIELDS; ++f) sum[f] += value[f];
    }
    for (int f = 0; f < FIELDS; ++f) memory[f * columns + column] = sum[f];
  };
  const auto advance = [&](int column, int64_t z) {  // from z - 1
    const int64_t y = tile.y - radius_y + column / width, x = tile.x - radius + column % width;
    double enters[FIELDS], leaves[FIELDS];
    source.fields(z + job.radius_z, y, x, enters);
    source.fields(z - job.radius_z - 1, y, x, leaves);
    double probe = 0;
    for (int f = 0; f < FIELDS; ++f) {
      double& sum = memory[f * columns + column];
      sum += enters[f] - leaves[f];
      probe += 0 * sum;
    }
    if (probe != 0) fresh(column, z);
  };

  for (int64_t z = tile.z0; z < tile.z1; ++z) {
    for (int column = threadIdx.x; column < columns; column += kAnySumThreads)
      z == tile.z0 ? fresh(column, z) : advance(column, z);
    sink.advanced(z);
    __syncthreads();
    for (int i = threadIdx.x; i < FIELDS * height * kAnyX; i += kAnySumThreads) {
      const double* const row = memory + int64_t(i / kAnyX) * width + i % kAnyX;
      double sum = 0;
      for (int k = 0; k <= 2 * radius; ++k) sum += row[k];
      across[i] = sum;
    }
    __syncthreads();
    double sums[FIELDS];
    for (int f = 0; f < FIELDS; ++f) {
      sums[f] = 0;
      for (int k = 0; k <= 2 * radius_y; ++k) sums[f] += across[(f * height + mine_y + k) * kAnyX + mine_x];
    }
    if (out_x < job.w && out_y < job.h) sink.voxel(z, out_y, out_x, sums);
  }
}

// What an image is centred by: 0 where a mask leaves its first voxel out, which then may be anything.
__device__ __forceinline__ double any_shift(const LnccJob& job, const void* array, int64_t first, int64_t first_mask) {
  return job.mask && !(read(job.mask, job.dtype, first_mask) > 0) ? 0.0 : lncc_shift(array, job.dtype, first);
}

// The block's part of a tile, and whether it lies in the image.
__device__ __forceinline__ bool any_part(const LnccJob& job, LnccTile& tile, int part) {
  tile.x += part % 3 * kAnyX;
  tile.y += part / 3 * kAnyY;
  return tile.x < job.w && tile.y < job.h;
}

}  // namespace fastreg::cuda
