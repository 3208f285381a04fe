// One text for every instruction set: a leaf function of plain loops, compiled for each, the best chosen at run time.
#pragma once
#include "cpu/simd.h"

namespace fastreg::cpu {

template <auto leaf, class Result, class... Arguments>
Result run_baseline(Arguments... arguments) {
  return leaf(arguments...);
}
#if FR_X86
FR_BEGIN_AVX2
template <auto leaf, class Result, class... Arguments>
Result run_avx2(Arguments... arguments) {
  return leaf(arguments...);
}
FR_END_TARGET
FR_BEGIN_AVX512
template <auto leaf, class Result, class... Arguments>
Result run_avx512(Arguments... arguments) {
  return leaf(arguments...);
}
FR_END_TARGET
#endif

template <auto leaf, class Result, class... Arguments>
auto chosen(Result (*)(Arguments...)) -> Result (*)(Arguments...) {
#if FR_X86
  if (isa_level() >= Isa::avx512) return run_avx512<leaf, Result, Arguments...>;
  if (isa_level() >= Isa::avx2) return run_avx2<leaf, Result, Arguments...>;
#endif
  return run_baseline<leaf, Result, Arguments...>;
}

// `leaf` must be FR_HD: it is inlined into the function that the instruction set is for.
template <auto leaf>
auto for_isa() {
  return chosen<leaf>(leaf);
}

}  // namespace fastreg::cpu
