// The CPU's part of the Python module. The caller keeps every tensor alive; other threads may run meanwhile.
#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace fastreg {

void bind_cpu(py::module_ m) {
  using release = py::call_guard<py::gil_scoped_release>;
  m.def("warp_forward", &cpu::warp_forward, py::arg("args"), release());
  m.def("warp_backward", &cpu::warp_backward, py::arg("args"), release());
  m.def("lncc", &cpu::lncc, py::arg("args"), release());
  m.def("integrate_forward", &cpu::integrate_forward, py::arg("args"), release());
  m.def("integrate_backward", &cpu::integrate_backward, py::arg("args"), release());
  m.def("smoothness", &cpu::smoothness, py::arg("args"), release());
  m.def("penalty", &cpu::penalty, py::arg("args"), release());
  m.def("adam_step", &cpu::adam_step, py::arg("args"), release());
  m.def("determinant", &cpu::determinant, py::arg("args"), release());
  m.def("mind_forward", &cpu::mind_forward, py::arg("args"), release());
  m.def("mind_backward", &cpu::mind_backward, py::arg("args"), release());
  m.def("correlate_forward", &cpu::correlate_forward, py::arg("args"), release());
  m.def("correlate_backward", &cpu::correlate_backward, py::arg("args"), release());
  m.def("lanczos", &cpu::lanczos, py::arg("args"), release());
  m.def("bspline", &cpu::bspline, py::arg("args"), release());
  m.def("vote", &cpu::vote, py::arg("args"), release());
  m.def("isa", &cpu::isa);
  m.def("set_isa", [](const std::string& name) { cpu::set_isa(name.c_str()); }, py::arg("name"));
}

}  // namespace fastreg
