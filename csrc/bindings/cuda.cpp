// The GPU's part of the Python module. The caller holds the device and keeps every tensor alive.
#include "bindings/bindings.h"

namespace py = pybind11;

namespace fastreg {

void bind_cuda(py::module_ m) {
  // The architectures that the binary has machine code for, and last, once more as PTX, the newest: "80,90,90-virtual".
  m.def("architectures", [] { return FASTREG_CUDA_ARCHITECTURES; });
  m.def("warp_forward", &cuda::warp_forward, py::arg("args"));
  m.def("warp_backward", &cuda::warp_backward, py::arg("args"));
  m.def("warp_backward_scratch", &cuda::warp_backward_scratch, py::arg("args"));
  m.def("lncc", &cuda::lncc, py::arg("args"));
  m.def("lncc_scratch", &cuda::lncc_scratch, py::arg("args"));
  m.def("integrate_forward", &cuda::integrate_forward, py::arg("args"));
  m.def("integrate_backward", &cuda::integrate_backward, py::arg("args"));
  m.def("smoothness", &cuda::smoothness, py::arg("args"));
  m.def("smoothness_scratch", &cuda::smoothness_scratch, py::arg("args"));
  m.def("penalty", &cuda::penalty, py::arg("args"));
  m.def("penalty_scratch", &cuda::penalty_scratch, py::arg("args"));
  m.def("adam_step", &cuda::adam_step, py::arg("args"));
  m.def("determinant", &cuda::determinant, py::arg("args"));
  m.def("mind_forward", &cuda::mind_forward, py::arg("args"));
  m.def("mind_backward", &cuda::mind_backward, py::arg("args"));
  m.def("mind_scratch", &cuda::mind_scratch, py::arg("args"));
  m.def("correlate_forward", &cuda::correlate_forward, py::arg("args"));
  m.def("correlate_backward", &cuda::correlate_backward, py::arg("args"));
  m.def("correlate_scratch", &cuda::correlate_scratch, py::arg("args"));
}

}  // namespace fastreg
