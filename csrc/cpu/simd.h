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
// Plain loops, which the compiler vectorises for each set by itself, need none of this: each_isa.h.
//
// Rules. Include no common header inside a region: an inline function, compiled there first, could be the copy that the
// linker keeps for the baseline too. A text made to be compiled once for each set (warp_lanes.inl) is in an unnamed
// namespace for the same reason. Keep `#pragma omp parallel` outside: leaf functions, called from portable loops.
// Choose once per op (isa_level() is one relaxed load), not once per voxel.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FR_X86 1
#include <immintrin.h>
#else
#define FR_X86 0
#endif
#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define FR_NEON 1
#include <arm_neon.h>
#else
#define FR_NEON 0
#endif

#define FR_PRAGMA(words) _Pragma(#words)
#if defined(__clang__)
#define FR_BEGIN_TARGET(sets) FR_PRAGMA(clang attribute push(__attribute__((target(sets))), apply_to = function))
#define FR_BEGIN_AVX512 FR_BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define FR_END_TARGET FR_PRAGMA(clang attribute pop)
#else
#define FR_BEGIN_TARGET(sets) FR_PRAGMA(GCC push_options) FR_PRAGMA(GCC target(sets))
#define FR_BEGIN_AVX512 FR_BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define FR_END_TARGET FR_PRAGMA(GCC pop_options)
#endif
#define FR_BEGIN_AVX2 FR_BEGIN_TARGET("avx2,fma")

namespace fastreg::cpu {

// On AArch64 the baseline has NEON too: the compiler uses it for plain loops and for the vectors of the local
// correlation. What `neon` adds are the rows of the warp that are written for it.
enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2, neon = 1 };

// What the ops use now: the best that this processor has, or less after set_isa (api.h).
Isa isa_level();

}  // namespace fastreg::cpu
