#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "api.h"
#include "common/portable.h"
#include "common/shape.h"
#include "cpu/correlate_tile.h"
#include "cpu/simd.h"

#if FR_X86
FR_BEGIN_AVX2
#define FR_BYTES 32
#define FR_SWEEP correlate_avx2
#include "cpu/correlate_sweep.inl"
FR_END_TARGET
#endif
