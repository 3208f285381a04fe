// The local correlation on a GPU: what one launch does. Both passes, windows and gradient, march through tiles of
// kTileX x kTileY columns; a block takes a tile and `chunk` planes of it.
#pragma once
#include "common/lncc_window.h"
#include "cuda/device.cuh"
#include "cuda/reduce.cuh"

namespace fastreg::cuda {

constexpr int kTileX = 120, kTileY = 24;

// Derivatives by the windows' sums, as the windows pass leaves them and the gradient pass reads them: by the covariance
// and, for each image whose gradient is wanted, by its own sum and (twice) by its variance.
constexpr int kMostFields = 5;

constexpr int kStatistics = 5;      // sums of a, b, aa, bb, ab
constexpr int kMostStatistics = 6;  // and, with a mask, of the voxels that count

struct LnccJob {
  int64_t d, h, w;
  int radius, radius_y, radius_z;  // along x, y, z; the fast kernels take equal ones alone (radius_z is 0 in 2-D)
  int64_t image;                   // first of this launch
  int64_t z_first, z_last;         // planes of this launch
  int64_t chunk, chunks, tiles_x, tiles_y;
  DType dtype;
  bool vectors;                       // rows are aligned to four voxels
  int buffers;                        // sheets of shared memory, 1 or 2
  const void *a, *b, *weight, *mask;  // whole arrays: image number i begins at i * d * h * w
  int64_t channels, weight_channels, mask_channels;
  LnccRule<double> rule;
  bool count;
  double inv_n, scale;
  LnccRule<float> rule32;  // the same three for float32
  float inv_n32, scale32;
  void *grad_a, *grad_b, *map;
  void* adjoints;       // [fields, images of the slab, ring, h, w]; plane z lies at z % ring
  int64_t ring, field;  // planes of an image, elements of a field
  double* partial;      // one a block
  int* redo;            // one a block of the windows pass in float32: 1 where it was not exact enough

  __device__ __forceinline__ int64_t voxels() const { return d * h * w; }
};

struct LnccTile {
  int64_t number, x, y, z0, z1, image;  // image: within the launch
};

__device__ __forceinline__ LnccTile lncc_tile(const LnccJob& job, int64_t number) {
  const int64_t row = number / job.tiles_x, sheet = row / job.tiles_y, image = sheet / job.chunks;
  const int64_t z0 = job.z_first + (sheet - image * job.chunks) * job.chunk;
  const int64_t z1 = z0 + job.chunk < job.z_last ? z0 + job.chunk : job.z_last;
  return {number, (number - row * job.tiles_x) * kTileX, (row - sheet * job.tiles_y) * kTileY, z0, z1, image};
}

__device__ __forceinline__ double read(const void* array, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::f32: return load(static_cast<const float*>(array) + at);
    case DType::f64: return load(static_cast<const double*>(array) + at);
    case DType::f16: return load(static_cast<const f16*>(array) + at);
    default: return load(static_cast<const bf16*>(array) + at);
  }
}

template <class V>
__device__ __forceinline__ void write(void* array, DType dtype, int64_t at, V value) {
  switch (dtype) {
    case DType::f32: return narrow(value, static_cast<float*>(array)[at]);
    case DType::f64: return narrow(double(value), static_cast<double*>(array)[at]);
    case DType::f16: return narrow(float(value), static_cast<f16*>(array)[at]);
    default: return narrow(float(value), static_cast<bf16*>(array)[at]);
  }
}

// What an image is centred by, so that sums of squares do not cancel: its first voxel, which in most images is the
// background, whose windows then are exactly flat.
__device__ __forceinline__ double lncc_shift(const void* array, DType dtype, int64_t first) {
  const double value = read(array, dtype, first);
  return value - value == 0 ? value : 0.0;
}

// Which image of weights, or of a mask, belongs to an image: its own, or that of all channels.
__device__ __forceinline__ int64_t shared_image(const LnccJob& job, int64_t channels, int64_t image) {
  return channels == job.channels ? image : image / job.channels;
}

// The derivatives of window sums, in the order of LnccJob::adjoints: by a's own sum, by its variance, by the covariance
// (, and b's two). Returns how many there are.
template <int FIELDS, class V>
__device__ __forceinline__ void lncc_adjoints(const LnccWindow<V>& window, V g, V (&out)[FIELDS]) {
  const V c = g * window.slope_c, aa = g * window.slope_aa;
  out[0] = -(window.mean_b * c + window.mean_a * aa);
  out[1] = aa;
  out[2] = c;
  if constexpr (FIELDS == 5) {
    const V bb = g * window.slope_bb;
    out[3] = -(window.mean_a * c + window.mean_b * bb);
    out[4] = bb;
  }
}

// The gradients of a voxel from the window sums of the adjoints; a and b less their shifts.
template <int FIELDS, class V>
__device__ __forceinline__ void lncc_gradients(const V (&sum)[FIELDS], V a, V b, V& grad_a, V& grad_b) {
  grad_a = sum[0] + a * sum[1] + b * sum[2];
  if constexpr (FIELDS == 5) grad_b = sum[3] + b * sum[4] + a * sum[2];
}

}  // namespace fastreg::cuda
