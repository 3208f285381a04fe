// The streaming sweep of the local correlation over one tile, for vectors of FR_DOUBLES doubles.
//
// z: running sums of the statistics a column, updated by the slice that enters the window and the one that leaves.
// y: a running sum of those rows. x: a running sum along the row, in registers, straight into the formula. The
// derivatives of the windows go the same way again (a ring of slices, z, y, x) and come out as the gradient.
// Every sum is float64, in an order that depends on the tile alone.
//
// Running sums keep a NaN for good. Such a tile shows it at its end, and is done again by fresh sums.
#include "cpu/lncc_segments.inl"

namespace fastreg::cpu {
namespace {

template <class T, int gradients, bool masked>
class Sweep {
 public:
  static constexpr int statistics = 5 + masked;  // sums of a, b, aa, bb, ab and of what counts
  static constexpr int fields = 2 + masked;      // of an image row: a, b and the mask
  static constexpr int adjoint_fields = gradients == 0 ? 0 : gradients == 1 ? 3 : 5;

  Sweep(const LnccPlan& plan, int64_t tile_rows, char* memory) : p(plan), row(lanes * plan.segment) {
    const int64_t halo = lanes * p.half_x, padded = row + 2 * halo;
    window_z = 2 * p.half_z + 1;
    window_y = 2 * p.half_y + 1;
    const int64_t window_rows = min_of(p.height, tile_rows + (gradients ? 2 * p.half_y : 0));
    const int64_t sum_rows = min_of(p.height, window_rows + 2 * p.half_y);
    Scratch scratch{memory};
    slice = sum_rows * fields * row;
    image_ring = scratch.take<T>((window_z + 1) * slice);
    outside = scratch.take<T>(fields * row);
    sums = scratch.take<double>(sum_rows * statistics * row);
    outside_sums = scratch.take<double>(statistics * row);
    sums_y_size = statistics * padded;
    sums_y = scratch.take<double>(sums_y_size) + statistics * halo;
    weights = scratch.take<T>(row);
    inv_n = scratch.take<double>(row);
    values = scratch.take<T>(2 * row);
    zeros = scratch.take<double>(statistics * row);
    slope_slice = window_rows * row;
    if (gradients) {
      ring_slopes = scratch.take<T>(window_z * slope_slice * (gradients + 1));
      ring_means = scratch.take<double>(window_z * slope_slice * gradients);
      slope_row = scratch.take<T>(row * (gradients + 1));
      mean_row = scratch.take<double>(row * gradients);
      adjoint_sums = scratch.take<double>(window_rows * adjoint_fields * row);
      adjoint_sums_y_size = adjoint_fields * padded;
      adjoint_sums_y = scratch.take<double>(adjoint_sums_y_size) + adjoint_fields * halo;
    }
    bytes = size_t(scratch.next - memory);
  }

  size_t bytes;

  double run(const LnccImage& pair, const LnccTile& whole, bool fresh_sums) {
    image = pair;
    tile = whole;
    fresh = fresh_sums;
    const int beyond = gradients ? p.half_y : 0, beyond_z = gradients ? p.half_z : 0;
    first_window = max_of(0, tile.y0 - beyond);
    last_window = min_of(p.height, tile.y1 + beyond);
    first_sum = max_of(0, first_window - p.half_y);
    last_sum = min_of(p.height, last_window + p.half_y);
    first_slice = max_of(0, tile.z0 - beyond_z);
    last_slice = min_of(p.depth, tile.z1 + beyond_z);
    start_tile();
    total = Vec8{};
    for (int64_t z = first_slice; z < tile.z1 + beyond_z; ++z) {
      current = z;
      if (gradients) fill(adjoint_sums_y - adjoint_fields * lanes * p.half_x, adjoint_sums_y_size, 0.0);
      if (z < last_slice) {
        windows_of_slice();
      } else {
        for (int64_t y = first_window; y < last_window; ++y) {
          if (fresh) sum_adjoints_fresh(y);
          else enter_adjoint_row(y, true);
          gradient_row(y - p.half_y);
        }
      }
      if (gradients)
        for (int64_t y = last_window; y < tile.y1 + p.half_y; ++y) {
          add(adjoint_sums_y, y - window_y >= first_window ? adjoint_row(y - window_y) : zeros, adjoint_fields, -1.0);
          gradient_row(y - p.half_y);
        }
    }
    double sum = 0;
    for (int l = 0; l < lanes; ++l) sum += total.lane[l];
    return sum;
  }

  // Whether a running sum of this tile has met a NaN or an infinity, which it cannot forget.
  bool has_nonfinite() const {
    Vec probe{};
    for (int64_t i = 0; i < (last_sum - first_sum) * statistics * row; i += per_vector) probe += 0.0 * load(sums + i);
    if (gradients)
      for (int64_t i = 0; i < (last_window - first_window) * adjoint_fields * row; i += per_vector)
        probe += 0.0 * load(adjoint_sums + i);
    for (int l = 0; l < per_vector; ++l)
      if (!(probe[l] == 0)) return true;
    return false;
  }

 private:
  struct Vec8 {
    double lane[lanes];
  };

  const LnccPlan& p;
  int64_t row, slice, slope_slice, sums_y_size, adjoint_sums_y_size, window_y, window_z;
  T* image_ring;  // a and b of the slices from which and into which the windows move
  T *outside, *weights, *values;
  double *sums, *outside_sums, *sums_y, *inv_n;
  double* zeros;
  // Derivatives of the windows, those of a row and those of the last window_z slices.
  T *slope_row, *ring_slopes;     // by c, aa (, bb), as rounded to T
  double *mean_row, *ring_means;  // by the sums of a (and b)
  double *adjoint_sums, *adjoint_sums_y;

  LnccImage image;
  LnccTile tile;
  bool fresh;
  int64_t first_window, last_window, first_sum, last_sum, first_slice, last_slice, current;
  double outside_window[statistics];  // the sums of a window outside the image
  Vec largest_aa, largest_bb;         // squares that the sums have met
  Vec8 total;

  // The fields of a row in segments
  T* image_row(int64_t z, int64_t y) {
    if (z < 0 || z >= p.depth) return outside;
    return image_ring + z % (window_z + 1) * slice + (y - first_sum) * fields * row;
  }
  double* sum_row(int64_t y) {
    return y < 0 || y >= p.height ? outside_sums : sums + (y - first_sum) * statistics * row;
  }
  double* adjoint_row(int64_t y) { return adjoint_sums + (y - first_window) * adjoint_fields * row; }

  void read_row(int64_t z, int64_t y) {
    if (z < 0 || z >= p.depth) return;
    const int64_t from = (z * p.height + y) * p.width;
    T* to = image_row(z, y);
    const int64_t ahead = min_of(y + 4, last_sum - 1) - y;  // rows
    for (int64_t x = 0; x < p.width; x += int64_t(64 / sizeof(T))) {
      __builtin_prefetch(static_cast<const T*>(image.a) + from + ahead * p.width + x);
      __builtin_prefetch(static_cast<const T*>(image.b) + from + ahead * p.width + x);
      if (masked) __builtin_prefetch(static_cast<const T*>(image.mask) + from + ahead * p.width + x);
    }
    const auto field = [&](const void* volume, int f, T beyond) {
      to_segments(static_cast<const T*>(volume) + from, to + f * lanes, fields * lanes, p.width, p.segment, beyond);
    };
    field(image.a, 0, T(image.outside_a));
    field(image.b, 1, T(image.outside_b));
    if constexpr (masked) {
      field(image.mask, 2, T(!p.count));
      mask_row(to, p.segment, T(image.shift_a), T(image.shift_b));
    }
  }

  void start_tile() {
    for (int64_t j = 0; j < p.segment; ++j) {
      fill(outside + fields * j * lanes, lanes, T(image.outside_a));
      fill(outside + (fields * j + 1) * lanes, lanes, T(image.outside_b));
      if (masked) fill(outside + (fields * j + 2) * lanes, lanes, T(!p.count));
    }
    fill(weights, row, T(1));
    fill(zeros, statistics * row, 0.0);
    const double a = image.outside_a - image.shift_a, b = image.outside_b - image.shift_b;
    const double constants[6] = {a, b, a * a, b * b, a * b, double(!p.count)};
    largest_aa = Vec{} + a * a;
    largest_bb = Vec{} + b * b;
    for (int f = 0; f < statistics; ++f) {
      outside_window[f] = double(window_z) * double(window_y) * constants[f];
      for (int64_t j = 0; j < p.segment; ++j)
        fill(outside_sums + (j * statistics + f) * lanes, lanes, double(window_z) * constants[f]);
    }
    fill(sums, (last_sum - first_sum) * statistics * row, 0.0);
    // As if the window had stood one slice before the first.
    for (int64_t z = first_slice - p.half_z - 1; z < first_slice + p.half_z; ++z)
      for (int64_t y = first_sum; y < last_sum; ++y) {
        read_row(z, y);
        add_products(sum_row(y), image_row(z, y));
      }
    if (gradients) fill(adjoint_sums, (last_window - first_window) * adjoint_fields * row, 0.0);
  }

  void add_products(double* to, const T* ab) {
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b;
    Vec aa = largest_aa, bb = largest_bb;
    const int64_t segment = p.segment;
    for (int64_t j = 0; j < segment; ++j, ab += fields * lanes, to += statistics * lanes)
      for (int q = 0; q < lanes; q += per_vector) {
        Vec v[statistics];
        products(ab + q, shift_a, shift_b, v);
        aa = v[2] > aa ? v[2] : aa;
        bb = v[3] > bb ? v[3] : bb;
        for (int f = 0; f < statistics; ++f) store(to + f * lanes + q, load(to + f * lanes + q) + v[f]);
      }
    largest_aa = aa;
    largest_bb = bb;
  }

  void add(double* to, const double* from, int fields, double sign) const {
    for (int64_t i = 0; i < fields * row; i += per_vector) store(to + i, load(to + i) + sign * load(from + i));
  }

  // The row y enters the window: its sums over z move on by one slice and enter the sums over y, where row
  // y - window_y leaves.
  void enter_row(int64_t y) {
    const double* old = y - window_y >= first_window - p.half_y ? sum_row(y - window_y) : zeros;
    if (y < 0 || y >= p.height) {
      add(sums_y, outside_sums, statistics, 1.0);
      add(sums_y, old, statistics, -1.0);
      return;
    }
    read_row(current + p.half_z, y);
    const T *in = image_row(current + p.half_z, y), *out = image_row(current - p.half_z - 1, y);
    double *now = sum_row(y), *sum_y = sums_y;
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b;
    Vec aa = largest_aa, bb = largest_bb;
    const int64_t segment = p.segment;
    for (int64_t j = 0; j < segment; ++j) {
      for (int q = 0; q < lanes; q += per_vector) {
        Vec enter[statistics], leave[statistics];
        products(in + q, shift_a, shift_b, enter);
        products(out + q, shift_a, shift_b, leave);
        aa = enter[2] > aa ? enter[2] : aa;
        bb = enter[3] > bb ? enter[3] : bb;
        for (int f = 0; f < statistics; ++f) {
          const int i = f * lanes + q;
          const Vec z = load(now + i) + (enter[f] - leave[f]);
          store(now + i, z);
          store(sum_y + i, load(sum_y + i) + (z - load(old + i)));
        }
      }
      in += fields * lanes;
      out += fields * lanes;
      now += statistics * lanes;
      old += statistics * lanes;
      sum_y += statistics * lanes;
    }
    largest_aa = aa;
    largest_bb = bb;
  }

  // What running sums may have kept of squares that left: a few roundings of the largest sum there can be.
  Vec drift(Vec largest) const {
    double square = 0;
    for (int l = 0; l < per_vector; ++l) square = largest[l] > square ? largest[l] : square;
    return Vec{} + (fresh ? 0.0 : 1e-15 * double(window_z * window_y * (2 * p.half_x + 1)) * square);
  }

  // The same by fresh sums.
  void enter_row_fresh(int64_t y) {
    if (y >= 0 && y < p.height) {
      read_row(current + p.half_z, y);
      fill(sum_row(y), statistics * row, 0.0);
      for (int64_t z = current - p.half_z; z <= current + p.half_z; ++z) add_products(sum_row(y), image_row(z, y));
    }
    fill(sums_y - statistics * lanes * p.half_x, sums_y_size, 0.0);
    for (int64_t k = max_of(first_window - p.half_y, y - window_y + 1); k <= y; ++k)
      add(sums_y, sum_row(k), statistics, 1.0);
  }

  void windows_of_slice() {
    const bool plain = p.rule.plain && !image.map && (masked || (!p.count && !image.weight));
    fill(sums_y - statistics * lanes * p.half_x, sums_y_size, 0.0);
    for (int64_t y = first_window - p.half_y; y < last_window + p.half_y; ++y) {
      if (fresh) enter_row_fresh(y);
      else enter_row(y);
      const int64_t centre = y - p.half_y;
      if (centre < first_window) continue;
      fill_halo(sums_y, p.segment, p.half_x, outside_window);
      if (plain) windows_of_row<true>(centre);
      else windows_of_row<false>(centre);
      if (gradients) enter_adjoint_row(centre, false);
      if (gradients && fresh) sum_adjoints_fresh(centre);
      if (gradients) gradient_row(centre - p.half_y);
    }
  }

  // 1 / the number of voxels inside the image, for every window of a row.
  void count_row(int64_t y) {
    const auto inside = [](int64_t at, int64_t size, int half) {
      return double(min_of(size - 1, at + half) - max_of(0, at - half) + 1);
    };
    const double plane = inside(current, p.depth, p.half_z) * inside(y, p.height, p.half_y);
    for (int64_t j = 0; j < p.segment; ++j)
      for (int k = 0; k < lanes; ++k) {
        const int64_t x = min_of(k * p.segment + j, p.width - 1);
        inv_n[j * lanes + k] = 1.0 / (plane * inside(x, p.width, p.half_x));
      }
  }

  template <bool plain>
  void windows_of_row(int64_t y) {
    constexpr bool weighted = masked || !plain;  // a mask weights its windows, too
    const int64_t voxel = (current * p.height + y) * p.width;
    const bool by_mask = masked && image.weight == image.mask;  // which lies in the ring already
    const T* const weight = by_mask ? image_row(current, y) + 2 * lanes : weights;
    const int64_t weight_step = by_mask ? fields * lanes : lanes;
    if (image.weight && !by_mask)
      to_segments(static_cast<const T*>(image.weight) + voxel, weights, lanes, p.width, p.segment, T(0));
    if (masked && !image.map && !any(weight, weight_step, p.segment)) {  // windows without weight enter nothing
      if constexpr (gradients != 0) {
        fill(slope_row, row * (gradients + 1), T(0));
        fill(mean_row, row * gradients, 0.0);
      }
      return;
    }
    if (p.count && !masked) count_row(y);
    const bool in_tile = current >= tile.z0 && current < tile.z1 && y >= tile.y0 && y < tile.y1;
    const Vec drift_aa = drift(largest_aa), drift_bb = drift(largest_bb);
    const Vec n = Vec{} + 1.0 / (double(window_z) * double(window_y) * double(2 * p.half_x + 1));

    const LnccRule<double> rule = p.rule;
    const int64_t segment = p.segment, size = p.width;
    const double* const inverse = p.count ? inv_n : nullptr;
    T* const cc = in_tile && image.map ? values : nullptr;
    for (int q = 0; q < lanes; q += per_vector) {
      Mask x{};
      for (int l = 0; l < per_vector; ++l) x[l] = (q + l) * segment;
      Vec partial{};
      RowWindows<statistics> windows(sums_y + q, p.half_x, fresh);
      T* slope = slope_row + q;
      double* mean = mean_row + q;
      for (int64_t j = 0; j < segment; ++j, x += 1) {
        const int64_t i = j * lanes + q;
        windows.enter(j);
        const LnccSums<Vec> s{windows.sum[0], windows.sum[1], windows.sum[2], windows.sum[3], windows.sum[4]};
        Vec inv = n;
        if constexpr (masked) inv = 1.0 / (windows.sum[5] < 1.0 ? Vec{} + 1.0 : windows.sum[5]);
        else if (!plain && inverse) inv = load(inverse + i);
        windows.leave(j);
        const auto w = lncc_window<plain>(s, inv, drift_aa, drift_bb, rule);
        const Mask inside = x < size;
        const Vec g = weighted ? load(weight + j * weight_step + q) : Vec{} + 1.0;
        const Mask enters = masked ? inside & (g != 0.0) : inside;
        partial += enters ? (weighted ? g * w.cc : w.cc) : Vec{};
        if (!plain && cc) store(cc + i, w.cc);
        if constexpr (gradients != 0) {
          const T* as_stored = nullptr;
          // The means from the slopes as rounded: then the rounding cancels where the gradient subtracts.
          const Vec c = rounded(enters ? (weighted ? g * w.slope_c : w.slope_c) : Vec{}, as_stored);
          const Vec aa = rounded(enters ? (weighted ? g * w.slope_aa : w.slope_aa) : Vec{}, as_stored);
          store(slope, c);
          store(slope + lanes, aa);
          store(mean, enters ? -(w.mean_b * c + w.mean_a * aa) : Vec{});
          if constexpr (gradients == 2) {
            const Vec bb = rounded(enters ? (weighted ? g * w.slope_bb : w.slope_bb) : Vec{}, as_stored);
            store(slope + 2 * lanes, bb);
            store(mean + lanes, enters ? -(w.mean_a * c + w.mean_b * bb) : Vec{});
          }
          slope += (gradients + 1) * lanes;
          mean += gradients * lanes;
        }
      }
      if (in_tile)
        for (int l = 0; l < per_vector; ++l) total.lane[q + l] += partial[l];
    }
    if (in_tile && image.map) from_segments(values, static_cast<T*>(image.map) + voxel, p.width, p.segment);
  }

  // The sums over z of a row's derivatives, by fresh sums.
  void sum_adjoints_fresh(int64_t y) {
    fill(adjoint_row(y), adjoint_fields * row, 0.0);
    for (int64_t z = max_of(first_slice, current - window_z + 1); z < min_of(last_slice, current + 1); ++z) {
      const int64_t at = z % window_z * slope_slice + (y - first_window) * row;
      const T* slope = ring_slopes + at * (gradients + 1);
      const double* mean = ring_means + at * gradients;
      double* sum = adjoint_row(y);
      for (int64_t j = 0; j < p.segment; ++j) {
        for (int i = 0; i < (gradients + 1) * lanes; ++i) *sum++ += double(*slope++);
        for (int i = 0; i < gradients * lanes; ++i) *sum++ += *mean++;
      }
    }
  }

  // The derivatives of row y take their place in the ring; their sums over z move on by one slice and enter the sums
  // over y, where row y - window_y leaves. `empty`: a slice beyond the last window, nothing enters.
  void enter_adjoint_row(int64_t y, bool empty) {
    const int64_t at = current % window_z * slope_slice + (y - first_window) * row;
    const bool full = current - window_z >= first_slice;  // the ring still holds the slice that leaves
    const double* leaving_y = y - window_y >= first_window ? adjoint_row(y - window_y) : zeros;
    double *sum_z = adjoint_row(y), *sum_y = adjoint_sums_y;
    const auto field = [&](auto* held, const auto* now) {
      for (int q = 0; q < lanes; q += per_vector) {
        Vec z = load(sum_z + q);
        if (full) z -= load(held + q);
        if (!empty) {
          const Vec v = load(now + q);
          store(held + q, v);
          z += v;
        }
        store(sum_z + q, z);
        store(sum_y + q, load(sum_y + q) + (z - load(leaving_y + q)));
      }
      sum_z += lanes;
      sum_y += lanes;
      leaving_y += lanes;
    };
    T *slope_held = ring_slopes + at * (gradients + 1), *slope = slope_row;
    double *mean_held = ring_means + at * gradients, *mean = mean_row;
    const int64_t segment = p.segment;
    for (int64_t j = 0; j < segment; ++j) {
      for (int f = 0; f <= gradients; ++f, slope_held += lanes, slope += lanes) field(slope_held, slope);
      for (int f = 0; f < gradients; ++f, mean_held += lanes, mean += lanes) field(mean_held, mean);
    }
  }

  // The gradient of row y in the slice whose windows are complete now.
  void gradient_row(int64_t y) {
    const int64_t z = current - p.half_z;
    if (z < tile.z0 || y < tile.y0 || y >= tile.y1) return;
    if (fresh) {
      fill(adjoint_sums_y - adjoint_fields * lanes * p.half_x, adjoint_sums_y_size, 0.0);
      for (int64_t k = max_of(first_window, y - p.half_y); k < min_of(last_window, y + p.half_y + 1); ++k)
        add(adjoint_sums_y, adjoint_row(k), adjoint_fields, 1.0);
    }
    const double nothing[gradients ? adjoint_fields : 5] = {};
    fill_halo(adjoint_sums_y, p.segment, p.half_x, nothing);
    const T* ab = image_row(z, y);
    T *out_a = values, *out_b = values + row;
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b, scale = Vec{} + p.scale;
    const int64_t segment = p.segment;
    for (int q = 0; q < lanes && gradients; q += per_vector) {
      RowWindows<(gradients ? adjoint_fields : 5)> windows(adjoint_sums_y + q, p.half_x, fresh);
      for (int64_t j = 0; j < segment; ++j) {
        const int64_t i = j * lanes + q;
        windows.enter(j);
        const T* const at = ab + fields * j * lanes + q;
        const Vec a = load(at) - shift_a, b = load(at + lanes) - shift_b;
        const Vec* s = windows.sum;
        const Vec share = masked ? scale * counted(load(at + (fields - 1) * lanes)) : scale;
        store(out_a + i, share * (s[gradients + 1] + a * s[1] + b * s[0]));
        if constexpr (gradients == 2) store(out_b + i, share * (s[4] + b * s[2] + a * s[0]));
        windows.leave(j);
      }
    }
    const int64_t voxel = (z * p.height + y) * p.width;
    from_segments(out_a, static_cast<T*>(image.grad_a) + voxel, p.width, p.segment);
    if (gradients == 2) from_segments(out_b, static_cast<T*>(image.grad_b) + voxel, p.width, p.segment);
  }
};

}  // namespace
}  // namespace fastreg::cpu
