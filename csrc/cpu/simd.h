// One binary for every processor: the sources are compiled for the baseline, and faster instruction sets stand in
// functions of their own that are chosen at run time.
//
// How to use it, in csrc/cpu/<op>_avx512.cpp (and likewise _avx2):
//
//     #include "cpu/simd.h"        // and every other header, std:: included, BEFORE the region
//     #if FR_X86
//     FR_BEGIN_AVX512              // functions defined from here on may use AVX-512, intrinsics and compiler alike
//     static void lncc_row(...) { ... _mm512_fmadd_ps ... }
//     FR_END_TARGET
//     #endif
//
// and at the call, in a file without such a region:
//
//     #if FR_X86
//       if (isa_level() >= Isa::avx512) return lncc_row_avx512(...);
//       if (isa_level() >= Isa::avx2) return lncc_row_avx2(...);
//     #endif
//       return lncc_row_baseline(...);
//
// Rules. Include no common header inside a region: an inline function, compiled there first, could be the copy that the
// linker keeps for the baseline too. A text made to be compiled once for each set (warp_lanes.h) is in an unnamed
// namespace for the same reason. Keep `#pragma omp parallel` outside: leaf functions, called from portable loops.
// Choose once per op (isa_level() is one relaxed load), not once per voxel.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FR_X86 1
#include <immintrin.h>
#else
#define FR_X86 0
#endif

#if defined(__clang__)
#define FR_BEGIN_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)")
#define FR_BEGIN_AVX512 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,avx512f,avx512bw,avx512dq,avx512vl\"))), apply_to = function)")
#define FR_END_TARGET _Pragma("clang attribute pop")
#else
#define FR_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#define FR_BEGIN_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512\")")
#define FR_END_TARGET _Pragma("GCC pop_options")
#endif

namespace fastreg::cpu {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// What the ops use now: the best that this processor has, or less after set_isa (api.h).
Isa isa_level();

}  // namespace fastreg::cpu
