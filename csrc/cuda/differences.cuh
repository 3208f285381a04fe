// Squared forward differences of a field and their gradient, a voxel at a time. Differences beyond the border are 0.
#pragma once
#include "common/shape.h"
#include "cuda/device.cuh"

namespace fastreg::cuda {

template <class T>
struct Slopes {
  T z, y, x;  // 2 * weight / (ndim * number of differences)

  Slopes(int ndim, int64_t batch, const Shape& size, double weight)
      : z(of(0, ndim, batch, size, weight)), y(of(1, ndim, batch, size, weight)), x(of(2, ndim, batch, size, weight)) {}

 private:
  static T of(int axis, int ndim, int64_t batch, const Shape& size, double weight) {
    const double differences = double(batch * ndim) * double(size.count() / size[axis] * (size[axis] - 1));
    return T(differences > 0 ? 2 * weight / (ndim * differences) : 0);
  }
};

struct Voxel {
  int64_t z, y, x;

  __device__ __forceinline__ Voxel(int64_t i, const Shape& size)
      : z(i / size.w / size.h % size.d), y(i / size.w % size.h), x(i % size.w) {}
};

// Returns the sum of slope * difference^2, twice what the voxel contributes, and adds to `gradient`.
template <class T>
__device__ __forceinline__ double squared_differences(const T* p, const Voxel& at, const Shape& size,
                                                      const Slopes<T>& slope, bool backward, T& gradient) {
  const int64_t row = size.w, plane = size.h * size.w;
  const T v = load(p);
  const T dz = at.z + 1 < size.d ? load(p + plane) - v : T(0), dy = at.y + 1 < size.h ? load(p + row) - v : T(0);
  const T dx = at.x + 1 < size.w ? load(p + 1) - v : T(0);
  if (backward) {
    const T ez = at.z > 0 ? v - load(p - plane) : T(0), ey = at.y > 0 ? v - load(p - row) : T(0);
    const T ex = at.x > 0 ? v - load(p - 1) : T(0);
    gradient += slope.z * (ez - dz) + slope.y * (ey - dy) + slope.x * (ex - dx);
  }
  return double(slope.z * dz * dz + slope.y * dy * dy + slope.x * dx * dx);
}

}  // namespace fastreg::cuda
