// What lets one header serve a C++ compiler and nvcc.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FR_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define FR_HD inline __attribute__((always_inline))
#else
#define FR_HD inline
#endif

// Before a loop of few turns over arrays that should live in registers.
#if defined(__CUDACC__) || defined(__clang__)
#define FR_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define FR_UNROLL _Pragma("GCC unroll 4")
#else
#define FR_UNROLL
#endif

namespace fastreg {

// Half precision is for memory alone: it is loaded as float32 and rounded once, to nearest even, when stored.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

// What coordinates, weights and sums are computed in.
template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

FR_HD float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FR_HD uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FR_HD float widen(float v) { return v; }
FR_HD double widen(double v) { return v; }
FR_HD float widen(bf16 v) { return float_of_bits(uint32_t(v.bits) << 16); }
FR_HD float widen(f16 v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));
#else
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  // All three without a branch, so that loops become vectors. Subnormal: an exact difference of two normal numbers.
  const uint32_t small = bits_of_float(float_of_bits((rest << 13) + 0x38800000) - float_of_bits(0x38800000));
  const uint32_t normal = (rest << 13) + 0x38000000, special = 0x7f800000 | (rest & 0x3ff) << 13;
  return float_of_bits(sign | (rest >= 0x7c00 ? special : rest < 0x400 ? small : normal));
#endif
}

FR_HD void narrow(float v, float& to) { to = v; }
FR_HD void narrow(double v, double& to) { to = v; }
FR_HD void narrow(double v, float& to) { to = float(v); }
FR_HD void narrow(float v, bf16& to) {
#if defined(__CUDA_ARCH__)
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
#else
  const uint32_t bits = bits_of_float(v);
  to.bits = uint16_t(v != v ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}
FR_HD void narrow(float v, f16& to) {
#if defined(__CUDA_ARCH__)
  to.bits = __half_as_ushort(__float2half_rn(v));
#else
  const uint32_t bits = bits_of_float(v), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  const uint32_t small = bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000;  // in units of 2^-24, rounded to even
  const uint32_t normal = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  const uint32_t finite = rest < 0x38800000 ? small : normal;
  const uint32_t large = rest > 0x7f800000 ? 0x7e00 : 0x7c00;  // from 0x477ff000 on it rounds beyond the largest
  to.bits = uint16_t(sign | (rest >= 0x477ff000 ? large : finite));
#endif
}

}  // namespace fastreg
