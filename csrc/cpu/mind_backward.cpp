// The descriptors' gradient to the image. Everything is made anew from the image: the slopes of the loss against the
// distances, their sums over patches (the sum is its own adjoint), and what those push the voxels of each pair by.
// A task is a block of rows, through the planes of a slab; two rows and planes around it are made as well. Who owns a
// voxel adds all that comes to it, in the order of the grid: the result does not depend on the tasks.
#include <algorithm>

#include "cpu/each_isa.h"
#include "cpu/memory.h"
#include "cpu/mind_rows.h"

namespace fastreg::cpu {
namespace {

template <class T>
struct SlopesRow {
  PatchRows<T> sums;
  T floor;
  const T* grad;
  int64_t grad_stride;
  T* slope;
  int64_t slope_stride;
};

template <class Pairs, class T>
FR_HD void slopes_point(const SlopesRow<T>& row, int64_t x) {
  T distance[Pairs::count];
  const T v = distances_at<Pairs>(row.sums, x, distance);
  slopes_of<Pairs>(distance, v, row.floor, row.grad + x, row.grad_stride, row.slope + x, row.slope_stride);
}

template <class Pairs, class T>
FR_HD void slopes_row(const SlopesRow<T>& given) {
  const SlopesRow<T> row = given;
#pragma omp simd
  for (int64_t x = 0; x < row.sums.n; ++x) slopes_point<Pairs>(row, x);
}

template <class T, int planes>
struct PlanesRow {
  int64_t n;
  const T* plane[planes];
  T *line, *out;
};

template <int planes, class T>
FR_HD void planes_row(const PlanesRow<T, planes>& given) {
  const PlanesRow<T, planes> row = given;
#pragma omp simd
  for (int64_t x = 0; x < row.n; ++x) {
    if constexpr (planes == 3) row.line[x] = row.plane[0][x] + row.plane[1][x] + row.plane[2][x];
    else row.line[x] = row.plane[0][x];
  }
  sum_along_row(row.n, row.line, row.out);
}

template <class T>
struct PushRow {
  PatchRows<T> sums;  // of the slopes
  PlaceRows<T, 1> image;
  T* target[5];  // rows of the gradient like those of the image, or memory that nobody reads
  T *up, *down;  // scratch: what is pushed one voxel further and back; room for a voxel on either side
};

template <class Pairs, class T>
FR_HD void push_point(const PushRow<T>& row, int64_t x, int64_t next, int64_t previous) {
  T value[kPlaces], weight[Pairs::count], push[kPlaces] = {};
  values_at(row.image, 0, x, next, previous, value);
  sum_rows<Pairs>(row.sums, x, T(2.0 / Pairs::patch), weight);
  add_pushes<Pairs>(value, weight, push);
  if constexpr (Pairs::ndim == 3) {
    row.target[1][x] += push[1];
    row.target[2][x] += push[2];
  }
  row.target[3][x] += push[3];
  row.target[4][x] += push[4];
  row.target[0][x] += push[0];
  row.up[x] = push[5];
  row.down[x] = push[6];
}

template <class Pairs, class T>
FR_HD void push_row(const PushRow<T>& given) {
  const PushRow<T> row = given;
  const int64_t n = row.sums.n;
#pragma omp simd
  for (int64_t x = 1; x < n - 1; ++x) push_point<Pairs>(row, x, x + 1, x - 1);
  for (int64_t x = 0; x < n; x += n > 1 ? n - 1 : 1) push_point<Pairs>(row, x, clamped(x + 1, n), clamped(x - 1, n));
  row.up[-1] = row.down[n] = 0;
  T* const target = row.target[0];
#pragma omp simd
  for (int64_t x = 0; x < n; ++x) target[x] += row.up[x - 1] + row.down[x + 1];
  target[0] += row.down[0];  // beyond the ends
  target[n - 1] += row.up[n - 1];
}

// The blocks that the work is cut into.
struct Blocks {
  int64_t rows, planes, across, along;

  Blocks(const MindArgs& args, const Shape& size, int64_t bytes_a_row) {
    constexpr int64_t cache = int64_t{640} << 10;
    rows = std::min(std::max<int64_t>(cache / bytes_a_row - 4, 8), size.h);
    across = (size.h + rows - 1) / rows;
    rows = (size.h + across - 1) / across;
    const int64_t wanted = 3 * args.threads / std::max<int64_t>(across * args.batch * args.channels, 1) + 1;
    planes = std::max<int64_t>((size.d + wanted - 1) / wanted, std::min<int64_t>(size.d, 12));
    along = (size.d + planes - 1) / planes;
  }
};

// What a thread works with, one block after another.
template <class Pairs, class T>
class Block {
 public:
  Block(const MindArgs& args, const Blocks& blocks)
      : args_(args),
        size_(shape_of(args.size)),
        pitch_(mind_pitch(size_.w)),
        height_(blocks.rows + 4),
        memory_(scratch<T>((4 * Pairs::count + 3 + Pairs::planes * Pairs::count * height_) * pitch_)),
        lines_(memory_.get() + 1),
        ring_(memory_.get() + Pairs::count * pitch_),
        nowhere_(ring_ + 3 * Pairs::count * pitch_),
        up_(nowhere_ + pitch_ + 1),
        slopes_(nowhere_ + 3 * pitch_) {}

  void run(int64_t image, int64_t z0, int64_t z1, int64_t y0, int64_t y1) {
    const int64_t channels = args_.channels, channel = image / channels * Pairs::count * channels + image % channels;
    image_ = static_cast<const T*>(args_.image) + image * size_.count();
    target_ = static_cast<T*>(args_.grad_image) + image * size_.count();
    grad_ = static_cast<const T*>(args_.grad_out) + channel * size_.count();
    floor_ = static_cast<const T*>(args_.floor)[image];
    z0_ = z0, z1_ = z1, y0_ = y0, y1_ = y1;
    int64_t cleared = z0, made = clamped(z0 - 2, size_.d);
    for (int64_t z = clamped(z0 - 1, size_.d); z < std::min(z1 + 1, size_.d); ++z) {
      for (; cleared < std::min(z + 2, z1); ++cleared)
        std::fill(target_ + size_.at(cleared, y0, 0), target_ + size_.at(cleared, y1, 0), T(0));
      for (; made <= clamped(z + 1, size_.d); ++made) make_slopes(made);
      push_from(z);
    }
  }

 private:
  T* slopes(int64_t z, int64_t y, int k) {
    return slopes_ + ((z % Pairs::planes * Pairs::count + k) * height_ + y - (y0_ - 2)) * pitch_;
  }

  void make_slopes(int64_t z) {
    const int64_t first = clamped(y0_ - 2, size_.h), last = std::min(y1_ + 2, size_.h);
    RowRing<T> rows(ring_, pitch_, size_, first);
    for (int64_t y = first; y < last; ++y) {
      const auto sums = rows.at(y, [&](int64_t row, T* out) {
        squares_of_({place_rows<Pairs::planes>(image_, size_, z, row), lines_, out, pitch_, 3 * pitch_});
      });
      slopes_of_(
          {sums, floor_, grad_ + size_.at(z, y, 0), args_.channels * size_.count(), slopes(z, y, 0), height_ * pitch_});
    }
  }

  void push_from(int64_t z) {
    const int64_t first = clamped(y0_ - 1, size_.h), last = std::min(y1_ + 1, size_.h);
    RowRing<T> rows(ring_, pitch_, size_, first);
    for (int64_t y = first; y < last; ++y) {
      PushRow<T> push{rows.at(y, [&](int64_t row, T* out) { sum_planes(z, row, out); }),
                      place_rows<1>(image_, size_, z, y),
                      {},
                      up_,
                      up_ + pitch_};
      for (int m = 0; m < 5; ++m) push.target[m] = target_at(push.image.row[0][m] - image_);
      push_of_(push);
    }
  }

  void sum_planes(int64_t z, int64_t y, T* out) {
    for (int k = 0; k < Pairs::count; ++k) {
      PlanesRow<T, Pairs::planes> row{size_.w, {}, lines_, out + 3 * k * pitch_};
      for (int o = 0; o < Pairs::planes; ++o) row.plane[o] = slopes(clamped(z + o - Pairs::planes / 2, size_.d), y, k);
      planes_of_(row);
    }
  }

  // The gradient's row that begins at voxel `at`, if this block owns it.
  T* target_at(int64_t at) {
    const int64_t y = at / size_.w % size_.h, z = at / size_.w / size_.h;
    return z >= z0_ && z < z1_ && y >= y0_ && y < y1_ ? target_ + at : nowhere_;
  }

  const MindArgs& args_;
  Shape size_;
  int64_t pitch_, height_, z0_ = 0, z1_ = 0, y0_ = 0, y1_ = 0;
  std::unique_ptr<T, Free<T>> memory_;
  T *lines_, *ring_, *nowhere_, *up_, *slopes_, *target_ = nullptr, floor_ = 0;
  const T *image_ = nullptr, *grad_ = nullptr;
  const decltype(for_isa<squares_row<Pairs, T>>()) squares_of_ = for_isa<squares_row<Pairs, T>>();
  const decltype(for_isa<slopes_row<Pairs, T>>()) slopes_of_ = for_isa<slopes_row<Pairs, T>>();
  const decltype(for_isa<planes_row<Pairs::planes, T>>()) planes_of_ = for_isa<planes_row<Pairs::planes, T>>();
  const decltype(for_isa<push_row<Pairs, T>>()) push_of_ = for_isa<push_row<Pairs, T>>();
};

template <class Pairs, class T>
struct Backward {
  static void run(const MindArgs& args) {
    const Shape size = shape_of(args.size);
    const Blocks blocks(args, size, Pairs::planes * Pairs::count * mind_pitch(size.w) * int64_t(sizeof(T)));
    const int64_t each = blocks.along * blocks.across, tasks = args.batch * args.channels * each;
    prefer_huge_pages(args.grad_image, args.batch * args.channels * size.count() * sizeof(T));
#pragma omp parallel num_threads(args.threads)
    {
      Block<Pairs, T> block(args, blocks);
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < tasks; ++task) {
        const int64_t z = task % each / blocks.across * blocks.planes, y = task % blocks.across * blocks.rows;
        if (y < size.h)
          block.run(task / each, z, std::min(z + blocks.planes, size.d), y, std::min(y + blocks.rows, size.h));
      }
    }
  }
};

}  // namespace

void mind_backward(const MindArgs& args) { by_dtype<Backward>(args); }

}  // namespace fastreg::cpu
