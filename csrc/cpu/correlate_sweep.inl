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
          fill(to, left_, goes_on ? to[left_] : W(0));
          fill(to + left_ + size_.w, step_ - left_ - size_.w, goes_on ? to[left_ + size_.w - 1] : W(0));
        }
      }
  }

  Near<W> near_of(const W* centre, int64_t count, int64_t n) const {
    return {args_.channels, step_, count, reach_, n, centre, near_};
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
        near_[count++] = inside ? b_.at(there_z, there_y) + left_ - args_.radius : zeros_;
      }
    return near_of(a_.at(z, y) + left_, count, size_.w);
  }

  void scores(int64_t z, int64_t y) {
    const W scale = W(1) / W(args_.channels);
    if (ssd_) score_rows<true>(around(z, y), scale, scores_, line_);
    else score_rows<false>(around(z, y), scale, scores_, line_);
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
    scores(z, y);
    if (field_) {
      mean_rows(field(), scores_, line_, size_.w, mean_);
      for (int axis = 0; axis < args_.ndim; ++axis)
        narrow_row(mean_ + axis * line_, row_of(static_cast<W*>(args_.out), args_.ndim, axis, z, y), size_.w);
    } else {
      for (int64_t k = 0; k < count_; ++k)
        narrow_row(scores_ + k * line_, row_of(static_cast<T*>(args_.out), count_, k, z, y), size_.w);
    }
  }

  // The gradient to the scores of a row, from that to the field.
  void slope_row(int64_t z, int64_t y) {
    scores(z, y);
    for (int axis = 0; axis < args_.ndim; ++axis)
      widen_row(row_of(static_cast<const W*>(args_.grad), args_.ndim, axis, z, y), mean_ + axis * line_, size_.w);
    mean_backward_rows(field(), scores_, line_, size_.w, mean_);
    std::memcpy(slopes_.at(z, y), scores_, size_t(count_ * line_) * sizeof(W));
  }

  void gather(const Near<W>& near, const W* grad, bool add) {
    const W scale = W(ssd_ ? -2 : 1) / W(args_.channels);
    if (ssd_) gather_rows<true>(near, grad, line_, scale, sum_, add);
    else gather_rows<false>(near, grad, line_, scale, sum_, add);
  }

  void write(void* image, const W* from, int64_t z, int64_t y) {
    for (int64_t c = 0; c < args_.channels; ++c)
      narrow_row(from + c * step_, row_of(static_cast<T*>(image), args_.channels, c, z, y), size_.w);
  }

  void grad_a_row(int64_t z, int64_t y) {
    if (!field_)
      for (int64_t k = 0; k < count_; ++k)
        widen_row(row_of(static_cast<const T*>(args_.grad), count_, k, z, y), scores_ + k * line_, size_.w);
    gather(around(z, y), field_ ? slopes_.at(z, y) : scores_, false);
    write(args_.grad_a, sum_, z, y);
  }

  // A voxel of b has what every a(q - d) says of it. At a border that goes on, the outer voxels also have what the
  // voxels beyond them would have.
  void grad_b_row(int64_t z, int64_t y) {
    const int64_t over_z = beyond_ ? rz_ : 0, over_y = beyond_;
    bool first = true;
    for (int64_t q = z - (z == 0 ? over_z : 0); q <= z + (z == size_.d - 1 ? over_z : 0); ++q)
      for (int64_t p = y - (y == 0 ? over_y : 0); p <= y + (y == size_.h - 1 ? over_y : 0); ++p) {
        const int64_t rows = opposite(q, p);
        gather(near_of((ssd_ ? b_.at(z, y) : zeros_) + (ssd_ ? left_ - beyond_ : 0), rows, size_.w + 2 * beyond_),
               scores_, !first);
        first = false;
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

  // The rows of a at q - d for all d, a row q of b, and the gradients to their scores with it, shifted to the voxels
  // of b, 0 where there is no voxel of a. Returns the number of rows inside of the grid.
  int64_t opposite(int64_t q, int64_t p) {
    int64_t count = 0;
    for (int64_t dz = rz_; dz >= -rz_; --dz)
      for (int64_t dy = args_.radius; dy >= -args_.radius; --dy) {
        const int64_t z = q - dz, y = p - dy;
        if (z < 0 || z >= size_.d || y < 0 || y >= size_.h) continue;
        const int64_t first = ((dz + rz_) * (args_.ndim == 3 ? reach_ : 0) + dy + args_.radius) * reach_;
        for (int64_t s = 0; s < reach_; ++s) {
          const int64_t k = first + reach_ - 1 - s, shift = s - args_.radius - beyond_;  // voxel x is a's x + shift
          W* const to = scores_ + (count * reach_ + s) * line_;
          if (field_) shift_row(slopes_.at(z, y) + k * line_, shift, to);
          else shift_row(row_of(static_cast<const T*>(args_.grad), count_, k, z, y), shift, to);
        }
        near_[count++] = a_.at(z, y) + left_ - args_.radius - beyond_;
      }
    return count;
  }

  template <class E>
  void shift_row(const E* from, int64_t shift, W* to) const {
    const int64_t n = size_.w + 2 * beyond_;
    const int64_t begin = min_of(n, max_of(0, -shift)), end = max_of(begin, min_of(n, size_.w - shift));
    fill(to, begin, W(0));
    widen_row(from + begin + shift, to + begin, end - begin);
    fill(to + end, line_ - end, W(0));
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
  W *zeros_, *sum_;      // [channels, step]
  W *scores_, *mean_;    // [displacements, line], [ndim, line]
  const W** near_;
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
  return with_type(args.dtype, [&](auto type) { return CorrelateTileSweep<decltype(type)>(args, rows, nullptr).bytes; });
}

void run(const CorrelateArgs& args, const CorrelateTile& tile, char* memory) {
  with_type(args.dtype,
            [&](auto type) { CorrelateTileSweep<decltype(type)>(args, tile.y1 - tile.y0, memory).run(tile); });
}

}  // namespace

const CorrelateSweep FR_SWEEP{scratch, run};

}  // namespace fastreg::cpu
