// 16 float32 lanes. Included inside an AVX-512 region (cpu/simd.h); vec_avx2.inl has the same names.
#define FR_VEC static inline __attribute__((always_inline))

namespace fastreg::cpu {
namespace {

struct Avx512 {
  static constexpr int lanes = 16;
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;

  FR_VEC M first(int64_t n) { return n >= lanes ? 0xFFFF : static_cast<M>((1u << n) - 1); }
  FR_VEC unsigned bits(M m) { return m; }
  FR_VEC F set(float v) { return _mm512_set1_ps(v); }
  FR_VEC I set(int v) { return _mm512_set1_epi32(v); }
  FR_VEC I iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  FR_VEC F load(const float* p, M m) { return _mm512_maskz_loadu_ps(m, p); }
  FR_VEC void store(float* p, M m, F v) { _mm512_mask_storeu_ps(p, m, v); }
  FR_VEC void store(int* p, I v) { _mm512_storeu_si512(p, v); }

  FR_VEC F add(F a, F b) { return _mm512_add_ps(a, b); }
  FR_VEC I add(I a, I b) { return _mm512_add_epi32(a, b); }
  FR_VEC I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  FR_VEC F min(F a, F b) { return _mm512_min_ps(a, b); }
  FR_VEC I min(I a, I b) { return _mm512_min_epi32(a, b); }
  FR_VEC F max(F a, F b) { return _mm512_max_ps(a, b); }
  FR_VEC I max(I a, I b) { return _mm512_max_epi32(a, b); }
  FR_VEC F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  FR_VEC F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  FR_VEC I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  FR_VEC F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  FR_VEC F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  FR_VEC F round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }  // ties to even
  FR_VEC I to_int(F a) { return _mm512_cvttps_epi32(a); }
  FR_VEC F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  FR_VEC M both(M a, M b) { return a & b; }
  FR_VEC M either(M a, M b) { return a | b; }
  FR_VEC M at_least(F a, F least) { return _mm512_cmp_ps_mask(a, least, _CMP_GE_OQ); }  // false for NaN
  FR_VEC M nonzero(F a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  FR_VEC M equal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
  FR_VEC M greater(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
  FR_VEC bool all_below(I a, int bound) { return _mm512_cmplt_epu32_mask(a, set(bound)) == 0xFFFF; }  // and >= 0
  FR_VEC F choose(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  FR_VEC F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }  // 0 elsewhere

  // a * b and c + a * b where m, 0 and c elsewhere: NaN in b does not pass.
  FR_VEC F mul_where(M m, F a, F b) { return _mm512_maskz_mul_ps(m, a, b); }
  FR_VEC F fma_where(M m, F a, F b, F c) { return _mm512_mask3_fmadd_ps(a, b, c, m); }

  // left[l] = p[at[l]], right[l] = p[at[l] + 1]. Scalar loads: where a gather is micro-code it is slower.
  FR_VEC void pairs(const float* p, const int* at, F& left, F& right) {
    const I even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const I odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const F low = eight(p, at), high = eight(p, at + 8);
    left = _mm512_permutex2var_ps(low, even, high);
    right = _mm512_permutex2var_ps(low, odd, high);
  }
  // The same for p[index[l]] with 0 <= index < 2 lanes - 1: neighbours of a smooth field mostly read one run of voxels.
  FR_VEC void window(const float* p, I index, F& left, F& right) {
    const F low = _mm512_loadu_ps(p), high = _mm512_loadu_ps(p + lanes);
    left = _mm512_permutex2var_ps(low, index, high);
    right = _mm512_permutex2var_ps(low, add(index, set(1)), high);
  }
  FR_VEC __m128 two(const float* a, const float* b) {
    return _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a))),
                        reinterpret_cast<const __m64*>(b));
  }
  FR_VEC F eight(const float* p, const int* at) {
    const __m256 a =
        _mm256_insertf128_ps(_mm256_castps128_ps256(two(p + at[0], p + at[1])), two(p + at[2], p + at[3]), 1);
    const __m256 b =
        _mm256_insertf128_ps(_mm256_castps128_ps256(two(p + at[4], p + at[5])), two(p + at[6], p + at[7]), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  }

  // to[2 l] = left[l], to[2 l + 1] = right[l]
  FR_VEC void interleave(float* to, F left, F right) {
    const I low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const I high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_storeu_ps(to, _mm512_permutex2var_ps(left, low, right));
    _mm512_storeu_ps(to + lanes, _mm512_permutex2var_ps(left, high, right));
  }
};

}  // namespace
}  // namespace fastreg::cpu

#undef FR_VEC
