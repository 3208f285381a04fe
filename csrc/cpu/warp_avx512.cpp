// The rows of warp_lanes.inl for AVX-512.
#include "cpu/simd.h"
#include "cpu/warp_point.h"
#include "cpu/warp_rows.h"

#if FR_X86
FR_BEGIN_AVX512
#include "cpu/vec_avx512.inl"
#include "cpu/warp_lanes.inl"
#include "cpu/warp_nearest.inl"

namespace fastreg::cpu {
RowKernels<float> avx512_rows(int ndim, Padding padding) {
  return ndim == 3 ? lane_rows<Avx512, 3>(padding) : lane_rows<Avx512, 2>(padding);
}
auto avx512_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&) {
  return ndim == 3 ? nearest_forward<Avx512, 3>(padding) : nearest_forward<Avx512, 2>(padding);
}
}  // namespace fastreg::cpu
FR_END_TARGET
#endif
