// Second pass in float32: the gradient of every voxel from the derivatives of the windows that hold it.
#pragma once
#include "cuda/lncc_fast.cuh"

namespace fastreg::cuda {

template <int FIELDS>
struct FastAdjoints {
  const LnccJob& job;
  const FastThread& me;
  int64_t image;  // of the slab

  template <bool VECTORS>
  __device__ __forceinline__ void load_plane(int f, int z, float (&out)[kOwn]) const {
    const bool inside = z >= 0 && z < job.d && me.y >= 0 && me.y < job.h;
    const int64_t row = ((image * job.ring + (inside ? z % int(job.ring) : 0)) * job.h + me.y) * job.w;
    load_eight<float, VECTORS>(static_cast<const float*>(job.adjoints) + f * job.field + row, me.x, int(job.w), inside,
                               out);
  }

  __device__ __forceinline__ void load_plane(int f, int z, float (&out)[kOwn]) const {
    job.vectors ? load_plane<true>(f, z, out) : load_plane<false>(f, z, out);
  }

  __device__ __forceinline__ void start(float (&sums)[FIELDS][kOwn], int z) {
#pragma unroll
    for (int f = 0; f < FIELDS; ++f) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sums[f][i] = 0;
    }
#pragma unroll 1
    for (int k = z - job.radius_z; k <= z + job.radius_z; ++k)
#pragma unroll
      for (int f = 0; f < FIELDS; ++f) {
        float enters[kOwn];
        load_plane(f, k, enters);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) sums[f][i] += enters[i];
      }
  }

  __device__ __forceinline__ void advance(float (&sums)[FIELDS][kOwn], int z) {
#pragma unroll
    for (int f = 0; f < FIELDS; ++f) {
      float enters[kOwn], leaves[kOwn];
      load_plane(f, z + job.radius_z + 1, enters);
      load_plane(f, z - job.radius_z, leaves);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sums[f][i] += enters[i] - leaves[i];
    }
  }
};

template <int FIELDS>
struct FastGradients {
  const LnccJob& job;
  const FastThread& me;
  int64_t first;
  float shift_a, shift_b;

  __device__ __forceinline__ void plane(int z, const float (&sums)[FIELDS][kStrip]) {
    const int in_image = (z * int(job.h) + me.out_y) * int(job.w) + me.out_x;
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      if (!me.finishes || me.out_y + i >= job.h) break;
      const int64_t at = first + in_image + i * int(job.w);
      float sum[FIELDS], grad_a, grad_b;
#pragma unroll
      for (int f = 0; f < FIELDS; ++f) sum[f] = sums[f][i];
      lncc_gradients<FIELDS>(sum, float(read(job.a, job.dtype, at)) - shift_a,
                             float(read(job.b, job.dtype, at)) - shift_b, grad_a, grad_b);
      write(job.grad_a, job.dtype, at, grad_a);
      if constexpr (FIELDS == 5) write(job.grad_b, job.dtype, at, grad_b);
    }
  }
};

template <int R, int FIELDS>
__global__ void __launch_bounds__(kFastThreads, 1) lncc_backward_fast_kernel(const LnccJob job) {
  const LnccTile tile = lncc_tile(job, blockIdx.x);
  const FastThread me = fast_thread(job, tile, R);
  const int64_t first = (job.image + tile.image) * job.voxels();
  FastAdjoints<FIELDS> adjoints{job, me, tile.image};
  FastGradients<FIELDS> gradients{job, me, first, float(lncc_shift(job.a, job.dtype, first)),
                                  float(lncc_shift(job.b, job.dtype, first))};
  fast_march<R, FIELDS>(me, int(tile.z0), int(tile.z1), job.buffers, adjoints, gradients);
}

}  // namespace fastreg::cuda
