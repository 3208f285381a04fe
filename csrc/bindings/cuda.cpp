// The GPU's part of the Python module. The caller holds the device and keeps every tensor alive.
#include "bindings/bindings.h"

namespace py = pybind11;

namespace fastreg {

void bind_cuda(py::module_ m) {
  // The architectures that the binary has machine code for, and last, once more as PTX, the newest: "80,90,90-virtual".
  m.def("architectures", [] { return FASTREG_CUDA_ARCHITECTURES; });

  m.def("warp_forward",
        [](int ndim, int64_t batch, int64_t channels, Size size, Size grid, int dtype, int mode, int padding,
           bool channels_last, uintptr_t vol, uintptr_t flow, uintptr_t result, uintptr_t stream) {
          auto args = warp_args(ndim, batch, channels, size, grid, dtype, mode, padding, channels_last, 0, vol, flow);
          args.out = out(result);
          args.stream = out(stream);
          cuda::warp_forward(args);
        });
  m.def("warp_backward",
        [](int ndim, int64_t batch, int64_t channels, Size size, Size grid, int dtype, int mode, int padding,
           bool channels_last, uintptr_t vol, uintptr_t flow, uintptr_t grad_out, uintptr_t grad_vol,
           uintptr_t grad_flow, bool deterministic, uintptr_t scratch, uintptr_t stream) {
          auto args = warp_args(ndim, batch, channels, size, grid, dtype, mode, padding, channels_last, 0, vol, flow);
          args.grad_out = in(grad_out);
          args.grad_vol = out(grad_vol);
          args.grad_flow = out(grad_flow);
          args.deterministic = deterministic;
          args.scratch = out(scratch);
          args.stream = out(stream);
          cuda::warp_backward(args);
        });
  m.def("warp_backward_scratch", [](int64_t batch, int64_t channels, Size size, int dtype, bool deterministic) {
    auto args = warp_args(3, batch, channels, size, size, dtype, 0, 0, false, 0, 0, 0);
    args.deterministic = deterministic;
    return cuda::warp_backward_scratch(args);
  });
  m.def("lncc",
        [](int ndim, int64_t batch, int64_t channels, Size size, int dtype, int window, int floor, double floor_eps,
           double den_eps, double num_eps, bool cross_floor, bool mean, bool count, double flat_eps, double flat,
           bool clamp, uintptr_t a, uintptr_t b, uintptr_t weight, int64_t weight_channels, double scale,
           uintptr_t grad_a, uintptr_t grad_b, uintptr_t map, int64_t workspace, uintptr_t value, uintptr_t scratch,
           uintptr_t stream) -> size_t {
          auto args =
              lncc_args(ndim, batch, channels, size, dtype, 0, window, floor, floor_eps, den_eps, num_eps, cross_floor,
                        mean, count, flat_eps, flat, clamp, a, b, weight, weight_channels, scale, grad_a, grad_b, map);
          args.workspace = workspace;
          if (!value) return cuda::lncc_scratch(args);  // asked how much scratch memory it takes
          args.value = out(value);
          args.scratch = out(scratch);
          args.stream = out(stream);
          cuda::lncc(args);
          return 0;
        });
  m.def("integrate_forward",
        [](int ndim, int64_t batch, Size size, int dtype, int steps, int padding, uintptr_t velocity, uintptr_t flow,
           uintptr_t saved, uintptr_t scratch, uintptr_t stream) {
          auto args = integrate_args(ndim, batch, size, dtype, steps, padding, 0);
          args.velocity = in(velocity);
          args.flow = out(flow);
          args.saved = out(saved);
          args.scratch = out(scratch);
          args.stream = out(stream);
          cuda::integrate_forward(args);
        });
  m.def("integrate_backward", [](int ndim, int64_t batch, Size size, int dtype, int steps, int padding, uintptr_t saved,
                                 uintptr_t grad_flow, uintptr_t grad_velocity, uintptr_t scratch, uintptr_t stream) {
    auto args = integrate_args(ndim, batch, size, dtype, steps, padding, 0);
    args.saved = out(saved);
    args.grad_flow = in(grad_flow);
    args.grad_velocity = out(grad_velocity);
    args.scratch = out(scratch);
    args.stream = out(stream);
    cuda::integrate_backward(args);
  });
  m.def("smoothness", [](int ndim, int64_t batch, Size size, int dtype, uintptr_t flow, uintptr_t grad, uintptr_t value,
                         uintptr_t scratch, uintptr_t stream) {
    auto args = smoothness_args(ndim, batch, size, dtype, 0, flow, grad);
    args.value = out(value);
    args.scratch = out(scratch);
    args.stream = out(stream);
    cuda::smoothness(args);
  });
  m.def("smoothness_scratch", [] { return cuda::smoothness_scratch({}); });
}

}  // namespace fastreg
