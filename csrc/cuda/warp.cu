// The warp forward: launches.
#include "cuda/warp_launch.cuh"

namespace fastreg::cuda {
namespace {

template <class T, bool FUSED>
void forward(const WarpArgs& q) {
  if constexpr (!std::is_same<T, double>::value)
    if (is_near(q))
      return by_near_padding(q.padding, [&](auto padding) {
        launch("warp_forward_near_kernel", warp_forward_near_kernel<T, decltype(padding)::value, FUSED>,
               warp_near_blocks(q, kForwardPlanes), kBlockThreads, 0, q.stream, q);
      });
  launch("warp_forward_any_kernel", q.ndim == 3 ? warp_forward_any_kernel<T, 3> : warp_forward_any_kernel<T, 2>,
         warp_any_blocks(q), kAnyThreads, 0, q.stream, q, FUSED);
}

}  // namespace

void warp_forward(const WarpArgs& args) {
  by_dtype(args.dtype, [&](auto type) { forward<decltype(type), false>(args); });
}

void warp_step_forward(const WarpArgs& args) {
  args.dtype == DType::f64 ? forward<double, true>(args) : forward<float, true>(args);
}

}  // namespace fastreg::cuda
