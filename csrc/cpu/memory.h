// Fresh memory comes page by page: 4 KiB pages of a large output cost more than the arithmetic that fills it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastreg::cpu {

// Asks for huge pages under a large array that is about to be written. A hint: nothing depends on it. Up to 32 MiB the
// C library soon serves an allocation from memory that it has kept, with nothing left to gain.
inline void prefer_huge_pages(void* array, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t huge = std::uintptr_t{1} << 21;
  constexpr std::size_t kept = std::size_t{32} << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(array) + huge - 1) & ~(huge - 1);
  const auto end = (reinterpret_cast<std::uintptr_t>(array) + bytes) & ~(huge - 1);
  if (array && bytes > kept && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)array, (void)bytes;
#endif
}

template <class T>
struct Free {
  void operator()(T* block) const { std::free(block); }
};

// Uninitialised: std::vector would write it all.
template <class T>
std::unique_ptr<T, Free<T>> scratch(int64_t count) {
  T* block = static_cast<T*>(std::malloc(count * sizeof(T)));
  if (!block && count) throw std::bad_alloc();
  prefer_huge_pages(block, count * sizeof(T));
  return std::unique_ptr<T, Free<T>>(block);
}

}  // namespace fastreg::cpu
