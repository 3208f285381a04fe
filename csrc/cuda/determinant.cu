// det(I + grad u), a thread a voxel.
#include "common/determinant_voxel.h"
#include "cuda/differences.cuh"

namespace fastreg::cuda {
namespace {

constexpr int kThreads = 256;

template <Scheme scheme, class T, int ndim>
__global__ void __launch_bounds__(kThreads) determinant_kernel(const T* flow, T* out, int64_t count, Shape size) {
  const int64_t voxels = size.count();
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const Voxel at(i, size);
    const auto u = components_of<ndim>(flow + i / voxels * ndim * voxels, voxels);
    out[i] = determinant_at<scheme>(u, i % voxels, Ends(at.z, size.d, size.h * size.w), Ends(at.y, size.h, size.w),
                                    Ends(at.x, size.w, 1));
  }
}

template <Scheme scheme, class T, int ndim>
void sweep(const DeterminantArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t count = args.batch * size.count(), blocks = (count + kThreads - 1) / kThreads;
  launch("determinant_kernel", determinant_kernel<scheme, T, ndim>, blocks < 16384 ? blocks : 16384, kThreads, 0,
         args.stream, static_cast<const T*>(args.flow), static_cast<T*>(args.out), count, size);
}

template <Scheme scheme, class T>
void by_ndim(const DeterminantArgs& args) {
  args.ndim == 2 ? sweep<scheme, T, 2>(args) : sweep<scheme, T, 3>(args);
}

template <class T>
void by_scheme(const DeterminantArgs& args) {
  args.scheme == Scheme::central ? by_ndim<Scheme::central, T>(args) : by_ndim<Scheme::least, T>(args);
}

}  // namespace

void determinant(const DeterminantArgs& args) {
  args.dtype == DType::f64 ? by_scheme<double>(args) : by_scheme<float>(args);
}

}  // namespace fastreg::cuda
