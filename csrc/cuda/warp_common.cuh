// The warp on a GPU. Two sets of kernels, one arithmetic:
//
// - `near` kernels, for 3-D images of up to 2^31 / 3 voxels in at most single precision. Lanes lie along x, so that
//   neighbouring lanes gather from neighbouring addresses, and a thread takes several planes, so that their loads
//   overlap. Where all eight corners are inside, 32-bit offsets and plain interpolation; elsewhere the functions of
//   warp_voxel.h.
// - `any` kernels: every shape, mode, padding and dtype, and normalised places (in `near` kernels they cost those of
//   displacements their registers), by the functions of warp_voxel.h alone.
//
// `FUSED` is a step of scaling and squaring: the volume is the flow, and the flow is added to the result.
#pragma once
#include "common/shape.h"
#include "common/warp_voxel.h"
#include "cuda/device.cuh"

namespace fastreg::cuda {

// Where a displacement component, D's first, lies: channel-first or channels-last.
struct FlowLayout {
  int64_t component;
  int voxel;
  int first;
};

__device__ __forceinline__ FlowLayout flow_layout(const WarpArgs& q, int64_t points) {
  if (q.normalised) return FlowLayout{-1, q.ndim, q.ndim - 1};
  return q.channels_last ? FlowLayout{1, q.ndim, 0} : FlowLayout{points, 1, 0};
}

// The unit of what the flow holds, in voxels.
template <class C>
__device__ __forceinline__ C flow_unit(const WarpArgs& q, int axis) {
  return q.normalised ? half_extent<C>(q.size[axis], q.align_corners) : C(1);
}

// Number of the first channel of an item's volume.
__device__ __forceinline__ int64_t first_volume(const WarpArgs& q, int64_t batch) {
  return q.vol_shared ? 0 : batch * q.channels;
}

}  // namespace fastreg::cuda
