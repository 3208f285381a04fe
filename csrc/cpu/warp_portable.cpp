// Rows of the warp for every dtype, mode and padding, point by point.
#include "cpu/warp_point.h"
#include "cpu/warp_rows.h"

namespace fastreg::cpu {
namespace {

template <class T, Padding P, int NDIM>
void linear_forward(const Row<T>& row) {
  for (int64_t i = 0; i < row.n; ++i) forward_point<T, P, NDIM>(row, i);
}

template <class T, Padding P, int NDIM>
void linear_backward(const Row<T>& row) {
  for (int64_t i = 0; i < row.n; ++i) backward_point<T, P, NDIM>(row, i);
}

template <class T, Padding P, int NDIM>
void nearest_forward(const Row<T>& row) {
  for (int64_t i = 0; i < row.n; ++i) nearest_point<T, P, NDIM>(row, i);
}

template <class T, Padding P, int NDIM>
void nearest_backward(const Row<T>& row) {
  for (int64_t i = 0; i < row.n; ++i) {
    if (row.grad_flow[2])
      for (int axis = 3 - NDIM; axis < 3; ++axis) row.grad_flow[axis][i * row.flow_stride] = 0;
    int64_t plane;
    if (!row.grad_vol) continue;
    const int64_t offset = nearest_offset<T, P, NDIM>(row, i, plane);
    if (offset < 0 || plane < row.first || plane >= row.last) continue;
    for (int64_t c = 0; c < row.channels; ++c)
      row.grad_vol[c * row.size.count() + offset] += row.grad_out[c * row.out_stride + i];
  }
}

template <class T, Padding P, int NDIM>
RowKernels<T> rows_of(Mode mode) {
  if (mode == Mode::nearest) return {nearest_forward<T, P, NDIM>, nearest_backward<T, P, NDIM>};
  return {linear_forward<T, P, NDIM>, linear_backward<T, P, NDIM>};
}

template <class T, Padding P>
RowKernels<T> rows_of(int ndim, Mode mode) {
  return ndim == 3 ? rows_of<T, P, 3>(mode) : rows_of<T, P, 2>(mode);
}

}  // namespace

template <class T>
RowKernels<T> portable_rows(int ndim, Mode mode, Padding padding) {
  switch (padding) {
    case Padding::border: return rows_of<T, Padding::border>(ndim, mode);
    case Padding::reflection: return rows_of<T, Padding::reflection>(ndim, mode);
    case Padding::symmetric: return rows_of<T, Padding::symmetric>(ndim, mode);
    case Padding::itk: return rows_of<T, Padding::itk>(ndim, mode);
    default: return rows_of<T, Padding::zeros>(ndim, mode);
  }
}

template RowKernels<float> portable_rows<float>(int, Mode, Padding);
template RowKernels<double> portable_rows<double>(int, Mode, Padding);

}  // namespace fastreg::cpu
