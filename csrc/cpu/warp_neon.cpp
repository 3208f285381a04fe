// The rows of warp_lanes.inl for AArch64, where every processor has its vectors: no region of its own is needed.
#include "cpu/simd.h"
#include "cpu/warp_point.h"
#include "cpu/warp_rows.h"

#if FR_NEON
#include "cpu/vec_neon.inl"
#include "cpu/warp_lanes.inl"
#include "cpu/warp_nearest.inl"

namespace fastreg::cpu {
RowKernels<float> neon_rows(int ndim, Padding padding) {
  return ndim == 3 ? lane_rows<Neon, 3>(padding) : lane_rows<Neon, 2>(padding);
}
auto neon_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&) {
  return ndim == 3 ? nearest_forward<Neon, 3>(padding) : nearest_forward<Neon, 2>(padding);
}
}  // namespace fastreg::cpu
#endif
