// Mean squared forward differences and their gradient in one sweep. The sum's order does not depend on the threads.
#include <algorithm>
#include <vector>

#include "api.h"
#include "common/portable.h"
#include "common/shape.h"
#include "cpu/memory.h"
#include "cpu/simd.h"

namespace fastreg::cpu {
namespace {

// A row and its neighbours; where there is none, the row itself: the difference is 0.
template <class T>
struct DifferenceRow {
  int64_t n;
  const T *here, *above, *below, *after, *before;  // z + 1, z - 1, y + 1, y - 1
  T* grad;                                         // or null
  T slope[3];                                      // 2 / (ndim * number of differences), per axis
};

template <class T>
struct Squares {
  T z = 0, y = 0, x = 0;
};

template <class T>
FR_HD void difference_point(const DifferenceRow<T>& row, int64_t i, Squares<T>& sum) {
  const T v = row.here[i];
  const T dz = row.above[i] - v, dy = row.after[i] - v, dx = i + 1 < row.n ? row.here[i + 1] - v : T(0);
  sum.z += dz * dz;
  sum.y += dy * dy;
  sum.x += dx * dx;
  if (!row.grad) return;
  const T ez = v - row.below[i], ey = v - row.before[i], ex = i > 0 ? v - row.here[i - 1] : T(0);
  row.grad[i] = row.slope[0] * (ez - dz) + row.slope[1] * (ey - dy) + row.slope[2] * (ex - dx);
}

// Points first .. last - 1, none of them at an end of the row.
template <class T, bool GRAD>
FR_HD void difference_run(const DifferenceRow<T>& row, int64_t first, int64_t last, Squares<T>& sum) {
  const T *here = row.here, *above = row.above, *below = row.below, *after = row.after, *before = row.before;
  T* __restrict grad = row.grad;
  const T sz = row.slope[0], sy = row.slope[1], sx = row.slope[2];
  T z = 0, y = 0, x = 0;
#pragma omp simd reduction(+ : z, y, x)
  for (int64_t i = first; i < last; ++i) {
    const T v = here[i], dz = above[i] - v, dy = after[i] - v, dx = here[i + 1] - v;
    z += dz * dz;
    y += dy * dy;
    x += dx * dx;
    if constexpr (GRAD) {
      const T ez = v - below[i], ey = v - before[i], ex = v - here[i - 1];
      grad[i] = sz * (ez - dz) + sy * (ey - dy) + sx * (ex - dx);
    }
  }
  sum.z += z;
  sum.y += y;
  sum.x += x;
}

// Sums of slope / 2 * difference^2. Runs are short, so that float32 lanes lose nothing; they are added in float64.
template <class T>
FR_HD double difference_row(const DifferenceRow<T>& row) {
  constexpr int64_t run = 512;
  double total = 0;
  const auto add = [&](const Squares<T>& s) {
    total += 0.5 * (double(row.slope[0]) * s.z + double(row.slope[1]) * s.y + double(row.slope[2]) * s.x);
  };
  for (int64_t first = 1; first < row.n - 1; first += run) {
    Squares<T> sum;
    const int64_t last = std::min(first + run, row.n - 1);
    row.grad ? difference_run<T, true>(row, first, last, sum) : difference_run<T, false>(row, first, last, sum);
    add(sum);
  }
  Squares<T> ends;
  difference_point(row, 0, ends);
  if (row.n > 1) difference_point(row, row.n - 1, ends);
  add(ends);
  return total;
}

template <class T>
using RowFunction = double (*)(const DifferenceRow<T>&);

template <class T>
double baseline_row(const DifferenceRow<T>& row) {
  return difference_row(row);
}

#if FR_X86
FR_BEGIN_AVX2
template <class T>
double avx2_row(const DifferenceRow<T>& row) {
  return difference_row(row);
}
FR_END_TARGET
FR_BEGIN_AVX512
template <class T>
double avx512_row(const DifferenceRow<T>& row) {
  return difference_row(row);
}
FR_END_TARGET
#endif

template <class T>
RowFunction<T> choose_row() {
#if FR_X86
  if (isa_level() >= Isa::avx512) return avx512_row<T>;
  if (isa_level() >= Isa::avx2) return avx2_row<T>;
#endif
  return baseline_row<T>;
}

template <class T>
double smoothness_of(const SmoothnessArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t plane = size.h * size.w, planes = args.batch * args.ndim * size.d;
  T slope[3];
  for (int axis = 0; axis < 3; ++axis) {
    const double lines = double(args.batch * args.ndim) * size.count() / size[axis];
    const double differences = lines * (size[axis] - 1);
    slope[axis] = static_cast<T>(differences > 0 ? 2 / (args.ndim * differences) : 0);
  }
  const auto row_function = choose_row<T>();
  prefer_huge_pages(args.grad, planes * plane * sizeof(T));
  std::vector<double> sums(planes);
#pragma omp parallel for num_threads(args.threads) schedule(static)
  for (int64_t p = 0; p < planes; ++p) {
    const int64_t z = p % size.d;
    for (int64_t y = 0; y < size.h; ++y) {
      const int64_t at = p * plane + y * size.w;
      const T* here = static_cast<const T*>(args.flow) + at;
      sums[p] += row_function({size.w,
                               here,
                               z + 1 < size.d ? here + plane : here,
                               z > 0 ? here - plane : here,
                               y + 1 < size.h ? here + size.w : here,
                               y > 0 ? here - size.w : here,
                               args.grad ? static_cast<T*>(args.grad) + at : nullptr,
                               {slope[0], slope[1], slope[2]}});
    }
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

double smoothness(const SmoothnessArgs& args) {
  return args.dtype == DType::f64 ? smoothness_of<double>(args) : smoothness_of<float>(args);
}

}  // namespace fastreg::cpu
