// Squared forward differences of a row and their gradient. Sums are of short runs, so that float32 lanes lose nothing;
// runs are added in float64.
#pragma once
#include <algorithm>

#include "common/portable.h"
#include "common/shape.h"

namespace fastreg::cpu {

constexpr int64_t kRun = 512;

// What becomes of the gradient; `push` also adds that of another penalty.
enum class Gradient { none, set, add, push };

// A row and its neighbours; where there is none, the row itself: the difference is 0.
template <class T>
struct DifferenceRow {
  int64_t n;
  const T *here, *above, *below, *after, *before;  // z + 1, z - 1, y + 1, y - 1
  T slope[3];                                      // 2 * weight / (ndim * number of differences), per axis
  T* grad;                                         // or null
  const T *lower, *upper;                          // pushed: strength * (lower - upper)
  T strength;
};

template <class T>
struct Squares {
  T z = 0, y = 0, x = 0;
};

template <Gradient kind, class T>
FR_HD void put(const DifferenceRow<T>& row, int64_t i, T gradient) {
  if constexpr (kind == Gradient::push) gradient += row.strength * (row.lower[i] - row.upper[i]);
  if constexpr (kind == Gradient::set) row.grad[i] = gradient;
  else row.grad[i] += gradient;
}

template <Gradient kind, class T>
FR_HD void difference_point(const DifferenceRow<T>& row, int64_t i, Squares<T>& sum) {
  const T v = row.here[i];
  const T dz = row.above[i] - v, dy = row.after[i] - v, dx = i + 1 < row.n ? row.here[i + 1] - v : T(0);
  sum.z += dz * dz;
  sum.y += dy * dy;
  sum.x += dx * dx;
  if constexpr (kind != Gradient::none) {
    const T ez = v - row.below[i], ey = v - row.before[i], ex = i > 0 ? v - row.here[i - 1] : T(0);
    put<kind>(row, i, row.slope[0] * (ez - dz) + row.slope[1] * (ey - dy) + row.slope[2] * (ex - dx));
  }
}

// Points first .. last - 1, none of them at an end of the row.
template <Gradient kind, class T>
FR_HD void difference_run(const DifferenceRow<T>& given, int64_t first, int64_t last, Squares<T>& sum) {
  const DifferenceRow<T> row = given;  // the compiler knows that nobody changes it
  T z = 0, y = 0, x = 0;
#pragma omp simd reduction(+ : z, y, x)
  for (int64_t i = first; i < last; ++i) {
    const T v = row.here[i], dz = row.above[i] - v, dy = row.after[i] - v, dx = row.here[i + 1] - v;
    z += dz * dz;
    y += dy * dy;
    x += dx * dx;
    if constexpr (kind != Gradient::none) {
      const T ez = v - row.below[i], ey = v - row.before[i], ex = v - row.here[i - 1];
      put<kind>(row, i, row.slope[0] * (ez - dz) + row.slope[1] * (ey - dy) + row.slope[2] * (ex - dx));
    }
  }
  sum.z += z;
  sum.y += y;
  sum.x += x;
}

// Sum of slope / 2 * difference^2.
template <Gradient kind, class T>
FR_HD double difference_row(const DifferenceRow<T>& row) {
  double total = 0;
  const auto add = [&](const Squares<T>& s) {
    total += 0.5 * (double(row.slope[0]) * s.z + double(row.slope[1]) * s.y + double(row.slope[2]) * s.x);
  };
  for (int64_t first = 1; first < row.n - 1; first += kRun) {
    Squares<T> sum;
    difference_run<kind>(row, first, std::min(first + kRun, row.n - 1), sum);
    add(sum);
  }
  Squares<T> ends;
  difference_point<kind>(row, 0, ends);
  if (row.n > 1) difference_point<kind>(row, row.n - 1, ends);
  add(ends);
  return total;
}

// The slopes of `weight` times the mean over the axes of the mean squared difference.
template <class T>
void difference_slopes(int ndim, int64_t batch, const Shape& size, double weight, T (&slope)[3]) {
  for (int axis = 0; axis < 3; ++axis) {
    const double lines = double(batch * ndim) * size.count() / size[axis];
    const double differences = lines * (size[axis] - 1);
    slope[axis] = static_cast<T>(differences > 0 ? 2 * weight / (ndim * differences) : 0);
  }
}

// The row (z, y) of an image at `image`; `grad` likewise, or null.
template <class T>
DifferenceRow<T> difference_row_at(const T* image, const Shape& size, int64_t z, int64_t y, const T (&slope)[3],
                                   T* grad) {
  const int64_t plane = size.h * size.w, at = z * plane + y * size.w;
  const T* const here = image + at;
  return {size.w,
          here,
          z + 1 < size.d ? here + plane : here,
          z > 0 ? here - plane : here,
          y + 1 < size.h ? here + size.w : here,
          y > 0 ? here - size.w : here,
          {slope[0], slope[1], slope[2]},
          grad ? grad + at : nullptr,
          nullptr,
          nullptr,
          0};
}

}  // namespace fastreg::cpu
