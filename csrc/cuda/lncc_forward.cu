// Launches of the windows pass.
#include "cuda/lncc_forward_any.cuh"
#include "cuda/lncc_forward_fast.cuh"
#include "cuda/lncc_launch.cuh"

namespace fastreg::cuda {
namespace {

template <int R, bool PLAIN>
void fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  const auto kernel = fields == 0   ? lncc_forward_fast_kernel<R, 0, PLAIN>
                      : fields == 3 ? lncc_forward_fast_kernel<R, 3, PLAIN>
                                    : lncc_forward_fast_kernel<R, 5, PLAIN>;
  launch("lncc_forward_fast_kernel", kernel, blocks, kFastThreads, fast_shared(kStatistics, job.buffers), stream, job);
}

template <int R>
void fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  const bool plain = job.rule.plain && !job.weight && !job.map;
  plain ? fast<R, true>(job, fields, blocks, stream) : fast<R, false>(job, fields, blocks, stream);
}

template <bool MASKED>
auto any(int fields) {
  return fields == 0   ? lncc_forward_any_kernel<0, MASKED>
         : fields == 3 ? lncc_forward_any_kernel<3, MASKED>
                       : lncc_forward_any_kernel<5, MASKED>;
}

}  // namespace

void launch_lncc_forward_fast(const LnccJob& job, int fields, int64_t blocks, void* stream) {
  switch (job.radius) {
    case 1: return fast<1>(job, fields, blocks, stream);
    case 2: return fast<2>(job, fields, blocks, stream);
    case 3: return fast<3>(job, fields, blocks, stream);
    case 4: return fast<4>(job, fields, blocks, stream);
  }
}

void launch_lncc_forward_any(const LnccJob& job, int fields, int64_t parts, int64_t blocks, size_t shared,
                             double* columns, void* stream) {
  const auto kernel = job.mask ? any<true>(fields) : any<false>(fields);
  launch("lncc_forward_any_kernel", kernel, blocks, kAnySumThreads, shared, stream, job, parts, columns);
}

}  // namespace fastreg::cuda
