// The warp of 3-D images by threads that take several planes each.
#pragma once
#include "cuda/warp_common.cuh"

namespace fastreg::cuda {

constexpr int kBlockX = kLanes, kBlockY = 8;  // a row of the block is one group of lanes
constexpr int kBlockThreads = kBlockX * kBlockY;
constexpr int kForwardPlanes = 4, kSlopePlanes = 4, kScatterPlanes = 2;  // voxels of a thread, along z

// Blocks of the forward that shall fit into a multiprocessor at once: what leaves it registers enough not to spill.
constexpr int forward_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
  return 2;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  return 3;
#else
  return 4;
#endif
}

struct WarpPoint {
  int x, y, z;  // of the thread's first voxel; the others lie above it
  int64_t batch;
};

template <int PLANES>
__device__ __forceinline__ WarpPoint warp_point(const WarpArgs& q) {
  const unsigned nx = unsigned(q.grid[2] + kBlockX - 1) / kBlockX, ny = unsigned(q.grid[1] + kBlockY - 1) / kBlockY;
  const unsigned nz = unsigned(q.grid[0] + PLANES - 1) / PLANES;
  const unsigned row = blockIdx.x / nx, slab = row / ny;
  return {int(blockIdx.x - row * nx) * kBlockX + int(threadIdx.x % kBlockX),
          int(row - slab * ny) * kBlockY + int(threadIdx.x / kBlockX), int(slab % nz) * PLANES, int64_t(slab / nz)};
}

// Voxel index and fraction on one axis. Displacements beyond kFar, and NaN, give an index outside every image.
__device__ __forceinline__ int near_index(float u, int at, float& fraction) {
  constexpr float far = float(kFar);
  const float whole = fminf(fmaxf(floorf(u), -far), far);
  fraction = u - whole;
  return at + int(whole);
}

// Eight corners, all inside.
struct NearCorners {
  float v[2][2][2];

  template <class T>
  __device__ __forceinline__ void read(const T* p, int row, int plane) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      v[i >> 2][i >> 1 & 1][i & 1] = load(p + (i >> 2) * plane + (i >> 1 & 1) * row + (i & 1));
  }
};

struct NearPlace {
  int offset;  // of the first corner
  float tz, ty, tx;
  bool inside;  // all corners
};

__device__ __forceinline__ NearPlace near_place(const float (&u)[3], int z, int y, int x, int d, int h, int w) {
  NearPlace place;
  const int iz = near_index(u[0], z, place.tz), iy = near_index(u[1], y, place.ty), ix = near_index(u[2], x, place.tx);
  place.inside = unsigned(iz) < unsigned(d - 1) && unsigned(iy) < unsigned(h - 1) && unsigned(ix) < unsigned(w - 1);
  place.offset = place.inside ? (iz * h + iy) * w + ix : 0;
  return place;
}

__device__ __forceinline__ float near_value(const NearPlace& t, const NearCorners& c) {
  float plane[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float low = c.v[k][0][0] + t.tx * (c.v[k][0][1] - c.v[k][0][0]);
    const float high = c.v[k][1][0] + t.tx * (c.v[k][1][1] - c.v[k][1][0]);
    plane[k] = low + t.ty * (high - low);
  }
  return plane[0] + t.tz * (plane[1] - plane[0]);
}

// Adds grad * d value / d u.
__device__ __forceinline__ void near_slope(const NearPlace& t, const NearCorners& c, float grad, float (&slope)[3]) {
  float along_x[2], along_y[2], value[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float dx0 = c.v[k][0][1] - c.v[k][0][0], dx1 = c.v[k][1][1] - c.v[k][1][0];
    const float low = c.v[k][0][0] + t.tx * dx0, high = c.v[k][1][0] + t.tx * dx1;
    along_x[k] = dx0 + t.ty * (dx1 - dx0);
    along_y[k] = high - low;
    value[k] = low + t.ty * along_y[k];
  }
  slope[0] += grad * (value[1] - value[0]);
  slope[1] += grad * (along_y[0] + t.tz * (along_y[1] - along_y[0]));
  slope[2] += grad * (along_x[0] + t.tz * (along_x[1] - along_x[0]));
}

template <class T, Padding P, bool FUSED>
__global__ void __launch_bounds__(kBlockThreads, forward_blocks()) warp_forward_near_kernel(const WarpArgs q) {
  const WarpPoint at = warp_point<kForwardPlanes>(q);
  const int d = int(q.size[0]), h = int(q.size[1]), w = int(q.size[2]);
  const int gd = int(q.grid[0]), gh = int(q.grid[1]), gw = int(q.grid[2]);
  if (at.x >= gw || at.y >= gh) return;
  const int voxels = d * h * w, points = gd * gh * gw, grid_plane = gh * gw, plane = h * w;
  const FlowLayout layout = flow_layout(q, points);
  const float* flow = static_cast<const float*>(q.flow) + at.batch * 3 * points;  // [3, D', H', W'] or [D', H', W', 3]
  const int first = (at.z * gh + at.y) * gw + at.x;
  float u[kForwardPlanes][3] = {};
#pragma unroll
  for (int k = 0; k < kForwardPlanes; ++k)
    if (at.z + k < gd) {
#pragma unroll
      for (int axis = 0; axis < 3; ++axis)
        u[k][axis] = load_once(flow + axis * layout.component + (first + k * grid_plane) * layout.voxel);
    }
  for (int64_t channel = 0; channel < q.channels; ++channel) {
    const int64_t image = at.batch * q.channels + channel;
    const T* vol = static_cast<const T*>(q.vol) + (first_volume(q, at.batch) + channel) * voxels;
    T* out = static_cast<T*>(q.out) + image * points + first;
#pragma unroll
    for (int k = 0; k < kForwardPlanes; ++k) {
      if (at.z + k >= gd) break;
      const NearPlace place = near_place(u[k], at.z + k, at.y, at.x, d, h, w);
      float value = 0;
      if (place.inside) {
        NearCorners corners;
        corners.read(vol + place.offset, w, plane);
        value = near_value(place, corners);
      }
      // A NaN may come from a corner of weight 0, which does not count: warp_voxel.h sees to it.
      if (!place.inside || is_nan(value)) {
        const Shape size{d, h, w};
        value = warp_voxel<float, 3>(place_of<float, P, 3>(u[k], at.z + k, at.y, at.x, size), vol, size);
      }
      if (FUSED) value += channel == 0 ? u[k][0] : channel == 1 ? u[k][1] : u[k][2];
      narrow(value, out[k * grid_plane]);
    }
  }
}

// Adds the eight corners' shares of a volume gradient. Neighbouring lanes mostly read neighbouring voxels: then a lane
// hands its upper corners in x to the next lane, and half of the additions to memory go. All lanes must call it.
template <class S>
__device__ __forceinline__ void near_scatter(const NearPlace& place, float grad, int row, int plane, int lane,
                                             const Accumulator<S>& add) {
  const int key = place.inside ? place.offset : -2;
  const int before = __shfl_up_sync(kFullMask, key, 1), after = __shfl_down_sync(kFullMask, key, 1);
  const bool takes = lane > 0 && place.inside && before + 1 == key;
  const bool gives = lane < kBlockX - 1 && place.inside && after == key + 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float weight = (i >> 1 ? place.tz : 1 - place.tz) * (i & 1 ? place.ty : 1 - place.ty) * grad;
    const float high = place.tx * weight;
    float low = (1 - place.tx) * weight;
    const float handed = __shfl_up_sync(kFullMask, high, 1);
    if (takes) low += handed;
    if (place.inside) {
      const int offset = place.offset + (i >> 1) * plane + (i & 1) * row;
      add(offset, low);
      if (!gives) add(offset + 1, high);
    }
  }
}

// Blocks that are to fit an SM: as many as the registers allow without spills. Borders that are not zero take more.
constexpr int backward_blocks(Padding padding, bool scatters) {
  const int blocks = padding == Padding::zeros ? 4 : 3;
  return scatters ? (padding == Padding::reflection ? 2 : 3) : blocks;
}

// S: what the volume's gradient is summed in, or void. The sums start from zero.
template <class T, Padding P, class S, bool FUSED>
__global__ void __launch_bounds__(kBlockThreads, backward_blocks(P, !std::is_void<S>::value))
    warp_backward_near_kernel(const WarpArgs q, void* sums, const double* scale) {
  constexpr bool scatters = !std::is_void<S>::value;
  constexpr int PLANES = scatters ? kScatterPlanes : kSlopePlanes;
  using Sum = std::conditional_t<scatters, S, float>;
  const WarpPoint at = warp_point<PLANES>(q);
  const int lane = threadIdx.x % kBlockX;
  const int d = int(q.size[0]), h = int(q.size[1]), w = int(q.size[2]);
  const int gd = int(q.grid[0]), gh = int(q.grid[1]), gw = int(q.grid[2]);
  const bool mine = at.x < gw && at.y < gh;
  if (!scatters && !mine) return;  // otherwise all lanes take part in the shuffles
  const int voxels = d * h * w, points = gd * gh * gw, grid_plane = gh * gw, plane = h * w;
  const FlowLayout layout = flow_layout(q, points);
  const int64_t of_flow = at.batch * 3 * points;
  const float* flow = static_cast<const float*>(q.flow) + of_flow;
  const int first = (at.z * gh + at.y) * gw + at.x;
  const double fixed = scale ? *scale : 1.0;
  float u[PLANES][3] = {};
#pragma unroll
  for (int k = 0; k < PLANES; ++k)
    if (mine && at.z + k < gd) {
#pragma unroll
      for (int axis = 0; axis < 3; ++axis)
        u[k][axis] = load_once(flow + axis * layout.component + (first + k * grid_plane) * layout.voxel);
    }
#pragma unroll
  for (int k = 0; k < PLANES; ++k) {
    if (at.z + k >= gd) break;  // the same for all lanes
    NearPlace place = near_place(u[k], at.z + k, at.y, at.x, d, h, w);
    place.inside = place.inside && mine;
    float slope[3] = {};
    for (int64_t channel = 0; channel < q.channels; ++channel) {
      const int64_t image = at.batch * q.channels + channel;
      const int64_t of_vol = (first_volume(q, at.batch) + channel) * voxels;
      const T* vol = static_cast<const T*>(q.vol) + of_vol;
      const float grad =
          mine ? load_once(static_cast<const T*>(q.grad_out) + image * points + first + k * grid_plane) : 0.f;
      const Accumulator<Sum> add{static_cast<Sum*>(sums) + of_vol, fixed};
      if (place.inside) {
        if (q.grad_flow) {
          NearCorners corners;
          corners.read(vol + place.offset, w, plane);
          near_slope(place, corners, grad, slope);
        }
      } else if (mine) {
        const Shape size{d, h, w};
        const auto edge = place_of<float, P, 3>(u[k], at.z + k, at.y, at.x, size);
        if (q.grad_flow) warp_voxel_slope<float, 3>(edge, vol, size, grad, slope);
        if constexpr (scatters)
          warp_voxel_scatter<float, 3>(edge, size, grad, [&](int64_t, int64_t offset, float v) { add(offset, v); });
      }
      if constexpr (scatters) near_scatter(place, grad, w, plane, lane, add);
      if constexpr (FUSED)
        if (mine) add(first + k * grid_plane, grad);
    }
    if (!mine || !q.grad_flow) continue;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t offset = axis * layout.component + (first + k * grid_plane) * layout.voxel;
      if constexpr (FUSED) {
        const Accumulator<Sum> add{static_cast<Sum*>(sums) + of_flow, fixed};
        add(offset, slope[axis]);
      } else {
        __stcs(static_cast<float*>(q.grad_flow) + of_flow + offset, slope[axis]);
      }
    }
  }
}

}  // namespace fastreg::cuda
