// The Python module: the arguments, the entry points of the CPU, and those of the GPU where nvcc was found.
#include "bindings/bindings.h"

PYBIND11_MODULE(_C, m) {
  fastreg::bind_arguments(m);
  fastreg::bind_cpu(m.def_submodule("cpu"));
#if defined(FASTREG_CUDA)
  fastreg::bind_cuda(m.def_submodule("cuda"));
#endif
}
