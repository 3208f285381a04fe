// 4 float32 lanes of AArch64's Advanced SIMD; the same names as in vec_avx2.inl. Masks are all bits of a lane or none.
#define FR_VEC static inline __attribute__((always_inline))

namespace fastreg::cpu {
namespace {

struct Neon {
  static constexpr int lanes = 4;
  using F = float32x4_t;
  using I = int32x4_t;
  using M = uint32x4_t;

  FR_VEC M first(int64_t n) { return vcltq_s32(iota(), set(static_cast<int>(n < lanes ? n : lanes))); }
  FR_VEC unsigned bits(M m) {
    const uint32x4_t place = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, place));
  }
  FR_VEC bool all(M m) { return vminvq_u32(m) != 0; }
  FR_VEC F set(float v) { return vdupq_n_f32(v); }
  FR_VEC I set(int v) { return vdupq_n_s32(v); }
  FR_VEC I iota() {
    const int32x4_t count = {0, 1, 2, 3};
    return count;
  }
  // There is no masked access: what lies outside the mask may lie outside the array.
  FR_VEC F load(const float* p, M m) {
    if (all(m)) return vld1q_f32(p);
    float found[lanes] = {0, 0, 0, 0};
    for (unsigned rest = bits(m); rest; rest &= rest - 1) found[__builtin_ctz(rest)] = p[__builtin_ctz(rest)];
    return vld1q_f32(found);
  }
  FR_VEC void store(float* p, M m, F v) {
    if (all(m)) return vst1q_f32(p, v);
    float given[lanes];
    vst1q_f32(given, v);
    for (unsigned rest = bits(m); rest; rest &= rest - 1) p[__builtin_ctz(rest)] = given[__builtin_ctz(rest)];
  }
  FR_VEC void store(int* p, I v) { vst1q_s32(p, v); }

  FR_VEC F add(F a, F b) { return vaddq_f32(a, b); }
  FR_VEC I add(I a, I b) { return vaddq_s32(a, b); }
  FR_VEC I sub(I a, I b) { return vsubq_s32(a, b); }
  FR_VEC F min(F a, F b) { return vminq_f32(a, b); }
  FR_VEC I min(I a, I b) { return vminq_s32(a, b); }
  FR_VEC F max(F a, F b) { return vmaxq_f32(a, b); }
  FR_VEC I max(I a, I b) { return vmaxq_s32(a, b); }
  FR_VEC F sub(F a, F b) { return vsubq_f32(a, b); }
  FR_VEC F mul(F a, F b) { return vmulq_f32(a, b); }
  FR_VEC I mul(I a, I b) { return vmulq_s32(a, b); }
  FR_VEC F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  FR_VEC F floor(F a) { return vrndmq_f32(a); }
  FR_VEC F round(F a) { return vrndnq_f32(a); }  // ties to even
  FR_VEC I to_int(F a) { return vcvtq_s32_f32(a); }
  FR_VEC F to_float(I a) { return vcvtq_f32_s32(a); }
  FR_VEC M both(M a, M b) { return vandq_u32(a, b); }
  FR_VEC M either(M a, M b) { return vorrq_u32(a, b); }
  FR_VEC M at_least(F a, F least) { return vcgeq_f32(a, least); }  // false for NaN
  FR_VEC M nonzero(F a) { return vmvnq_u32(vceqq_f32(a, set(0.0f))); }
  FR_VEC M equal(I a, I b) { return vceqq_s32(a, b); }
  FR_VEC M greater(I a, I b) { return vcgtq_s32(a, b); }
  FR_VEC bool all_below(I a, int bound) {  // and >= 0
    return all(vcltq_u32(vreinterpretq_u32_s32(a), vdupq_n_u32(static_cast<unsigned>(bound))));
  }
  FR_VEC F choose(M m, F yes, F no) { return vbslq_f32(m, yes, no); }
  FR_VEC F keep(M m, F a) { return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(a))); }  // 0 elsewhere

  // a * b and c + a * b where m, 0 and c elsewhere: NaN in b does not pass, as a is 0 where m is not.
  FR_VEC F mul_where(M m, F a, F b) { return vmulq_f32(a, keep(m, b)); }
  FR_VEC F fma_where(M m, F a, F b, F c) { return vfmaq_f32(c, a, keep(m, b)); }

  // left[l] = p[at[l]], right[l] = p[at[l] + 1]
  FR_VEC void pairs(const float* p, const int* at, F& left, F& right) {
    const F low = vcombine_f32(vld1_f32(p + at[0]), vld1_f32(p + at[1]));
    const F high = vcombine_f32(vld1_f32(p + at[2]), vld1_f32(p + at[3]));
    left = vuzp1q_f32(low, high);
    right = vuzp2q_f32(low, high);
  }
  // The same for p[index[l]] with 0 <= index < 2 lanes - 1: neighbours of a smooth field mostly read one run of voxels.
  FR_VEC void window(const float* p, I index, F& left, F& right) {
    const uint8x16x2_t run = {{vreinterpretq_u8_f32(vld1q_f32(p)), vreinterpretq_u8_f32(vld1q_f32(p + lanes))}};
    // A lane's four bytes: 4 index + 0, 1, 2, 3
    const I bytes = vmlaq_s32(set(0x03020100), index, set(0x04040404));
    left = vreinterpretq_f32_u8(vqtbl2q_u8(run, vreinterpretq_u8_s32(bytes)));
    right = vreinterpretq_f32_u8(vqtbl2q_u8(run, vreinterpretq_u8_s32(vaddq_s32(bytes, set(0x04040404)))));
  }

  // to[2 l] = left[l], to[2 l + 1] = right[l]
  FR_VEC void interleave(float* to, F left, F right) {
    const float32x4x2_t both = {{left, right}};
    vst2q_f32(to, both);
  }
};

}  // namespace
}  // namespace fastreg::cpu

#undef FR_VEC
