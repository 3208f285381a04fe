// det(I + grad u) at one voxel. Members have names, not numbers: arrays inside a loop would keep it from being vectorised.
#pragma once
#include "api.h"
#include "common/portable.h"

namespace fastreg {

// The difference of every component along one axis: a column of grad u.
template <class T, int ndim>
struct Column;
template <class T>
struct Column<T, 2> {
  T y, x;
};
template <class T>
struct Column<T, 3> {
  T z, y, x;
};

template <class T>
FR_HD T determinant_of(const Column<T, 2>& y, const Column<T, 2>& x) {
  return (1 + y.y) * (1 + x.x) - x.y * y.x;
}

template <class T>
FR_HD T determinant_of(const Column<T, 3>& z, const Column<T, 3>& y, const Column<T, 3>& x) {
  const T zz = 1 + z.z, yy = 1 + y.y, xx = 1 + x.x;
  return zz * (yy * xx - x.y * y.x) - y.z * (z.y * xx - x.y * z.x) + x.z * (z.y * y.x - yy * z.x);
}

// Where the differences along an axis are taken at a voxel: offsets to it in elements. At a border both one-sided
// differences are the one that stays on the grid, and so is the central one.
struct Ends {
  int64_t after, before;  // of the central difference
  int64_t from, to;       // of the forward one, from .. after, and of the backward one, before .. to
  int apart;              // voxels between after and before

  FR_HD Ends(int64_t at, int64_t size, int64_t stride)
      : after(at + 1 < size ? stride : 0),
        before(at > 0 ? -stride : 0),
        from(after ? 0 : before),
        to(before ? 0 : after),
        apart((after != 0) + (before != 0)) {}
};

template <class T, int ndim>
struct Components;
template <class T>
struct Components<T, 2> {
  const T *y, *x;

  FR_HD Column<T, 2> difference(int64_t high, int64_t low, T scale = 1) const {
    return {scale * (y[high] - y[low]), scale * (x[high] - x[low])};
  }
};
template <class T>
struct Components<T, 3> {
  const T *z, *y, *x;

  FR_HD Column<T, 3> difference(int64_t high, int64_t low, T scale = 1) const {
    return {scale * (z[high] - z[low]), scale * (y[high] - y[low]), scale * (x[high] - x[low])};
  }
};

// The components of a field that begins at `flow`, of `voxels` each.
template <int ndim, class T>
FR_HD Components<T, ndim> components_of(const T* flow, int64_t voxels) {
  if constexpr (ndim == 2) return {flow, flow + voxels};
  else return {flow, flow + voxels, flow + 2 * voxels};
}

template <class U>
FR_HD auto central(const U& u, int64_t i, const Ends& end) {
  return u.difference(i + end.after, i + end.before, end.apart == 2 ? 0.5f : 1.0f);
}
template <class U>
FR_HD auto forward(const U& u, int64_t i, const Ends& end) {
  return u.difference(i + end.after, i + end.from);
}
template <class U>
FR_HD auto backward(const U& u, int64_t i, const Ends& end) {
  return u.difference(i + end.to, i + end.before);
}

// The smallest of what it is given, NaN if one is NaN: their sum is then. Asked for each, it would not be vectorised.
template <class T>
struct Least {
  T least, sum;

  FR_HD void operator()(T value) {
    least = value < least ? value : least;
    sum += value;
  }
  FR_HD T get() const { return sum == sum ? least : sum; }
};

// At element `i` of the components; `z` is not looked at in 2-D. "least" is the smallest of the determinants of
// one-sided differences, forward or backward along every axis.
template <Scheme scheme, class T, int ndim>
FR_HD T determinant_at(const Components<T, ndim>& u, int64_t i, const Ends& z, const Ends& y, const Ends& x) {
  if constexpr (scheme == Scheme::central) {
    if constexpr (ndim == 2) return determinant_of(central(u, i, y), central(u, i, x));
    else return determinant_of(central(u, i, z), central(u, i, y), central(u, i, x));
  } else {
    const auto y0 = forward(u, i, y), y1 = backward(u, i, y), x0 = forward(u, i, x), x1 = backward(u, i, x);
    if constexpr (ndim == 2) {
      const T first = determinant_of(y0, x0);
      Least<T> least{first, first};
      least(determinant_of(y0, x1));
      least(determinant_of(y1, x0));
      least(determinant_of(y1, x1));
      return least.get();
    } else {
      const auto z0 = forward(u, i, z), z1 = backward(u, i, z);
      const T first = determinant_of(z0, y0, x0);
      Least<T> least{first, first};
      least(determinant_of(z0, y0, x1));
      least(determinant_of(z0, y1, x0));
      least(determinant_of(z0, y1, x1));
      least(determinant_of(z1, y0, x0));
      least(determinant_of(z1, y0, x1));
      least(determinant_of(z1, y1, x0));
      least(determinant_of(z1, y1, x1));
      return least.get();
    }
  }
}

}  // namespace fastreg
