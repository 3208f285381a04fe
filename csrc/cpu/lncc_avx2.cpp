#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "api.h"
#include "common/portable.h"
#include "cpu/simd.h"

#if FR_X86
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own intrinsics
#endif
FR_BEGIN_AVX2
#define FR_DOUBLES 4
#define FR_SWEEP lncc_avx2
#include "cpu/lncc_tiles.inl"
FR_END_TARGET
#endif
