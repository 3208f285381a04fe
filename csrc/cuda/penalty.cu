// The regularisation of a registration: the divergence in one kernel, value and gradient in a second. Sums have a fixed
// order.
#include "cuda/differences.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {
namespace {

// Whether a voxel at `at` of an axis has a central difference along it.
__device__ __forceinline__ bool inside(int64_t at, int64_t size) { return at > 0 && at + 1 < size; }

// known + div v at every voxel, and the weighted sum of its squares.
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    penalty_divergence_kernel(const T* velocity, const T* known, T* divergence, int ndim, int64_t count, Shape size,
                              double weight, double* partial) {
  double sum = 0;
  const int64_t voxels = size.count(), row = size.w, plane = size.h * size.w;
  for (int64_t i = blockIdx.x * int64_t(kReduceThreads) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kReduceThreads) {
    const Voxel at(i, size);
    const T* const x = velocity + (i / voxels * ndim + ndim - 1) * voxels + i % voxels;
    const T* const y = x - voxels;
    T slope = 0;
    if (inside(at.x, size.w)) slope += load(x + 1) - load(x - 1);
    if (inside(at.y, size.h)) slope += load(y + row) - load(y - row);
    if (inside(at.z, size.d)) slope += load(y - voxels + plane) - load(y - voxels - plane);
    const T d = (known ? load(known + i) : T(0)) + T(0.5) * slope;
    divergence[i] = d;
    sum += double(d) * double(d);
  }
  block_sum(weight * sum, partial);
}

// The weighted roughness, and what both parts add to the gradient; `divergence` is null for a part of weight 0.
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    penalty_gradient_kernel(const T* velocity, const T* divergence, T* grad, int ndim, int64_t count, Shape size,
                            bool smoothness, Slopes<T> slopes, T strength, double* partial) {
  double sum = 0;
  const int64_t voxels = size.count(), row = size.w, plane = size.h * size.w;
  for (int64_t i = blockIdx.x * int64_t(kReduceThreads) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kReduceThreads) {
    const Voxel at(i, size);
    T gradient = 0;
    if (smoothness) sum += squared_differences(velocity + i, at, size, slopes, grad != nullptr, gradient);
    if (divergence) {
      const int axis = int(i / voxels % ndim) + 3 - ndim;
      const int64_t place = axis == 0   ? at.z
                            : axis == 1 ? at.y
                                        : at.x,
                    stride = axis == 0   ? plane
                             : axis == 1 ? row
                                         : 1;
      const T* const d = divergence + i / voxels / ndim * voxels + i % voxels;
      const T lower = inside(place - 1, size[axis]) ? load(d - stride) : T(0);
      const T upper = inside(place + 1, size[axis]) ? load(d + stride) : T(0);
      gradient += strength * (lower - upper);
    }
    if (grad) grad[i] += gradient;
  }
  block_sum(0.5 * sum, partial);
}

template <class T>
void sweep(const PenaltyArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t voxels = args.batch * size.count(), count = voxels * args.ndim;
  const double share = args.volume / double(voxels);
  double* const partial = static_cast<double*>(args.scratch);
  T* const divergence = reinterpret_cast<T*>(partial + 2 * kReduceMostBlocks);
  const T* const velocity = static_cast<const T*>(args.velocity);
  int64_t partials = 0;
  if (args.volume != 0) {
    const int64_t blocks = reduce_blocks(voxels);
    launch("penalty_divergence_kernel", penalty_divergence_kernel<T>, blocks, kReduceThreads, kReduceShared,
           args.stream, velocity, static_cast<const T*>(args.known), divergence, args.ndim, voxels, size, share,
           partial);
    partials += blocks;
  }
  const bool pushes = args.volume != 0 && args.grad;
  if (args.smoothness != 0 || pushes) {
    const int64_t blocks = reduce_blocks(count);
    launch("penalty_gradient_kernel", penalty_gradient_kernel<T>, blocks, kReduceThreads, kReduceShared, args.stream,
           velocity, pushes ? static_cast<const T*>(divergence) : nullptr, static_cast<T*>(args.grad), args.ndim, count,
           size, args.smoothness != 0, Slopes<T>(args.ndim, args.batch, size, args.smoothness), T(share),
           partial + partials);
    partials += blocks;
  }
  sum_partials(partial, partials, static_cast<double*>(args.value), args.stream);
}

}  // namespace

size_t penalty_scratch(const PenaltyArgs& args) {
  const int64_t voxels = args.volume != 0 ? args.batch * shape_of(args.size).count() : 0;
  return 2 * kReduceMostBlocks * sizeof(double) + size_t(voxels) * (args.dtype == DType::f64 ? 8 : 4);
}

void penalty(const PenaltyArgs& args) { args.dtype == DType::f64 ? sweep<double>(args) : sweep<float>(args); }

}  // namespace fastreg::cuda
