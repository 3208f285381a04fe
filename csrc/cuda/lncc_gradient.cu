// Launches of the gradient pass.
#include "cuda/lncc_gradient.h"
#include "cuda/lncc_launch.h"

namespace fastreg::cuda {
namespace {

template <int R>
void fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  const auto kernel = fields == 3 ? lncc_gradient_fast<R, 3> : lncc_gradient_fast<R, 5>;
  launch("lncc_gradient_fast", kernel, blocks, kFastThreads, fast_shared(fields, job.buffers), stream, job);
}

}  // namespace

void launch_gradient_fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  switch (job.radius) {
    case 1: return fast<1>(job, fields, blocks, stream);
    case 2: return fast<2>(job, fields, blocks, stream);
    case 3: return fast<3>(job, fields, blocks, stream);
    case 4: return fast<4>(job, fields, blocks, stream);
  }
}

void launch_gradient_any(const LnccJob& job, int fields, int64_t parts, int64_t blocks, size_t shared, double* columns,
                         void* stream) {
  launch("lncc_gradient_any", fields == 3 ? lncc_gradient_any<3> : lncc_gradient_any<5>, blocks, kAnySumThreads, shared,
         stream, job, parts, columns);
}

}  // namespace fastreg::cuda
