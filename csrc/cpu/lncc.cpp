// The local correlation on the CPU: cuts the work into tiles and gives them to threads. The sweep over a tile is in
// lncc_sweep.inl.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "api.h"
#include "cpu/lncc_tile.h"
#include "cpu/memory.h"
#include "cpu/simd.h"

namespace fastreg::cpu {
namespace {

const LnccSweep& chosen() {
#if FR_X86
  if (isa_level() >= Isa::avx512) return lncc_avx512;
  if (isa_level() >= Isa::avx2) return lncc_avx2;
#endif
  return lncc_baseline;
}

// What an image is centred by, so that sums of squares do not cancel: the mean of what counts in some of its rows, and
// any value near it would do. Exact in T.
template <class T>
double middle(const T* image, const T* mask, int64_t rows, int64_t width) {
  const int64_t wanted = std::max<int64_t>(1, 16384 / width);
  const int64_t step = std::max<int64_t>(1, rows / wanted) | 1;  // odd: not the same row of every slice
  double sum = 0;
  int64_t count = 0;
  for (int64_t y = 0; y < rows; y += step)
    for (int64_t x = 0; x < width; ++x)
      if (std::isfinite(image[y * width + x]) && (!mask || mask[y * width + x] > 0)) {
        sum += double(image[y * width + x]);
        ++count;
      }
  const T mean = count ? T(sum / double(count)) : T(0);
  return std::isfinite(mean) ? double(mean) : 0.0;
}

template <class T>
LnccImage image_pair(const LnccArgs& args, int64_t index) {
  const int64_t voxels = args.size[0] * args.size[1] * args.size[2];
  const auto at = [&](const void* p) { return p ? static_cast<const T*>(p) + index * voxels : nullptr; };
  const auto to = [&](void* p) { return p ? static_cast<T*>(p) + index * voxels : nullptr; };
  const auto shared = [&](const void* p, int64_t channels) {  // an image's own, or that of all channels
    return p ? static_cast<const T*>(p) + (channels == args.channels ? index : index / args.channels) * voxels
             : nullptr;
  };
  LnccImage image{};
  image.a = at(args.a);
  image.b = at(args.b);
  image.mask = shared(args.mask, args.mask_channels);
  image.weight = shared(args.weight, args.weight_channels);
  image.grad_a = to(args.grad_a);
  image.grad_b = to(args.grad_b);
  image.map = to(args.map);
  const auto shift = [&](const void* volume) {
    return middle(static_cast<const T*>(volume), static_cast<const T*>(image.mask), args.size[0] * args.size[1],
                  args.size[2]);
  };
  image.shift_a = shift(image.a);
  image.shift_b = shift(image.b);
  // Where n is fixed the outside reads zero; where n is counted it must not enter any sum.
  if (args.form.count) {
    image.outside_a = image.shift_a;
    image.outside_b = image.shift_b;
  }
  if (!image.grad_a) {  // the value is symmetric: one gradient is always that to a
    std::swap(image.a, image.b);
    std::swap(image.grad_a, image.grad_b);
    std::swap(image.shift_a, image.shift_b);
    std::swap(image.outside_a, image.outside_b);
  }
  return image;
}

int64_t parts(int64_t size, int64_t about) { return std::max<int64_t>(1, (size + about / 2) / about); }

// The cut depends on sizes alone, never on the threads: so do the bits of the result.
std::vector<LnccTile> cut(const LnccPlan& plan) {
  // Wider windows pay more for the borders of a tile, so their tiles are larger; but two threads want a tile each.
  const int64_t nz = parts(plan.depth, 40 + 10 * plan.half_z);
  const int64_t rows = plan.half_y > 4 ? std::clamp<int64_t>(plan.height / 2, 48, 96) : 48;
  int64_t ny = parts(plan.height, rows);
  if (plan.half_y > 4 && nz % 2 && ny > 1) ny += ny % 2;
  std::vector<LnccTile> tiles;
  for (int64_t z = 0; z < nz; ++z)
    for (int64_t y = 0; y < ny; ++y)
      tiles.push_back({plan.depth * z / nz, plan.depth * (z + 1) / nz,  //
                       plan.height * y / ny, plan.height * (y + 1) / ny});
  return tiles;
}

}  // namespace

double lncc(const LnccArgs& args) {
  const int64_t images = args.batch * args.channels;
  if (images == 0) return 0.0;
  const double infinity = std::numeric_limits<double>::infinity();
  const int (&window)[3] = args.form.window;
  const LnccPlan plan{args.size[0],
                      args.size[1],
                      args.size[2],
                      window[2] / 2,
                      window[1] / 2,
                      window[0] / 2,
                      (args.size[2] + lncc_lanes - 1) / lncc_lanes,
                      (args.grad_a != nullptr) + (args.grad_b != nullptr),
                      lncc_rule(args.form, infinity),
                      args.form.count,
                      args.mask != nullptr,
                      args.scale};
  const LnccSweep& sweep = chosen();
  const std::vector<LnccTile> tiles = cut(plan);
  std::vector<LnccImage> pairs;
  for (int64_t i = 0; i < images; ++i)
    pairs.push_back(args.dtype == DType::f32 ? image_pair<float>(args, i) : image_pair<double>(args, i));

  int64_t rows = 0;
  for (const LnccTile& tile : tiles) rows = std::max(rows, tile.y1 - tile.y0);
  const int64_t jobs = images * int64_t(tiles.size());
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(args.threads, jobs)));
  const size_t bytes = (sweep.scratch(plan, args.dtype, rows) + 64 + 4095) / 4096 * 4096;
  const auto memory = scratch<char>(int64_t(bytes) * threads + 64);  // a slice a voxel of the window: up to 40 MB
  char* const aligned = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64);

  std::vector<double> sums(size_t(jobs), 0.0);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  {
#ifdef _OPENMP
    char* const scratch = aligned + bytes * size_t(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
#else
    char* const scratch = aligned;
#endif
    for (int64_t job = 0; job < jobs; ++job)
      sums[size_t(job)] = sweep.run(plan, pairs[size_t(job / int64_t(tiles.size()))],
                                    tiles[size_t(job % int64_t(tiles.size()))], args.dtype, scratch);
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace fastreg::cpu
