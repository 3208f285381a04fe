// Rows of the linear float32 warp, V::lanes points at a time. Included inside a target region with V for that set.
//
// Points are done in lanes; with reflection, of either kind, only those whose neighbours all lie inside. The few others, NaN and
// infinities among them, by the portable functions. Which way a point goes depends on the flow alone, and so do the
// bits.

namespace fastreg::cpu {
namespace {

enum class Fetch { none, window, pairs, edge };  // none: no point of the group is done in lanes

// Where V::lanes points read the volume.
template <class V>
struct Lanes {
  typename V::M done;   // points that are done in lanes
  unsigned inner_bits;  // of them, those whose corners all lie inside the volume
  unsigned edge_bits;   // of them, the others
  unsigned point_bits;  // left to the portable functions
  typename V::F t[3];   // fractions, 0 outside done
  Fetch fetch;
  typename V::I index;                // window: offset of the nearest corner from that of the first point
  alignas(64) int offset[V::lanes];   // of the nearest corner in the volume, 0 outside inner
  alignas(64) int line[4][V::lanes];  // edge: offsets of the pairs in the rows 00, 01, 10, 11
  typename V::M second[2];            // edge: the left, right neighbour is the second voxel of its pair
  typename V::M inside[3][2];         // edge, zeros and itk
};

template <class V>
FR_HD typename V::I clamp_lanes(typename V::I index, int64_t size) {
  return V::max(V::set(0), V::min(index, V::set(static_cast<int>(size - 1))));
}

// Where a coordinate, its whole part and fraction, is at most half a voxel outside.
template <class V>
FR_HD typename V::M half_a_voxel(typename V::F voxel, typename V::F t, int64_t size) {
  constexpr float below = 0.49999997f;  // the largest number below 1/2
  const auto set = [](int64_t n) { return V::set(static_cast<float>(n)); };
  const auto low =
      V::either(V::at_least(voxel, set(0)), V::both(V::at_least(voxel, set(-1)), V::at_least(t, V::set(0.5f))));
  const auto high = V::either(V::at_least(set(size - 2), voxel),
                              V::both(V::at_least(set(size - 1), voxel), V::at_least(V::set(below), t)));
  return V::both(low, high);
}

// The group again, with some corners outside. `voxel` holds the whole coordinates in float32.
template <class V, Padding P, int NDIM>
inline void locate_edge(const Row<float>& row, const typename V::F (&voxel)[3], Lanes<V>& p) {
  using I = typename V::I;
  I corner[3][2];
  FR_UNROLL
  for (int axis = 3 - NDIM; axis < 3; ++axis) {
    // Beyond one voxel outside nothing changes any more, and every conversion is safe.
    const auto near = V::max(V::set(-2.0f), V::min(voxel[axis], V::set(static_cast<float>(row.size[axis]))));
    const I index = V::to_int(V::keep(p.done, near));
    FR_UNROLL
    for (int side = 0; side < 2; ++side) {
      const I neighbour = V::add(index, V::set(side));
      corner[axis][side] = clamp_lanes<V>(neighbour, row.size[axis]);
      if constexpr (P == Padding::zeros) p.inside[axis][side] = V::equal(corner[axis][side], neighbour);
      if constexpr (P == Padding::itk) p.inside[axis][side] = half_a_voxel<V>(voxel[axis], p.t[axis], row.size[axis]);
    }
  }
  const I first = V::min(corner[2][0], V::set(static_cast<int>(row.size.w - 2)));
  for (int side = 0; side < 2; ++side) p.second[side] = V::greater(corner[2][side], first);
  const I h = V::set(static_cast<int>(row.size.h)), w = V::set(static_cast<int>(row.size.w));
  for (int k = 0; k < NDIM - 1; ++k)
    for (int j = 0; j < 2; ++j) {
      const I line = NDIM == 3 ? V::add(V::mul(corner[0][k], h), corner[1][j]) : corner[1][j];
      V::store(p.line[2 * k + j], V::add(V::mul(line, w), first));
    }
}

template <class V, Padding P, int NDIM>
FR_HD void locate_lanes(const Row<float>& row, int64_t i, Lanes<V>& p) {
  using F = typename V::F;
  const auto valid = V::first(row.n - i);
  const F column = row.absolute ? V::set(0.0f) : V::to_float(V::add(V::set(static_cast<int>(row.x + i)), V::iota()));
  const F place[3] = {V::set(static_cast<float>(row.z)), V::set(static_cast<float>(row.y)), column};
  F u[3], whole[3], voxel[3];
  auto inner = valid, near = valid;
  FR_UNROLL
  for (int axis = 3 - NDIM; axis < 3; ++axis) {
    u[axis] = V::load(row.flow[axis] + i, valid);
    whole[axis] = V::floor(u[axis]);
    // Tested before any conversion to int. Sums of whole numbers below 2^24 are exact; larger ones are outside.
    voxel[axis] = V::add(whole[axis], place[axis]);
    inner = V::both(inner, V::at_least(voxel[axis], V::set(0.0f)));
    inner = V::both(inner, V::at_least(V::set(static_cast<float>(row.size[axis] - 2)), voxel[axis]));
    near = V::both(near, V::both(V::at_least(u[axis], V::set(-8388608.0f)), V::at_least(V::set(8388608.0f), u[axis])));
  }
  p.inner_bits = V::bits(inner);
  const unsigned valid_bits = V::bits(valid);
  constexpr bool turns = P == Padding::reflection || P == Padding::symmetric;
  const bool edge = !turns && p.inner_bits != valid_bits;
  p.done = edge ? near : inner;
  p.edge_bits = edge ? V::bits(near) & ~p.inner_bits : 0;
  p.point_bits = valid_bits & ~(p.inner_bits | p.edge_bits);
  FR_UNROLL
  for (int axis = 3 - NDIM; axis < 3; ++axis) p.t[axis] = V::keep(p.done, V::sub(u[axis], whole[axis]));
  typename V::I index = V::set(0);
  FR_UNROLL
  for (int axis = 3 - NDIM; axis < 3; ++axis)
    index = V::add(V::mul(index, V::set(static_cast<int>(row.size[axis]))), V::to_int(V::keep(inner, voxel[axis])));
  V::store(p.offset, index);
  asm volatile("" ::: "memory");  // to be loaded one by one: the compiler would take the vector apart at twice the cost
  p.fetch = p.inner_bits ? Fetch::pairs : Fetch::none;
  const int64_t reach = p.offset[0] + (NDIM == 3 ? row.size.h * row.size.w : 0) + row.size.w + 2 * V::lanes;
  const auto from_first = V::sub(index, V::set(p.offset[0]));
  if (p.inner_bits && reach <= row.size.count() && V::all_below(from_first, 2 * V::lanes - 1)) {
    p.fetch = Fetch::window;
    p.index = from_first;
  }
  if (p.edge_bits) {
    p.fetch = Fetch::edge;
    locate_edge<V, P, NDIM>(row, voxel, p);
  }
}

// Corners of the points: c[k][j][i], k = 0 alone in 2-D.
template <class V>
struct Corners {
  typename V::F c[2][2][2];
};

// The pair of x neighbours in row (k, j) of the cell. `line` is that row at offset 0.
template <class V, Padding P, int NDIM, Fetch FETCH>
FR_HD void load_pair(const Lanes<V>& p, int k, int j, const float* vol, const float* line, Corners<V>& corners) {
  auto& left = corners.c[k][j][0];
  auto& right = corners.c[k][j][1];
  if constexpr (FETCH == Fetch::window) {
    V::window(line + p.offset[0], p.index, left, right);
  } else if constexpr (FETCH == Fetch::pairs) {
    V::pairs(line, p.offset, left, right);
  } else {
    typename V::F a, b;
    V::pairs(vol, p.line[2 * k + j], a, b);
    left = V::choose(p.second[0], b, a);
    right = V::choose(p.second[1], b, a);
    if constexpr (P == Padding::zeros || P == Padding::itk) {
      const auto inside = NDIM == 3 ? V::both(p.inside[0][k], p.inside[1][j]) : p.inside[1][j];
      left = V::keep(V::both(inside, p.inside[2][0]), left);
      right = V::keep(V::both(inside, p.inside[2][1]), right);
    }
  }
}

template <class V, Padding P, int NDIM, Fetch FETCH>
FR_HD void load_corners(const Lanes<V>& p, const float* vol, const Shape& size, Corners<V>& corners) {
  // The far rows of the cell are new to the cache. A few groups ahead is where a smooth field goes next.
  const float* ahead = vol + p.offset[0] + (NDIM == 3 ? size.h * size.w : size.w) + 64;
  __builtin_prefetch(ahead);
  if (NDIM == 3) __builtin_prefetch(ahead + size.w);
  FR_UNROLL
  for (int k = 0; k < NDIM - 1; ++k) {
    FR_UNROLL
    for (int j = 0; j < 2; ++j)
      load_pair<V, P, NDIM, FETCH>(p, k, j, vol, vol + k * size.h * size.w + j * size.w, corners);
  }
}

// (1 - t) a + t b, where a neighbour of weight 0 does not count even if it is NaN.
template <class V>
struct Lerp {
  typename V::F t, rest;
  typename V::M right, left;

  explicit Lerp(typename V::F t) : t(t), rest(V::sub(V::set(1.0f), t)), right(V::nonzero(t)), left(V::nonzero(rest)) {}

  typename V::F operator()(typename V::F a, typename V::F b) const {
    return V::fma_where(right, t, b, V::mul_where(left, rest, a));
  }
};

template <class V, Padding P, int NDIM, Fetch FETCH>
FR_HD void value_lanes(const Row<float>& row, const Lanes<V>& p, int64_t i) {
  using F = typename V::F;
  const Lerp<V> lerp_x(p.t[2]), lerp_y(p.t[1]), lerp_z(NDIM == 3 ? p.t[0] : p.t[1]);
  for (int64_t channel = 0; channel < row.channels; ++channel) {
    Corners<V> corners;
    load_corners<V, P, NDIM, FETCH>(p, row.vol + channel * row.size.count(), row.size, corners);
    F plane[2];
    FR_UNROLL
    for (int k = 0; k < NDIM - 1; ++k) {
      const auto& c = corners.c[k];
      plane[k] = lerp_y(lerp_x(c[0][0], c[0][1]), lerp_x(c[1][0], c[1][1]));
    }
    F value = plane[0];
    if constexpr (NDIM == 3) value = lerp_z(plane[0], plane[1]);
    if (row.squaring) value = V::add(value, V::load(row.flow[3 - NDIM + channel] + i, p.done));
    V::store(row.out + channel * row.out_stride + i, p.done, value);
  }
}

template <class V, Padding P, int NDIM>
void forward_run(const Row<float>& row) {
  Lanes<V> p;
  for (int64_t i = 0; i < row.n; i += V::lanes) {
    locate_lanes<V, P, NDIM>(row, i, p);
    switch (p.fetch) {
      case Fetch::none: break;
      case Fetch::window: value_lanes<V, P, NDIM, Fetch::window>(row, p, i); break;
      case Fetch::pairs: value_lanes<V, P, NDIM, Fetch::pairs>(row, p, i); break;
      case Fetch::edge: value_lanes<V, P, NDIM, Fetch::edge>(row, p, i); break;
    }
    for (unsigned rest = p.point_bits; rest; rest &= rest - 1)
      forward_point<float, P, NDIM>(row, i + __builtin_ctz(rest));
  }
}

// What a run keeps for the gradient of the volume.
template <class V>
struct Scatter {
  static constexpr int points = 256;
  alignas(64) int at[points];  // offset in the volume, -1 where the point is not done in lanes
  alignas(64) float t[3][points];
  alignas(64) float pair[4][2 * points];  // what goes to the two x neighbours, in each of the rows 00, 01, 10, 11
};

template <class V, Padding P, int NDIM, Fetch FETCH>
FR_HD void slope_lanes(const Row<float>& row, const Lanes<V>& p, int64_t i) {
  using F = typename V::F;
  F slope[3] = {V::set(0.0f), V::set(0.0f), V::set(0.0f)};
  for (int64_t channel = 0; channel < row.channels; ++channel) {
    Corners<V> corners;
    load_corners<V, P, NDIM, FETCH>(p, row.vol + channel * row.size.count(), row.size, corners);
    const F grad = V::load(row.grad_out + channel * row.out_stride + i, p.done);
    F value[2], along_y[2], along_x[2];
    FR_UNROLL
    for (int k = 0; k < NDIM - 1; ++k) {
      const F x0 = V::sub(corners.c[k][0][1], corners.c[k][0][0]), x1 = V::sub(corners.c[k][1][1], corners.c[k][1][0]);
      const F y0 = V::fma(p.t[2], x0, corners.c[k][0][0]), y1 = V::fma(p.t[2], x1, corners.c[k][1][0]);
      along_x[k] = V::fma(p.t[1], V::sub(x1, x0), x0);
      along_y[k] = V::sub(y1, y0);
      value[k] = V::fma(p.t[1], along_y[k], y0);
    }
    if constexpr (NDIM == 3) {
      slope[0] = V::fma(grad, V::sub(value[1], value[0]), slope[0]);
      along_y[0] = V::fma(p.t[0], V::sub(along_y[1], along_y[0]), along_y[0]);
      along_x[0] = V::fma(p.t[0], V::sub(along_x[1], along_x[0]), along_x[0]);
    }
    slope[1] = V::fma(grad, along_y[0], slope[1]);
    slope[2] = V::fma(grad, along_x[0], slope[2]);
  }
  FR_UNROLL
  for (int axis = 3 - NDIM; axis < 3; ++axis) {
    float* target = row.grad_flow[axis] + i;
    V::store(target, p.done, row.squaring ? V::add(V::load(target, p.done), slope[axis]) : slope[axis]);
  }
}

inline void add_pair(float* target, const float* pair) {
#if FR_NEON
  vst1_f32(target, vadd_f32(vld1_f32(target), vld1_f32(pair)));
#else
  const __m128 now = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(target)));
  const __m128 more = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pair)));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_castps_si128(_mm_add_ps(now, more)));
#endif
}

// Adds the run's weighted gradients to one channel of the volume's. Even points before odd ones: neighbours overlap by
// one voxel, and a load right behind the overlapping store would have to wait for it.
template <class V, int NDIM>
void scatter_run(const Row<float>& row, Scatter<V>& s, const float* grad_out, float* grad_vol) {
  using F = typename V::F;
  const int plane = static_cast<int>(NDIM == 3 ? row.size.h * row.size.w : row.size.w);
  const int first = static_cast<int>(row.first) * plane, last = static_cast<int>(row.last) * plane;
  for (int64_t i = 0; i < row.n; i += V::lanes) {
    const auto valid = V::first(row.n - i);
    const auto all = V::first(V::lanes);
    const F grad = V::load(grad_out + i, valid);
    const F tx = V::load(s.t[2] + i, all), ty = V::load(s.t[1] + i, all);
    F part[2] = {grad, grad};
    if constexpr (NDIM == 3) {
      part[1] = V::mul(grad, V::load(s.t[0] + i, all));
      part[0] = V::sub(grad, part[1]);
    }
    FR_UNROLL
    for (int k = 0; k < NDIM - 1; ++k) {
      const F y1 = V::mul(part[k], ty), y0 = V::sub(part[k], y1);
      const F right0 = V::mul(y0, tx), right1 = V::mul(y1, tx);
      V::interleave(s.pair[2 * k] + 2 * i, V::sub(y0, right0), right0);
      V::interleave(s.pair[2 * k + 1] + 2 * i, V::sub(y1, right1), right1);
    }
  }
  const int64_t w = row.size.w;
  const int64_t below[4] = {0, w, NDIM == 3 ? plane : 0, plane + w};  // rows 00, 01, 10, 11 in 3-D; 0, 1 in 2-D
  for (int parity = 0; parity < 2; ++parity)
    for (int64_t i = parity; i < row.n; i += 2) {
      const int at = s.at[i];
      if (at < 0) continue;
      float* target = grad_vol + at;
      if constexpr (NDIM == 3) {
        if (at >= first && at < last) {
          add_pair(target, s.pair[0] + 2 * i);
          add_pair(target + below[1], s.pair[1] + 2 * i);
        }
        if (at + plane >= first && at + plane < last) {
          add_pair(target + below[2], s.pair[2] + 2 * i);
          add_pair(target + below[3], s.pair[3] + 2 * i);
        }
      } else {
        if (at >= first && at < last) add_pair(target, s.pair[0] + 2 * i);
        if (at + plane >= first && at + plane < last) add_pair(target + plane, s.pair[1] + 2 * i);
      }
    }
}

template <class V, Padding P, int NDIM>
void backward_run(const Row<float>& row) {
  Scatter<V> scatter;
  Lanes<V> p;
  Row<float> volume_only = row;
  for (float*& none : volume_only.grad_flow) none = nullptr;
  for (int64_t i = 0; i < row.n; i += V::lanes) {
    locate_lanes<V, P, NDIM>(row, i, p);
    if (row.grad_flow[2]) switch (p.fetch) {
        case Fetch::none: break;
        case Fetch::window: slope_lanes<V, P, NDIM, Fetch::window>(row, p, i); break;
        case Fetch::pairs: slope_lanes<V, P, NDIM, Fetch::pairs>(row, p, i); break;
        case Fetch::edge: slope_lanes<V, P, NDIM, Fetch::edge>(row, p, i); break;
      }
    if (row.grad_vol) {
      FR_UNROLL
      for (int axis = 3 - NDIM; axis < 3; ++axis) V::store(scatter.t[axis] + i, V::first(V::lanes), p.t[axis]);
      for (int lane = 0; lane < V::lanes; ++lane) scatter.at[i + lane] = p.inner_bits >> lane & 1 ? p.offset[lane] : -1;
      for (unsigned rest = p.edge_bits; rest; rest &= rest - 1)
        backward_point<float, P, NDIM>(volume_only, i + __builtin_ctz(rest));
    }
    for (unsigned rest = p.point_bits; rest; rest &= rest - 1)
      backward_point<float, P, NDIM>(row, i + __builtin_ctz(rest));
  }
  if (row.grad_vol)
    for (int64_t channel = 0; channel < row.channels; ++channel)
      scatter_run<V, NDIM>(row, scatter, row.grad_out + channel * row.out_stride,
                           row.grad_vol + channel * row.size.count());
}

// A row with its channels last lies as NDIM numbers a point. A run of it is taken apart, in voxels, into a row of each
// axis, and the gradient put together again: all components in one loop, so that the compiler shuffles whole vectors.
template <int NDIM>
struct Interleaved {
  int axis[NDIM];                // of the components
  float scale[NDIM], add[NDIM];  // to voxels

  explicit Interleaved(const Row<float>& row) {
    FR_UNROLL
    for (int k = 0; k < NDIM; ++k) {
      axis[k] = row.absolute ? 2 - k : 3 - NDIM + k;
      scale[k] = row.absolute ? row.of_flow[axis[k]] : 1.0f;
      add[k] = row.absolute ? row.centre[axis[k]] : 0.0f;
    }
  }

  template <size_t points>
  void take_apart(const float* __restrict from, int64_t n, float (&to)[3][points]) const {
    float* __restrict a = to[axis[0]], * __restrict b = to[axis[1]], * __restrict c = to[axis[NDIM - 1]];
    for (int64_t i = 0; i < n; ++i) {
      a[i] = from[NDIM * i] * scale[0] + add[0];
      b[i] = from[NDIM * i + 1] * scale[1] + add[1];
      if (NDIM == 3) c[i] = from[NDIM * i + NDIM - 1] * scale[NDIM - 1] + add[NDIM - 1];
    }
  }

  template <size_t points>
  void put_together(const float (&from)[3][points], int64_t n, float* __restrict to) const {
    const float* __restrict a = from[axis[0]], * __restrict b = from[axis[1]], * __restrict c = from[axis[NDIM - 1]];
    for (int64_t i = 0; i < n; ++i) {
      to[NDIM * i] = a[i] * scale[0];
      to[NDIM * i + 1] = b[i] * scale[1];
      if (NDIM == 3) to[NDIM * i + NDIM - 1] = c[i] * scale[NDIM - 1];
    }
  }
};

template <class V, int NDIM, bool FORWARD, void (*of_run)(const Row<float>&)>
void row_in_runs(const Row<float>& row) {
  constexpr int64_t points = Scatter<V>::points;
  const bool apart = row.flow_stride != 1;
  const Interleaved<NDIM> channels(row);
  float flow[3][points], grad_flow[3][points];
  for (int64_t first = 0; first < row.n; first += points) {
    Row<float> run = row;
    run.x = row.x + first;
    run.n = row.n - first < points ? row.n - first : points;
    run.flow_stride = 1;
    if (FORWARD) run.out += first;
    else run.grad_out += first;
    if (apart) channels.take_apart(row.flow[channels.axis[0]] + first * NDIM, run.n, flow);
    FR_UNROLL
    for (int axis = 3 - NDIM; axis < 3; ++axis) {
      run.flow[axis] = apart ? flow[axis] : row.flow[axis] + first;
      if (row.grad_flow[axis]) run.grad_flow[axis] = apart ? grad_flow[axis] : row.grad_flow[axis] + first;
      run.of_flow[axis] = 1;
      run.centre[axis] = 0;
    }
    of_run(run);
    if (apart && row.grad_flow[2])
      channels.put_together(grad_flow, run.n, row.grad_flow[channels.axis[0]] + first * NDIM);
  }
}

template <class V, Padding P, int NDIM>
RowKernels<float> lane_rows() {
  return {row_in_runs<V, NDIM, true, forward_run<V, P, NDIM>>, row_in_runs<V, NDIM, false, backward_run<V, P, NDIM>>};
}

template <class V, int NDIM>
RowKernels<float> lane_rows(Padding padding) {
  switch (padding) {
    case Padding::border: return lane_rows<V, Padding::border, NDIM>();
    case Padding::reflection: return lane_rows<V, Padding::reflection, NDIM>();
    case Padding::symmetric: return lane_rows<V, Padding::symmetric, NDIM>();
    case Padding::itk: return lane_rows<V, Padding::itk, NDIM>();
    default: return lane_rows<V, Padding::zeros, NDIM>();
  }
}

}  // namespace
}  // namespace fastreg::cpu
