// Rows of the descriptors, for forward and backward: squared differences, their sums over patches, what is made of them.
#pragma once
#include "common/mind_voxel.h"

namespace fastreg::cpu {

// Distance between rows of scratch memory: room for a voxel on either side, and whole cache lines.
inline int64_t mind_pitch(int64_t w) { return (w + 2 + 15) / 16 * 16; }

// A row of the image, 0, and those one plane on, one back, one row on, one back: in the planes of a patch.
template <class T, int planes>
struct PlaceRows {
  int64_t n;
  const T* row[planes][5];
};

template <int planes, class T>
PlaceRows<T, planes> place_rows(const T* image, const Shape& size, int64_t z, int64_t y) {
  PlaceRows<T, planes> rows{size.w, {}};
  for (int o = 0; o < planes; ++o) {
    const int64_t here = clamped(z + o - planes / 2, size.d);
    rows.row[o][0] = image + size.at(here, y, 0);
    rows.row[o][1] = image + size.at(clamped(here + 1, size.d), y, 0);
    rows.row[o][2] = image + size.at(clamped(here - 1, size.d), y, 0);
    rows.row[o][3] = image + size.at(here, clamped(y + 1, size.h), 0);
    rows.row[o][4] = image + size.at(here, clamped(y - 1, size.h), 0);
  }
  return rows;
}

// The image at the places around voxel x of plane `o`; x + 1 and x - 1 are given, clamped where it is needed.
template <class T, int planes>
FR_HD void values_at(const PlaceRows<T, planes>& rows, int o, int64_t x, int64_t up, int64_t down,
                     T (&value)[kPlaces]) {
  value[0] = rows.row[o][0][x];
  value[1] = rows.row[o][1][x];
  value[2] = rows.row[o][2][x];
  value[3] = rows.row[o][3][x];
  value[4] = rows.row[o][4][x];
  value[5] = rows.row[o][0][up];
  value[6] = rows.row[o][0][down];
}

template <class Pairs, int k = 0, class T>
FR_HD void put_row(const T* values, T* out, int64_t pitch) {
  if constexpr (k < Pairs::count) {
    out[k * pitch] = values[k];
    put_row<Pairs, k + 1>(values, out, pitch);
  }
}

template <class Pairs, int o = 0, class T>
FR_HD void add_plane(const PlaceRows<T, Pairs::planes>& rows, int64_t x, int64_t up, int64_t down, T* square) {
  if constexpr (o < Pairs::planes) {
    T value[kPlaces];
    values_at(rows, o, x, up, down, value);
    add_squares<Pairs>(value, square);
    add_plane<Pairs, o + 1>(rows, x, up, down, square);
  }
}

// out[x] = line[x - 1] + line[x] + line[x + 1], the ends going on. `line` has room for a voxel on either side.
template <class T>
FR_HD void sum_along_row(int64_t n, T* line, T* out) {
  line[-1] = line[0];
  line[n] = line[n - 1];
#pragma omp simd
  for (int64_t x = 0; x < n; ++x) out[x] = line[x - 1] + line[x] + line[x + 1];
}

template <class T, int planes>
struct SquaresRow {
  PlaceRows<T, planes> image;
  T *lines, *out;  // [pairs, pitch] scratch, a voxel of room before each row; likewise, pair_stride apart
  int64_t pitch, pair_stride;
};

// What is local to a voxel stands in a function of its own, or the compiler keeps it in memory for every lane.
template <class Pairs, class T>
FR_HD void squares_point(const SquaresRow<T, Pairs::planes>& row, int64_t x, int64_t up, int64_t down) {
  T square[Pairs::count] = {};
  add_plane<Pairs>(row.image, x, up, down, square);
  put_row<Pairs>(square, row.lines + x, row.pitch);
}

// The squared differences of every pair, summed over z and x of the patch.
template <class Pairs, class T>
FR_HD void squares_row(const SquaresRow<T, Pairs::planes>& given) {
  const SquaresRow<T, Pairs::planes> row = given;
  const int64_t n = row.image.n;
#pragma omp simd
  for (int64_t x = 1; x < n - 1; ++x) squares_point<Pairs>(row, x, x + 1, x - 1);
  for (int64_t x = 0; x < n; x += n > 1 ? n - 1 : 1) squares_point<Pairs>(row, x, clamped(x + 1, n), clamped(x - 1, n));
  for (int k = 0; k < Pairs::count; ++k) sum_along_row(n, row.lines + k * row.pitch, row.out + k * row.pair_stride);
}

// Rows of sums at y - 1, y, y + 1, those of a pair pair_stride from those of the next.
template <class T>
struct PatchRows {
  int64_t n;
  const T *before, *here, *after;
  int64_t pair_stride;
};

// distance[k] = scale * the sum of the three rows
template <class Pairs, int k = 0, class T>
FR_HD void sum_rows(const PatchRows<T>& rows, int64_t x, T scale, T* distance) {
  if constexpr (k < Pairs::count) {
    const int64_t at = k * rows.pair_stride + x;
    distance[k] = (rows.before[at] + rows.here[at] + rows.after[at]) * scale;
    sum_rows<Pairs, k + 1>(rows, x, scale, distance);
  }
}

// Fills `distance` with d_k and returns v.
template <class Pairs, class T>
FR_HD T distances_at(const PatchRows<T>& rows, int64_t x, T* distance) {
  sum_rows<Pairs>(rows, x, T(1.0 / Pairs::patch), distance);
  return sum_of<Pairs>(distance) * (T(1) / T(Pairs::count));
}

// Rows of sums for y - 1, y, y + 1 as y goes up, each made once: row y lies in slot y mod 3.
template <class T>
class RowRing {
 public:
  // `rows`: [pairs, 3, pitch]. `y`: the first row that is wanted in the middle.
  RowRing(T* rows, int64_t pitch, const Shape& size, int64_t y)
      : rows_(rows), pitch_(pitch), size_(size), next_(clamped(y - 1, size.h)) {}

  // Calls make(y, out) for what is missing up to row y + 1.
  template <class Make>
  PatchRows<T> at(int64_t y, const Make& make) {
    for (const int64_t last = clamped(y + 1, size_.h); next_ <= last; ++next_) make(next_, slot(next_));
    return {size_.w, slot(y - 1), slot(y), slot(y + 1), 3 * pitch_};
  }

 private:
  T* slot(int64_t y) const { return rows_ + clamped(y, size_.h) % 3 * pitch_; }

  T* rows_;
  int64_t pitch_;
  Shape size_;
  int64_t next_;
};

// Calls Sweep<MindPairs<kind, ndim>, T>::run(args) for what the arguments say.
template <template <class, class> class Sweep, class T>
void by_pairs(const MindArgs& args) {
  if (args.kind == MindKind::mind)
    args.ndim == 2 ? Sweep<MindPairs<MindKind::mind, 2>, T>::run(args)
                   : Sweep<MindPairs<MindKind::mind, 3>, T>::run(args);
  else
    args.ndim == 2 ? Sweep<MindPairs<MindKind::ssc, 2>, T>::run(args)
                   : Sweep<MindPairs<MindKind::ssc, 3>, T>::run(args);
}
template <template <class, class> class Sweep>
void by_dtype(const MindArgs& args) {
  args.dtype == DType::f64 ? by_pairs<Sweep, double>(args) : by_pairs<Sweep, float>(args);
}

}  // namespace fastreg::cpu
