// The warp of every shape, mode and dtype, a point at a time.
#pragma once
#include "cuda/warp_common.cuh"

namespace fastreg::cuda {

constexpr int kAnyThreads = 256;

template <class C>
struct AnyPoint {
  int64_t batch, index, z, y, x;
  C u[3];
};

// Grid point number `at` of the whole batch.
template <class C>
__device__ __forceinline__ AnyPoint<C> any_point(const WarpArgs& q, int64_t at) {
  const Shape grid = shape_of(q.grid);
  AnyPoint<C> p{};
  p.batch = at / grid.count();
  p.index = at % grid.count();
  if (!q.normalised) {
    p.x = p.index % grid.w;
    p.y = p.index / grid.w % grid.h;
    p.z = p.index / grid.w / grid.h;
  }
  const FlowLayout layout = flow_layout(q, grid.count());
  const C* flow =
      static_cast<const C*>(q.flow) + p.batch * q.ndim * grid.count() + p.index * layout.voxel + layout.first;
  for (int axis = 3 - q.ndim, k = 0; axis < 3; ++axis, ++k) {
    const C u = load(flow + k * layout.component);
    p.u[axis] = q.normalised ? from_normalised(u, flow_unit<C>(q, axis), q.size[axis]) : u;
  }
  return p;
}

// The voxel that `nearest` reads; false: none, and the value is 0, or NaN where the coordinate is.
template <Padding P, int NDIM, class C>
__device__ __forceinline__ bool nearest_offset(const AnyPoint<C>& p, const Shape& size, int64_t& offset) {
  const int64_t z = NDIM == 3 ? nearest_index<C, P>(p.u[0], p.z, size.d) : 0;
  const int64_t y = nearest_index<C, P>(p.u[1], p.y, size.h), x = nearest_index<C, P>(p.u[2], p.x, size.w);
  offset = size.at(z, y, x);
  return z >= 0 && y >= 0 && x >= 0;
}

template <class T, int NDIM>
__global__ void __launch_bounds__(kAnyThreads) warp_forward_any_kernel(const WarpArgs q, bool fused) {
  using C = Compute<T>;
  const Shape size = shape_of(q.size), grid = shape_of(q.grid);
  const int64_t all = q.batch * grid.count();
  for (int64_t at = blockIdx.x * int64_t(kAnyThreads) + threadIdx.x; at < all; at += int64_t(gridDim.x) * kAnyThreads) {
    const AnyPoint<C> p = any_point<C>(q, at);
    by_padding(q.padding, [&](auto padding) {
      constexpr Padding P = decltype(padding)::value;
      const Place<C> place = place_of<C, P, NDIM>(p.u, p.z, p.y, p.x, size);
      int64_t offset = 0;
      const bool read = q.mode == Mode::nearest && !place.is_nan && nearest_offset<P, NDIM>(p, size, offset);
      for (int64_t channel = 0; channel < q.channels; ++channel) {
        const int64_t image = p.batch * q.channels + channel;
        const int64_t of_vol = (first_volume(q, p.batch) + channel) * size.count();
        const T* vol = static_cast<const T*>(q.vol) + of_vol;
        C value = q.mode == Mode::linear || place.is_nan ? warp_voxel<C, NDIM>(place, vol, size) : C(0);
        if (read) value = load(vol + offset);
        if (fused) value += p.u[3 - NDIM + channel];
        narrow(value, static_cast<T*>(q.out)[image * grid.count() + p.index]);
      }
    });
  }
}

template <class T, int NDIM, class S>
__global__ void __launch_bounds__(kAnyThreads)
    warp_backward_any_kernel(const WarpArgs q, void* sums, const double* scale, bool fused) {
  using C = Compute<T>;
  const Shape size = shape_of(q.size), grid = shape_of(q.grid);
  const int64_t all = q.batch * grid.count();
  for (int64_t at = blockIdx.x * int64_t(kAnyThreads) + threadIdx.x; at < all; at += int64_t(gridDim.x) * kAnyThreads) {
    const AnyPoint<C> p = any_point<C>(q, at);
    by_padding(q.padding, [&](auto padding) {
      constexpr Padding P = decltype(padding)::value;
      const Place<C> place = place_of<C, P, NDIM>(p.u, p.z, p.y, p.x, size);
      const FlowLayout layout = flow_layout(q, grid.count());
      const int64_t of_flow = p.batch * NDIM * grid.count() + p.index * layout.voxel + layout.first;
      int64_t offset = 0;
      const bool read = q.mode == Mode::nearest && !place.is_nan && nearest_offset<P, NDIM>(p, size, offset);
      C slope[3] = {};
      for (int64_t channel = 0; channel < q.channels; ++channel) {
        const int64_t image = p.batch * q.channels + channel;
        const int64_t of_vol = (first_volume(q, p.batch) + channel) * size.count();
        const T* vol = static_cast<const T*>(q.vol) + of_vol;
        const C grad = load(static_cast<const T*>(q.grad_out) + image * grid.count() + p.index);
        const Accumulator<S> add{static_cast<S*>(sums) + of_vol, scale ? *scale : 1.0};
        if (q.mode == Mode::linear) {
          if (q.grad_flow) warp_voxel_slope<C, NDIM>(place, vol, size, grad, slope);
          if (sums) warp_voxel_scatter<C, NDIM>(place, size, grad, [&](int64_t, int64_t o, C v) { add(o, v); });
          if (fused) add(p.index, grad);
        } else if (read && sums) {
          add(offset, grad);
        }
      }
      if (!q.grad_flow) return;
      for (int axis = 0; axis < NDIM; ++axis) {
        const int64_t to = of_flow + axis * layout.component;
        if (fused) Accumulator<S>{static_cast<S*>(sums), scale ? *scale : 1.0}(to, slope[3 - NDIM + axis]);
        else static_cast<C*>(q.grad_flow)[to] = slope[3 - NDIM + axis] * flow_unit<C>(q, 3 - NDIM + axis);
      }
    });
  }
}

}  // namespace fastreg::cuda
