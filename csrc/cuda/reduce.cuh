// Sums in a fixed order: lanes, groups of lanes in a block, blocks. The same input gives the same bits.
#pragma once
#include "cuda/device.cuh"

namespace fastreg::cuda {

constexpr int kReduceThreads = 256;
constexpr int64_t kReduceMostBlocks = 2048;
constexpr size_t kReduceShared = 1024 / kLanes * sizeof(double);  // one a group of lanes in the largest block

inline int64_t reduce_blocks(int64_t count) {
  const int64_t blocks = (count + kReduceThreads - 1) / kReduceThreads;
  return blocks < kReduceMostBlocks ? blocks : kReduceMostBlocks;
}

// The sum over the block's threads, in partial[blockIdx.x]. Uses the first kReduceShared bytes of shared memory, which
// nobody may be using any more.
__device__ __forceinline__ void block_sum(double value, double* partial) {
  double* const sums = shared_memory<double>();
  for (int step = kLanes / 2; step; step /= 2) value += __shfl_down_sync(kFullMask, value, step);
  if (threadIdx.x % kLanes == 0) sums[threadIdx.x / kLanes] = value;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (unsigned group = 0; group < blockDim.x / kLanes; ++group) total += sums[group];
  partial[blockIdx.x] = total;
}

static __global__ void __launch_bounds__(kReduceThreads) sum_kernel(const double* partial, int64_t count, double* to) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kReduceThreads) sum += partial[i];
  block_sum(sum, to);
}

// The sum of `partial` in *to; 0 if there are none.
inline void sum_partials(const double* partial, int64_t count, double* to, void* stream) {
  launch("sum_partials", sum_kernel, 1, kReduceThreads, kReduceShared, stream, partial, count, to);
}

}  // namespace fastreg::cuda
