// Mean squared forward differences and their gradient in one sweep; the sum has a fixed order.
#include "common/shape.h"
#include "cuda/device.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {
namespace {

struct Slopes {
  double axis[3];  // 2 / (ndim * number of differences)
};

// One block, one partial sum. Differences beyond the border are 0.
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    smoothness_forward_kernel(const T* flow, T* grad, int64_t count, Shape size, Slopes slopes, double* partial) {
  double sum = 0;
  const T slope_z = T(slopes.axis[0]), slope_y = T(slopes.axis[1]), slope_x = T(slopes.axis[2]);
  const int64_t row = size.w, plane = size.h * size.w;
  for (int64_t i = blockIdx.x * int64_t(kReduceThreads) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kReduceThreads) {
    const int64_t x = i % size.w, line = i / size.w, y = line % size.h, z = line / size.h % size.d;
    const T* p = flow + i;
    const T v = load(p);
    const T dz = z + 1 < size.d ? load(p + plane) - v : T(0), dy = y + 1 < size.h ? load(p + row) - v : T(0);
    const T dx = x + 1 < size.w ? load(p + 1) - v : T(0);
    sum += double(slope_z * dz * dz + slope_y * dy * dy + slope_x * dx * dx);
    if (grad) {
      const T ez = z > 0 ? v - load(p - plane) : T(0), ey = y > 0 ? v - load(p - row) : T(0);
      const T ex = x > 0 ? v - load(p - 1) : T(0);
      grad[i] = slope_z * (ez - dz) + slope_y * (ey - dy) + slope_x * (ex - dx);
    }
  }
  block_sum(0.5 * sum, partial);
}

template <class T>
void sweep(const SmoothnessArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t fields = args.batch * args.ndim, count = fields * size.count();
  Slopes slopes{};
  for (int axis = 0; axis < 3; ++axis) {
    const double differences =
        size[axis] > 1 ? double(fields) * double(size.count() / size[axis] * (size[axis] - 1)) : 0;
    slopes.axis[axis] = differences > 0 ? 2 / (args.ndim * differences) : 0;
  }
  const int64_t blocks = reduce_blocks(count);
  double* const partial = static_cast<double*>(args.scratch);
  launch("smoothness", smoothness_forward_kernel<T>, blocks, kReduceThreads, kReduceShared, args.stream,
         static_cast<const T*>(args.flow), static_cast<T*>(args.grad), count, size, slopes, partial);
  sum_partials(partial, blocks, static_cast<double*>(args.value), args.stream);
}

}  // namespace

size_t smoothness_scratch(const SmoothnessArgs&) { return kReduceMostBlocks * sizeof(double); }

void smoothness(const SmoothnessArgs& args) { args.dtype == DType::f64 ? sweep<double>(args) : sweep<float>(args); }

}  // namespace fastreg::cuda
