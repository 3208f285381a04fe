// One point of a row, all channels: the portable kernels, and what the vector kernels leave at the borders.
#pragma once
#include <limits>

#include "common/warp_voxel.h"
#include "cpu/warp_rows.h"

namespace fastreg::cpu {

template <class T, Padding P, int NDIM>
Place<T> place_in_row(const Row<T>& row, int64_t i) {
  T u[3] = {0, 0, 0};
  for (int axis = 3 - NDIM; axis < 3; ++axis) u[axis] = row.displacement(axis, i);
  return place_of<T, P, NDIM>(u, row.z, row.y, row.column(i), row.size);
}

template <class T, Padding P, int NDIM>
void forward_point(const Row<T>& row, int64_t i) {
  const auto place = place_in_row<T, P, NDIM>(row, i);
  for (int64_t c = 0; c < row.channels; ++c) {
    T value = warp_voxel<T, NDIM>(place, row.vol + c * row.size.count(), row.size);
    if (row.squaring) value += row.flow[3 - NDIM + c][i];
    row.out[c * row.out_stride + i] = value;
  }
}

template <class T, Padding P, int NDIM>
void backward_point(const Row<T>& row, int64_t i) {
  const auto place = place_in_row<T, P, NDIM>(row, i);
  T slope[3] = {0, 0, 0};
  for (int64_t c = 0; c < row.channels; ++c) {
    const int64_t channel = c * row.size.count();
    const T grad = row.grad_out[c * row.out_stride + i];
    if (row.grad_flow[2]) warp_voxel_slope<T, NDIM>(place, row.vol + channel, row.size, grad, slope);
    if (row.grad_vol)
      warp_voxel_scatter<T, NDIM>(place, row.size, grad, [&](int64_t plane, int64_t offset, T value) {
        if (plane >= row.first && plane < row.last) row.grad_vol[channel + offset] += value;
      });
  }
  if (row.grad_flow[2])
    for (int axis = 3 - NDIM; axis < 3; ++axis) {
      T& target = row.grad_flow[axis][i * row.flow_stride];
      if (row.absolute) slope[axis] *= row.of_flow[axis];
      target = row.squaring ? target + slope[axis] : slope[axis];
    }
}

// Offset in the volume of the voxel that a point reads, -1 where it reads zero, -2 where its coordinate is NaN.
template <class T, Padding P, int NDIM>
int64_t nearest_offset(const Row<T>& row, int64_t i, int64_t& plane) {
  T u[3] = {0, 0, 0};
  bool any_nan = false;
  for (int axis = 3 - NDIM; axis < 3; ++axis) {
    u[axis] = row.displacement(axis, i);
    any_nan |= is_nan(u[axis]);
  }
  if (any_nan) return -2;
  const int64_t z = NDIM == 3 ? nearest_index<T, P>(u[0], row.z, row.size.d) : 0;
  const int64_t y = nearest_index<T, P>(u[1], row.y, row.size.h);
  const int64_t x = nearest_index<T, P>(u[2], row.column(i), row.size.w);
  plane = NDIM == 3 ? z : y;
  return z < 0 || y < 0 || x < 0 ? -1 : row.size.at(z, y, x);
}

template <class T, Padding P, int NDIM>
void nearest_point(const Row<T>& row, int64_t i) {
  int64_t plane;
  const int64_t offset = nearest_offset<T, P, NDIM>(row, i, plane);
  for (int64_t c = 0; c < row.channels; ++c)
    row.out[c * row.out_stride + i] = offset >= 0    ? row.vol[c * row.size.count() + offset]
                                      : offset == -1 ? T(0)
                                                     : std::numeric_limits<T>::quiet_NaN();
}

}  // namespace fastreg::cpu
