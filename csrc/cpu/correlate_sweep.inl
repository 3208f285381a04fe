// A tile of the cost volume marches through its planes. Rows of both images are packed into rings of planes, channels
// next to each other, in the precision of the sums and with what lies outside of the grid, so that the loops over
// voxels (correlate_rows.inl) know no borders. No sum depends on how the volume is cut into tiles.
#include "cpu/correlate_rows.inl"

namespace fastreg::cpu {
namespace {

// Hands out pieces of the scratch memory; from null it counts.
struct Pieces {
  char* next;
  template <class E>
  E* take(int64_t count) {
    E* piece = reinterpret_cast<E*>(next);
    next += (count * int64_t(sizeof(E)) + 63) / 64 * 64;
    return piece;
  }
};

// Rows y0 <= y < y1 of the last planes that were put in.
template <class W>
struct Ring {
  W* data = nullptr;
  int64_t planes = 0, y0 = 0, y1 = 0, row = 0, next = 0;  // row: elements of one; next: the plane to put in

  void place(Pieces& pieces, int64_t planes_, int64_t rows, int64_t row_) {
    planes = planes_;
    row = row_;
    data = pieces.take<W>(planes * rows * row);
    y0 = 0;
    y1 = rows;
  }
  void aim(int64_t first, int64_t begin, int64_t end) {
    next = max_of(first, 0);
    y0 = begin;
    y1 = end;
  }
  W* at(int64_t z, int64_t y) const { return data + (z % planes * (y1 - y0) + y - y0) * row; }
};

template <class T>
class CorrelateTileSweep {
  using W = Compute<T>;

 public:
  CorrelateTileSweep(const CorrelateArgs& args, int64_t rows, char* memory)
      : args_(args),
        size_(shape_of(args.size)),
        reach_(2 * args.radius + 1),
        rz_(args.ndim == 3 ? args.radius : 0),
        near_rows_(args.ndim == 3 ? reach_ * reach_ : reach_),
        count_(near_rows_ * reach_),
        border_(args.padding == Padding::border),
        ssd_(args.measure == Measure::ssd),
        field_(args.sharpness > 0),
        backward_(args.grad != nullptr),
        need_b_(backward_ && args.grad_b != nullptr),
        beyond_(need_b_ && border_ ? args.radius : 0) {
    // An odd number of cache lines for a row and for a channel: no two at the same place of a cache.
    const int64_t line = 64 / sizeof(W);
    const auto odd = [&](int64_t elements) { return ((elements + line - 1) / line | 1) * line; };
    left_ = (2 * args.radius + line - 1) / line * line;
    step_ = odd(left_ + lanes_of<W> * ((size_.w + 2 * beyond_ + lanes_of<W> - 1) / lanes_of<W>)+args.radius);
    line_ = odd(size_.w + 2 * beyond_ + lanes_of<W>);
    const int64_t row = odd(args.channels * step_), halo = 2 * args.radius;
    rows = min_of(rows, size_.h);
    Pieces pieces{memory};
    const auto within = [&](int64_t extra) { return min_of(rows + 2 * extra, size_.h); };
    b_.place(pieces, 2 * rz_ + 1, within(halo), row);
    a_.place(pieces, need_b_ ? 2 * rz_ + 1 : 1, within(args.radius), row);
    if (field_ && backward_) slopes_.place(pieces, a_.planes, within(args.radius), odd(count_ * line_));
    zeros_ = pieces.take<W>(row);
    sum_ = pieces.take<W>(row);
    scores_ = pieces.take<W>(count_ * line_);
    mean_ = pieces.take<W>(3 * line_);
    near_ = pieces.take<const W*>(near_rows_);
    slope_rows_ = pieces.take<const W*>(near_rows_);
    raw_ = pieces.take<const void*>(near_rows_);
    ahead_ = pieces.take<const char*>(2 * args.channels + count_);
    for (W*& d : d_) d = pieces.take<W>(count_);
    bytes = size_t(pieces.next - memory);
  }

  void run(const CorrelateTile& tile) {
    prepare();
    t_ = tile;
    const int64_t behind = need_b_ ? rz_ : 0, margin = need_b_ ? args_.radius : 0;  // planes and rows of slopes around
    const auto aim = [&](auto& ring, int64_t first, int64_t extra) {
      ring.aim(first, max_of(tile.y0 - extra, 0), min_of(tile.y1 + extra, size_.h));
    };
    aim(a_, tile.z0 - behind, margin);
    aim(b_, tile.z0 - rz_ - (field_ ? behind : 0), args_.radius + (field_ ? margin : 0));
    aim(slopes_, tile.z0 - behind, margin);
    const bool wants_a = need_b_ || !backward_ || field_ || ssd_;
    const bool wants_b = !need_b_ || args_.grad_a || field_ || ssd_;
    for (int64_t z = tile.z0 - behind; z < tile.z1 + behind; ++z) {
      if (wants_b) pack<true>(b_, args_.b, z + rz_);
      if (wants_a) pack<false>(a_, args_.a, z);
      if (!backward_) {
        for (int64_t y = tile.y0; y < tile.y1; ++y) forward_row(z, y);
        continue;
      }
      if (field_ && z >= 0 && z < size_.d)
        for (int64_t y = slopes_.y0; y < slopes_.y1; ++y) slope_row(z, y);
      if (args_.grad_a && z >= tile.z0 && z < tile.z1)
        for (int64_t y = tile.y0; y < tile.y1; ++y) grad_a_row(z, y);
      if (need_b_ && z - rz_ >= tile.z0)
        for (int64_t y = tile.y0; y < tile.y1; ++y) grad_b_row(z - rz_, y);
    }
  }

  size_t bytes;

 private:
  void prepare() {
    fill(zeros_, args_.channels * step_, W(0));
    for (int64_t k = 0; k < count_; ++k) {
      const int64_t part[3] = {k / reach_ / reach_, k / reach_ % reach_, k % reach_};
      for (int axis = 0; axis < args_.ndim; ++axis) d_[axis][k] = W(part[axis + 3 - args_.ndim] - args_.radius);
    }
  }

  // Puts planes into a ring until z is there. `wide`: of b, which goes on beyond its border.
  template <bool wide>
  void pack(Ring<W>& ring, const void* image, int64_t z) {
    const int64_t voxels = size_.count();
    for (; ring.next <= min_of(z, size_.d - 1); ++ring.next)
      for (int64_t c = 0; c < args_.channels; ++c) {
        const T* from =
            static_cast<const T*>(image) + (t_.item * args_.channels + c) * voxels + size_.at(ring.next, ring.y0, 0);
        for (int64_t y = ring.y0; y < ring.y1; ++y, from += size_.w) {
          W* const to = ring.at(ring.next, y) + c * step_;
          widen_row(from, to + left_, size_.w);
          const bool goes_on = wide && border_;
          const int64_t beyond = 2 * args_.radius;  // more is read, but not used
          fill(to + left_ - beyond, beyond, goes_on ? to[left_] : W(0));
          fill(to + left_ + size_.w, args_.radius + beyond_, goes_on ? to[left_ + size_.w - 1] : W(0));
        }
      }
  }

  Near<W> near_of(int64_t count, const W* centre) const {
    return {args_.channels, step_, count, reach_, centre, near_, ahead_, wanted_, sizeof(T)};
  }

  // What comes next: a row of the next planes of both images, and the next row of gradients to scores.
  void look_ahead(int64_t z, int64_t y, bool slopes) {
    wanted_ = 0;
    const auto ask = [&](const void* image, int64_t channels, int64_t at_z, int64_t at_y) {
      if (at_z < size_.d && at_y < size_.h)
        for (int64_t c = 0; c < channels; ++c)
          ahead_[wanted_++] =
              reinterpret_cast<const char*>(row_of(static_cast<const T*>(image), channels, c, at_z, at_y));
    };
    ask(args_.b, args_.channels, z + rz_ + 1, y);
    ask(args_.a, args_.channels, z + 1, y);
    if (slopes) ask(args_.grad, count_, z, y + 1);
  }

  // Rows of b around a row of a.
  Near<W> around(int64_t z, int64_t y) {
    int64_t count = 0;
    for (int64_t dz = -rz_; dz <= rz_; ++dz)
      for (int64_t dy = -args_.radius; dy <= args_.radius; ++dy) {
        int64_t there_z = z + dz, there_y = y + dy;
        if (border_) {
          there_z = max_of(0, min_of(there_z, size_.d - 1));
          there_y = max_of(0, min_of(there_y, size_.h - 1));
        }
        const bool inside = there_z >= 0 && there_z < size_.d && there_y >= 0 && there_y < size_.h;
        near_[count++] = inside ? b_.at(there_z, there_y) + left_ - args_.radius : zeros_ + left_ - args_.radius;
      }
    return near_of(count, a_.at(z, y) + left_);
  }

  void scores(int64_t z, int64_t y) {
    const W scale = W(1) / W(args_.channels);
    if (ssd_) score_rows<true>(around(z, y), size_.w, scale, scores_, line_);
    else score_rows<false>(around(z, y), size_.w, scale, scores_, line_);
  }

  Field<W> field() const {
    return {args_.ndim, count_, {d_[0], d_[1], d_[2]}, W(ssd_ ? -args_.sharpness : args_.sharpness)};
  }

  // Of `channels` channels that lie together for each item.
  template <class E>
  E* row_of(E* array, int64_t channels, int64_t c, int64_t z, int64_t y) const {
    return array + (t_.item * channels + c) * size_.count() + size_.at(z, y, 0);
  }

  void forward_row(int64_t z, int64_t y) {
    look_ahead(z, y, false);
    scores(z, y);
    if (field_) {
      mean_rows(field(), scores_, line_, size_.w, mean_);
      for (int axis = 0; axis < args_.ndim; ++axis)
        narrow_row(mean_ + axis * line_, row_of(static_cast<W*>(args_.out), args_.ndim, axis, z, y), size_.w);
    } else {
      for (int64_t k = 0; k < count_; ++k)
        narrow_row(scores_ + k * line_, row_of(static_cast<T*>(args_.out), count_, k, z, y), size_.w, true);
    }
  }

  // The gradient to the scores of a row, from that to the field.
  void slope_row(int64_t z, int64_t y) {
    look_ahead(z, y, false);
    scores(z, y);
    wanted_ = 0;
    for (int axis = 0; axis < args_.ndim; ++axis)
      widen_row(row_of(static_cast<const W*>(args_.grad), args_.ndim, axis, z, y), mean_ + axis * line_, size_.w);
    mean_backward_rows(field(), scores_, line_, size_.w, mean_);
    std::memcpy(slopes_.at(z, y), scores_, size_t(count_ * line_) * sizeof(W));
  }

  void gather(const Near<W>& near, int64_t begin, int64_t end, const Slopes<W>& slopes, bool add) {
    const W scale = W(ssd_ ? -2 : 1) / W(args_.channels);
    if (ssd_) gather_rows<true>(near, begin, end, slopes, scale, sum_, add);
    else gather_rows<false>(near, begin, end, slopes, scale, sum_, add);
  }

  // The same for voxels 0 <= x < n. The slopes of displacement s in row r are at raw_[r] + s * plane, of type E, and those
  // for voxel x are `shift` = (turn ? s : 0) - before further on, 0 beyond the row. They are read where they lie if all of
  // a vector are inside.
  template <class E>
  void gather_from(const Near<W>& near, int64_t n, int64_t plane, bool turn, int64_t before, bool add) {
    constexpr int64_t lanes = lanes_of<W>;
    int64_t begin = n, end = n;
    if constexpr (std::is_same_v<E, W>) {
      begin = (before + lanes - 1) / lanes * lanes;
      end = max_of(begin, (size_.w + before - (turn ? reach_ - 1 : 0)) / lanes * lanes);
      for (int64_t r = 0; r < near.count; ++r) slope_rows_[r] = static_cast<const W*>(raw_[r]) - before;
      gather(near, begin, end, {slope_rows_, plane + turn}, add);
    }
    if (begin == 0 && end >= n) return;
    for (int64_t r = 0; r < near.count; ++r) {
      W* const to = scores_ + r * reach_ * line_;
      slope_rows_[r] = to;
      for (int64_t s = 0; s < reach_; ++s) {
        const E* const from = static_cast<const E*>(raw_[r]) + s * plane;
        const int64_t shift = (turn ? s : 0) - before;
        shift_row(from, shift, to + s * line_, 0, min_of(begin, line_));
        shift_row(from, shift, to + s * line_, end, line_);
      }
    }
    gather(near, 0, min_of(begin, n), {slope_rows_, line_}, add);
    gather(near, end, n, {slope_rows_, line_}, add);
  }

  void write(void* image, const W* from, int64_t z, int64_t y) {
    for (int64_t c = 0; c < args_.channels; ++c)
      narrow_row(from + c * step_, row_of(static_cast<T*>(image), args_.channels, c, z, y), size_.w, true);
  }

  // raw_[r]: of the row (z, y), the slopes of displacement k.
  void aim_slopes(int64_t r, int64_t k, int64_t z, int64_t y) {
    if (field_) raw_[r] = slopes_.at(z, y) + k * line_;
    else raw_[r] = row_of(static_cast<const T*>(args_.grad), count_, k, z, y);
  }
  void gather_either(const Near<W>& near, int64_t n, bool turn, int64_t before, bool add) {
    const int64_t sign = turn ? -1 : 1;
    if (field_) gather_from<W>(near, n, sign * line_, turn, before, add);
    else gather_from<T>(near, n, sign * size_.count(), turn, before, add);
  }

  void grad_a_row(int64_t z, int64_t y) {
    if (!field_) look_ahead(z, y, true);
    for (int64_t r = 0; r < near_rows_; ++r) aim_slopes(r, r * reach_, z, y);
    gather_either(around(z, y), size_.w, false, 0, false);
    wanted_ = 0;
    write(args_.grad_a, sum_, z, y);
  }

  // A voxel of b has what every a(q - d) says of it. At a border that goes on, the outer voxels also have what the
  // voxels beyond them would have.
  void grad_b_row(int64_t z, int64_t y) {
    const int64_t over_z = beyond_ ? rz_ : 0, over_y = beyond_;
    bool add = false;
    for (int64_t q = z - (z == 0 ? over_z : 0); q <= z + (z == size_.d - 1 ? over_z : 0); ++q)
      for (int64_t p = y - (y == 0 ? over_y : 0); p <= y + (y == size_.h - 1 ? over_y : 0); ++p) {
        const int64_t rows = opposite(q, p);
        const W* const centre = ssd_ ? b_.at(z, y) + left_ - beyond_ : zeros_;
        gather_either(near_of(rows, centre), size_.w + 2 * beyond_, true, args_.radius + beyond_, add);
        add = true;
      }
    for (int64_t c = 0; c < args_.channels && beyond_; ++c) {
      W* const row = sum_ + c * step_;
      for (int64_t x = 0; x < beyond_; ++x) {
        row[beyond_] += row[x];
        row[beyond_ + size_.w - 1] += row[beyond_ + size_.w + x];
      }
    }
    write(args_.grad_b, sum_ + beyond_, z, y);
  }

  // The rows of a at q - d for all d, a row q of b, the displacement along x beginning with the last, and the slopes of
  // their scores. Returns the number of rows inside of the grid.
  int64_t opposite(int64_t q, int64_t p) {
    int64_t count = 0;
    for (int64_t dz = rz_; dz >= -rz_; --dz)
      for (int64_t dy = args_.radius; dy >= -args_.radius; --dy) {
        const int64_t z = q - dz, y = p - dy;
        if (z < 0 || z >= size_.d || y < 0 || y >= size_.h) continue;
        const int64_t row = (dz + rz_) * (args_.ndim == 3 ? reach_ : 0) + dy + args_.radius;
        aim_slopes(count, row * reach_ + reach_ - 1, z, y);
        near_[count++] = a_.at(z, y) + left_ - args_.radius - beyond_;
      }
    return count;
  }

  // Elements lo <= x < hi of a row: from[x + shift], 0 beyond it.
  template <class E>
  void shift_row(const E* from, int64_t shift, W* to, int64_t lo, int64_t hi) const {
    if (lo >= hi) return;
    const int64_t begin = max_of(lo, min_of(hi, -shift)), end = max_of(begin, min_of(hi, size_.w - shift));
    fill(to + lo, begin - lo, W(0));
    widen_row(from + begin + shift, to + begin, end - begin);
    fill(to + end, hi - end, W(0));
  }

  const CorrelateArgs& args_;
  const Shape size_;
  const int64_t reach_, rz_, near_rows_, count_;
  const bool border_, ssd_, field_, backward_, need_b_;
  const int64_t beyond_;  // voxels of b outside of its grid that have a gradient
  int64_t left_;          // elements before voxel 0 of a packed channel
  int64_t step_;          // elements of a packed channel
  int64_t line_;          // elements of a row of scores
  Ring<W> a_, b_, slopes_;
  W *zeros_, *sum_;    // [channels, step]
  W *scores_, *mean_;  // [displacements, line], [ndim, line]
  const W **near_, **slope_rows_;
  const void** raw_;
  const char** ahead_;
  int64_t wanted_ = 0;
  W* d_[3];
  CorrelateTile t_{};
};

template <class Of>
auto with_type(DType dtype, const Of& of) {
  if (dtype == DType::f64) return of(double());
  if (dtype == DType::f16) return of(f16());
  if (dtype == DType::bf16) return of(bf16());
  return of(float());
}

size_t scratch(const CorrelateArgs& args, int64_t rows) {
  return with_type(args.dtype,
                   [&](auto type) { return CorrelateTileSweep<decltype(type)>(args, rows, nullptr).bytes; });
}

void run(const CorrelateArgs& args, const CorrelateTile& tile, char* memory) {
  with_type(args.dtype,
            [&](auto type) { CorrelateTileSweep<decltype(type)>(args, tile.y1 - tile.y0, memory).run(tile); });
}

}  // namespace

const CorrelateSweep FR_SWEEP{scratch, run};

}  // namespace fastreg::cpu
