// The regularisation of a registration, value and gradient, in one sweep: a tile of rows marches through the planes and
// keeps the divergence of three of them. Tiles do not depend on the threads, nor does the order of the sum.
#include <algorithm>
#include <cstring>
#include <vector>

#include "api.h"
#include "cpu/difference_row.h"
#include "cpu/each_isa.h"

namespace fastreg::cpu {
namespace {

constexpr int64_t kTilePlanes = 16;
constexpr int64_t kTileVoxels =
    8192;  // of a plane: what four planes of three components need stays in a cache of 1 MiB

// known + div v on a row. What has no central difference reads rows of zeros.
template <class T>
struct DivergenceRow {
  int64_t n;
  const T *known, *above, *below, *after, *before;  // the components along z and y
  const T* here;                                    // that along x
  T* out;
};

// Returns the sum of squares.
template <class T>
FR_HD double divergence_row(const DivergenceRow<T>& given) {
  const DivergenceRow<T> row = given;
  const auto rest = [&](int64_t i) { return row.above[i] - row.below[i] + (row.after[i] - row.before[i]); };
  double total = 0;
  for (int64_t first = 1; first < row.n - 1; first += kRun) {
    const int64_t last = std::min(first + kRun, row.n - 1);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < last; ++i) {
      const T d = row.known[i] + T(0.5) * (rest(i) + (row.here[i + 1] - row.here[i - 1]));
      row.out[i] = d;
      sum += d * d;
    }
    total += sum;
  }
  for (int64_t i = 0; i < row.n; i += std::max(row.n - 1, int64_t(1))) {  // the ends
    row.out[i] = row.known[i] + T(0.5) * rest(i);
    total += double(row.out[i]) * row.out[i];
  }
  return total;
}

// The gradient of the divergence alone.
template <class T>
FR_HD double push_row(const DifferenceRow<T>& given) {
  const DifferenceRow<T> row = given;
#pragma omp simd
  for (int64_t i = 0; i < row.n; ++i) row.grad[i] += row.strength * (row.lower[i] - row.upper[i]);
  return 0;
}

template <class T>
using RowFunction = double (*)(const DifferenceRow<T>&);

// What is done to a row of a component, or null.
template <class T>
RowFunction<T> choose_row(const PenaltyArgs& args) {
  const bool grad = args.grad, volume = args.volume != 0;
  if (args.smoothness == 0) return grad && volume ? for_isa<push_row<T>>() : nullptr;
  if (!grad) return for_isa<difference_row<Gradient::none, T>>();
  return volume ? for_isa<difference_row<Gradient::push, T>>() : for_isa<difference_row<Gradient::add, T>>();
}

template <class T>
class Sweep {
 public:
  explicit Sweep(const PenaltyArgs& args)
      : args_(args),
        size_(shape_of(args.size)),
        zeros_(size_.w, T(0)),
        row_(choose_row<T>(args)),
        divergence_(for_isa<divergence_row<T>>()),
        strength_(T(args.volume / (double(args.batch) * size_.count()))) {
    difference_slopes(args.ndim, args.batch, size_, args.smoothness, slope_);
  }

  double operator()() const {
    const int64_t rows = std::clamp(kTileVoxels / size_.w, int64_t(4), std::max(size_.h, int64_t(4)));
    const int64_t slabs = (size_.d + kTilePlanes - 1) / kTilePlanes, bands = (size_.h + rows - 1) / rows;
    const int64_t tiles = args_.batch * slabs * bands;
    std::vector<double> sums(tiles);
#pragma omp parallel for num_threads(args_.threads) schedule(dynamic)
    for (int64_t k = 0; k < tiles; ++k) {
      const int64_t z = k / bands % slabs * kTilePlanes, y = k % bands * rows;
      sums[k] = Tile(*this, k / bands / slabs, z, std::min(z + kTilePlanes, size_.d), y, std::min(y + rows, size_.h))();
    }
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  }

 private:
  // Planes z0 .. z1 - 1 and rows y0 .. y1 - 1 of one field; the divergence is needed one further where there is a
  // gradient.
  class Tile {
   public:
    Tile(const Sweep& sweep, int64_t image, int64_t z0, int64_t z1, int64_t y0, int64_t y1)
        : s_(sweep), size_(sweep.size_), z0_(z0), z1_(z1), y0_(y0), y1_(y1) {
      const PenaltyArgs& args = s_.args_;
      const int64_t field = image * args.ndim * size_.count();
      velocity_ = static_cast<const T*>(args.velocity) + field;
      known_ = args.known ? static_cast<const T*>(args.known) + image * size_.count() : nullptr;
      grad_ = args.grad ? static_cast<T*>(args.grad) + field : nullptr;
      if (args.volume == 0) return;
      first_ = std::max(y0 - (grad_ != nullptr), int64_t(0));
      last_ = std::min(y1 + (grad_ != nullptr), size_.h);
      ring_.resize(3 * (last_ - first_) * size_.w);
      along_x_.resize(size_.w + 2);
    }

    double operator()() {
      const bool volume = s_.args_.volume != 0, ahead = volume && grad_;
      double rough = 0;
      for (int64_t z = ahead ? z0_ - 1 : z0_; z <= z0_ && volume; ++z) squares_ += divergences(z);
      for (int64_t z = z0_; z < z1_; ++z) {
        if (ahead || (volume && z > z0_)) squares_ += divergences(ahead ? z + 1 : z);
        for (int64_t y = y0_; y < y1_ && s_.row_; ++y)
          for (int axis = 0; axis < s_.args_.ndim; ++axis) rough += component(z, y, axis);
      }
      return rough + s_.args_.volume * squares_ / (double(s_.args_.batch) * size_.count());
    }

   private:
    T* divergence(int64_t z, int64_t y) {
      return ring_.data() + ((z + 3) % 3 * (last_ - first_) + y - first_) * size_.w;
    }

    // Component k along axis z, y or x; a 2-D field has none along z.
    const T* component_row(int axis, int64_t z, int64_t y) const {
      return velocity_ + (axis - 3 + s_.args_.ndim) * size_.count() + size_.at(z, y, 0);
    }

    // Fills a plane of the ring. Returns the sum of squares of what is this tile's own.
    double divergences(int64_t z) {
      if (z < 0 || z >= size_.d) return 0;
      const T* const zeros = s_.zeros_.data();
      const bool inside_z = s_.inside(z, size_.d);
      double total = 0;
      for (int64_t y = first_; y < last_; ++y) {
        const bool inside_y = s_.inside(y, size_.h);
        const double sum = s_.divergence_(
            {size_.w, known_ ? known_ + size_.at(z, y, 0) : zeros, inside_z ? component_row(0, z + 1, y) : zeros,
             inside_z ? component_row(0, z - 1, y) : zeros, inside_y ? component_row(1, z, y + 1) : zeros,
             inside_y ? component_row(1, z, y - 1) : zeros, component_row(2, z, y), divergence(z, y)});
        if (z >= z0_ && z < z1_ && y >= y0_ && y < y1_) total += sum;
      }
      return total;
    }

    double component(int64_t z, int64_t y, int channel) {
      const int64_t offset = channel * size_.count();
      auto row = difference_row_at(velocity_ + offset, size_, z, y, s_.slope_, grad_ ? grad_ + offset : nullptr);
      if (grad_ && s_.args_.volume != 0) {
        const T* const zeros = s_.zeros_.data();
        const int axis = channel + 3 - s_.args_.ndim;
        row.strength = s_.strength_;
        if (axis == 0) {
          row.lower = s_.inside(z - 1, size_.d) ? divergence(z - 1, y) : zeros;
          row.upper = s_.inside(z + 1, size_.d) ? divergence(z + 1, y) : zeros;
        } else if (axis == 1) {
          row.lower = s_.inside(y - 1, size_.h) ? divergence(z, y - 1) : zeros;
          row.upper = s_.inside(y + 1, size_.h) ? divergence(z, y + 1) : zeros;
        } else {
          // Voxels 1 .. W - 2 with zeros on either side: those at the ends have no central difference along x.
          if (size_.w > 2) std::memcpy(&along_x_[2], divergence(z, y) + 1, (size_.w - 2) * sizeof(T));
          row.lower = along_x_.data();
          row.upper = along_x_.data() + 2;
        }
      }
      return s_.row_(row);
    }

    const Sweep& s_;
    const Shape size_;
    const int64_t z0_, z1_, y0_, y1_;
    int64_t first_ = 0, last_ = 0;  // rows of the ring
    const T *velocity_, *known_;
    T* grad_;
    std::vector<T> ring_;     // [3, rows, W]: known + div v
    std::vector<T> along_x_;  // [W + 2]
    double squares_ = 0;
  };

  static bool inside(int64_t at, int64_t size) { return at > 0 && at + 1 < size; }

  const PenaltyArgs& args_;
  const Shape size_;
  const std::vector<T> zeros_;
  const RowFunction<T> row_;
  double (*const divergence_)(const DivergenceRow<T>&);
  const T strength_;  // of a push: volume * 2 d / N * 1 / 2
  T slope_[3];
};

}  // namespace

double penalty(const PenaltyArgs& args) {
  return args.dtype == DType::f64 ? Sweep<double>(args)() : Sweep<float>(args)();
}

}  // namespace fastreg::cpu
