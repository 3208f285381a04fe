// The rows of warp_lanes.inl for AVX2.
#include "cpu/simd.h"
#include "cpu/warp_point.h"
#include "cpu/warp_rows.h"

#if FR_X86
FR_BEGIN_AVX2
#include "cpu/vec_avx2.inl"
#include "cpu/warp_lanes.inl"
#include "cpu/warp_nearest.inl"

namespace fastreg::cpu {
RowKernels<float> avx2_rows(int ndim, Padding padding) {
  return ndim == 3 ? lane_rows<Avx2, 3>(padding) : lane_rows<Avx2, 2>(padding);
}
auto avx2_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&) {
  return ndim == 3 ? nearest_forward<Avx2, 3>(padding) : nearest_forward<Avx2, 2>(padding);
}
}  // namespace fastreg::cpu
FR_END_TARGET
#endif
