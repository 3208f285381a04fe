// Rows of the local correlation's sweep. A row is kept in eight segments side by side (LnccPlan::segment), so that a
// step in x is a step of one vector. Fields that are used together lie together: vector j of all of them, then vector
// j + 1.
#include "cpu/lncc_vectors.inl"

namespace fastreg::cpu {
namespace {

template <class T>
struct Block4 {
  typedef T V __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T))));
  V r[4];

  void load(const T* from, int64_t step) {
    for (int i = 0; i < 4; ++i) r[i] = *reinterpret_cast<const V*>(from + i * step);
  }
  void store(T* to, int64_t step) const {
    for (int i = 0; i < 4; ++i) *reinterpret_cast<V*>(to + i * step) = r[i];
  }
  void transpose() {
    const V p0 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), p1 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const V q0 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), q1 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(p0, q0, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(p0, q0, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(p1, q1, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(p1, q1, 2, 3, 6, 7);
  }
};

// How many vectors of a row have all their voxels inside the image: a multiple of 4.
inline int64_t whole_vectors(int64_t size, int64_t segment) { return max_of(0, size - (lanes - 1) * segment) / 4 * 4; }

// An image row into segments, `step` numbers from vector to vector; what lies beyond its end reads `outside`.
template <class T>
void to_segments(const T* row, T* out, int64_t step, int64_t size, int64_t segment, T outside) {
  int64_t j = 0;
  for (; j < whole_vectors(size, segment); j += 4) {
    Block4<T> low, high;
    low.load(row + j, segment);
    high.load(row + 4 * segment + j, segment);
    low.transpose();
    high.transpose();
    low.store(out + j * step, step);
    high.store(out + j * step + 4, step);
  }
  for (; j < segment; ++j)
    for (int k = 0; k < lanes; ++k) out[j * step + k] = k * segment + j < size ? row[k * segment + j] : outside;
}

template <class T>
void from_segments(const T* in, T* row, int64_t size, int64_t segment) {
  int64_t j = 0;
  for (; j < whole_vectors(size, segment); j += 4) {
    Block4<T> low, high;
    low.load(in + j * lanes, lanes);
    high.load(in + j * lanes + 4, lanes);
    low.transpose();
    high.transpose();
    low.store(row + j, segment);
    high.store(row + 4 * segment + j, segment);
  }
  for (; j < segment; ++j)
    for (int k = 0; k < lanes; ++k)
      if (k * segment + j < size) row[k * segment + j] = in[j * lanes + k];
}

// The `half` vectors either side of a row in segments: the neighbouring segments' voxels, and `outside` at the ends.
template <int fields>
void fill_halo(double* row, int64_t segment, int half, const double (&outside)[fields]) {
  Mask lane{};
  for (int i = 0; i < per_vector; ++i) lane[i] = i;
  for (int side = -1; side < 2; side += 2) {
    const int64_t nearest = side < 0 ? segment - 1 : 0;
    int64_t source = nearest, moved = side, to = side < 0 ? -1 : segment;
    for (int i = 0; i < half; ++i, to += side) {
      for (int p = 0; p < lanes; p += per_vector) {
        const Mask from = lane + (p + moved);
        const Mask inside = (from >= 0) & (from < lanes);
        const double* v = row + source * fields * lanes + p + moved;
        for (int f = 0; f < fields; ++f, v += lanes)
          store(row + (to * fields + f) * lanes + p,
                inside ? *reinterpret_cast<const VecUnaligned*>(v) : Vec{} + outside[f]);
      }
      source += side;
      if (source < 0 || source == segment) {  // the window is wider than a segment: on to the next one
        source = nearest;
        moved = side < 0 ? max_of(moved - 1, -lanes) : min_of(moved + 1, lanes);
      }
    }
  }
}
// Of a row of a, b and a mask in segments: what does not count reads the shift, so that it adds nothing to any sum.
template <class T>
void mask_row(T* row, int64_t segment, T shift_a, T shift_b) {
  typedef T Lanes __attribute__((vector_size(lanes * sizeof(T)), aligned(sizeof(T))));
  Lanes* v = reinterpret_cast<Lanes*>(row);
  for (int64_t j = 0; j < segment; ++j, v += 3) {
    const auto counts = v[2] > 0;
    v[0] = counts ? v[0] : Lanes{} + shift_a;
    v[1] = counts ? v[1] : Lanes{} + shift_b;
  }
}

inline Vec counted(Vec mask) { return mask > 0.0 ? Vec{} + 1.0 : Vec{}; }

// The statistics of a vector of voxels: `ab` points at those of a, those of b lie `lanes` behind, and behind these those
// of the mask.
template <class T, int statistics>
void products(const T* ab, Vec shift_a, Vec shift_b, Vec (&out)[statistics]) {
  const Vec a = load(ab) - shift_a, b = load(ab + lanes) - shift_b;
  out[0] = a;
  out[1] = b;
  out[2] = a * a;
  out[3] = b * b;
  out[4] = a * b;
  if constexpr (statistics == 6) out[5] = counted(load(ab + 2 * lanes));
}

// Whether a row in segments, `step` numbers from vector to vector, has anything but zeros.
template <class T>
bool any(const T* row, int64_t step, int64_t segment) {
  Vec found{};
  for (int64_t j = 0; j < segment; ++j)
    for (int q = 0; q < lanes; q += per_vector) {
      const Vec v = load(row + j * step + q);
      found += v * v;
    }
  double sum = 0;
  for (int l = 0; l < per_vector; ++l) sum += found[l];
  return sum != 0;
}

// Window sums along x of a row with halos, one vector at a time.
template <int fields>
struct RowWindows {
  const double* row;  // from lane p of vector 0 of the first field
  int half;
  bool fresh;
  Vec sum[fields];

  RowWindows(const double* first, int half_window, bool fresh_sums) : row(first), half(half_window), fresh(fresh_sums) {
    start(0);
  }

  const double* at(int64_t j, int f) const { return row + (j * fields + f) * lanes; }
  void start(int64_t j) {
    for (int f = 0; f < fields; ++f) {
      Vec total{};
      for (int64_t i = j - half; i < j + half; ++i) total += load(at(i, f));
      sum[f] = total;
    }
  }
  // The sums are those around vector j until leave(j).
  void enter(int64_t j) {
    if (fresh) start(j);
    for (int f = 0; f < fields; ++f) sum[f] += load(at(j + half, f));
  }
  void leave(int64_t j) {
    for (int f = 0; f < fields; ++f) sum[f] -= load(at(j - half, f));
  }
};

}  // namespace
}  // namespace fastreg::cpu
