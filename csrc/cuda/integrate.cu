// Scaling and squaring: every step is one kernel, a warp of the field by itself with the addition inside.
#include "cuda/warp_launch.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) integrate_scale_kernel(const T* from, T* to, int64_t count, T factor) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads)
    to[i] = load(from + i) * factor;
}

template <class T>
void scale(const IntegrateArgs& args, const void* from, void* to) {
  const int64_t count = args.batch * args.ndim * shape_of(args.size).count();
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  launch("integrate_scale_kernel", integrate_scale_kernel<T>, blocks < 4096 ? blocks : 4096, kThreads, 0, args.stream,
         static_cast<const T*>(from), static_cast<T*>(to), count, static_cast<T>(std::ldexp(1.0, -args.steps)));
}

void scale_any(const IntegrateArgs& args, const void* from, void* to) {
  args.dtype == DType::f64 ? scale<double>(args, from, to) : scale<float>(args, from, to);
}

size_t field_bytes(const IntegrateArgs& args) {
  return size_t(args.batch * args.ndim * shape_of(args.size).count()) * (args.dtype == DType::f64 ? 8 : 4);
}

WarpArgs step_of(const IntegrateArgs& args, const void* field) {
  WarpArgs step{};
  step.ndim = args.ndim;
  step.batch = args.batch;
  step.channels = args.ndim;
  for (int axis = 0; axis < 3; ++axis) step.size[axis] = step.grid[axis] = args.size[axis];
  step.dtype = args.dtype;
  step.mode = Mode::linear;
  step.padding = args.padding;
  step.vol = step.flow = field;
  step.stream = args.stream;
  return step;
}

}  // namespace

// Field number k lies in saved, or, where nothing is kept, in flow and the scratch by turns.
void integrate_forward(const IntegrateArgs& args) {
  const auto field = [&](int k) -> void* {
    if (k == args.steps) return args.flow;
    if (args.saved) return static_cast<char*>(args.saved) + size_t(k) * field_bytes(args);
    return (args.steps - k) % 2 ? args.scratch : args.flow;
  };
  scale_any(args, args.velocity, field(0));
  for (int k = 0; k < args.steps; ++k) {
    WarpArgs step = step_of(args, field(k));
    step.out = field(k + 1);
    warp_step_forward(step);
  }
}

void integrate_backward(const IntegrateArgs& args) {
  const auto gradient = [&](int k) { return k % 2 ? args.scratch : args.grad_velocity; };  // to field number k
  // The scale commutes with everything that follows, exactly: it is a power of two.
  scale_any(args, args.grad_flow, gradient(args.steps));
  for (int k = args.steps - 1; k >= 0; --k) {
    WarpArgs step = step_of(args, static_cast<const char*>(args.saved) + size_t(k) * field_bytes(args));
    step.grad_out = gradient(k + 1);
    step.grad_vol = gradient(k);
    step.grad_flow = gradient(k);
    warp_step_backward(step);
  }
}

}  // namespace fastreg::cuda
