// What every kernel file needs: loads, atomics, shared memory, and a launch that reports its errors.
//
// Kernels are launched by a function, not by <<<>>>, and take their shared memory from shared_memory(): so these files
// are plain C++ as well, and the tests run them on a CPU through the headers of tests/cuda_shim.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "api.h"
#include "common/portable.h"

namespace fastreg::cuda {

#if !defined(FASTREG_CUDA_SHIM)
extern __shared__ float4 dynamic_shared_memory[];
template <class T>
__device__ __forceinline__ T* shared_memory() {
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
#endif

constexpr int kLanes = 32;                   // threads that shuffle among themselves
constexpr unsigned kFullMask = 0xffffffffu;  // all of them

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would report it again
  throw std::runtime_error(std::string("fastreg: ") + what + ": " + cudaGetErrorString(status));
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, void* stream,
            Arguments... arguments) {
  if (blocks == 0) return;
  if (blocks > 0x7fffffff) throw std::runtime_error(std::string("fastreg: ") + name + ": too many blocks");
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shared)),
          name);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

inline void clear(const char* name, void* memory, size_t bytes, void* stream) {
  if (bytes) check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)), name);
}

// Through the read-only path, which nothing that a kernel writes may take.
template <class T>
__device__ __forceinline__ Compute<T> load(const T* p) {
  return __ldg(p);
}
template <>
__device__ __forceinline__ float load(const f16* p) {
  return widen(f16{__ldg(&p->bits)});
}
template <>
__device__ __forceinline__ float load(const bf16* p) {
  return widen(bf16{__ldg(&p->bits)});
}

// Read once: out of the way of what is read again.
template <class T>
__device__ __forceinline__ Compute<T> load_once(const T* p) {
  return __ldcs(p);
}
template <>
__device__ __forceinline__ float load_once(const f16* p) {
  return widen(f16{__ldcs(&p->bits)});
}
template <>
__device__ __forceinline__ float load_once(const bf16* p) {
  return widen(bf16{__ldcs(&p->bits)});
}

// A sum in 64-bit fixed point does not depend on the order of its terms.
using Fixed = unsigned long long;

// Adds to an accumulator: float and double as they are, Fixed as a multiple of 1 / scale.
template <class S>
struct Accumulator {
  S* to;
  double scale;

  template <class T>
  __device__ __forceinline__ void operator()(int64_t offset, T value) const {
    if constexpr (sizeof(S) == sizeof(Fixed) && !std::is_same<S, double>::value) {
      if (scale > 0) atomicAdd(to + offset, static_cast<Fixed>(static_cast<long long>(rint(double(value) * scale))));
    } else {
      atomicAdd(to + offset, static_cast<S>(value));
    }
  }
};

// Calls f with a value of the dtype's type.
template <class F>
void by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
  }
}

template <Padding P>
struct PaddingIs {
  static constexpr Padding value = P;
};

// Calls f, of the host or of the device, with PaddingIs<padding>.
#pragma nv_exec_check_disable
template <class F>
FR_HD void by_padding(Padding padding, const F& f) {
  switch (padding) {
    case Padding::zeros: return f(PaddingIs<Padding::zeros>{});
    case Padding::border: return f(PaddingIs<Padding::border>{});
    case Padding::reflection: return f(PaddingIs<Padding::reflection>{});
    case Padding::symmetric: return f(PaddingIs<Padding::symmetric>{});
    case Padding::itk: return f(PaddingIs<Padding::itk>{});
  }
}

}  // namespace fastreg::cuda
