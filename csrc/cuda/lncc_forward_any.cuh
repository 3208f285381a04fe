// First pass in float64: windows of any size, and the tiles that float32 was not exact enough for.
#pragma once
#include "cuda/lncc_any.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {

template <bool MASKED>
struct AnyStatistics {
  static constexpr int kCount = MASKED ? kMostStatistics : kStatistics;
  const LnccJob& job;
  int64_t first, first_mask;
  double shift_a, shift_b;
  unsigned long long* largest;  // [2 images, 2 planes] squares as bits, in shared memory
  double square_a = 0, square_b = 0;

  __device__ __forceinline__ void fields(int64_t z, int64_t y, int64_t x, double (&out)[kCount]) {
    const bool inside = z >= 0 && z < job.d && y >= 0 && y < job.h && x >= 0 && x < job.w;
    double a = 0, b = 0;
    bool counts = !job.count;
    if (inside) {
      const int64_t at = (z * job.h + y) * job.w + x;
      counts = !MASKED || read(job.mask, job.dtype, first_mask + at) > 0;
      if (counts) {
        a = read(job.a, job.dtype, first + at) - shift_a;
        b = read(job.b, job.dtype, first + at) - shift_b;
      }
    } else if (!job.count) {  // where n is fixed the outside reads zero; where it is counted it enters no sum
      a = -shift_a;
      b = -shift_b;
    }
    if constexpr (MASKED) out[5] = counts;
    out[0] = a;
    out[1] = b;
    out[2] = a * a;
    out[3] = b * b;
    out[4] = a * b;
    square_a = fmax(square_a, out[2]);
    square_b = fmax(square_b, out[3]);
  }
};

template <int FIELDS, bool MASKED>
struct AnyWindows {
  const LnccJob& job;
  const LnccTile& tile;
  AnyStatistics<MASKED>& statistics;
  int64_t first, first_weight;
  double total = 0;

  // The block's largest squares so far. Two slots by turns: one is written while the other may still be read.
  __device__ __forceinline__ void advanced(int64_t z) {
    atomicMax(statistics.largest + 2 * (z & 1), Fixed(__double_as_longlong(statistics.square_a)));
    atomicMax(statistics.largest + 2 * (z & 1) + 1, Fixed(__double_as_longlong(statistics.square_b)));
  }

  __device__ __forceinline__ double inside(int64_t at, int64_t size, int radius) const {
    const int64_t low = at - radius > 0 ? at - radius : 0, high = at + radius < size - 1 ? at + radius : size - 1;
    return double(high - low + 1);
  }

  __device__ __forceinline__ void voxel(int64_t z, int64_t y, int64_t x,
                                        const double (&sums)[AnyStatistics<MASKED>::kCount]) {
    const LnccSums<double> s{sums[0], sums[1], sums[2], sums[3], sums[4]};
    double inv_n =
        job.count ? 1 / (inside(z, job.d, job.radius_z) * inside(y, job.h, job.radius_y) * inside(x, job.w, job.radius))
                  : job.inv_n;
    if constexpr (MASKED) inv_n = 1 / fmax(sums[5], 1.0);
    // What running sums may have kept of squares that left: a few roundings of the largest sum there can be.
    const double drift = 1e-15 / job.inv_n;
    const double largest_a = __longlong_as_double(static_cast<long long>(statistics.largest[2 * (z & 1)]));
    const double largest_b = __longlong_as_double(static_cast<long long>(statistics.largest[2 * (z & 1) + 1]));
    const auto window = lncc_window<false>(s, inv_n, drift * largest_a, drift * largest_b, job.rule);
    const int64_t at = (z * job.h + y) * job.w + x;
    const double g = job.weight ? read(job.weight, job.dtype, first_weight + at) : 1.0;
    const bool enters = !MASKED || g != 0;  // with a mask, windows of no weight are left out, whatever lies in them
    total += enters ? g * window.cc : 0;
    if (job.map) write(job.map, job.dtype, first + at, window.cc);
    if constexpr (FIELDS > 0) {
      double adjoints[FIELDS];
      lncc_adjoints<FIELDS>(window, g * job.scale, adjoints);
      for (int f = 0; f < FIELDS; ++f) adjoints[f] = enters ? adjoints[f] : 0;
      const int64_t stored = ((tile.image * job.ring + z % job.ring) * job.h + y) * job.w + x;
      const DType kept = job.dtype == DType::f64 ? DType::f64 : DType::f32;
      for (int f = 0; f < FIELDS; ++f) write(job.adjoints, kept, f * job.field + stored, adjoints[f]);
    }
  }
};

// Tiles whose flag is set, or all where there are no flags. `columns`: memory of this grid's blocks, or null: shared.
template <int FIELDS, bool MASKED>
__global__ void __launch_bounds__(kAnySumThreads)
    lncc_forward_any_kernel(const LnccJob job, int64_t parts, double* columns) {
  double* const shared = shared_memory<double>();
  Fixed* const largest = reinterpret_cast<Fixed*>(shared + kReduceShared / sizeof(double));
  double* const memory =
      columns ? columns + blockIdx.x * any_memory(AnyStatistics<MASKED>::kCount, job.radius_y, job.radius)
              : shared + kReduceShared / sizeof(double) + 4;
  double total = 0;
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    LnccTile tile = lncc_tile(job, part / kAnyParts);
    if (job.redo && !job.redo[tile.number]) continue;
    if (!any_part(job, tile, int(part % kAnyParts))) continue;
    __syncthreads();  // the last part is done with the memory
    if (threadIdx.x < 4) largest[threadIdx.x] = 0;
    __syncthreads();
    const int64_t first = (job.image + tile.image) * job.voxels();
    const int64_t first_mask = shared_image(job, job.mask_channels, job.image + tile.image) * job.voxels();
    const int64_t first_weight = shared_image(job, job.weight_channels, job.image + tile.image) * job.voxels();
    AnyStatistics<MASKED> statistics{
        job,    first, first_mask, any_shift(job, job.a, first, first_mask), any_shift(job, job.b, first, first_mask),
        largest};
    AnyWindows<FIELDS, MASKED> windows{job, tile, statistics, first, first_weight};
    any_march<AnyStatistics<MASKED>::kCount>(job, tile, memory, statistics, windows);
    total += windows.total;
  }
  __syncthreads();
  block_sum(total, job.partial);
}

}  // namespace fastreg::cuda
