// Adam whose update is smoothed before it is added, in one sweep. A slab of planes makes the update of the plane
// `passes` ahead, filters it along x and y while its rows are in the cache, keeps a ring of such planes and adds their
// sum along z to the velocity. Planes that two slabs need are made first, into the gradient's memory: every update is
// made once, whatever the number of threads.
#include <algorithm>
#include <cstring>

#include "common/adam_update.h"
#include "common/shape.h"
#include "cpu/each_isa.h"
#include "cpu/memory.h"

namespace fastreg::cpu {
namespace {

constexpr int kMostTaps = 2 * kMostPasses + 1;

template <class T>
struct UpdateRow {
  int64_t n;
  const T* grad;
  T *mean, *square;
  T* out;  // may be grad
  AdamRates<T> rates;
};

template <class T>
FR_HD void update_row(const UpdateRow<T>& given) {
  const UpdateRow<T> row = given;
#pragma omp simd
  for (int64_t i = 0; i < row.n; ++i) {
    T mean = row.mean[i], square = row.square[i];
    row.out[i] = adam_update(row.grad[i], mean, square, row.rates);
    row.mean[i] = mean;
    row.square[i] = square;
  }
}

// A weighted sum of rows, times `factor`.
template <class T>
struct TapRows {
  int64_t n;
  const T* rows[kMostTaps];
  T* out;
  Binomial<T> filter;
  T factor;
};

// Sets `out`, or adds to it.
template <int passes, bool add, class T>
FR_HD void tap_row(const TapRows<T>& given) {
  const T* rows[2 * passes + 1];
  T weight[passes + 1];
  for (int k = 0; k <= 2 * passes; ++k) rows[k] = given.rows[k];
  for (int k = 0; k <= passes; ++k) weight[k] = given.filter.weight[k] * given.factor;
  T* const out = given.out;
#pragma omp simd
  for (int64_t i = 0; i < given.n; ++i) {
    T sum = weight[0] * rows[passes][i];
    FR_UNROLL
    for (int k = 1; k <= passes; ++k) sum += weight[k] * (rows[passes - k][i] + rows[passes + k][i]);
    if constexpr (add) out[i] += sum;
    else out[i] = sum;
  }
}

template <class T>
using TapFunction = void (*)(const TapRows<T>&);

template <class T, bool add>
TapFunction<T> choose_taps(int passes) {
  switch (passes) {
    case 0: return for_isa<tap_row<0, add, T>>();
    case 1: return for_isa<tap_row<1, add, T>>();
    case 2: return for_isa<tap_row<2, add, T>>();
    case 3: return for_isa<tap_row<3, add, T>>();
    default: return for_isa<tap_row<4, add, T>>();
  }
}

template <class T>
class Sweep {
 public:
  explicit Sweep(const AdamArgs& args)
      : args_(args),
        size_(shape_of(args.size)),
        images_(args.batch * args.ndim),
        passes_(args.passes),
        rates_(args),
        update_(for_isa<update_row<T>>()),
        set_(choose_taps<T, false>(args.passes)),
        add_(choose_taps<T, true>(args.passes)) {
    if (size_.d == 1) size_ = {size_.h, 1, size_.w};  // rows are planes, then, for the threads' sake
    // As many slabs as there are threads in each image, but none so thin that all of it is border.
    slabs_ = std::clamp(size_.d / std::max(4 * passes_, 4), int64_t(1), int64_t(std::max(args.threads, 1)));
  }

  void operator()() const {
    const int64_t borders = images_ * (slabs_ - 1) * 2 * passes_, tasks = images_ * slabs_;
#pragma omp parallel num_threads(args_.threads)
    {
#pragma omp for schedule(static)
      for (int64_t k = 0; k < borders; ++k) {
        const int64_t image = k / (2 * passes_) / (slabs_ - 1), slab = k / (2 * passes_) % (slabs_ - 1) + 1;
        const int64_t z = begin_of(slab) - passes_ + k % (2 * passes_);
        for (int64_t y = 0; y < size_.h; ++y) update(image, z, y, at(args_.grad, image, z, y));
      }
#pragma omp for schedule(dynamic)
      for (int64_t k = 0; k < tasks; ++k) Slab(*this, k / slabs_, k % slabs_)();
    }
  }

 private:
  int64_t begin_of(int64_t slab) const { return size_.d * slab / slabs_; }

  T* at(void* field, int64_t image, int64_t z, int64_t y) const {
    return static_cast<T*>(field) + image * size_.count() + size_.at(z, y, 0);
  }

  void update(int64_t image, int64_t z, int64_t y, T* out) const {
    update_({size_.w, at(args_.grad, image, z, y), at(args_.mean, image, z, y), at(args_.square, image, z, y), out,
             rates_});
  }

  // The filter along an axis of `size` voxels at `centre`; `row(k)` is where voxel k lies.
  template <class Row>
  TapRows<T> taps(int64_t centre, int64_t size, T* out, T factor, const Row& row) const {
    TapRows<T> taps{size_.w, {}, out, filter_, factor};
    for (int k = -passes_; k <= passes_; ++k) taps.rows[passes_ + k] = row(mirrored(centre + k, size));
    return taps;
  }

  class Slab {
   public:
    Slab(const Sweep& sweep, int64_t image, int64_t slab)
        : s_(sweep),
          image_(image),
          begin_(s_.begin_of(slab)),
          end_(s_.begin_of(slab + 1)),
          taps_(2 * s_.passes_ + 1),
          plane_(s_.size_.h * s_.size_.w),
          planes_(scratch<T>(taps_ * plane_)),
          rows_(scratch<T>(taps_ * s_.size_.w)),
          line_(scratch<T>(s_.size_.w + 2 * s_.passes_)) {}

    void operator()() {
      const Shape& size = s_.size_;
      const int64_t passes = s_.passes_;
      int64_t made = std::max(begin_ - passes, int64_t(0));
      for (int64_t z = begin_; z < end_; ++z) {
        for (; made <= std::min(z + passes, size.d - 1); ++made) make_plane(made);
        for (int64_t y = 0; y < size.h; ++y)
          s_.add_(s_.taps(z, size.d, s_.at(s_.args_.velocity, image_, z, y), T(-s_.args_.step),
                          [&](int64_t k) { return plane_of(k) + y * size.w; }));
      }
    }

   private:
    T* plane_of(int64_t z) { return planes_.get() + z % taps_ * plane_; }

    // The update of a plane, filtered along x and y.
    void make_plane(int64_t z) {
      const Shape& size = s_.size_;
      const int64_t passes = s_.passes_;
      int64_t made = 0;
      const auto row = [&](int64_t y) { return rows_.get() + y % taps_ * size.w; };
      for (int64_t y = 0; y < size.h; ++y) {
        T* const out = plane_of(z) + y * size.w;
        if (size.h == 1) {
          make_row(z, y, out);
          continue;
        }
        for (; made <= std::min(y + passes, size.h - 1); ++made) make_row(z, made, row(made));
        s_.set_(s_.taps(y, size.h, out, T(1), row));
      }
    }

    // The update of a row, filtered along x.
    void make_row(int64_t z, int64_t y, T* out) {
      const int64_t n = s_.size_.w, passes = s_.passes_;
      T* const line = line_.get() + passes;
      if (shared(z)) std::memcpy(line, s_.at(s_.args_.grad, image_, z, y), n * sizeof(T));
      else s_.update(image_, z, y, line);
      for (int64_t k = 1; k <= passes; ++k) {
        line[-k] = line[mirrored(-k, n)];
        line[n - 1 + k] = line[mirrored(n - 1 + k, n)];
      }
      TapRows<T> taps{n, {}, out, s_.filter_, T(1)};
      for (int64_t k = -passes; k <= passes; ++k) taps.rows[passes + k] = line + k;
      s_.set_(taps);
    }

    // Whether another slab needs the plane too: then its update was made before the slabs began.
    bool shared(int64_t z) const {
      return (z < begin_ + s_.passes_ && begin_ > 0) || (z >= end_ - s_.passes_ && end_ < s_.size_.d);
    }

    const Sweep& s_;
    const int64_t image_, begin_, end_, taps_, plane_;
    const std::unique_ptr<T, Free<T>> planes_;  // [taps, H, W]
    const std::unique_ptr<T, Free<T>> rows_;    // [taps, W]
    const std::unique_ptr<T, Free<T>> line_;    // [passes + W + passes]
  };

  const AdamArgs& args_;
  Shape size_;
  const int64_t images_;
  const int passes_;
  const AdamRates<T> rates_;
  const Binomial<T> filter_{passes_};
  void (*const update_)(const UpdateRow<T>&);
  const TapFunction<T> set_, add_;
  int64_t slabs_;
};

}  // namespace

void adam_step(const AdamArgs& args) { args.dtype == DType::f64 ? Sweep<double>(args)() : Sweep<float>(args)(); }

}  // namespace fastreg::cpu
