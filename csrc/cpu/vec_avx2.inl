// 8 float32 lanes. Included inside an AVX2 region (cpu/simd.h); vec_avx512.inl has the same names.
#define FR_VEC static inline __attribute__((always_inline))

namespace fastreg::cpu {
namespace {

struct Avx2 {
  static constexpr int lanes = 8;
  using F = __m256;
  using I = __m256i;
  using M = __m256;  // all bits of a lane or none

  FR_VEC M first(int64_t n) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(set(static_cast<int>(n < lanes ? n : lanes)), iota()));
  }
  FR_VEC unsigned bits(M m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
  FR_VEC F set(float v) { return _mm256_set1_ps(v); }
  FR_VEC I set(int v) { return _mm256_set1_epi32(v); }
  FR_VEC I iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  FR_VEC F load(const float* p, M m) { return _mm256_maskload_ps(p, _mm256_castps_si256(m)); }
  FR_VEC void store(float* p, M m, F v) { _mm256_maskstore_ps(p, _mm256_castps_si256(m), v); }
  FR_VEC void store(int* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

  FR_VEC F add(F a, F b) { return _mm256_add_ps(a, b); }
  FR_VEC I add(I a, I b) { return _mm256_add_epi32(a, b); }
  FR_VEC I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  FR_VEC F min(F a, F b) { return _mm256_min_ps(a, b); }
  FR_VEC I min(I a, I b) { return _mm256_min_epi32(a, b); }
  FR_VEC F max(F a, F b) { return _mm256_max_ps(a, b); }
  FR_VEC I max(I a, I b) { return _mm256_max_epi32(a, b); }
  FR_VEC F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  FR_VEC F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  FR_VEC I mul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  FR_VEC F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  FR_VEC F floor(F a) { return _mm256_floor_ps(a); }
  FR_VEC F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }  // ties to even
  FR_VEC I to_int(F a) { return _mm256_cvttps_epi32(a); }
  FR_VEC F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  FR_VEC M both(M a, M b) { return _mm256_and_ps(a, b); }
  FR_VEC M either(M a, M b) { return _mm256_or_ps(a, b); }
  FR_VEC M at_least(F a, F least) { return _mm256_cmp_ps(a, least, _CMP_GE_OQ); }  // false for NaN
  FR_VEC M nonzero(F a) { return _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ); }
  FR_VEC M equal(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
  FR_VEC M greater(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
  FR_VEC bool all_below(I a, int bound) {  // and >= 0
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_min_epu32(a, set(bound - 1)), a)) == -1;
  }
  FR_VEC F choose(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
  FR_VEC F keep(M m, F a) { return _mm256_and_ps(m, a); }  // 0 elsewhere

  // a * b and c + a * b where m, 0 and c elsewhere: NaN in b does not pass, as a is 0 where m is not.
  FR_VEC F mul_where(M m, F a, F b) { return _mm256_mul_ps(a, _mm256_and_ps(m, b)); }
  FR_VEC F fma_where(M m, F a, F b, F c) { return _mm256_fmadd_ps(a, _mm256_and_ps(m, b), c); }

  // left[l] = p[at[l]], right[l] = p[at[l] + 1]. Scalar loads: where a gather is micro-code it is slower.
  FR_VEC void pairs(const float* p, const int* at, F& left, F& right) {
    const F low = four(p, at), high = four(p, at + 4);
    left = ordered(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
    right = ordered(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1)));
  }
  // The same for p[index[l]] with 0 <= index < 2 lanes - 1: neighbours of a smooth field mostly read one run of voxels.
  FR_VEC void window(const float* p, I index, F& left, F& right) {
    const F low = _mm256_loadu_ps(p), high = _mm256_loadu_ps(p + lanes);
    left = lookup(low, high, index);
    right = lookup(low, high, add(index, set(1)));
  }
  FR_VEC F lookup(F low, F high, I index) {
    return choose(greater(index, set(lanes - 1)), _mm256_permutevar8x32_ps(high, index),
                  _mm256_permutevar8x32_ps(low, index));
  }
  FR_VEC __m128 two(const float* a, const float* b) {
    return _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a))),
                        reinterpret_cast<const __m64*>(b));
  }
  FR_VEC F four(const float* p, const int* at) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(p + at[0], p + at[1])), two(p + at[2], p + at[3]), 1);
  }
  FR_VEC F ordered(F v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), _MM_SHUFFLE(3, 1, 2, 0)));
  }

  // to[2 l] = left[l], to[2 l + 1] = right[l]
  FR_VEC void interleave(float* to, F left, F right) {
    const F a = _mm256_unpacklo_ps(left, right), b = _mm256_unpackhi_ps(left, right);
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(to + lanes, _mm256_permute2f128_ps(a, b, 0x31));
  }
};

}  // namespace
}  // namespace fastreg::cpu

#undef FR_VEC
