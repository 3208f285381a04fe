#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "api.h"
#include "common/portable.h"
#include "common/shape.h"
#include "cpu/correlate_tile.h"
#include "cpu/simd.h"

#define FR_BYTES 16
#define FR_SWEEP correlate_baseline
#include "cpu/correlate_sweep.inl"
