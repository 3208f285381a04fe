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
  Shape size;  // of the volume
  int64_t channels;
  int64_t z, y, x, n;  // the first point's place in the flow's grid, and the number of points
  bool absolute;       // flow holds places, not displacements: they are of_flow times it plus centre
  T of_flow[3], centre[3];
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

  // What is looked up is at + displacement: all of the place, or what the flow adds to the point's own.
  T displacement(int axis, int64_t i) const {
    const T u = flow[axis][i * flow_stride];
    return absolute ? u * of_flow[axis] + centre[axis] : u;
  }
  int64_t column(int64_t i) const { return absolute ? 0 : x + i; }
};

template <class T>
struct RowKernels {
  void (*forward)(const Row<T>&);
  void (*backward)(const Row<T>&);
};

// Every dtype, mode and padding; csrc/cpu/warp_portable.cpp.
template <class T>
RowKernels<T> portable_rows(int ndim, Mode mode, Padding padding);

// Kernels for float32, linear, volumes of less than 2^31 voxels and axes of at most 2^23; csrc/cpu/warp_lanes.inl.
RowKernels<float> avx2_rows(int ndim, Padding padding);
RowKernels<float> avx512_rows(int ndim, Padding padding);
RowKernels<float> neon_rows(int ndim, Padding padding);

// Forward rows for float32, nearest, of the same sizes; null for the paddings that are done point by point;
// csrc/cpu/warp_nearest.inl.
auto avx2_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&);
auto avx512_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&);
auto neon_nearest(int ndim, Padding padding) -> void (*)(const Row<float>&);

// The whole op. With `squaring` vol = flow and, backward, grad_vol = grad_flow = grad_out + both gradients.
void sweep_forward(const WarpArgs& args, bool squaring);
void sweep_backward(const WarpArgs& args, bool squaring);

}  // namespace fastreg::cpu
