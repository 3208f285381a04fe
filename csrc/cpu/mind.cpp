// The descriptors in two sweeps: the mean of v, which needs no patches, then row by row all that is left. No plane of
// squared differences is kept: those of three planes are made anew for every row, from rows of the image in cache.
#include <vector>

#include "cpu/each_isa.h"
#include "cpu/memory.h"
#include "cpu/mind_rows.h"

namespace fastreg::cpu {
namespace {

constexpr int64_t kRows = 48;  // of a task; two more are made at its ends

template <class Pairs, class T>
FR_HD T all_squares(const PlaceRows<T, 1>& rows, int64_t x, int64_t up, int64_t down) {
  T value[kPlaces], square[Pairs::count] = {};
  values_at(rows, 0, x, up, down, value);
  add_squares<Pairs, Pairs::step>(value, square);
  return sum_of<Pairs>(square);
}

// The sum of a row's squared differences. In float64 throughout: float32 lanes would lose what is small in a long row.
template <class Pairs, class T>
FR_HD double row_sum(const PlaceRows<T, 1>& given) {
  const PlaceRows<T, 1> rows = given;
  const int64_t n = rows.n;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t x = 1; x < n - 1; ++x) sum += all_squares<Pairs>(rows, x, x + 1, x - 1);
  for (int64_t x = 0; x < n; x += n > 1 ? n - 1 : 1)
    sum += all_squares<Pairs>(rows, x, clamped(x + 1, n), clamped(x - 1, n));
  return sum;
}

template <class T>
struct ValuesRow {
  PatchRows<T> sums;
  T floor;
  T* out;
  int64_t out_stride;
};

template <class Pairs, class T>
FR_HD void values_point(const ValuesRow<T>& row, int64_t x) {
  T distance[Pairs::count];
  const T v = distances_at<Pairs>(row.sums, x, distance);
  put_values<Pairs>(distance, mind_inverse(v, row.floor), row.out + x, row.out_stride);
}

template <class Pairs, class T>
FR_HD void values_row(const ValuesRow<T>& given) {
  const ValuesRow<T> row = given;
#pragma omp simd
  for (int64_t x = 0; x < row.sums.n; ++x) values_point<Pairs>(row, x);
}

template <class Pairs, class T>
struct Forward {
  // The mean of v over an image is that of the squared differences: every voxel is in as many patches, its border's
  // copies counted.
  static void find_floors(const MindArgs& args) {
    const Shape size = shape_of(args.size);
    const int64_t planes = args.batch * args.channels * size.d;
    const auto row_sum_of = for_isa<row_sum<Pairs, T>>();
    std::vector<double> sums(planes);
#pragma omp parallel for num_threads(args.threads) schedule(static)
    for (int64_t p = 0; p < planes; ++p) {
      const T* const image = static_cast<const T*>(args.image) + p / size.d * size.count();
      for (int64_t y = 0; y < size.h; ++y) sums[p] += row_sum_of(place_rows<1>(image, size, p % size.d, y));
    }
    for (int64_t i = 0; i < args.batch * args.channels; ++i) {
      double total = 0;
      for (int64_t z = 0; z < size.d; ++z) total += sums[i * size.d + z];
      const T floor = T(kMindFloor * Pairs::step * total / (double(Pairs::count) * double(size.count())));
      static_cast<T*>(args.floor)[i] = floor < kTiny<T> ? kTiny<T> : floor;
    }
  }

  static void run(const MindArgs& args) {
    find_floors(args);
    const Shape size = shape_of(args.size);
    const int64_t pitch = mind_pitch(size.w), images = args.batch * args.channels, parts = (size.h + kRows - 1) / kRows;
    const auto squares_of = for_isa<squares_row<Pairs, T>>();
    const auto values_of = for_isa<values_row<Pairs, T>>();
    prefer_huge_pages(args.out, images * Pairs::count * size.count() * sizeof(T));
#pragma omp parallel num_threads(args.threads)
    {
      const auto memory = scratch<T>(4 * Pairs::count * pitch);
      T *const lines = memory.get() + 1, *const ring = memory.get() + Pairs::count * pitch;
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < images * size.d * parts; ++task) {
        const int64_t i = task / (size.d * parts), z = task / parts % size.d, first = task % parts * kRows;
        const T* const image = static_cast<const T*>(args.image) + i * size.count();
        const int64_t channel = i / args.channels * Pairs::count * args.channels + i % args.channels;
        T* const out = static_cast<T*>(args.out) + channel * size.count() + size.at(z, 0, 0);
        const T floor = static_cast<const T*>(args.floor)[i];
        RowRing<T> rows(ring, pitch, size, first);
        for (int64_t y = first; y < size.h && y < first + kRows; ++y) {
          const auto sums = rows.at(y, [&](int64_t made, T* to) {
            squares_of({place_rows<Pairs::planes>(image, size, z, made), lines, to, pitch, 3 * pitch});
          });
          values_of({sums, floor, out + y * size.w, args.channels * size.count()});
        }
      }
    }
  }
};

}  // namespace

void mind_forward(const MindArgs& args) { by_dtype<Forward>(args); }

}  // namespace fastreg::cpu
