// The GPU's entry points, compiled for a CPU, as a Python module of their own.
#include "bindings/bindings.h"
#include "cuda_runtime.h"

PYBIND11_MODULE(cuda_shim, m) {
  fastreg::bind_cuda(m);
  m.def("run_last_block_first", [](bool reversed) { shim::last_block_first = reversed; });
  m.def("limit_shared_memory", [](int bytes) { shim::shared_limit = bytes; });
}
