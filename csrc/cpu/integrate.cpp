// Scaling and squaring: every step is a warp of the field by itself, fused with the addition.
#include <cmath>

#include "cpu/memory.h"
#include "cpu/warp_rows.h"

namespace fastreg::cpu {
namespace {

int64_t elements(const IntegrateArgs& args) {
  return args.batch * args.ndim * args.size[0] * args.size[1] * args.size[2];
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
  step.threads = args.threads;
  step.vol = step.flow = field;
  return step;
}

template <class T>
void scale(const T* from, T* to, int64_t count, T factor, int threads) {
  prefer_huge_pages(to, count * sizeof(T));
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
}

// Field number k of the forward lies in saved, or, where nothing is kept, in flow and a scratch by turns.
template <class T>
void forward(const IntegrateArgs& args) {
  const int64_t count = elements(args);
  T* const flow = static_cast<T*>(args.flow);
  T* const saved = static_cast<T*>(args.saved);
  const auto other = scratch<T>(saved || args.steps == 0 ? 0 : count);
  const auto field = [&](int k) {
    if (k == args.steps) return flow;
    if (saved) return saved + k * count;
    return (args.steps - k) % 2 ? other.get() : flow;
  };
  const auto share = static_cast<T>(std::ldexp(1.0, -args.steps));
  scale(static_cast<const T*>(args.velocity), field(0), count, share, args.threads);
  for (int k = 0; k < args.steps; ++k) {
    WarpArgs step = step_of(args, field(k));
    step.out = field(k + 1);
    sweep_forward(step, true);
  }
}

template <class T>
void backward(const IntegrateArgs& args) {
  const int64_t count = elements(args);
  T* const result = static_cast<T*>(args.grad_velocity);
  const T* const saved = static_cast<const T*>(args.saved);
  const auto other = scratch<T>(args.steps == 0 ? 0 : count);
  const auto gradient = [&](int k) { return k % 2 ? other.get() : result; };  // to field number k
  // The scale commutes with everything that follows, exactly: it is a power of two.
  const auto share = static_cast<T>(std::ldexp(1.0, -args.steps));
  scale(static_cast<const T*>(args.grad_flow), gradient(args.steps), count, share, args.threads);
  for (int k = args.steps - 1; k >= 0; --k) {
    WarpArgs step = step_of(args, saved + k * count);
    step.grad_out = gradient(k + 1);
    step.grad_vol = step.grad_flow = gradient(k);
    sweep_backward(step, true);
  }
}

}  // namespace

void integrate_forward(const IntegrateArgs& args) {
  args.dtype == DType::f64 ? forward<double>(args) : forward<float>(args);
}

void integrate_backward(const IntegrateArgs& args) {
  args.dtype == DType::f64 ? backward<double>(args) : backward<float>(args);
}

}  // namespace fastreg::cpu
