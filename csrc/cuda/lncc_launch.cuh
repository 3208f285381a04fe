// The launches of the local correlation's passes. Each lies in a file of its own, so that they compile side by side.
#pragma once
#include "cuda/lncc_job.cuh"

namespace fastreg::cuda {

void launch_lncc_forward_fast(const LnccJob& job, int fields, int64_t blocks, void* stream);
void launch_lncc_backward_fast(const LnccJob& job, int fields, int64_t blocks, void* stream);

// `parts` are shared among `blocks`; `columns`: device memory of the blocks, or null: all of it is shared memory.
void launch_lncc_forward_any(const LnccJob& job, int fields, int64_t parts, int64_t blocks, size_t shared,
                             double* columns, void* stream);
void launch_lncc_backward_any(const LnccJob& job, int fields, int64_t parts, int64_t blocks, size_t shared,
                              double* columns, void* stream);

}  // namespace fastreg::cuda
