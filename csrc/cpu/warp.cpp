// Rows and threads of the warp. A thread owns planes of the target, so that the gradient of the volume is summed in one
// order whatever the number of threads.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/warp_voxel.h"
#include "cpu/memory.h"
#include "cpu/simd.h"
#include "cpu/warp_rows.h"

namespace fastreg::cpu {
namespace {

// Offsets are int32 there, and coordinates sums of whole numbers in float32.
bool fits_lanes(const WarpArgs& args) {
  const int64_t longest = int64_t{1} << 23, most = int64_t{1} << 31;
  const Shape size = shape_of(args.size), grid = shape_of(args.grid);
  for (int axis = 0; axis < 3; ++axis)
    if (size[axis] > longest || grid[axis] > longest) return false;
  return size.w > 1 && size.count() < most;
}

template <class T>
RowKernels<T> choose_rows(const WarpArgs& args) {
  RowKernels<T> rows = portable_rows<T>(args.ndim, args.mode, args.padding);
  if constexpr (std::is_same_v<T, float>)
    if (isa_level() != Isa::baseline && fits_lanes(args)) {
      const bool linear = args.mode == Mode::linear;
      void (*nearest)(const Row<float>&) = nullptr;
#if FR_X86
      const bool wide = isa_level() >= Isa::avx512;
      if (linear) return wide ? avx512_rows(args.ndim, args.padding) : avx2_rows(args.ndim, args.padding);
      nearest = wide ? avx512_nearest(args.ndim, args.padding) : avx2_nearest(args.ndim, args.padding);
#elif FR_NEON
      if (linear) return neon_rows(args.ndim, args.padding);
      nearest = neon_nearest(args.ndim, args.padding);
#endif
      if (nearest && !linear) rows.forward = nearest;
    }
  return rows;
}

// The rows of a problem, shared among threads.
template <class T>
struct Sweep {
  const WarpArgs& args;
  bool squaring;
  Shape size, grid;
  RowKernels<T> kernels;

  Sweep(const WarpArgs& args, bool squaring)
      : args(args),
        squaring(squaring),
        size(shape_of(args.size)),
        grid(shape_of(args.grid)),
        kernels(choose_rows<T>(args)) {}

  int64_t planes(const Shape& shape) const { return args.ndim == 3 ? shape.d : shape.h; }
  int64_t plane_of(int64_t row) const { return args.ndim == 3 ? row / grid.h : row; }

  // Without the gradients, which not every call wants.
  Row<T> row(int64_t batch, int64_t index) const {
    Row<T> row{};
    row.size = size;
    row.channels = args.channels;
    row.n = grid.w;
    row.absolute = args.normalised;
    if (!row.absolute) {
      row.z = index / grid.h;
      row.y = index % grid.h;
    }
    for (int axis = 0; axis < 3; ++axis) {
      row.of_flow[axis] = half_extent<T>(size[axis], args.align_corners);
      row.centre[axis] = from_normalised<T>(0, row.of_flow[axis], size[axis]);
    }
    row.flow_stride = args.channels_last ? args.ndim : 1;
    row.out_stride = grid.count();
    row.squaring = squaring;
    for (int axis = 3 - args.ndim; axis < 3; ++axis)
      row.flow[axis] = static_cast<const T*>(args.flow) + flow_offset(batch, index, axis);
    row.vol = static_cast<const T*>(args.vol) + volume_offset(batch);
    const int64_t out = batch * args.channels * grid.count() + index * grid.w;
    if (args.out) row.out = static_cast<T*>(args.out) + out;
    if (args.grad_out) row.grad_out = static_cast<const T*>(args.grad_out) + out;
    return row;
  }

  void want_grad_flow(Row<T>& row, int64_t batch, int64_t index) const {
    for (int axis = 3 - args.ndim; axis < 3; ++axis)
      row.grad_flow[axis] = static_cast<T*>(args.grad_flow) + flow_offset(batch, index, axis);
  }

  int64_t flow_offset(int64_t batch, int64_t index, int axis) const {
    const int64_t channel = args.normalised ? 2 - axis : axis - (3 - args.ndim);
    const int64_t item = batch * args.ndim * grid.count();
    return args.channels_last ? item + index * grid.w * args.ndim + channel
                              : item + channel * grid.count() + index * grid.w;
  }

  int64_t volumes() const { return args.vol_shared ? 1 : args.batch; }
  int64_t volume_offset(int64_t batch) const { return args.vol_shared ? 0 : batch * args.channels * size.count(); }

  int64_t bytes(const Shape& shape, int64_t items) const { return items * shape.count() * sizeof(T); }

  void forward() const {
    prefer_huge_pages(args.out, bytes(grid, args.batch * args.channels));
    const int64_t rows = args.batch * grid.rows();
#pragma omp parallel for num_threads(args.threads) schedule(static)
    for (int64_t r = 0; r < rows; ++r) kernels.forward(row(r / grid.rows(), r % grid.rows()));
  }

  void backward() const {
    prefer_huge_pages(args.grad_vol, bytes(size, volumes() * args.channels));
    prefer_huge_pages(args.grad_flow, bytes(grid, args.batch * args.ndim));
    if (args.grad_vol) return backward_slabs();
    const int64_t rows = args.batch * grid.rows();
#pragma omp parallel for num_threads(args.threads) schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      Row<T> row = this->row(r / grid.rows(), r % grid.rows());
      want_grad_flow(row, r / grid.rows(), r % grid.rows());
      kernels.backward(row);
    }
  }

  // Planes of the volume that a row may read.
  struct Reach {
    int64_t low, high;
  };

  Reach reach(int64_t batch, int64_t index) const {
    const int axis = 3 - args.ndim;
    const T* u = static_cast<const T*>(args.flow) + flow_offset(batch, index, axis);
    const int64_t stride = args.channels_last ? args.ndim : 1;
    T least = std::numeric_limits<T>::infinity(), most = -least;
    for (int64_t x = 0; x < grid.w; ++x) {  // NaN passes by
      const T value = u[x * stride];
      least = value < least ? value : least;
      most = value > most ? value : most;
    }
    if (least > most) return {0, -1};
    const T far = static_cast<T>(kFar);
    const int64_t last = planes(size) - 1, at = args.normalised ? 0 : plane_of(index);
    int64_t spare = 0;
    if (args.normalised) {
      const T half = half_extent<T>(size[axis], args.align_corners);
      least = from_normalised(least, half, size[axis]);
      most = from_normalised(most, half, size[axis]);
      if (is_nan(least) || is_nan(most)) return {0, last};  // infinity times a length of 0
      spare = 1;                                            // the kernels may round the product otherwise
    }
    Reach reach{at + floor_index(std::clamp(least, -far, far)) - spare,
                at + floor_index(std::clamp(most, -far, far)) + 1 + spare};
    if (args.padding == Padding::border || args.padding == Padding::itk)
      return {std::clamp<int64_t>(reach.low, 0, last), std::clamp<int64_t>(reach.high, 0, last)};
    if (args.padding != Padding::zeros && (reach.low < 0 || reach.high > last)) return {0, last};
    return reach;
  }

  // Each slab of target planes is summed by one thread from all rows that reach it, in the order of the rows; of all
  // fields, in the order of the batch, where these share the volume.
  void backward_slabs() const {
    const int64_t rows = grid.rows();
    const int64_t threads = std::max(args.threads, 1);
    const int64_t slabs = volumes() >= threads ? 1 : std::min(threads, planes(size));
    const int64_t fields = args.vol_shared ? args.batch : 1;  // of a volume
    std::vector<Reach> reaches(slabs > 1 ? args.batch * rows : 0);
#pragma omp parallel num_threads(args.threads)
    {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < static_cast<int64_t>(reaches.size()); ++r) reaches[r] = reach(r / rows, r % rows);
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < volumes() * slabs; ++task) {
        const int64_t volume = task / slabs, slab = task % slabs;
        const int64_t first = slab * planes(size) / slabs, last = (slab + 1) * planes(size) / slabs;
        const int64_t first_own = slab * planes(grid) / slabs, last_own = (slab + 1) * planes(grid) / slabs;
        prepare(volume, first, last);
        for (int64_t r = 0; r < fields * rows; ++r) {
          const int64_t batch = volume * fields + r / rows, index = r % rows;
          Row<T> row = this->row(batch, index);
          const int64_t plane = plane_of(index);
          const bool own = args.grad_flow && plane >= first_own && plane < last_own;
          const Reach all{first, last}, reach = slabs == 1 ? all : reaches[batch * rows + index];
          const bool reached = reach.high >= first && reach.low < last;
          if (!own && !reached) continue;
          if (own) want_grad_flow(row, batch, index);
          if (reached) row.grad_vol = static_cast<T*>(args.grad_vol) + volume_offset(batch);
          row.first = first;
          row.last = last;
          kernels.backward(row);
        }
      }
    }
  }

  // What the planes of grad_vol hold before anything is added.
  void prepare(int64_t volume, int64_t first, int64_t last) const {
    const int64_t plane = size.count() / planes(size);
    for (int64_t c = 0; c < args.channels; ++c) {
      const int64_t channel = (volume * args.channels + c) * size.count();
      T* target = static_cast<T*>(args.grad_vol) + channel;
      const T* upstream = static_cast<const T*>(args.grad_out) + channel;
      if (squaring) std::copy(upstream + first * plane, upstream + last * plane, target + first * plane);
      else std::fill(target + first * plane, target + last * plane, T(0));
    }
  }
};

}  // namespace

void sweep_forward(const WarpArgs& args, bool squaring) {
  if (args.dtype == DType::f64) return Sweep<double>(args, squaring).forward();
  Sweep<float>(args, squaring).forward();
}

void sweep_backward(const WarpArgs& args, bool squaring) {
  if (args.dtype == DType::f64) return Sweep<double>(args, squaring).backward();
  Sweep<float>(args, squaring).backward();
}

void warp_forward(const WarpArgs& args) { sweep_forward(args, false); }

void warp_backward(const WarpArgs& args) { sweep_backward(args, false); }

}  // namespace fastreg::cpu
