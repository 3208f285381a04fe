#include "cpu/simd.h"

#include <atomic>
#include <stdexcept>
#include <string>

#include "api.h"

namespace fastreg::cpu {
namespace {

#if FR_NEON
constexpr const char* names[] = {"baseline", "neon"};
#else
constexpr const char* names[] = {"baseline", "avx2", "avx512"};
#endif
constexpr int known = sizeof names / sizeof *names;

Isa best() {
#if FR_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2) return avx512 ? Isa::avx512 : Isa::avx2;
#elif FR_NEON
  return Isa::neon;
#endif
  return Isa::baseline;
}

std::atomic<Isa> level{best()};

}  // namespace

Isa isa_level() { return level.load(std::memory_order_relaxed); }

const char* isa() { return names[static_cast<int>(isa_level())]; }

void set_isa(const char* name) {
  for (int wanted = 0; wanted < known; ++wanted) {
    if (std::string(name) != names[wanted]) continue;
    if (wanted > static_cast<int>(best()))
      throw std::invalid_argument(std::string("this processor has no ") + name + ", its best is " +
                                  names[static_cast<int>(best())]);
    level = static_cast<Isa>(wanted);
    return;
  }
  std::string all = names[0];
  for (int i = 1; i < known; ++i) all += (i == known - 1 ? " or " : ", ") + std::string(names[i]);
  throw std::invalid_argument("isa must be " + all + ", got " + name);
}

}  // namespace fastreg::cpu
