// The warp backward: launches, and the volume's gradient in fixed point or float32 where it is not summed in place.
#include "cuda/warp_launch.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kThreads = 256;

// The largest |grad|, as bits: those of doubles that are not negative compare like them, and NaN is above all.
template <class T>
__global__ void __launch_bounds__(kThreads) warp_backward_largest_kernel(const T* grad, int64_t count, Fixed* largest) {
  Fixed most = 0;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const Fixed bits = Fixed(__double_as_longlong(fabs(double(load(grad + i)))));
    most = bits > most ? bits : most;
  }
  for (int step = kLanes / 2; step; step /= 2) {
    const Fixed other = __shfl_xor_sync(kFullMask, most, step);
    most = other > most ? other : most;
  }
  if (threadIdx.x % kLanes == 0) atomicMax(largest, most);
}

// A power of two that keeps the sum of all `terms` below 2^62, in place of the largest magnitude; NaN if that is none.
__global__ void warp_backward_scale_kernel(double* largest, int terms_bits) {
  const double most = *largest;
  const bool finite = most <= 1.7976931348623157e308;
  *largest = !finite ? nan("") : most > 0 ? ldexp(1.0, 61 - terms_bits - ilogb(most)) : 1.0;
}

// A gradient that is not finite has no place in fixed point: then all of grad_vol is NaN.
template <class T>
__global__ void __launch_bounds__(kThreads)
    warp_backward_from_fixed_kernel(const Fixed* sums, const double* scale, T* to, int64_t count) {
  const double unit = 1.0 / *scale;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads)
    narrow(Compute<T>(double(static_cast<long long>(sums[i])) * unit), to[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) warp_backward_from_float_kernel(const float* sums, T* to, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads)
    narrow(sums[i], to[i]);
}

int64_t blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return blocks < 4096 ? blocks : 4096;
}

int64_t volume_elements(const WarpArgs& q) {
  return (q.vol_shared ? 1 : q.batch) * q.channels * shape_of(q.size).count();
}

template <class T, class S, bool FUSED>
void sweep(const WarpArgs& q, S* sums, const double* scale) {
  if constexpr (!std::is_same<T, double>::value)
    if (is_near(q))
      return by_near_padding(q.padding, [&](auto padding) {
        constexpr Padding P = decltype(padding)::value;
        const auto kernel =
            sums ? warp_backward_near_kernel<T, P, S, FUSED> : warp_backward_near_kernel<T, P, void, false>;
        launch("warp_backward_near_kernel", kernel, warp_near_blocks(q, sums ? kScatterPlanes : kSlopePlanes),
               kBlockThreads, 0, q.stream, q, static_cast<void*>(sums), scale);
      });
  launch("warp_backward_any_kernel",
         q.ndim == 3 ? warp_backward_any_kernel<T, 3, S> : warp_backward_any_kernel<T, 2, S>, warp_any_blocks(q),
         kAnyThreads, 0, q.stream, q, static_cast<void*>(sums), scale, FUSED);
}

template <class T>
void in_fixed_point(const WarpArgs& q) {
  const int64_t voxels = volume_elements(q), points = (q.vol_shared ? q.batch : 1) * shape_of(q.grid).count();
  double* const scale = static_cast<double*>(q.scratch);
  Fixed* const sums = reinterpret_cast<Fixed*>(scale + 1);
  clear("warp_backward", q.scratch, size_t(voxels + 1) * sizeof(Fixed), q.stream);
  const int64_t terms = q.batch * q.channels * shape_of(q.grid).count();
  launch("warp_backward_largest_kernel", warp_backward_largest_kernel<T>, blocks_for(terms), kThreads, 0, q.stream,
         static_cast<const T*>(q.grad_out), terms, reinterpret_cast<Fixed*>(scale));
  int bits = 0;
  while (bits < 62 && (int64_t(1) << bits) < points) ++bits;
  launch("warp_backward_scale_kernel", warp_backward_scale_kernel, 1, 1, 0, q.stream, scale, bits);
  sweep<T, Fixed, false>(q, sums, scale);
  launch("warp_backward_from_fixed_kernel", warp_backward_from_fixed_kernel<T>, blocks_for(voxels), kThreads, 0,
         q.stream, static_cast<const Fixed*>(sums), static_cast<const double*>(scale), static_cast<T*>(q.grad_vol),
         voxels);
}

template <class T>
void backward(const WarpArgs& q) {
  using C = Compute<T>;
  if (!q.grad_vol) return sweep<T, C, false>(q, static_cast<C*>(nullptr), nullptr);
  if (q.deterministic) return in_fixed_point<T>(q);
  const int64_t voxels = volume_elements(q);
  constexpr bool in_place = std::is_same<T, C>::value;
  C* const sums = static_cast<C*>(in_place ? q.grad_vol : q.scratch);
  clear("warp_backward", sums, size_t(voxels) * sizeof(C), q.stream);
  sweep<T, C, false>(q, sums, nullptr);
  if constexpr (!in_place)
    launch("warp_backward_from_float_kernel", warp_backward_from_float_kernel<T>, blocks_for(voxels), kThreads, 0,
           q.stream, static_cast<const float*>(sums), static_cast<T*>(q.grad_vol), voxels);
}

template <class T>
void step(const WarpArgs& q) {
  clear("integrate_backward", q.grad_vol, size_t(volume_elements(q)) * sizeof(T), q.stream);
  sweep<T, T, true>(q, static_cast<T*>(q.grad_vol), nullptr);
}

}  // namespace

size_t warp_backward_scratch(const WarpArgs& args) {
  if (args.deterministic) return size_t(volume_elements(args) + 1) * sizeof(Fixed);
  return args.dtype == DType::f16 || args.dtype == DType::bf16 ? size_t(volume_elements(args)) * sizeof(float) : 0;
}

void warp_backward(const WarpArgs& args) {
  by_dtype(args.dtype, [&](auto type) { backward<decltype(type)>(args); });
}

void warp_step_backward(const WarpArgs& args) { args.dtype == DType::f64 ? step<double>(args) : step<float>(args); }

}  // namespace fastreg::cuda
