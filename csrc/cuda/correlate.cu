// The cost volume, a thread a voxel, lanes along x: the 27 scores or slopes of radius 1 stay in registers over all
// channels, and rows of b come from the first cache. Nothing is added in an order that varies.
#include "common/shape.h"
#include "cuda/differences.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 27;  // displacements at a time

template <class T>
struct Images {
  const T *a, *b;
  int64_t channels, count;  // count: batch * voxels
  Shape size;
  int radius, radius_z, displacements;
  bool border;

  explicit Images(const CorrelateArgs& args)
      : a(static_cast<const T*>(args.a)),
        b(static_cast<const T*>(args.b)),
        channels(args.channels),
        count(args.batch * args.size[0] * args.size[1] * args.size[2]),
        size(shape_of(args.size)),
        radius(args.radius),
        radius_z(args.ndim == 3 ? args.radius : 0),
        displacements((2 * radius_z + 1) * (2 * args.radius + 1) * (2 * args.radius + 1)),
        border(args.padding == Padding::border) {}
};

struct Displacement {
  int z, y, x;
};

// Number k of those with components up to a radius. kRadius is 1 for three axes, or -1: known when it runs.
template <int kRadius, class T>
__device__ __forceinline__ Displacement displacement(const Images<T>& images, int k) {
  const int radius = kRadius < 0 ? images.radius : kRadius, reach = 2 * radius + 1;
  return {k / reach / reach - (kRadius < 0 ? images.radius_z : kRadius), k / reach % reach - radius,
          k % reach - radius};
}

__device__ __forceinline__ int64_t clamped(int64_t place, int64_t size) {
  return place < 0 ? 0 : place < size ? place : size - 1;
}

__device__ __forceinline__ bool inside(int64_t z, int64_t y, int64_t x, const Shape& size) {
  return z >= 0 && z < size.d && y >= 0 && y < size.h && x >= 0 && x < size.w;
}

// Where b is read, -1 where it is 0.
template <class T>
__device__ __forceinline__ int64_t there(const Images<T>& images, const Voxel& at, const Displacement& d) {
  const int64_t z = at.z + d.z, y = at.y + d.y, x = at.x + d.x;
  const Shape& size = images.size;
  if (images.border) return size.at(clamped(z, size.d), clamped(y, size.h), clamped(x, size.w));
  return inside(z, y, x, size) ? size.at(z, y, x) : -1;
}

// Scores of displacements first .. first + kChunk - 1 at a voxel.
template <bool ssd, int kRadius, class T>
__device__ __forceinline__ void scores_at(const Images<T>& images, int64_t i, int first, Compute<T> (&sum)[kChunk]) {
  const int64_t voxels = images.size.count(), item = i / voxels;
  const Voxel at(i, images.size);
  const T* a = images.a + item * images.channels * voxels + i % voxels;
  const T* b = images.b + item * images.channels * voxels;
#pragma unroll
  for (int j = 0; j < kChunk; ++j) sum[j] = 0;
  for (int64_t c = 0; c < images.channels; ++c, a += voxels, b += voxels) {
    const Compute<T> here = load(a);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (kRadius < 0 && first + j >= images.displacements) break;
      const int64_t place = there(images, at, displacement<kRadius>(images, first + j));
      const Compute<T> value = place < 0 ? Compute<T>(0) : load(b + place);
      sum[j] += ssd ? (here - value) * (here - value) : here * value;
    }
  }
  const Compute<T> scale = Compute<T>(1) / Compute<T>(images.channels);
#pragma unroll
  for (int j = 0; j < kChunk; ++j) sum[j] *= scale;
}

template <bool ssd, int kRadius, class T>
__global__ void __launch_bounds__(kThreads) correlate_forward_kernel(Images<T> images, T* out) {
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, voxels = images.size.count();
  if (i >= images.count) return;
  T* const to = out + i / voxels * images.displacements * voxels + i % voxels;
  for (int first = 0; first < images.displacements; first += kChunk) {
    Compute<T> sum[kChunk];
    scores_at<ssd, kRadius>(images, i, first, sum);
#pragma unroll
    for (int j = 0; j < kChunk; ++j)
      if (first + j < images.displacements) narrow(sum[j], to[(first + j) * voxels]);
  }
}

// The softmax over displacements, as it goes: what was summed is scaled to the largest exponent so far.
template <class W>
struct Softmax {
  W most, total, mean[3];
};

template <bool ssd, int kRadius, class T>
__device__ __forceinline__ Softmax<Compute<T>> softmax_at(const Images<T>& images, int64_t i, Compute<T> slope,
                                                          Compute<T> (&sum)[kChunk]) {
  using W = Compute<T>;
  Softmax<W> found{-W(INFINITY), 0, {0, 0, 0}};
  for (int first = 0; first < images.displacements; first += kChunk) {
    scores_at<ssd, kRadius>(images, i, first, sum);
    W most = found.most;
#pragma unroll
    for (int j = 0; j < kChunk; ++j)
      if (first + j < images.displacements) most = slope * sum[j] > most ? slope * sum[j] : most;
    const W rescale = first == 0 ? W(0) : W(exp(found.most - most));
    found.most = most;
    found.total *= rescale;
    for (int axis = 0; axis < 3; ++axis) found.mean[axis] *= rescale;
#pragma unroll
    for (int j = 0; j < kChunk; ++j)
      if (first + j < images.displacements) {
        const W weight = exp(slope * sum[j] - most);
        const Displacement d = displacement<kRadius>(images, first + j);
        found.total += weight;
        found.mean[0] += weight * W(d.z);
        found.mean[1] += weight * W(d.y);
        found.mean[2] += weight * W(d.x);
      }
  }
  for (int axis = 0; axis < 3; ++axis) found.mean[axis] /= found.total;
  return found;
}

template <bool ssd, int kRadius, class T>
__global__ void __launch_bounds__(kThreads)
    correlate_mean_kernel(Images<T> images, int ndim, Compute<T> slope, Compute<T>* out) {
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, voxels = images.size.count();
  if (i >= images.count) return;
  Compute<T> sum[kChunk];
  const auto found = softmax_at<ssd, kRadius>(images, i, slope, sum);
  for (int axis = 0; axis < ndim; ++axis)
    out[(i / voxels * ndim + axis) * voxels + i % voxels] = found.mean[axis + 3 - ndim];
}

// The gradient to the scores, from that to the mean displacement.
template <bool ssd, int kRadius, class T>
__global__ void __launch_bounds__(kThreads)
    correlate_slopes_kernel(Images<T> images, int ndim, Compute<T> slope, const Compute<T>* grad, Compute<T>* slopes) {
  using W = Compute<T>;
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, voxels = images.size.count();
  if (i >= images.count) return;
  W sum[kChunk], g[3] = {0, 0, 0};
  const Softmax<W> found = softmax_at<ssd, kRadius>(images, i, slope, sum);
  for (int axis = 0; axis < ndim; ++axis)
    g[axis + 3 - ndim] = load(grad + (i / voxels * ndim + axis) * voxels + i % voxels);
  W* const to = slopes + i / voxels * images.displacements * voxels + i % voxels;
  for (int first = 0; first < images.displacements; first += kChunk) {
    if (images.displacements > kChunk) scores_at<ssd, kRadius>(images, i, first, sum);
#pragma unroll
    for (int j = 0; j < kChunk; ++j)
      if (first + j < images.displacements) {
        const Displacement d = displacement<kRadius>(images, first + j);
        const W rest =
            (W(d.z) - found.mean[0]) * g[0] + (W(d.y) - found.mean[1]) * g[1] + (W(d.x) - found.mean[2]) * g[2];
        to[(first + j) * voxels] = slope * exp(slope * sum[j] - found.most) / found.total * rest;
      }
  }
}

// slopes: [batch, displacements, D, H, W], the gradient to the scores.
template <bool ssd, int kRadius, class T, class S>
__global__ void __launch_bounds__(kThreads)
    correlate_backward_a_kernel(Images<T> images, const S* slopes, Compute<T> scale, T* grad_a) {
  using W = Compute<T>;
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, voxels = images.size.count(), item = i / voxels;
  if (i >= images.count) return;
  const Voxel at(i, images.size);
  const int64_t first_channel = item * images.channels * voxels;
  const S* const from = slopes + item * images.displacements * voxels + i % voxels;
  W g[kChunk];
#pragma unroll
  for (int k = 0; k < kChunk; ++k) g[k] = k < images.displacements ? W(load(from + k * voxels)) : W(0);
  for (int64_t c = 0; c < images.channels; ++c) {
    const T* const b = images.b + first_channel + c * voxels;
    const W here = ssd ? load(images.a + first_channel + c * voxels + i % voxels) : W(0);
    W sum = 0;
    const auto add = [&](int k, W slope) {
      const int64_t place = there(images, at, displacement<kRadius>(images, k));
      sum += slope * ((place < 0 ? W(0) : W(load(b + place))) - here);
    };
#pragma unroll
    for (int k = 0; k < kChunk; ++k)
      if (kRadius >= 0 || k < images.displacements) add(k, g[k]);
    for (int k = kChunk; k < images.displacements; ++k) add(k, W(load(from + k * voxels)));
    narrow(scale * sum, grad_a[first_channel + c * voxels + i % voxels]);
  }
}

// Every a(q - d) that has read a voxel of b; at a border that goes on, for the voxels q beyond it as well.
template <bool ssd, int kRadius, class T, class S>
__global__ void __launch_bounds__(kThreads)
    correlate_backward_b_kernel(Images<T> images, const S* slopes, Compute<T> scale, T* grad_b) {
  using W = Compute<T>;
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x, voxels = images.size.count(), item = i / voxels;
  if (i >= images.count) return;
  const Shape& size = images.size;
  const Voxel at(i, size);
  const int64_t first_channel = item * images.channels * voxels;
  const S* const from = slopes + item * images.displacements * voxels;
  const auto term = [&](const T* a, W here, const Displacement& d, int k, int64_t z, int64_t y, int64_t x) {
    if (!inside(z - d.z, y - d.y, x - d.x, size)) return W(0);
    const int64_t place = size.at(z - d.z, y - d.y, x - d.x);
    return W(load(from + k * voxels + place)) * (W(load(a + place)) - here);
  };
  const int64_t over = images.border ? images.radius : 0, over_z = images.border ? images.radius_z : 0;
  const int64_t z0 = at.z - (at.z == 0 ? over_z : 0), z1 = at.z + (at.z == size.d - 1 ? over_z : 0);
  const int64_t y0 = at.y - (at.y == 0 ? over : 0), y1 = at.y + (at.y == size.h - 1 ? over : 0);
  const int64_t x0 = at.x - (at.x == 0 ? over : 0), x1 = at.x + (at.x == size.w - 1 ? over : 0);
  const bool alone = kRadius == 1 && z0 == z1 && y0 == y1 && x0 == x1;
  W g[kChunk];
#pragma unroll
  for (int k = 0; k < kChunk && alone; ++k) {
    const Displacement d = displacement<kRadius>(images, k);
    const bool there = inside(at.z - d.z, at.y - d.y, at.x - d.x, size);
    g[k] = there ? W(load(from + k * voxels + size.at(at.z - d.z, at.y - d.y, at.x - d.x))) : W(0);
  }
  for (int64_t c = 0; c < images.channels; ++c) {
    const T* const a = images.a + first_channel + c * voxels;
    const W here = ssd ? load(images.b + first_channel + c * voxels + i % voxels) : W(0);
    W sum = 0;
    if (alone) {
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const Displacement d = displacement<kRadius>(images, k);
        if (inside(at.z - d.z, at.y - d.y, at.x - d.x, size))
          sum += g[k] * (W(load(a + size.at(at.z - d.z, at.y - d.y, at.x - d.x))) - here);
      }
    } else {
      for (int64_t z = z0; z <= z1; ++z)
        for (int64_t y = y0; y <= y1; ++y)
          for (int64_t x = x0; x <= x1; ++x)
            for (int k = 0; k < images.displacements; ++k)
              sum += term(a, here, displacement<kRadius>(images, k), k, z, y, x);
    }
    narrow(scale * sum, grad_b[first_channel + c * voxels + i % voxels]);
  }
}

// Calls of(ssd, radius) with constants.
template <class Of>
void by_kind(const CorrelateArgs& args, const Of& of) {
  const auto radius = [&](auto ssd) {
    if (args.ndim == 3 && args.radius == 1) of(ssd, std::integral_constant<int, 1>());
    else of(ssd, std::integral_constant<int, -1>());
  };
  args.measure == Measure::ssd ? radius(std::true_type()) : radius(std::false_type());
}

template <class T, bool ssd, int kRadius>
struct Sweep {
  using W = Compute<T>;
  const CorrelateArgs& args;
  Images<T> images{args};
  int64_t blocks = (images.count + kThreads - 1) / kThreads;
  W slope = W(ssd ? -args.sharpness : args.sharpness);

  void forward() const {
    if (args.sharpness > 0)
      launch("correlate_mean_kernel", correlate_mean_kernel<ssd, kRadius, T>, blocks, kThreads, 0, args.stream, images,
             args.ndim, slope, static_cast<W*>(args.out));
    else
      launch("correlate_forward_kernel", correlate_forward_kernel<ssd, kRadius, T>, blocks, kThreads, 0, args.stream,
             images, static_cast<T*>(args.out));
  }

  void backward() const {
    if (args.sharpness == 0) return gradients(static_cast<const T*>(args.grad));
    W* const slopes = static_cast<W*>(args.scratch);
    launch("correlate_slopes_kernel", correlate_slopes_kernel<ssd, kRadius, T>, blocks, kThreads, 0, args.stream,
           images, args.ndim, slope, static_cast<const W*>(args.grad), slopes);
    gradients(static_cast<const W*>(slopes));
  }

  template <class S>
  void gradients(const S* slopes) const {
    const W scale = W(ssd ? -2 : 1) / W(args.channels);
    if (args.grad_a)
      launch("correlate_backward_a_kernel", correlate_backward_a_kernel<ssd, kRadius, T, S>, blocks, kThreads, 0,
             args.stream, images, slopes, scale, static_cast<T*>(args.grad_a));
    if (args.grad_b)
      launch("correlate_backward_b_kernel", correlate_backward_b_kernel<ssd, kRadius, T, S>, blocks, kThreads, 0,
             args.stream, images, slopes, scale, static_cast<T*>(args.grad_b));
  }
};

}  // namespace

size_t correlate_scratch(const CorrelateArgs& args) {
  if (args.sharpness == 0 || !args.grad) return 0;
  const size_t bytes = args.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  const Images<float> images(args);
  return size_t(images.count) * size_t(images.displacements) * bytes;
}

void correlate_forward(const CorrelateArgs& args) {
  by_dtype(args.dtype, [&](auto type) {
    by_kind(args, [&](auto ssd, auto radius) {
      Sweep<decltype(type), decltype(ssd)::value, decltype(radius)::value>{args}.forward();
    });
  });
}

void correlate_backward(const CorrelateArgs& args) {
  by_dtype(args.dtype, [&](auto type) {
    by_kind(args, [&](auto ssd, auto radius) {
      Sweep<decltype(type), decltype(ssd)::value, decltype(radius)::value>{args}.backward();
    });
  });
}

}  // namespace fastreg::cuda
