#include <cstddef>
#include <cstdint>
#include <type_traits>

#define FR_DOUBLES 2
#define FR_SWEEP lncc_baseline
#include "cpu/lncc_tiles.inl"
