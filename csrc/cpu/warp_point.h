// One point of a row, all channels: the portable kernels, and what the vector kernels leave at the borders.
#pragma once
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

}  // namespace fastreg::cpu
