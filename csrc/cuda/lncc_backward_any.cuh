// Second pass in float64, for windows of any size.
#pragma once
#include "cuda/lncc_any.cuh"

namespace fastreg::cuda {

template <int FIELDS>
struct AnyAdjoints {
  const LnccJob& job;
  int64_t image;

  __device__ __forceinline__ void fields(int64_t z, int64_t y, int64_t x, double (&out)[FIELDS]) {
    const bool inside = z >= 0 && z < job.d && y >= 0 && y < job.h && x >= 0 && x < job.w;
    const int64_t at = inside ? ((image * job.ring + z % job.ring) * job.h + y) * job.w + x : 0;
    const DType kept = job.dtype == DType::f64 ? DType::f64 : DType::f32;
    for (int f = 0; f < FIELDS; ++f) out[f] = inside ? read(job.adjoints, kept, f * job.field + at) : 0;
  }
};

template <int FIELDS>
struct AnyGradients {
  const LnccJob& job;
  int64_t first, first_mask;
  double shift_a, shift_b;

  __device__ __forceinline__ void advanced(int64_t) {}

  __device__ __forceinline__ void voxel(int64_t z, int64_t y, int64_t x, const double (&sums)[FIELDS]) {
    const int64_t voxel = (z * job.h + y) * job.w + x, at = first + voxel;
    double grad_a = 0, grad_b = 0;
    if (!job.mask || read(job.mask, job.dtype, first_mask + voxel) > 0)
      lncc_gradients<FIELDS>(sums, read(job.a, job.dtype, at) - shift_a, read(job.b, job.dtype, at) - shift_b, grad_a,
                             grad_b);
    write(job.grad_a, job.dtype, at, grad_a);
    if constexpr (FIELDS == 5) write(job.grad_b, job.dtype, at, grad_b);
  }
};

template <int FIELDS>
__global__ void __launch_bounds__(kAnySumThreads)
    lncc_backward_any_kernel(const LnccJob job, int64_t parts, double* columns) {
  double* const memory =
      columns ? columns + blockIdx.x * any_memory(kMostFields, job.radius_y, job.radius) : shared_memory<double>();
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    LnccTile tile = lncc_tile(job, part / kAnyParts);
    if (!any_part(job, tile, int(part % kAnyParts))) continue;
    __syncthreads();
    const int64_t first = (job.image + tile.image) * job.voxels();
    AnyAdjoints<FIELDS> adjoints{job, tile.image};
    const int64_t first_mask = shared_image(job, job.mask_channels, job.image + tile.image) * job.voxels();
    AnyGradients<FIELDS> gradients{job, first, first_mask, any_shift(job, job.a, first, first_mask),
                                   any_shift(job, job.b, first, first_mask)};
    any_march<FIELDS>(job, tile, memory, adjoints, gradients);
  }
}

}  // namespace fastreg::cuda
