// Adam whose update is smoothed before it is added: one kernel turns the gradient into the update, a second filters it
// along all axes, a tile of a plane after the other, and adds it.
#include "common/adam_update.h"
#include "common/shape.h"
#include "cuda/device.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kTileX = 32, kTileY = 8, kThreads = kTileX * kTileY;
constexpr int64_t kPlanes = 32;  // of a block

// `velocity` is null where a filter follows.
template <class T>
__global__ void __launch_bounds__(kThreads)
    adam_update_kernel(T* velocity, T* grad, T* mean, T* square, int64_t count, AdamRates<T> rates, T step) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    T m = mean[i], s = square[i];
    const T update = adam_update(grad[i], m, s, rates);
    mean[i] = m;
    square[i] = s;
    if (velocity) velocity[i] -= step * update;
    else grad[i] = update;
  }
}

// The weighted sum of 2 * passes + 1 values that lie `stride` apart.
template <int passes, class T>
__device__ __forceinline__ T filtered(const T* first, int stride, const Binomial<T>& filter) {
  T sum = filter.weight[0] * first[passes * stride];
  FR_UNROLL
  for (int k = 1; k <= passes; ++k)
    sum += filter.weight[k] * (first[(passes - k) * stride] + first[(passes + k) * stride]);
  return sum;
}

template <int passes>
constexpr int kTile = (kTileY + 2 * passes) * (kTileX + 2 * passes);
template <int passes>
constexpr int kRows = (kTileY + 2 * passes) * kTileX;

// velocity += factor * the filtered update. A block marches through planes, which are mirrored beyond the border as rows
// and columns are; a thread keeps its column of them, filtered along x and y.
template <class T, int passes>
__global__ void __launch_bounds__(kThreads)
    adam_filter_kernel(const T* update, T* velocity, Shape size, Binomial<T> filter, T factor) {
  constexpr int wide = kTileX + 2 * passes;
  T* const tile = shared_memory<T>();    // [kTileY + 2 passes, wide]
  T* const rows = tile + kTile<passes>;  // [kTileY + 2 passes, kTileX]: filtered along x
  const int64_t across = (size.w + kTileX - 1) / kTileX, down = (size.h + kTileY - 1) / kTileY;
  const int64_t chunks = (size.d + kPlanes - 1) / kPlanes, block = blockIdx.x;
  const int64_t x0 = block % across * kTileX, y0 = block / across % down * kTileY;
  const int64_t z0 = block / across / down % chunks * kPlanes, z1 = z0 + kPlanes < size.d ? z0 + kPlanes : size.d;
  const int64_t image = block / across / down / chunks * size.count();
  const int column = threadIdx.x % kTileX, line = threadIdx.x / kTileX;
  const int64_t x = x0 + column, y = y0 + line;
  const int reach = size.d > 1 ? passes : 0;  // a 2-D field has one plane, which the filter along z would keep
  T planes[2 * passes + 1] = {};
  for (int64_t z = z0 - reach; z < z1 + reach; ++z) {
    const T* const plane = update + image + mirrored(z, size.d) * size.h * size.w;
    for (int i = threadIdx.x; i < kTile<passes>; i += kThreads)
      tile[i] =
          load(plane + mirrored(y0 + i / wide - passes, size.h) * size.w + mirrored(x0 + i % wide - passes, size.w));
    __syncthreads();
    for (int i = threadIdx.x; i < kRows<passes>; i += kThreads)
      rows[i] = filtered<passes>(tile + i / kTileX * wide + i % kTileX, 1, filter);
    __syncthreads();
    const T here = filtered<passes>(rows + line * kTileX + column, kTileX, filter);
    FR_UNROLL
    for (int k = 0; k < 2 * passes; ++k) planes[k] = planes[k + 1];
    planes[2 * passes] = here;
    if (z - reach < z0 || x >= size.w || y >= size.h) continue;
    const T smooth = reach ? filtered<passes>(planes, 1, filter) : here;
    velocity[image + size.at(z - reach, y, x)] += factor * smooth;
  }
}

template <class T, int passes>
void filter(const AdamArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t tiles = ((size.w + kTileX - 1) / kTileX) * ((size.h + kTileY - 1) / kTileY);
  const int64_t blocks = args.batch * args.ndim * tiles * ((size.d + kPlanes - 1) / kPlanes);
  launch("adam_filter_kernel", adam_filter_kernel<T, passes>, blocks, kThreads,
         (kTile<passes> + kRows<passes>)*sizeof(T), args.stream, static_cast<const T*>(args.grad),
         static_cast<T*>(args.velocity), size, Binomial<T>(passes), T(-args.step));
}

template <class T>
void step(const AdamArgs& args) {
  const int64_t count = args.batch * args.ndim * shape_of(args.size).count();
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  launch("adam_update_kernel", adam_update_kernel<T>, blocks < 4096 ? blocks : 4096, kThreads, 0, args.stream,
         args.passes ? nullptr : static_cast<T*>(args.velocity), static_cast<T*>(args.grad), static_cast<T*>(args.mean),
         static_cast<T*>(args.square), count, AdamRates<T>(args), T(args.step));
  switch (args.passes) {
    case 0: return;
    case 1: return filter<T, 1>(args);
    case 2: return filter<T, 2>(args);
    case 3: return filter<T, 3>(args);
    default: return filter<T, 4>(args);
  }
}

}  // namespace

void adam_step(const AdamArgs& args) { args.dtype == DType::f64 ? step<double>(args) : step<float>(args); }

}  // namespace fastreg::cuda
