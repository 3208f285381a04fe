// The unit of work of every warp on the CPU: points of the flow's grid along x, all channels.
#pragma once
#include <cstdint>

#include "api.h"
#include "common/shape.h"
#include "common/warp_voxel.h"

namespace fastreg::cpu {

// In 2-D the z entries of the arrays are null. "Plane" is the slowest axis: z in 3-D, y in 2-D.
template <class T>
struct Row {
  Shape size;           // of the volume
  int64_t channels;
  int64_t z, y, x, n;   // the first point's place in the flow's grid, and the number of points
  int64_t flow_stride;  // between points of flow and grad_flow: 1, or ndim where channels are last
  int64_t out_stride;   // between channels of out and grad_out
  bool squaring;        // forward: out = flow + warped; backward: grad_flow += instead of =
  const T* flow[3];
  const T* vol;
  T* out;
  const T* grad_out;
  T* grad_flow[3];      // null where no gradient is wanted
  T* grad_vol;          // null where no gradient is wanted; added to
  int64_t first, last;  // planes of grad_vol that this thread owns
};

template <class T>
struct RowKernels {
  void (*forward)(const Row<T>&);
  void (*backward)(const Row<T>&);
};

// Kernels for float32, linear, volumes of less than 2^31 voxels and axes of at most 2^23; csrc/cpu/warp_lanes.h.
RowKernels<float> avx2_rows(int ndim, Padding padding);
RowKernels<float> avx512_rows(int ndim, Padding padding);

// The whole op. With `squaring` vol = flow and, backward, grad_vol = grad_flow = grad_out + both gradients.
void sweep_forward(const WarpArgs& args, bool squaring);
void sweep_backward(const WarpArgs& args, bool squaring);

// ---- one point of a row: the portable kernels, and what the vector kernels leave at the borders

template <class T, Padding P, int NDIM>
Place<T> place_in_row(const Row<T>& row, int64_t i) {
  T u[3] = {0, 0, 0};
  for (int axis = 3 - NDIM; axis < 3; ++axis) u[axis] = row.flow[axis][i * row.flow_stride];
  return place_of<T, P, NDIM>(u, row.z, row.y, row.x + i, row.size);
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
      target = row.squaring ? target + slope[axis] : slope[axis];
    }
}

}  // namespace fastreg::cpu
