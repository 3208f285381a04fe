// Forward rows of the nearest float32 warp, V::lanes points at a time: zeros and border, the paddings of label maps.
// Included behind warp_lanes.inl.

namespace fastreg::cpu {
namespace {

template <class V, Padding P, int NDIM>
void nearest_run(const Row<float>& row) {
  alignas(64) int offset[V::lanes];
  alignas(64) float value[V::lanes];
  const auto all = V::first(V::lanes);
  const auto at = [&](int64_t n) { return V::set(row.absolute ? 0.0f : static_cast<float>(n)); };
  for (int64_t i = 0; i < row.n; i += V::lanes) {
    const auto valid = V::first(row.n - i);
    const auto lane = row.absolute ? V::set(0.0f) : V::to_float(V::iota());
    auto near = valid, inside = valid;
    auto index = V::set(0);
    FR_UNROLL
    for (int axis = 3 - NDIM; axis < 3; ++axis) {
      const auto u = V::load(row.flow[axis] + i, valid);
      // Whole numbers below 2^24: the sum of point and lane is exact.
      const auto point = axis == 2 ? V::add(at(row.x + i), lane) : at(axis == 1 ? row.y : row.z);
      near = V::both(near, V::both(V::at_least(u, V::set(-8388608.0f)), V::at_least(V::set(8388608.0f), u)));
      const auto rounded = V::round(V::add(point, u));
      // Beyond one voxel outside nothing changes any more.
      const auto clamped = V::max(V::set(-1.0f), V::min(rounded, V::set(static_cast<float>(row.size[axis]))));
      const auto voxel = V::to_int(V::keep(near, clamped));
      const auto source = clamp_lanes<V>(voxel, row.size[axis]);
      if constexpr (P == Padding::zeros) inside = V::both(inside, V::equal(source, voxel));
      index = V::add(V::mul(index, V::set(static_cast<int>(row.size[axis]))), source);
    }
    V::store(offset, index);
    for (int64_t c = 0; c < row.channels; ++c) {
      const float* const vol = row.vol + c * row.size.count();
      for (int l = 0; l < V::lanes; ++l) value[l] = vol[offset[l]];
      V::store(row.out + c * row.out_stride + i, near, V::keep(inside, V::load(value, all)));
    }
    for (unsigned rest = V::bits(valid) & ~V::bits(near); rest; rest &= rest - 1)
      nearest_point<float, P, NDIM>(row, i + __builtin_ctz(rest));
  }
}

template <class V, int NDIM>
auto nearest_forward(Padding padding) -> void (*)(const Row<float>&) {
  if (padding == Padding::zeros) return row_in_runs<V, NDIM, true, nearest_run<V, Padding::zeros, NDIM>>;
  if (padding == Padding::border) return row_in_runs<V, NDIM, true, nearest_run<V, Padding::border, NDIM>>;
  return nullptr;
}

}  // namespace
}  // namespace fastreg::cpu
