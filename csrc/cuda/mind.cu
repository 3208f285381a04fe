// The descriptors, a thread a voxel: patches are read again for every voxel, from cache. The backward goes through two
// arrays for each pair, of one image at a time: the slopes against the distances, and their sums over patches.
#include "common/mind_voxel.h"
#include "cuda/differences.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMeanBlocks = 128;  // of an image

// The image at a voxel's places.
template <class Pairs, class T>
__device__ __forceinline__ void values_at(const T* image, const Shape& size, int64_t z, int64_t y, int64_t x,
                                          Compute<T> (&value)[kPlaces]) {
  const T* const row = image + size.at(z, y, 0);
  value[0] = load(row + x);
  if constexpr (Pairs::ndim == 3) {
    value[1] = load(image + size.at(clamped(z + 1, size.d), y, x));
    value[2] = load(image + size.at(clamped(z - 1, size.d), y, x));
  }
  value[3] = load(image + size.at(z, clamped(y + 1, size.h), x));
  value[4] = load(image + size.at(z, clamped(y - 1, size.h), x));
  value[5] = load(row + clamped(x + 1, size.w));
  value[6] = load(row + clamped(x - 1, size.w));
}

// d_k of a voxel; returns v.
template <class Pairs, class T>
__device__ Compute<T> distances_at(const T* image, const Shape& size, const Voxel& at, Compute<T>* distance) {
  for (int k = 0; k < Pairs::count; ++k) distance[k] = 0;
  for (int dz = -(Pairs::planes / 2); dz <= Pairs::planes / 2; ++dz)
    for (int dy = -1; dy <= 1; ++dy)
      for (int dx = -1; dx <= 1; ++dx) {
        Compute<T> value[kPlaces];
        values_at<Pairs>(image, size, clamped(at.z + dz, size.d), clamped(at.y + dy, size.h),
                         clamped(at.x + dx, size.w), value);
        add_squares<Pairs>(value, distance);
      }
  for (int k = 0; k < Pairs::count; ++k) distance[k] *= Compute<T>(1.0 / Pairs::patch);
  return sum_of<Pairs>(distance) * (Compute<T>(1) / Compute<T>(Pairs::count));
}

// kMeanBlocks blocks an image: sums of its squared differences.
template <class Pairs, class T>
__global__ void __launch_bounds__(kThreads) mind_forward_mean_kernel(const T* image, Shape size, double* partial) {
  image += blockIdx.x / kMeanBlocks * size.count();
  double sum = 0;
  for (int64_t i = blockIdx.x % kMeanBlocks * kThreads + threadIdx.x; i < size.count(); i += kMeanBlocks * kThreads) {
    const Voxel at(i, size);
    Compute<T> value[kPlaces], square[Pairs::count] = {};
    values_at<Pairs>(image, size, at.z, at.y, at.x, value);
    add_squares<Pairs, Pairs::step>(value, square);
    sum += sum_of<Pairs>(square);
  }
  block_sum(sum, partial);
}

// A thread an image.
template <class T>
__global__ void mind_forward_floor_kernel(const double* partial, int64_t images, double share, T* floor) {
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (i >= images) return;
  double total = 0;
  for (int64_t k = 0; k < kMeanBlocks; ++k) total += partial[i * kMeanBlocks + k];
  const T found = T(share * total);
  floor[i] = found < kTiny<T> ? kTiny<T> : found;
}

template <class Pairs, class T>
__global__ void __launch_bounds__(kThreads)
    mind_forward_kernel(const T* image, const Compute<T>* floor, T* out, int64_t channels, int64_t count, Shape size) {
  const int64_t voxels = size.count();
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t one = i / voxels, channel = one / channels * Pairs::count * channels + one % channels;
    Compute<T> distance[Pairs::count];
    const Compute<T> v = distances_at<Pairs>(image + one * voxels, size, Voxel(i, size), distance);
    put_values<Pairs>(distance, mind_inverse(v, floor[one]), out + channel * voxels + i % voxels, channels * voxels);
  }
}

// Of one image: what the loss's slopes against its distances are. grad: [pairs, stride].
template <class Pairs, class T>
__global__ void __launch_bounds__(kThreads)
    mind_backward_slopes_kernel(const T* image, const Compute<T>* floor, const T* grad, int64_t grad_stride,
                                Compute<T>* slope, Shape size) {
  const int64_t voxels = size.count();
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < voxels; i += int64_t(gridDim.x) * kThreads) {
    Compute<T> distance[Pairs::count], upstream[Pairs::count];
    const Compute<T> v = distances_at<Pairs>(image, size, Voxel(i, size), distance);
    for (int k = 0; k < Pairs::count; ++k) upstream[k] = load_once(grad + k * grad_stride + i);
    slopes_of<Pairs>(distance, v, *floor, upstream, 1, slope + i, voxels);
  }
}

// weight = 2 / patch times the sum over the patch of slope; both [pairs, D, H, W].
template <class Pairs, class T>
__global__ void __launch_bounds__(kThreads) mind_backward_weights_kernel(const T* slope, T* weight, Shape size) {
  const int64_t voxels = size.count();
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < Pairs::count * voxels;
       i += int64_t(gridDim.x) * kThreads) {
    const T* const from = slope + i / voxels * voxels;
    const Voxel at(i, size);
    T sum = 0;
    for (int dz = -(Pairs::planes / 2); dz <= Pairs::planes / 2; ++dz)
      for (int dy = -1; dy <= 1; ++dy)
        for (int dx = -1; dx <= 1; ++dx)
          sum +=
              load(from + size.at(clamped(at.z + dz, size.d), clamped(at.y + dy, size.h), clamped(at.x + dx, size.w)));
    weight[i] = sum * T(2.0 / Pairs::patch);
  }
}

// What the pairs of voxel (z, y, x) push each of its places by.
template <class Pairs, class T>
__device__ __forceinline__ void pushes_of(const T* image, const Compute<T>* weight, const Shape& size, int64_t z,
                                          int64_t y, int64_t x, Compute<T> (&push)[kPlaces]) {
  Compute<T> value[kPlaces], mine[Pairs::count];
  values_at<Pairs>(image, size, z, y, x, value);
  for (int k = 0; k < Pairs::count; ++k) mine[k] = load(weight + k * size.count() + size.at(z, y, x));
  for (Compute<T>& amount : push) amount = 0;
  add_pushes<Pairs>(value, mine, push);
}

// What comes to a voxel as place m of others, and as its own where place m lies outside.
template <class Pairs, int m = 3 - 2 * (Pairs::ndim - 2), class T>
__device__ __forceinline__ Compute<T> from_place(const T* image, const Compute<T>* weight, const Shape& size,
                                                 const Voxel& at, const Compute<T> (&own)[kPlaces]) {
  if constexpr (m < kPlaces) {
    constexpr int axis = (m - 1) / 2, step = m % 2 ? 1 : -1;
    const int64_t z = at.z - (axis == 0 ? step : 0), y = at.y - (axis == 1 ? step : 0),
                  x = at.x - (axis == 2 ? step : 0);
    const int64_t place = (axis == 0 ? at.z : axis == 1 ? at.y : at.x), length = size[axis];
    Compute<T> sum = 0;
    if (place + step < 0 || place + step >= length) sum += own[m];
    if (place - step >= 0 && place - step < length) {
      Compute<T> push[kPlaces];
      pushes_of<Pairs>(image, weight, size, z, y, x, push);
      sum += push[m];
    }
    return sum + from_place<Pairs, m + 1>(image, weight, size, at, own);
  }
  return Compute<T>(0);
}

template <class Pairs, class T>
__global__ void __launch_bounds__(kThreads)
    mind_backward_kernel(const T* image, const Compute<T>* weight, T* grad_image, Shape size) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < size.count(); i += int64_t(gridDim.x) * kThreads) {
    const Voxel at(i, size);
    Compute<T> own[kPlaces];
    pushes_of<Pairs>(image, weight, size, at.z, at.y, at.x, own);
    narrow(own[0] + from_place<Pairs>(image, weight, size, at, own), grad_image[i]);
  }
}

int64_t blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return blocks < 65536 ? blocks : 65536;
}

template <class Pairs, class T>
void forward(const MindArgs& args) {
  using C = Compute<T>;
  const Shape size = shape_of(args.size);
  const int64_t images = args.batch * args.channels, count = images * size.count();
  const T* const image = static_cast<const T*>(args.image);
  double* const partial = static_cast<double*>(args.scratch);
  launch("mind_forward_mean_kernel", mind_forward_mean_kernel<Pairs, T>, images * kMeanBlocks, kThreads, kReduceShared,
         args.stream, image, size, partial);
  launch("mind_forward_floor_kernel", mind_forward_floor_kernel<C>, blocks_for(images), kThreads, 0, args.stream,
         static_cast<const double*>(partial), images,
         kMindFloor * Pairs::step / (double(Pairs::count) * double(size.count())), static_cast<C*>(args.floor));
  launch("mind_forward_kernel", mind_forward_kernel<Pairs, T>, blocks_for(count), kThreads, 0, args.stream, image,
         static_cast<const C*>(args.floor), static_cast<T*>(args.out), args.channels, count, size);
}

template <class Pairs, class T>
void backward(const MindArgs& args) {
  using C = Compute<T>;
  const Shape size = shape_of(args.size);
  const int64_t voxels = size.count(), channels = args.channels;
  C *const slope = static_cast<C*>(args.scratch), *const weight = slope + Pairs::count * voxels;
  for (int64_t i = 0; i < args.batch * channels; ++i) {
    const T* const image = static_cast<const T*>(args.image) + i * voxels;
    const int64_t channel = i / channels * Pairs::count * channels + i % channels;
    launch("mind_backward_slopes_kernel", mind_backward_slopes_kernel<Pairs, T>, blocks_for(voxels), kThreads, 0,
           args.stream, image, static_cast<const C*>(args.floor) + i,
           static_cast<const T*>(args.grad_out) + channel * voxels, channels * voxels, slope, size);
    launch("mind_backward_weights_kernel", mind_backward_weights_kernel<Pairs, C>, blocks_for(Pairs::count * voxels),
           kThreads, 0, args.stream, static_cast<const C*>(slope), weight, size);
    launch("mind_backward_kernel", mind_backward_kernel<Pairs, T>, blocks_for(voxels), kThreads, 0, args.stream, image,
           static_cast<const C*>(weight), static_cast<T*>(args.grad_image) + i * voxels, size);
  }
}

template <class Pairs>
void by_direction(const MindArgs& args) {
  by_dtype(args.dtype, [&](auto type) {
    args.grad_out ? backward<Pairs, decltype(type)>(args) : forward<Pairs, decltype(type)>(args);
  });
}

void by_pairs(const MindArgs& args) {
  if (args.kind == MindKind::mind)
    args.ndim == 2 ? by_direction<MindPairs<MindKind::mind, 2>>(args)
                   : by_direction<MindPairs<MindKind::mind, 3>>(args);
  else
    args.ndim == 2 ? by_direction<MindPairs<MindKind::ssc, 2>>(args) : by_direction<MindPairs<MindKind::ssc, 3>>(args);
}

}  // namespace

size_t mind_scratch(const MindArgs& args) {
  if (!args.grad_out) return size_t(args.batch * args.channels * kMeanBlocks) * sizeof(double);
  const int pairs = args.kind == MindKind::mind ? 2 * args.ndim : 2 * args.ndim * (args.ndim - 1);
  return size_t(2 * pairs * shape_of(args.size).count()) * (args.dtype == DType::f64 ? 8 : 4);
}

void mind_forward(const MindArgs& args) { by_pairs(args); }
void mind_backward(const MindArgs& args) { by_pairs(args); }

}  // namespace fastreg::cuda
