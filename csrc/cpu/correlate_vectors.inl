// Vectors of FR_BYTES bytes for the cost volume, and rows on their way from storage to float32 or float64 and back.
namespace fastreg::cpu {
namespace {

template <class W>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float V __attribute__((vector_size(FR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(FR_BYTES)));
  typedef V Unaligned __attribute__((aligned(4), may_alias));
  static constexpr float most = -87, magic = 12582912, log2e = 1.44269504f;  // magic: 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int mantissa = 23;
  static constexpr uint32_t one = 0x3f800000;
  static constexpr int terms = 6;  // of the series of (e^r - 1 - r) / r^2, highest first: Cephes
  static constexpr float series[terms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct LanesOf<double> {
  typedef double V __attribute__((vector_size(FR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(FR_BYTES)));
  typedef V Unaligned __attribute__((aligned(8), may_alias));
  static constexpr double most = -708, magic = 6755399441055744, log2e = 1.4426950408889634;
  static constexpr double ln2_high = 0.693145751953125, ln2_low = 1.42860682030941723212e-6;
  static constexpr int mantissa = 52;
  static constexpr uint64_t one = uint64_t(0x3ff) << 52;
  static constexpr int terms = 12;  // 1 / 13! ... 1 / 2!
  static constexpr double series[terms] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800,
                                           1. / 362880,     1. / 40320,     1. / 5040,     1. / 720,
                                           1. / 120,        1. / 24,        1. / 6,        1. / 2};
};
template <class W>
using Vec = typename LanesOf<W>::V;
template <class W>
constexpr int64_t lanes_of = FR_BYTES / sizeof(W);

template <class W>
FR_HD Vec<W> load(const W* p) {
  return *reinterpret_cast<const typename LanesOf<W>::Unaligned*>(p);
}
template <class W>
FR_HD void store(W* p, Vec<W> v) {
  *reinterpret_cast<typename LanesOf<W>::Unaligned*>(p) = v;
}

// Kept in a register: the compiler, short of them, would read it from memory for every use.
template <class V>
FR_HD void keep(V& v) {
#if FR_BYTES == 64
  asm("" : "+v"(v));
#else
  (void)v;
#endif
}

// Vectors at p, p + 1 and so on. With `aligned` there are three, p + 1 is aligned, and so are the vectors on either side of
// it, which are read too: most loads that are not would cross a line of the cache, and take twice as long.
template <bool aligned, class W>
struct Displaced {
  const W* p;
  FR_HD explicit Displaced(const W* from) : p(from) {}
  FR_HD Vec<W> at(int s) const { return load(p + s); }
};
#if FR_BYTES == 64
template <int by>
FR_HD LanesOf<float>::V shifted(LanesOf<float>::V low, LanesOf<float>::V high) {
  return (LanesOf<float>::V)_mm512_alignr_epi32((__m512i)high, (__m512i)low, by & 15);
}
template <int by>
FR_HD LanesOf<double>::V shifted(LanesOf<double>::V low, LanesOf<double>::V high) {
  return (LanesOf<double>::V)_mm512_alignr_epi64((__m512i)high, (__m512i)low, by & 7);
}
template <class W>
struct Displaced<true, W> {
  const W* p;
  Vec<W> middle;
  FR_HD explicit Displaced(const W* from) : p(from + 1), middle(load(from + 1)) { keep(middle); }
  FR_HD Vec<W> at(int s) const {
    if (s == 0) return shifted<-1>(load(p - lanes_of<W>), middle);
    return s == 1 ? middle : shifted<1>(middle, load(p + lanes_of<W>));
  }
};
#endif
#if FR_BYTES == 64
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }
#endif

// e^x for x <= 0, to one unit in the last place; below e^most it is that. NaN stays.
template <class W>
FR_HD Vec<W> exp_of(Vec<W> x) {
  using L = LanesOf<W>;
  x = x < L::most ? Vec<W>{} + L::most : x;
  const Vec<W> shifted = x * L::log2e + L::magic, n = shifted - L::magic;
  const Vec<W> r = x - n * L::ln2_high - n * L::ln2_low;
  Vec<W> p = Vec<W>{} + L::series[0];
  FR_UNROLL_ALL
  for (int k = 1; k < L::terms; ++k) p = p * r + L::series[k];
  p = p * r * r + r + W(1);
  const typename L::Bits power = ((typename L::Bits)shifted << L::mantissa) + L::one;  // 2^n
  return p * (Vec<W>)power;
}

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a < b ? b : a; }

template <class W>
void fill(W* to, int64_t count, W value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}
template <class T, class W>
void widen_row(const T* from, W* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}
// With `streamed` whole lines go past the caches, which would read them first.
template <class T, class W>
void narrow_row(const W* from, T* to, int64_t count, [[maybe_unused]] bool streamed = false) {
#if FR_BYTES == 64
  if constexpr (std::is_same_v<T, W>) {
    if (streamed && is_aligned(to) && count * int64_t(sizeof(W)) % 64 == 0) {
      for (int64_t i = 0; i < count; i += lanes_of<W>) _mm512_stream_si512((__m512i*)(to + i), (__m512i)load(from + i));
      return;
    }
  }
#endif
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to[i]);
}

}  // namespace
}  // namespace fastreg::cpu
