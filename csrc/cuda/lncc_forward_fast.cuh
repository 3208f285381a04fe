// First pass in float32: the value of every window and, where gradients are wanted, its derivatives by its sums.
#pragma once
#include "cuda/lncc_fast.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {

// A variance below this part of the largest that the tile's intensities allow is left to float64: float32 sums know it
// to about 1e-7 of that.
constexpr float kExactEnough = 1e-4f;

struct FastStatistics {
  const LnccJob& job;
  const FastThread& me;
  int64_t first;  // of the image
  float shift_a, shift_b;
  float largest_a = 0, largest_b = 0;  // less the shift, of what the thread has read
  // Planes since the last voxel that was not the shift, as bits: what has left the window shall leave no trace.
  unsigned varied_a = 0, varied_b = 0;

  __device__ __forceinline__ bool inside(int z) const { return z >= 0 && z < job.d && me.y >= 0 && me.y < job.h; }

  template <class T, bool VECTORS>
  __device__ __forceinline__ void load_plane(const void* array, int z, float (&out)[kOwn]) const {
    const T* row = static_cast<const T*>(array) + first + (z * int(job.h) + me.y) * int(job.w);
    load_eight<T, VECTORS>(row, me.x, int(job.w), inside(z), out);
  }

  __device__ __forceinline__ void centre(float (&a)[kOwn], float (&b)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      a[i] -= shift_a;
      b[i] -= shift_b;
    }
  }

  __device__ __forceinline__ void watch(const float (&a)[kOwn], const float (&b)[kOwn]) {
    uint32_t bits_a = 0, bits_b = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      largest_a = fmaxf(largest_a, fabsf(a[i]));
      largest_b = fmaxf(largest_b, fabsf(b[i]));
      bits_a |= bits_of_float(a[i]);  // a maximum would not see a NaN
      bits_b |= bits_of_float(b[i]);
    }
    varied_a = varied_a << 1 | unsigned((bits_a & 0x7fffffff) != 0);
    varied_b = varied_b << 1 | unsigned((bits_b & 0x7fffffff) != 0);
  }

  __device__ __forceinline__ void start(float (&sums)[kStatistics][kOwn], int z) {
#pragma unroll
    for (int f = 0; f < kStatistics; ++f)
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sums[f][i] = 0;
#pragma unroll 1
    for (int k = z - job.radius_z; k <= z + job.radius_z; ++k) {
      float a[kOwn], b[kOwn];
      by_layout(job.dtype, job.vectors, [&](auto type, auto vectors) {
        load_plane<decltype(type), decltype(vectors)::value>(job.a, k, a);
        load_plane<decltype(type), decltype(vectors)::value>(job.b, k, b);
      });
      centre(a, b);
      watch(a, b);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        sums[0][i] += a[i];
        sums[1][i] += b[i];
        sums[2][i] += a[i] * a[i];
        sums[3][i] += b[i] * b[i];
        sums[4][i] += a[i] * b[i];
      }
    }
  }

  __device__ __forceinline__ void advance(float (&sums)[kStatistics][kOwn], int z) {
    float a[kOwn], b[kOwn], old_a[kOwn], old_b[kOwn];
    by_layout(job.dtype, job.vectors, [&](auto type, auto vectors) {
      using T = decltype(type);
      constexpr bool VECTORS = decltype(vectors)::value;
      load_plane<T, VECTORS>(job.a, z - job.radius_z, old_a);
      load_plane<T, VECTORS>(job.b, z - job.radius_z, old_b);
      load_plane<T, VECTORS>(job.a, z + job.radius_z + 1, a);
      load_plane<T, VECTORS>(job.b, z + job.radius_z + 1, b);
    });
    centre(old_a, old_b);
    centre(a, b);
    watch(a, b);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      sums[0][i] += a[i] - old_a[i];
      sums[1][i] += b[i] - old_b[i];
      sums[2][i] += a[i] * a[i] - old_a[i] * old_a[i];
      sums[3][i] += b[i] * b[i] - old_b[i] * old_b[i];
      sums[4][i] += a[i] * b[i] - old_a[i] * old_b[i];
    }
    const unsigned window = (2u << 2 * job.radius_z) - 1;
    const bool still_a = (varied_a & window) == 0, still_b = (varied_b & window) == 0;
    if (still_a | still_b) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        if (still_a) sums[0][i] = sums[2][i] = 0;
        if (still_b) sums[1][i] = sums[3][i] = 0;
        sums[4][i] = 0;
      }
    }
  }
};

// PLAIN: no weights, no map, and rule.plain.
template <int FIELDS, bool PLAIN>
struct FastWindows {
  const LnccJob& job;
  const FastThread& me;
  const LnccTile& tile;
  int64_t first, first_weight;
  double total = 0;
  float least_a = INFINITY, least_b = INFINITY;  // variances of windows that are not exactly flat

  __device__ __forceinline__ void plane(int z, const float (&sums)[kStatistics][kStrip]) {
    float part = 0;
    const int64_t stored = ((tile.image * job.ring + z % int(job.ring)) * job.h + me.out_y) * job.w + me.out_x;
    const float inv_n = job.inv_n32;
    const LnccRule<float>& rule = job.rule32;
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      if (!me.finishes || me.out_y + i >= job.h) break;
      const LnccSums<float> s{sums[0][i], sums[1][i], sums[2][i], sums[3][i], sums[4][i]};
      if (s.aa != 0) least_a = fminf(least_a, s.aa - s.a * inv_n * s.a);
      if (s.bb != 0) least_b = fminf(least_b, s.bb - s.b * inv_n * s.b);
      const LnccWindow<float> window = lncc_window<PLAIN>(s, inv_n, 0.f, 0.f, rule);
      float g = 1;
      if constexpr (!PLAIN) {
        const int64_t at = (int64_t(z) * job.h + me.out_y + i) * job.w + me.out_x;
        if (job.weight) g = float(read(job.weight, job.dtype, first_weight + at));
        if (job.map) write(job.map, job.dtype, first + at, window.cc);
      }
      part += g * window.cc;
      if constexpr (FIELDS > 0) {
        float adjoints[FIELDS];
        lncc_adjoints<FIELDS>(window, g * job.scale32, adjoints);
#pragma unroll
        for (int f = 0; f < FIELDS; ++f)
          static_cast<float*>(job.adjoints)[f * job.field + stored + i * int(job.w)] = adjoints[f];
      }
    }
    total += part;
  }
};

__device__ __forceinline__ float block_most(float value, float* shared) {
  for (int step = kLanes / 2; step; step /= 2) value = fmaxf(value, __shfl_xor_sync(kFullMask, value, step));
  if (threadIdx.x % kLanes == 0) shared[threadIdx.x / kLanes] = value;
  __syncthreads();
  for (unsigned group = 0; group < blockDim.x / kLanes; ++group) value = fmaxf(value, shared[group]);
  return value;
}

// FIELDS: 0 for the value alone, 3 with the gradient to a, 5 with both.
template <int R, int FIELDS, bool PLAIN>
__global__ void __launch_bounds__(kFastThreads, 1) lncc_forward_fast_kernel(const LnccJob job) {
  const LnccTile tile = lncc_tile(job, blockIdx.x);
  const FastThread me = fast_thread(job, tile, R);
  const int64_t first = (job.image + tile.image) * job.voxels();
  FastStatistics statistics{job, me, first, float(lncc_shift(job.a, job.dtype, first)),
                            float(lncc_shift(job.b, job.dtype, first))};
  FastWindows<FIELDS, PLAIN> windows{job, me, tile, first,
                                     shared_image(job, job.weight_channels, job.image + tile.image) * job.voxels()};
  fast_march<R, kStatistics>(me, int(tile.z0), int(tile.z1), job.buffers, statistics, windows);

  float* const most = shared_memory<float>() + 2 * kReduceShared / sizeof(float);
  __syncthreads();
  const float square_a = statistics.largest_a * statistics.largest_a;
  const float square_b = statistics.largest_b * statistics.largest_b;
  const float scale = kExactEnough / job.inv_n32;
  const float largest_a = block_most(square_a, most), largest_b = block_most(square_b, most + 32);
  const float least_a = -block_most(-windows.least_a, most + 64), least_b = -block_most(-windows.least_b, most + 96);
  const float not_finite = block_most(windows.total - windows.total == 0 ? 0.f : 1.f, most + 128);
  const bool exact = least_a >= scale * largest_a && least_b >= scale * largest_b && not_finite == 0;
  block_sum(exact ? windows.total : 0.0, job.partial);
  if (threadIdx.x == 0) job.redo[blockIdx.x] = !exact;
}

}  // namespace fastreg::cuda
