// The CPU's part of the Python module.
#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace fastreg {

void bind_cpu(py::module_ m) {
  m.def("warp_forward", [](int ndim, int64_t batch, int64_t channels, Size size, Size grid, int dtype, int mode,
                           int padding, bool channels_last, int threads, uintptr_t vol, uintptr_t flow,
                           uintptr_t result) {
    auto args = warp_args(ndim, batch, channels, size, grid, dtype, mode, padding, channels_last, threads, vol, flow);
    args.out = out(result);
    py::gil_scoped_release release;
    cpu::warp_forward(args);
  });
  m.def("warp_backward", [](int ndim, int64_t batch, int64_t channels, Size size, Size grid, int dtype, int mode,
                            int padding, bool channels_last, int threads, uintptr_t vol, uintptr_t flow,
                            uintptr_t grad_out, uintptr_t grad_vol, uintptr_t grad_flow) {
    auto args = warp_args(ndim, batch, channels, size, grid, dtype, mode, padding, channels_last, threads, vol, flow);
    args.grad_out = in(grad_out);
    args.grad_vol = out(grad_vol);
    args.grad_flow = out(grad_flow);
    py::gil_scoped_release release;
    cpu::warp_backward(args);
  });
  m.def("lncc", [](int ndim, int64_t batch, int64_t channels, Size size, int dtype, int threads, int window, int floor,
                   double floor_eps, double den_eps, double num_eps, bool cross_floor, bool mean, bool count,
                   double flat_eps, double flat, bool clamp, uintptr_t a, uintptr_t b, uintptr_t weight,
                   int64_t weight_channels, double scale, uintptr_t grad_a, uintptr_t grad_b, uintptr_t map) {
    const auto args =
        lncc_args(ndim, batch, channels, size, dtype, threads, window, floor, floor_eps, den_eps, num_eps, cross_floor,
                  mean, count, flat_eps, flat, clamp, a, b, weight, weight_channels, scale, grad_a, grad_b, map);
    py::gil_scoped_release release;
    return cpu::lncc(args);
  });
  m.def("integrate_forward", [](int ndim, int64_t batch, Size size, int dtype, int steps, int padding, int threads,
                                uintptr_t velocity, uintptr_t flow, uintptr_t saved) {
    auto args = integrate_args(ndim, batch, size, dtype, steps, padding, threads);
    args.velocity = in(velocity);
    args.flow = out(flow);
    args.saved = out(saved);
    py::gil_scoped_release release;
    cpu::integrate_forward(args);
  });
  m.def("integrate_backward", [](int ndim, int64_t batch, Size size, int dtype, int steps, int padding, int threads,
                                 uintptr_t velocity, uintptr_t saved, uintptr_t grad_flow, uintptr_t grad_velocity) {
    auto args = integrate_args(ndim, batch, size, dtype, steps, padding, threads);
    args.velocity = in(velocity);
    args.saved = out(saved);
    args.grad_flow = in(grad_flow);
    args.grad_velocity = out(grad_velocity);
    py::gil_scoped_release release;
    cpu::integrate_backward(args);
  });
  m.def("smoothness", [](int ndim, int64_t batch, Size size, int dtype, int threads, uintptr_t flow, uintptr_t grad) {
    const auto args = smoothness_args(ndim, batch, size, dtype, threads, flow, grad);
    py::gil_scoped_release release;
    return cpu::smoothness(args);
  });
  m.def("isa", &cpu::isa);
  m.def("set_isa", [](const std::string& name) { cpu::set_isa(name.c_str()); });
}

}  // namespace fastreg
