// Mean squared forward differences and their gradient in one sweep; the sum has a fixed order.
#include "cuda/differences.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {
namespace {

// One block, one partial sum.
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    smoothness_forward_kernel(const T* flow, T* grad, int64_t count, Shape size, Slopes<T> slopes, double* partial) {
  double sum = 0;
  for (int64_t i = blockIdx.x * int64_t(kReduceThreads) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kReduceThreads) {
    T gradient = 0;
    sum += squared_differences(flow + i, Voxel(i, size), size, slopes, grad != nullptr, gradient);
    if (grad) grad[i] = gradient;
  }
  block_sum(0.5 * sum, partial);
}

template <class T>
void sweep(const SmoothnessArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t count = args.batch * args.ndim * size.count(), blocks = reduce_blocks(count);
  double* const partial = static_cast<double*>(args.scratch);
  launch("smoothness", smoothness_forward_kernel<T>, blocks, kReduceThreads, kReduceShared, args.stream,
         static_cast<const T*>(args.flow), static_cast<T*>(args.grad), count, size,
         Slopes<T>(args.ndim, args.batch, size, 1), partial);
  sum_partials(partial, blocks, static_cast<double*>(args.value), args.stream);
}

}  // namespace

size_t smoothness_scratch(const SmoothnessArgs&) { return kReduceMostBlocks * sizeof(double); }

void smoothness(const SmoothnessArgs& args) { args.dtype == DType::f64 ? sweep<double>(args) : sweep<float>(args); }

}  // namespace fastreg::cuda
