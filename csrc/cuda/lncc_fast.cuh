// Sums over windows of 3, 5, 7 or 9 voxels in float32, marching along z; the cost hardly depends on the window.
//
// A block of 512 threads covers 128 columns x 32 rows: a lane holds eight columns of a row, 16 lanes hold a row.
// z: a running sum in registers. x: prefix and suffix sums of the eight, and neighbours' by shuffles. y: through shared
// memory, a lane to a column and six rows. In x and y nothing is ever subtracted, so that what leaves a window leaves
// no trace there. Four columns on either side and the rows beyond the tile's 24 only feed the windows.
#pragma once
#include "cuda/lncc_job.cuh"

namespace fastreg::cuda {

constexpr int kFastThreads = 512, kFastRows = 32, kFastColumns = 128, kFastEdge = 4, kStrip = 6, kOwn = 8;
static_assert(kTileX == kFastColumns - 2 * kFastEdge && kTileY == kStrip * (kFastThreads / kFastColumns));

constexpr size_t fast_shared(int fields, int buffers) {
  return size_t(buffers) * fields * kFastRows * kFastColumns * sizeof(float);
}

struct FastThread {
  int row, x, y;      // first of the eight columns that the thread sums along z
  int slot;           // its place in a row of shared memory
  int column, strip;  // the column and first row whose windows it finishes
  bool finishes;      // whether that column is the tile's own, and inside the image
  int out_x, out_y;
};

// Places of four columns in a row of shared memory, so that neither writing eight a lane nor reading one conflicts.
__device__ __forceinline__ int swizzled(int quad) { return quad ^ (quad >> 3 & 1); }

__device__ __forceinline__ FastThread fast_thread(const LnccJob& job, const LnccTile& tile, int radius) {
  FastThread me;
  const int thread = threadIdx.x;
  me.row = thread / 16;
  me.slot = thread % 16;
  me.x = int(tile.x) - kFastEdge + kOwn * me.slot;
  me.y = int(tile.y) - radius + me.row;
  const int column = thread % kFastColumns;
  me.strip = thread / kFastColumns * kStrip;
  me.column = swizzled(column / 4) * 4 + column % 4;
  me.out_x = int(tile.x) - kFastEdge + column;
  me.out_y = int(tile.y) + me.strip;
  me.finishes = column >= kFastEdge && column < kFastColumns - kFastEdge && me.out_x < job.w;
  return me;
}

template <class T>
__device__ __forceinline__ void load_quad(const T* p, float* out) {
  if constexpr (sizeof(T) == 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(p));
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
  } else {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
    const unsigned bits[2] = {v.x, v.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = widen(T{uint16_t(bits[i / 2] >> 16 * (i % 2))});
  }
}

// Eight neighbouring voxels of a row; what lies outside the image is 0.
template <class T, bool VECTORS>
__device__ __forceinline__ void load_eight(const T* row, int x, int width, bool inside, float (&out)[kOwn]) {
  if constexpr (VECTORS) {  // width and x are multiples of 4: a quad is inside or outside
#pragma unroll
    for (int i = 0; i < kOwn; i += 4) {
      if (inside && x + i >= 0 && x + i < width) load_quad(row + x + i, out + i);
      else out[i] = out[i + 1] = out[i + 2] = out[i + 3] = 0;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) out[i] = inside && x + i >= 0 && x + i < width ? load(row + x + i) : 0.f;
  }
}

// Calls f with a value of the dtype's type and with whether rows are aligned.
template <class F>
__device__ __forceinline__ void by_layout(DType dtype, bool vectors, const F& f) {
  if (dtype == DType::f32) return vectors ? f(float{}, std::true_type{}) : f(float{}, std::false_type{});
  if (dtype == DType::f16) return vectors ? f(f16{}, std::true_type{}) : f(f16{}, std::false_type{});
  return vectors ? f(bf16{}, std::true_type{}) : f(bf16{}, std::false_type{});
}

template <int R>
__device__ __forceinline__ void sum_along_x(const float (&v)[kOwn], float (&out)[kOwn]) {
  float prefix[kOwn], suffix[kOwn];  // of v[0..i], of v[i..7]
  prefix[0] = v[0];
  suffix[kOwn - 1] = v[kOwn - 1];
#pragma unroll
  for (int i = 1; i < kOwn; ++i) {
    prefix[i] = prefix[i - 1] + v[i];
    suffix[kOwn - 1 - i] = suffix[kOwn - i] + v[kOwn - 1 - i];
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int low = i - R, high = i + R;
    if (low <= 0) out[i] = prefix[high < kOwn ? high : kOwn - 1];
    else if (high >= kOwn - 1) out[i] = suffix[low];
    else {
      out[i] = v[low];
#pragma unroll
      for (int k = 1; k < 2 * R + 1; ++k) out[i] += v[(i - R + k) & (kOwn - 1)];
    }
    if (low < 0) out[i] += __shfl_up_sync(kFullMask, suffix[(kOwn + low) & (kOwn - 1)], 1, 16);
    if (high >= kOwn) out[i] += __shfl_down_sync(kFullMask, prefix[high & (kOwn - 1)], 1, 16);
  }
}

// Six windows of a column: sums from the sixth row back and from it on.
template <int R>
__device__ __forceinline__ void sum_along_y(const float* sheet, float (&out)[kStrip]) {
  constexpr int n = kStrip + 2 * R, middle = kStrip - 1;
  float v[n];
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = sheet[i * kFastColumns];
  if constexpr (2 * R < middle - 1) {
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      out[i] = v[i];
#pragma unroll
      for (int k = 1; k <= 2 * R; ++k) out[i] += v[i + k];
    }
  } else {
#pragma unroll
    for (int i = middle - 2; i >= 0; --i) v[i] += v[i + 1];
#pragma unroll
    for (int i = middle + 1; i < n; ++i) v[i] += v[i - 1];
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      if (i == middle) out[i] = v[i + 2 * R];
      else if (i + 2 * R < middle) out[i] = v[i];
      else out[i] = v[i] + v[i + 2 * R];
    }
  }
}

// source.start(sums, z): the sums along z around plane z; source.advance(sums, z): from z to z + 1.
// sink.plane(z, sums): the window sums of the thread's six voxels.
template <int R, int FIELDS, class Source, class Sink>
__device__ __forceinline__ void fast_march(const FastThread& me, int z0, int z1, int buffers, Source& source,
                                           Sink& sink) {
  constexpr int sheet_size = FIELDS * kFastRows * kFastColumns;
  float* const shared = shared_memory<float>();
  float* sheet = shared;
  float running[FIELDS][kOwn];
  source.start(running, z0);
#pragma unroll 1
  for (int z = z0; z < z1; ++z) {
#pragma unroll
    for (int f = 0; f < FIELDS; ++f) {
      float window[kOwn];
      sum_along_x<R>(running[f], window);
      float* const row = sheet + (f * kFastRows + me.row) * kFastColumns;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        *reinterpret_cast<float4*>(row + 4 * swizzled(2 * me.slot + i)) =
            make_float4(window[4 * i], window[4 * i + 1], window[4 * i + 2], window[4 * i + 3]);
    }
    if (z + 1 < z1) source.advance(running, z);
    __syncthreads();
    float sums[FIELDS][kStrip];
#pragma unroll
    for (int f = 0; f < FIELDS; ++f)
      sum_along_y<R>(sheet + (f * kFastRows + me.strip) * kFastColumns + me.column, sums[f]);
    sink.plane(z, sums);
    if (buffers == 2) sheet = sheet == shared ? shared + sheet_size : shared;
    else __syncthreads();
  }
}

}  // namespace fastreg::cuda
