// Vectors of FR_DOUBLES doubles for the sweep of the local correlation, and pieces of its scratch memory.
#include "cpu/lncc_tile.h"

namespace fastreg::cpu {
namespace {

constexpr int lanes = lncc_lanes;       // of a row in segments
constexpr int per_vector = FR_DOUBLES;  // lanes
typedef double Vec __attribute__((vector_size(8 * FR_DOUBLES)));
typedef float Vec32 __attribute__((vector_size(4 * FR_DOUBLES)));
typedef Vec VecUnaligned __attribute__((aligned(8)));
typedef decltype(Vec{} < Vec{}) Mask;

#if FR_DOUBLES == 8
inline Vec widened(Vec32 v) { return _mm512_cvtps_pd(v); }
inline Vec32 narrowed(Vec v) { return _mm512_cvtpd_ps(v); }
#elif FR_DOUBLES == 4
inline Vec widened(Vec32 v) { return _mm256_cvtps_pd(v); }
inline Vec32 narrowed(Vec v) { return _mm256_cvtpd_ps(v); }
#else
inline Vec widened(Vec32 v) { return __builtin_convertvector(v, Vec); }
inline Vec32 narrowed(Vec v) { return __builtin_convertvector(v, Vec32); }
#endif

inline Vec load(const double* p) { return *reinterpret_cast<const Vec*>(p); }
inline Vec load(const float* p) { return widened(*reinterpret_cast<const Vec32*>(p)); }
inline void store(double* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec32*>(p) = narrowed(v); }
inline Vec rounded(Vec v, const double*) { return v; }
inline Vec rounded(Vec v, const float*) { return widened(narrowed(v)); }

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a < b ? b : a; }

// Hands out pieces of the scratch memory; from null it counts.
struct Scratch {
  char* next;
  template <class E>
  E* take(int64_t count) {
    E* piece = reinterpret_cast<E*>(next);
    next += (count * int64_t(sizeof(E)) + 63) / 64 * 64;
    return piece;
  }
};

template <class E>
void fill(E* p, int64_t count, E value) {
  for (int64_t i = 0; i < count; ++i) p[i] = value;
}

}  // namespace
}  // namespace fastreg::cpu
