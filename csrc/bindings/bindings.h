// Addresses and sizes from Python into the structs of api.h: what the bindings of every device share.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "api.h"

namespace fastreg {

void bind_cpu(pybind11::module_ m);   // cpu.cpp
void bind_cuda(pybind11::module_ m);  // cuda.cpp, where nvcc was found

using Size = std::array<int64_t, 3>;

inline const void* in(uintptr_t address) { return reinterpret_cast<const void*>(address); }
inline void* out(uintptr_t address) { return reinterpret_cast<void*>(address); }
inline void copy(const Size& from, int64_t (&to)[3]) { std::copy(from.begin(), from.end(), to); }

inline WarpArgs warp_args(int ndim, int64_t batch, int64_t channels, const Size& size, const Size& grid, int dtype,
                          int mode, int padding, bool channels_last, int threads, uintptr_t vol, uintptr_t flow) {
  WarpArgs args{};
  args.ndim = ndim;
  args.batch = batch;
  args.channels = channels;
  copy(size, args.size);
  copy(grid, args.grid);
  args.dtype = static_cast<DType>(dtype);
  args.mode = static_cast<Mode>(mode);
  args.padding = static_cast<Padding>(padding);
  args.channels_last = channels_last;
  args.threads = threads;
  args.vol = in(vol);
  args.flow = in(flow);
  return args;
}

inline LnccArgs lncc_args(int ndim, int64_t batch, int64_t channels, const Size& size, int dtype, int threads,
                          int window, int floor, double floor_eps, double den_eps, double num_eps, bool cross_floor,
                          bool mean, bool count, double flat_eps, double flat, bool clamp, uintptr_t a, uintptr_t b,
                          uintptr_t weight, int64_t weight_channels, double scale, uintptr_t grad_a, uintptr_t grad_b,
                          uintptr_t map) {
  LnccArgs args{};
  args.ndim = ndim;
  args.batch = batch;
  args.channels = channels;
  copy(size, args.size);
  args.dtype = static_cast<DType>(dtype);
  args.form = {window, floor, floor_eps, den_eps, num_eps, cross_floor, mean, count, flat_eps, flat, clamp};
  args.threads = threads;
  args.a = in(a);
  args.b = in(b);
  args.weight = in(weight);
  args.weight_channels = weight_channels;
  args.scale = scale;
  args.grad_a = out(grad_a);
  args.grad_b = out(grad_b);
  args.map = out(map);
  return args;
}

inline IntegrateArgs integrate_args(int ndim, int64_t batch, const Size& size, int dtype, int steps, int padding,
                                    int threads) {
  IntegrateArgs args{};
  args.ndim = ndim;
  args.batch = batch;
  copy(size, args.size);
  args.dtype = static_cast<DType>(dtype);
  args.steps = steps;
  args.padding = static_cast<Padding>(padding);
  args.threads = threads;
  return args;
}

inline SmoothnessArgs smoothness_args(int ndim, int64_t batch, const Size& size, int dtype, int threads, uintptr_t flow,
                                      uintptr_t grad) {
  SmoothnessArgs args{};
  args.ndim = ndim;
  args.batch = batch;
  copy(size, args.size);
  args.dtype = static_cast<DType>(dtype);
  args.threads = threads;
  args.flow = in(flow);
  args.grad = out(grad);
  return args;
}

}  // namespace fastreg
