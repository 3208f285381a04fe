// The warp of one voxel and, beside it, its adjoint. docs/math.md and backends/reference.py are the specification.
//
// Axes are always z, y, x (D, H, W of the tensors). With NDIM = 2 the z axis has one plane and no displacement.
#pragma once
#include <cmath>

#include "api.h"
#include "common/portable.h"
#include "common/shape.h"

namespace fastreg {

// Displacements beyond this are outside every image; the clamp keeps them, and infinities, integers.
constexpr double kFar = 1073741824.0;  // 2^30

template <class T>
FR_HD bool is_nan(T u) {
  return u != u;
}

// Largest integer <= u, for |u| <= 2^30. Without a call into libm, which would cost more than all the rest.
template <class T>
FR_HD int64_t floor_index(T u) {
  const auto truncated = static_cast<int64_t>(u);
  return truncated - (static_cast<T>(truncated) > u);
}

// The voxel that `index` reads on an axis of `size` voxels; `inside` turns false where zeros are read instead.
template <Padding P>
FR_HD int64_t source_index(int64_t index, int64_t size, bool& inside) {
  if constexpr (P == Padding::reflection) {  // about the centres of the first and last voxel
    inside = true;
    if (size == 1) return 0;
    const int64_t period = 2 * (size - 1);
    if (index < 0 || index >= period) index = (index % period + period) % period;
    return index < period - index ? index : period - index;
  } else if constexpr (P == Padding::symmetric) {
    inside = true;
    const int64_t period = 2 * size;
    if (index < 0 || index >= period) index = (index % period + period) % period;
    return index < size ? index : period - 1 - index;
  } else {
    const int64_t clamped = index < 0 ? 0 : index < size ? index : size - 1;
    inside = P != Padding::zeros || clamped == index;
    return clamped;
  }
}

// Half of the length that torch's coordinates from -1 to 1 span on an axis, in voxels: to its outer voxels' edges, or
// with align_corners to their centres.
template <class T>
FR_HD T half_extent(int64_t size, bool align_corners) {
  return static_cast<T>(align_corners ? size - 1 : size) / 2;
}

// A place in voxels, of such a coordinate.
template <class T>
FR_HD T from_normalised(T g, T half, int64_t size) {
  return g * half + static_cast<T>(size - 1) / 2;
}

// The two neighbours of a coordinate on one axis.
template <class T>
struct Axis {
  int64_t index[2] = {0, 0};       // always inside the image
  bool inside[2] = {true, false};  // false: the neighbour reads zero
  T weight[2] = {1, 0};
};

// Neighbours of at + u. The floor is taken of the displacement alone: the sum would round the fraction. NaN is kept out
// by the caller.
template <class T, Padding P>
FR_HD Axis<T> locate(T u, int64_t at, int64_t size) {
  const T far = static_cast<T>(kFar);
  int64_t whole;
  T fraction = 0;
  if (u < far && u > -far) {
    whole = floor_index(u);
    fraction = u - static_cast<T>(whole);
  } else {
    whole = u > 0 ? static_cast<int64_t>(kFar) : -static_cast<int64_t>(kFar);
  }
  Axis<T> axis;
  axis.index[0] = source_index<P>(at + whole, size, axis.inside[0]);
  axis.index[1] = source_index<P>(at + whole + 1, size, axis.inside[1]);
  axis.weight[0] = 1 - fraction;
  axis.weight[1] = fraction;
  if constexpr (P == Padding::itk) {  // the sum, which would round, is not taken
    const int64_t index = at + whole;
    const bool low = index >= 0 || (index == -1 && fraction >= T(0.5));
    const bool high = index < size - 1 || (index == size - 1 && fraction < T(0.5));
    axis.inside[0] = axis.inside[1] = low && high;
  }
  return axis;
}

// Where one point of the flow's grid reads the volume.
template <class T>
struct Place {
  bool is_nan = false;  // a coordinate
  Axis<T> z, y, x;

  FR_HD bool inside(int k, int j, int i) const { return z.inside[k] && y.inside[j] && x.inside[i]; }
  FR_HD int64_t offset(const Shape& size, int k, int j, int i) const {
    return size.at(z.index[k], y.index[j], x.index[i]);
  }
};

template <class T, Padding P, int NDIM>
FR_HD Place<T> place_of(const T (&u)[3], int64_t z, int64_t y, int64_t x, const Shape& size) {
  Place<T> place;
  place.is_nan = (NDIM == 3 && is_nan(u[0])) || is_nan(u[1]) || is_nan(u[2]);
  if (place.is_nan) return place;
  if constexpr (NDIM == 3) place.z = locate<T, P>(u[0], z, size.d);
  place.y = locate<T, P>(u[1], y, size.h);
  place.x = locate<T, P>(u[2], x, size.w);
  return place;
}

// The value that the volume has there. Corners of weight 0 are not read: a NaN voxel stays where it is.
template <class T, int NDIM, class V>
FR_HD T warp_voxel(const Place<T>& place, const V* vol, const Shape& size) {
  if (place.is_nan) return static_cast<T>(NAN);
  T sum = 0;
  FR_UNROLL
  for (int k = 0; k < NDIM - 1; ++k) {
    FR_UNROLL
    for (int j = 0; j < 2; ++j) {
      FR_UNROLL
      for (int i = 0; i < 2; ++i) {
        const T weight = place.z.weight[k] * place.y.weight[j] * place.x.weight[i];
        if (weight != 0 && place.inside(k, j, i)) sum += weight * widen(vol[place.offset(size, k, j, i)]);
      }
    }
  }
  return sum;
}

// Adjoint of warp_voxel in the displacement: adds grad * d value / d u to slope[0..2]. NaN where the coordinate is.
template <class T, int NDIM, class V>
FR_HD void warp_voxel_slope(const Place<T>& place, const V* vol, const Shape& size, T grad, T (&slope)[3]) {
  if (place.is_nan) {
    for (T& s : slope) s = static_cast<T>(NAN);
    return;
  }
  FR_UNROLL
  for (int k = 0; k < NDIM - 1; ++k) {
    FR_UNROLL
    for (int j = 0; j < 2; ++j) {
      FR_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (!place.inside(k, j, i)) continue;
        const T value = grad * widen(vol[place.offset(size, k, j, i)]);
        const T wz = place.z.weight[k], wy = place.y.weight[j], wx = place.x.weight[i];
        if constexpr (NDIM == 3) slope[0] += (k ? value : -value) * (wy * wx);
        slope[1] += (j ? value : -value) * (wz * wx);
        slope[2] += (i ? value : -value) * (wz * wy);
      }
    }
  }
}

// Adjoint of warp_voxel in the volume: add(z, offset, weight * grad) for every corner that was read, z its plane.
template <class T, int NDIM, class Add>
FR_HD void warp_voxel_scatter(const Place<T>& place, const Shape& size, T grad, const Add& add) {
  if (place.is_nan) return;
  FR_UNROLL
  for (int k = 0; k < NDIM - 1; ++k) {
    FR_UNROLL
    for (int j = 0; j < 2; ++j) {
      FR_UNROLL
      for (int i = 0; i < 2; ++i) {
        const T weight = place.z.weight[k] * place.y.weight[j] * place.x.weight[i];
        if (place.inside(k, j, i))
          add(NDIM == 3 ? place.z.index[k] : place.y.index[j], place.offset(size, k, j, i), weight * grad);
      }
    }
  }
}

// Voxel of at + u rounded, ties to even, or -1 where zeros are read. The sum is rounded as written: it is the
// specification's coordinate. NaN is kept out by the caller.
template <class T, Padding P>
FR_HD int64_t nearest_index(T u, int64_t at, int64_t size) {
  const T far = static_cast<T>(kFar);
  T coordinate = static_cast<T>(at) + u;
  int64_t index;
  if constexpr (P == Padding::itk)
    if (!(coordinate >= T(-0.5) && coordinate < static_cast<T>(size) - T(0.5))) return -1;
  if constexpr (P == Padding::symmetric) {  // before it is rounded: a tie is the same voxel on either side of an edge
    const T length = static_cast<T>(size), from_edge = coordinate + T(0.5);
    const T turned = from_edge - 2 * length * std::floor(from_edge / (2 * length));
    if (coordinate < far && coordinate > -far) coordinate = (turned < length ? turned : 2 * length - turned) - T(0.5);
  }
  if (coordinate < far && coordinate > -far) {
    index = floor_index(coordinate);
    const T fraction = coordinate - static_cast<T>(index);
    if (fraction > T(0.5) || (fraction == T(0.5) && (index & 1))) ++index;
  } else {
    index = coordinate > 0 ? static_cast<int64_t>(kFar) : -static_cast<int64_t>(kFar);
  }
  bool inside;
  index = source_index<P>(index, size, inside);
  return inside ? index : -1;
}

}  // namespace fastreg
