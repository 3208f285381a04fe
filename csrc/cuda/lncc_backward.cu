// Launches of the gradient pass.
#include "cuda/lncc_backward_any.cuh"
#include "cuda/lncc_backward_fast.cuh"
#include "cuda/lncc_launch.cuh"

namespace fastreg::cuda {
namespace {

template <int R>
void fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  const auto kernel = fields == 3 ? lncc_backward_fast_kernel<R, 3> : lncc_backward_fast_kernel<R, 5>;
  launch("lncc_backward_fast_kernel", kernel, blocks, kFastThreads, fast_shared(fields, job.buffers), stream, job);
}

}  // namespace

void launch_lncc_backward_fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  switch (job.radius) {
    case 1: return fast<1>(job, fields, blocks, stream);
    case 2: return fast<2>(job, fields, blocks, stream);
    case 3: return fast<3>(job, fields, blocks, stream);
    case 4: return fast<4>(job, fields, blocks, stream);
  }
}

void launch_lncc_backward_any(const LnccJob& job, int fields, int64_t parts, int64_t blocks, size_t shared,
                              double* columns, void* stream) {
  launch("lncc_backward_any_kernel", fields == 3 ? lncc_backward_any_kernel<3> : lncc_backward_any_kernel<5>, blocks,
         kAnySumThreads, shared, stream, job, parts, columns);
}

}  // namespace fastreg::cuda
