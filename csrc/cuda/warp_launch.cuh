// Which warp kernel, on how many blocks.
#pragma once
#include "cuda/warp_any.cuh"
#include "cuda/warp_near.cuh"

namespace fastreg::cuda {

// The step of scaling and squaring, for integrate.cu: vol = flow, float32 or float64.
void warp_step_forward(const WarpArgs& args);   // out = flow + flow o (id + flow)
void warp_step_backward(const WarpArgs& args);  // grad_vol = grad_out + both gradients

inline bool is_near(const WarpArgs& q) {
  const auto fits = [](const int64_t (&size)[3]) {
    const Shape shape = shape_of(size);
    const int64_t most = int64_t(1) << 29;  // index + 2^30 must be an int
    return shape.d < most && shape.h < most && shape.w < most && shape.count() < 0x7fffffff / 3;
  };
  const bool common = q.padding == Padding::zeros || q.padding == Padding::border || q.padding == Padding::reflection;
  return common && !q.normalised && q.ndim == 3 && q.mode == Mode::linear && q.dtype != DType::f64 && fits(q.size) &&
         fits(q.grid);
}

// by_padding for the paddings that is_near lets through: the others are not worth a set of kernels.
template <class F>
void by_near_padding(Padding padding, const F& f) {
  if (padding == Padding::border) return f(PaddingIs<Padding::border>{});
  if (padding == Padding::reflection) return f(PaddingIs<Padding::reflection>{});
  f(PaddingIs<Padding::zeros>{});
}

inline int64_t warp_near_blocks(const WarpArgs& q, int planes) {
  const auto parts = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
  return q.batch * parts(q.grid[0], planes) * parts(q.grid[1], kBlockY) * parts(q.grid[2], kBlockX);
}

inline int64_t warp_any_blocks(const WarpArgs& q) {
  const int64_t points = q.batch * shape_of(q.grid).count();
  const int64_t blocks = (points + kAnyThreads - 1) / kAnyThreads;
  return blocks < 1 << 20 ? blocks : 1 << 20;
}

}  // namespace fastreg::cuda
