// The local correlation: the work cut into slabs that fit a bounded workspace, and the launches.
#include <algorithm>
#include <limits>
#include <utility>

#include "common/shape.h"
#include "cuda/lncc_any.cuh"
#include "cuda/lncc_fast.cuh"
#include "cuda/lncc_launch.cuh"

namespace fastreg::cuda {
namespace {

int64_t parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

struct Device {
  int shared = 0, processors = 0;

  Device() {
    int device = 0;
    check(cudaGetDevice(&device), "lncc");
    check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "lncc");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "lncc");
  }
};

// A launch of the windows pass, then one of the gradient pass over the voxels that have all their windows.
struct Slab {
  int64_t image, images, windows_first, windows_last, voxels_first, voxels_last;
};

class Plan {
 public:
  explicit Plan(const LnccArgs& args) : args_(args), size_(shape_of(args.size)) {
    const int half = args.form.window[2] / 2, half_y = args.form.window[1] / 2;
    half_z = args.form.window[0] / 2;
    const bool wide = args.dtype == DType::f64, cube = half_y == half && (args.ndim == 2 || half_z == half);
    fast = !wide && !args.mask && !args.form.count && cube && half >= 1 && half <= 4 && size_.count() < 0x7fffffff;
    fields = args.grad_a && args.grad_b ? 5 : args.grad_a || args.grad_b ? 3 : 0;
    const int64_t images = args.batch * args.channels;
    const int64_t plane_bytes = std::max(1, fields) * size_.h * size_.w * (wide ? 8 : 4);
    const int64_t fitting = args.workspace / plane_bytes;
    ring = std::min(size_.d, std::max<int64_t>(fitting, 4 * half_z + 8));
    group = fields == 0 ? images : std::max<int64_t>(1, std::min(images, fitting / size_.d));
    adjoint_bytes = fields == 0 ? 0 : size_t(fields) * size_t(group * ring * size_.h * size_.w) * (wide ? 8 : 4);
    tiles = parts(size_.w, kTileX) * parts(size_.h, kTileY);
    for_each_slab([&](const Slab& slab) {
      const int64_t blocks = blocks_of(slab.images, slab.windows_last - slab.windows_first);
      most_blocks = std::max(most_blocks, blocks);
      partials += (fast ? blocks : 0) + any_blocks(blocks);
    });
    memory_doubles = any_memory(args.mask ? kMostStatistics : kStatistics, half_y, half);
    const size_t shared = any_shared_bytes();
    in_shared = shared <= size_t(device_.shared);
    columns_bytes = in_shared ? 0 : size_t(memory_doubles) * 8 * size_t(any_blocks(most_blocks));
  }

  bool fast;
  int fields, half_z;
  int64_t ring, group, tiles, partials = 0, most_blocks = 0, memory_doubles = 0;
  size_t adjoint_bytes = 0, columns_bytes = 0;
  bool in_shared = true;

  size_t any_shared_bytes() const { return kReduceShared + 4 * sizeof(double) + size_t(memory_doubles) * 8; }
  size_t any_shared() const { return in_shared ? any_shared_bytes() : kReduceShared + 4 * sizeof(double); }
  int buffers(int fields_summed) const { return fast_shared(fields_summed, 2) <= size_t(device_.shared) ? 2 : 1; }

  // Planes of a block: about one block a processor, but no more planes than keep the starts of the sums cheap.
  int64_t chunk(int64_t images, int64_t planes) const {
    const int64_t wanted = std::max<int64_t>(1, device_.processors / std::max<int64_t>(1, tiles * images));
    return std::max<int64_t>(1, std::min<int64_t>(64, std::max<int64_t>(parts(planes, wanted), 2 * half_z)));
  }
  int64_t blocks_of(int64_t images, int64_t planes) const {
    return tiles * images * parts(planes, chunk(images, planes));
  }
  // Blocks of the float64 march, each with its own memory; they share the parts among them.
  int64_t any_blocks(int64_t blocks) const { return std::min<int64_t>(kAnyParts * blocks, 8 * device_.processors); }

  template <class F>
  void for_each_slab(const F& f) const {
    const int64_t images = args_.batch * args_.channels;
    for (int64_t image = 0; image < images; image += group) {
      const int64_t count = std::min(group, images - image);
      int64_t windows = 0, voxels = 0;
      while (voxels < size_.d) {
        // Planes from voxels - half_z on are still needed.
        const int64_t last = fields ? std::min(size_.d, std::max<int64_t>(voxels - half_z, 0) + ring) : size_.d;
        const int64_t done = last == size_.d ? size_.d : last - half_z;
        f(Slab{image, count, windows, last, voxels, done});
        windows = last;
        voxels = done;
      }
    }
  }

 private:
  const LnccArgs& args_;
  Shape size_;
  Device device_;
};

LnccRule<float> single(const LnccRule<double>& r) {
  return {float(r.var_least), float(r.var_add), float(r.cross_least), float(r.num_eps), float(r.den_eps),
          float(r.flat_eps),  float(r.flat),    float(r.most),        r.mean,           r.plain,
          r.squared,          float(r.noise)};
}

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

LnccJob job_of(const LnccArgs& args, const Plan& plan) {
  const Shape size = shape_of(args.size);
  LnccJob job{};
  job.d = size.d;
  job.h = size.h;
  job.w = size.w;
  job.radius = args.form.window[2] / 2;
  job.radius_y = args.form.window[1] / 2;
  job.radius_z = plan.half_z;
  job.tiles_x = parts(size.w, kTileX);
  job.tiles_y = parts(size.h, kTileY);
  job.dtype = args.dtype;
  job.a = args.a;
  job.b = args.b;
  job.grad_a = args.grad_a;
  job.grad_b = args.grad_b;
  if (!job.grad_a) {  // the value is symmetric: one gradient is always that to a
    std::swap(job.a, job.b);
    std::swap(job.grad_a, job.grad_b);
  }
  const size_t alignment = args.dtype == DType::f32 ? 16 : 8;
  job.vectors = size.w % 4 == 0 && reinterpret_cast<uintptr_t>(job.a) % alignment == 0 &&
                reinterpret_cast<uintptr_t>(job.b) % alignment == 0;
  job.weight = args.weight;
  job.channels = args.channels;
  job.weight_channels = args.weight_channels;
  job.mask = args.mask;
  job.mask_channels = args.mask_channels;
  job.rule = lncc_rule(args.form, std::numeric_limits<double>::infinity());
  job.count = args.form.count;
  job.inv_n = 1.0 / (double(args.form.window[0]) * double(args.form.window[1]) * double(args.form.window[2]));
  job.scale = args.scale;
  job.rule32 = single(job.rule);
  job.inv_n32 = float(job.inv_n);
  job.scale32 = float(job.scale);
  job.map = args.map;
  job.ring = plan.ring;
  job.field = plan.group * plan.ring * size.h * size.w;
  return job;
}

}  // namespace

size_t lncc_scratch(const LnccArgs& args) {
  const Plan plan(args);
  return aligned(plan.adjoint_bytes) + aligned(size_t(plan.partials) * sizeof(double)) + aligned(plan.columns_bytes) +
         aligned(size_t(plan.most_blocks) * sizeof(int));
}

void lncc(const LnccArgs& args) {
  const Plan plan(args);
  LnccJob job = job_of(args, plan);
  char* scratch = static_cast<char*>(args.scratch);
  const auto take = [&](size_t bytes) { return std::exchange(scratch, scratch + aligned(bytes)); };
  job.adjoints = take(plan.adjoint_bytes);
  double* const partial = reinterpret_cast<double*>(take(size_t(plan.partials) * sizeof(double)));
  double* const columns_memory = reinterpret_cast<double*>(take(plan.columns_bytes));
  double* const columns = plan.in_shared ? nullptr : columns_memory;
  int* const redo = reinterpret_cast<int*>(take(size_t(plan.most_blocks) * sizeof(int)));
  int64_t used = 0;

  const auto cut = [&](int64_t first, int64_t last, int64_t images) {
    job.z_first = first;
    job.z_last = last;
    job.chunk = plan.chunk(images, last - first);
    job.chunks = parts(last - first, job.chunk);
    return plan.blocks_of(images, last - first);
  };
  plan.for_each_slab([&](const Slab& slab) {
    job.image = slab.image;
    int64_t blocks = cut(slab.windows_first, slab.windows_last, slab.images);
    job.redo = nullptr;
    if (plan.fast) {
      job.redo = redo;
      job.partial = partial + used;
      job.buffers = plan.buffers(5);
      launch_lncc_forward_fast(job, plan.fields, blocks, args.stream);
      used += blocks;
    }
    job.partial = partial + used;
    launch_lncc_forward_any(job, plan.fields, kAnyParts * blocks, plan.any_blocks(blocks), plan.any_shared(), columns,
                            args.stream);
    used += plan.any_blocks(blocks);
    if (plan.fields == 0) return;
    blocks = cut(slab.voxels_first, slab.voxels_last, slab.images);
    job.buffers = plan.buffers(plan.fields);
    if (plan.fast) launch_lncc_backward_fast(job, plan.fields, blocks, args.stream);
    else
      launch_lncc_backward_any(job, plan.fields, kAnyParts * blocks, plan.any_blocks(blocks), plan.any_shared(),
                               columns, args.stream);
  });
  sum_partials(partial, used, static_cast<double*>(args.value), args.stream);
}

}  // namespace fastreg::cuda
