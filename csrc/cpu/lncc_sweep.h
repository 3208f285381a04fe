// The streaming sweep of the local correlation over one tile, for vectors of FR_DOUBLES doubles.
//
// z: running sums of the five statistics a column, updated by the slice that enters the window and the one that leaves.
// y: a running sum of those rows. x: a running sum along the row, in registers, straight into the formula. The
// derivatives of the windows go the same way again (a ring of slices, z, y, x) and come out as the gradient.
// A row is kept in eight segments side by side (LnccPlan::segment), so that a step in x is a step of one vector.
// Fields that are used together lie together: vector j of all of them, then vector j + 1.
// Every sum is float64, in an order that depends on the tile alone.
//
// Running sums keep a NaN for good. Such a tile shows it at its end, and is done again by fresh sums.

namespace fastreg::cpu {
namespace {

constexpr int lanes = lncc_lanes;
constexpr int width = FR_DOUBLES;
typedef double Vec __attribute__((vector_size(8 * FR_DOUBLES)));
typedef float Vec32 __attribute__((vector_size(4 * FR_DOUBLES)));
typedef Vec VecUnaligned __attribute__((aligned(8)));
typedef decltype(Vec{} < Vec{}) Mask;

#if FR_DOUBLES == 8
inline Vec widened(Vec32 v) { return _mm512_cvtps_pd(v); }
inline Vec32 narrowed(Vec v) { return _mm512_cvtpd_ps(v); }
#elif FR_DOUBLES == 4
inline Vec widened(Vec32 v) { return _mm256_cvtps_pd(v); }
inline Vec32 narrowed(Vec v) { return _mm256_cvtpd_ps(v); }
#else
inline Vec widened(Vec32 v) { return __builtin_convertvector(v, Vec); }
inline Vec32 narrowed(Vec v) { return __builtin_convertvector(v, Vec32); }
#endif

inline Vec load(const double* p) { return *reinterpret_cast<const Vec*>(p); }
inline Vec load(const float* p) { return widened(*reinterpret_cast<const Vec32*>(p)); }
inline void store(double* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec32*>(p) = narrowed(v); }
inline Vec rounded(Vec v, const double*) { return v; }
inline Vec rounded(Vec v, const float*) { return widened(narrowed(v)); }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }

// Hands out pieces of the scratch memory; from null it counts.
struct Scratch {
  char* next;
  template <class E>
  E* take(int64_t count) {
    E* piece = reinterpret_cast<E*>(next);
    next += (count * int64_t(sizeof(E)) + 63) / 64 * 64;
    return piece;
  }
};

template <class E>
void fill(E* p, int64_t count, E value) {
  for (int64_t i = 0; i < count; ++i) p[i] = value;
}

// ---------------------------------------------------------------- rows in segments

template <class T>
struct Four {
  typedef T V __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T))));
  V r[4];

  void load(const T* from, int64_t step) {
    for (int i = 0; i < 4; ++i) r[i] = *reinterpret_cast<const V*>(from + i * step);
  }
  void store(T* to, int64_t step) const {
    for (int i = 0; i < 4; ++i) *reinterpret_cast<V*>(to + i * step) = r[i];
  }
  void transpose() {
    const V p0 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), p1 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const V q0 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), q1 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(p0, q0, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(p0, q0, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(p1, q1, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(p1, q1, 2, 3, 6, 7);
  }
};

// How many vectors of a row have all their voxels inside the image: a multiple of 4.
inline int64_t whole_vectors(int64_t size, int64_t segment) { return most(0, size - (lanes - 1) * segment) / 4 * 4; }

// An image row into segments, `step` numbers from vector to vector; what lies beyond its end reads `outside`.
template <class T>
void to_segments(const T* row, T* out, int64_t step, int64_t size, int64_t segment, T outside) {
  int64_t j = 0;
  for (; j < whole_vectors(size, segment); j += 4) {
    Four<T> low, high;
    low.load(row + j, segment);
    high.load(row + 4 * segment + j, segment);
    low.transpose();
    high.transpose();
    low.store(out + j * step, step);
    high.store(out + j * step + 4, step);
  }
  for (; j < segment; ++j)
    for (int k = 0; k < lanes; ++k) out[j * step + k] = k * segment + j < size ? row[k * segment + j] : outside;
}

template <class T>
void from_segments(const T* in, T* row, int64_t size, int64_t segment) {
  int64_t j = 0;
  for (; j < whole_vectors(size, segment); j += 4) {
    Four<T> low, high;
    low.load(in + j * lanes, lanes);
    high.load(in + j * lanes + 4, lanes);
    low.transpose();
    high.transpose();
    low.store(row + j, segment);
    high.store(row + 4 * segment + j, segment);
  }
  for (; j < segment; ++j)
    for (int k = 0; k < lanes; ++k)
      if (k * segment + j < size) row[k * segment + j] = in[j * lanes + k];
}

// The `half` vectors either side of a row in segments: the neighbouring segments' voxels, and `outside` at the ends.
template <int fields>
void fill_halo(double* row, int64_t segment, int half, const double (&outside)[fields]) {
  Mask lane{};
  for (int i = 0; i < width; ++i) lane[i] = i;
  for (int side = -1; side < 2; side += 2) {
    const int64_t nearest = side < 0 ? segment - 1 : 0;
    int64_t source = nearest, moved = side, to = side < 0 ? -1 : segment;
    for (int i = 0; i < half; ++i, to += side) {
      for (int p = 0; p < lanes; p += width) {
        const Mask from = lane + (p + moved);
        const Mask inside = (from >= 0) & (from < lanes);
        const double* v = row + source * fields * lanes + p + moved;
        for (int f = 0; f < fields; ++f, v += lanes)
          store(row + (to * fields + f) * lanes + p,
                inside ? *reinterpret_cast<const VecUnaligned*>(v) : Vec{} + outside[f]);
      }
      source += side;
      if (source < 0 || source == segment) {  // the window is wider than a segment: on to the next one
        source = nearest;
        moved = side < 0 ? most(moved - 1, -lanes) : least(moved + 1, lanes);
      }
    }
  }
}

// ---------------------------------------------------------------- sums

constexpr int statistics = 5;  // sums of a, b, aa, bb, ab

// Window sums along x of a row with halos, one vector at a time.
template <int fields>
struct Along {
  const double* row;  // from lane p of vector 0 of the first field
  int half;
  bool fresh;
  Vec sum[fields];

  Along(const double* first, int half_window, bool fresh_sums) : row(first), half(half_window), fresh(fresh_sums) {
    start(0);
  }

  const double* at(int64_t j, int f) const { return row + (j * fields + f) * lanes; }
  void start(int64_t j) {
    for (int f = 0; f < fields; ++f) {
      Vec total{};
      for (int64_t i = j - half; i < j + half; ++i) total += load(at(i, f));
      sum[f] = total;
    }
  }
  // The sums are those around vector j until leave(j).
  void enter(int64_t j) {
    if (fresh) start(j);
    for (int f = 0; f < fields; ++f) sum[f] += load(at(j + half, f));
  }
  void leave(int64_t j) {
    for (int f = 0; f < fields; ++f) sum[f] -= load(at(j - half, f));
  }
};

template <class T, int gradients>
class Sweep {
 public:
  static constexpr int slopes = gradients == 0 ? 0 : gradients == 1 ? 3 : 5;

  Sweep(const LnccPlan& plan, int64_t tile_rows, char* memory) : p(plan), row(lanes * plan.segment) {
    const int64_t halo = lanes * p.half, padded = row + 2 * halo;
    window_z = 2 * p.half_z + 1;
    window = 2 * p.half + 1;
    const int64_t windows_rows = least(p.height, tile_rows + (gradients ? 2 * p.half : 0));
    const int64_t sums_rows = least(p.height, windows_rows + 2 * p.half);
    Scratch scratch{memory};
    slice = sums_rows * 2 * row;
    raw = scratch.take<T>((window_z + 1) * slice);
    outside = scratch.take<T>(2 * row);
    sums = scratch.take<double>(sums_rows * statistics * row);
    outside_sums = scratch.take<double>(statistics * row);
    sums_y_size = statistics * padded;
    sums_y = scratch.take<double>(sums_y_size) + statistics * halo;
    weights = scratch.take<T>(row);
    inv_n = scratch.take<double>(row);
    values = scratch.take<T>(2 * row);
    zeros = scratch.take<double>(statistics * row);
    slope_slice = windows_rows * row;
    if (gradients) {
      ring_slopes = scratch.take<T>(window_z * slope_slice * (gradients + 1));
      ring_means = scratch.take<double>(window_z * slope_slice * gradients);
      slopes_now = scratch.take<T>(row * (gradients + 1));
      means_now = scratch.take<double>(row * gradients);
      adjoints = scratch.take<double>(windows_rows * slopes * row);
      adjoints_y_size = slopes * padded;
      adjoints_y = scratch.take<double>(adjoints_y_size) + slopes * halo;
    }
    bytes = size_t(scratch.next - memory);
  }

  size_t bytes;

  double run(const LnccImage& pair, const LnccTile& whole, bool fresh_sums) {
    image = pair;
    tile = whole;
    fresh = fresh_sums;
    const int beyond = gradients ? p.half : 0, beyond_z = gradients ? p.half_z : 0;
    first_window = most(0, tile.y0 - beyond);
    last_window = least(p.height, tile.y1 + beyond);
    first_sum = most(0, first_window - p.half);
    last_sum = least(p.height, last_window + p.half);
    first_slice = most(0, tile.z0 - beyond_z);
    last_slice = least(p.depth, tile.z1 + beyond_z);
    clear();
    total = Vec8{};
    for (int64_t z = first_slice; z < tile.z1 + beyond_z; ++z) {
      current = z;
      if (gradients) fill(adjoints_y - slopes * lanes * p.half, adjoints_y_size, 0.0);
      if (z < last_slice) {
        windows_of_slice();
      } else {
        for (int64_t y = first_window; y < last_window; ++y) {
          if (fresh) adjoint_fresh(y);
          else accumulate(y, true);
          gradient_row(y - p.half);
        }
      }
      if (gradients)
        for (int64_t y = last_window; y < tile.y1 + p.half; ++y) {
          add(adjoints_y, y - window >= first_window ? adjoint(y - window) : zeros, slopes, -1.0);
          gradient_row(y - p.half);
        }
    }
    double sum = 0;
    for (int l = 0; l < lanes; ++l) sum += total.lane[l];
    return sum;
  }

  // Whether a running sum of this tile has met a value that it cannot forget.
  bool spoiled() const {
    Vec probe{};
    for (int64_t i = 0; i < (last_sum - first_sum) * statistics * row; i += width) probe += 0.0 * load(sums + i);
    if (gradients)
      for (int64_t i = 0; i < (last_window - first_window) * slopes * row; i += width)
        probe += 0.0 * load(adjoints + i);
    for (int l = 0; l < width; ++l)
      if (!(probe[l] == 0)) return true;
    return false;
  }

 private:
  struct Vec8 {
    double lane[lanes];
  };

  const LnccPlan& p;
  int64_t row, slice, slope_slice, sums_y_size, adjoints_y_size, window, window_z;
  T *raw, *outside, *weights, *values;
  double *sums, *outside_sums, *sums_y, *inv_n;
  double* zeros;
  // Derivatives of the windows, those of a row and those of the last window_z slices.
  T *slopes_now, *ring_slopes;  // by c, aa (, bb), as rounded to T
  double *means_now, *ring_means;  // by the sums of a (and b)
  double *adjoints, *adjoints_y;

  LnccImage image;
  LnccTile tile;
  bool fresh;
  int64_t first_window, last_window, first_sum, last_sum, first_slice, last_slice, current;
  double outside_window[statistics];  // the sums of a window outside the image
  Vec largest_aa, largest_bb;  // squares that the sums have met
  Vec8 total;

  // a and b of a row in segments
  T* raw_row(int64_t z, int64_t y) {
    if (z < 0 || z >= p.depth) return outside;
    return raw + z % (window_z + 1) * slice + (y - first_sum) * 2 * row;
  }
  double* sum_row(int64_t y) {
    return y < 0 || y >= p.height ? outside_sums : sums + (y - first_sum) * statistics * row;
  }
  double* adjoint(int64_t y) { return adjoints + (y - first_window) * slopes * row; }

  void read(int64_t z, int64_t y) {
    if (z < 0 || z >= p.depth) return;
    const int64_t from = (z * p.height + y) * p.width;
    T* to = raw_row(z, y);
    const int64_t ahead = least(y + 4, last_sum - 1) - y;  // rows
    for (int64_t x = 0; x < p.width; x += int64_t(64 / sizeof(T))) {
      __builtin_prefetch(static_cast<const T*>(image.a) + from + ahead * p.width + x);
      __builtin_prefetch(static_cast<const T*>(image.b) + from + ahead * p.width + x);
    }
    to_segments(static_cast<const T*>(image.a) + from, to, 2 * lanes, p.width, p.segment, T(image.outside_a));
    to_segments(static_cast<const T*>(image.b) + from, to + lanes, 2 * lanes, p.width, p.segment, T(image.outside_b));
  }

  void clear() {
    for (int64_t j = 0; j < p.segment; ++j) {
      fill(outside + 2 * j * lanes, lanes, T(image.outside_a));
      fill(outside + (2 * j + 1) * lanes, lanes, T(image.outside_b));
    }
    fill(weights, row, T(1));
    fill(zeros, statistics * row, 0.0);
    const double a = image.outside_a - image.shift_a, b = image.outside_b - image.shift_b;
    const double constants[statistics] = {a, b, a * a, b * b, a * b};
    largest_aa = Vec{} + a * a;
    largest_bb = Vec{} + b * b;
    for (int f = 0; f < statistics; ++f) {
      outside_window[f] = double(window_z) * double(window) * constants[f];
      for (int64_t j = 0; j < p.segment; ++j)
        fill(outside_sums + (j * statistics + f) * lanes, lanes, double(window_z) * constants[f]);
    }
    fill(sums, (last_sum - first_sum) * statistics * row, 0.0);
    // As if the window had stood one slice before the first.
    for (int64_t z = first_slice - p.half_z - 1; z < first_slice + p.half_z; ++z)
      for (int64_t y = first_sum; y < last_sum; ++y) {
        read(z, y);
        add_products(sum_row(y), raw_row(z, y));
      }
    if (gradients) fill(adjoints, (last_window - first_window) * slopes * row, 0.0);
  }

  // The statistics of vector lanes of one voxel each; ab is a's.
  static void products(const T* ab, Vec shift_a, Vec shift_b, Vec (&out)[statistics]) {
    const Vec a = load(ab) - shift_a, b = load(ab + lanes) - shift_b;
    out[0] = a;
    out[1] = b;
    out[2] = a * a;
    out[3] = b * b;
    out[4] = a * b;
  }

  void add_products(double* to, const T* ab) {
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b;
    Vec aa = largest_aa, bb = largest_bb;
    const int64_t segment = p.segment;
    for (int64_t j = 0; j < segment; ++j, ab += 2 * lanes, to += statistics * lanes)
      for (int q = 0; q < lanes; q += width) {
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
    for (int64_t i = 0; i < fields * row; i += width) store(to + i, load(to + i) + sign * load(from + i));
  }

  // The row y joins the window: its sums over z move on by one slice and enter the sums over y, where row
  // y - window leaves.
  void join(int64_t y) {
    const double* old = y - window >= first_window - p.half ? sum_row(y - window) : zeros;
    if (y < 0 || y >= p.height) {
      add(sums_y, outside_sums, statistics, 1.0);
      add(sums_y, old, statistics, -1.0);
      return;
    }
    read(current + p.half_z, y);
    const T *in = raw_row(current + p.half_z, y), *out = raw_row(current - p.half_z - 1, y);
    double *now = sum_row(y), *sum_y = sums_y;
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b;
    Vec aa = largest_aa, bb = largest_bb;
    const int64_t segment = p.segment;
    for (int64_t j = 0; j < segment; ++j) {
      for (int q = 0; q < lanes; q += width) {
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
      in += 2 * lanes;
      out += 2 * lanes;
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
    for (int l = 0; l < width; ++l) square = largest[l] > square ? largest[l] : square;
    return Vec{} + (fresh ? 0.0 : 1e-15 * double(window_z * window * window) * square);
  }

  // The same by fresh sums.
  void join_fresh(int64_t y) {
    if (y >= 0 && y < p.height) {
      read(current + p.half_z, y);
      fill(sum_row(y), statistics * row, 0.0);
      for (int64_t z = current - p.half_z; z <= current + p.half_z; ++z) add_products(sum_row(y), raw_row(z, y));
    }
    fill(sums_y - statistics * lanes * p.half, sums_y_size, 0.0);
    for (int64_t k = most(first_window - p.half, y - window + 1); k <= y; ++k)
      add(sums_y, sum_row(k), statistics, 1.0);
  }

  void windows_of_slice() {
    const bool plain = p.rule.plain && !p.count && !image.weight && !image.map;
    fill(sums_y - statistics * lanes * p.half, sums_y_size, 0.0);
    for (int64_t y = first_window - p.half; y < last_window + p.half; ++y) {
      if (fresh) join_fresh(y);
      else join(y);
      const int64_t centre = y - p.half;
      if (centre < first_window) continue;
      fill_halo(sums_y, p.segment, p.half, outside_window);
      if (plain) windows_of_row<true>(centre);
      else windows_of_row<false>(centre);
      if (gradients) accumulate(centre, false);
      if (gradients && fresh) adjoint_fresh(centre);
      if (gradients) gradient_row(centre - p.half);
    }
  }

  // 1 / voxels of the windows of a row
  void count_row(int64_t y) {
    const auto inside = [](int64_t at, int64_t size, int half) {
      return double(least(size - 1, at + half) - most(0, at - half) + 1);
    };
    const double plane = inside(current, p.depth, p.half_z) * inside(y, p.height, p.half);
    for (int64_t j = 0; j < p.segment; ++j)
      for (int k = 0; k < lanes; ++k) {
        const int64_t x = least(k * p.segment + j, p.width - 1);
        inv_n[j * lanes + k] = 1.0 / (plane * inside(x, p.width, p.half));
      }
  }

  template <bool plain>
  void windows_of_row(int64_t y) {
    const int64_t voxel = (current * p.height + y) * p.width;
    if (image.weight)
      to_segments(static_cast<const T*>(image.weight) + voxel, weights, lanes, p.width, p.segment, T(0));
    if (p.count) count_row(y);
    const bool mine = current >= tile.z0 && current < tile.z1 && y >= tile.y0 && y < tile.y1;
    const Vec drift_aa = drift(largest_aa), drift_bb = drift(largest_bb);
    const Vec n = Vec{} + 1.0 / (double(window_z) * double(window) * double(window));

    const LnccRule<double> rule = p.rule;
    const int64_t segment = p.segment, size = p.width;
    const double* const inverse = p.count ? inv_n : nullptr;
    const T* const weight = weights;
    T* const cc = mine && image.map ? values : nullptr;
    for (int q = 0; q < lanes; q += width) {
      Mask x{};
      for (int l = 0; l < width; ++l) x[l] = (q + l) * segment;
      Vec partial{};
      Along<statistics> along(sums_y + q, p.half, fresh);
      T* slope = slopes_now + q;
      double* mean = means_now + q;
      for (int64_t j = 0; j < segment; ++j, x += 1) {
        const int64_t i = j * lanes + q;
        along.enter(j);
        const LnccSums<Vec> s{along.sum[0], along.sum[1], along.sum[2], along.sum[3], along.sum[4]};
        along.leave(j);
        const auto w = lncc_window<plain>(s, !plain && inverse ? load(inverse + i) : n, drift_aa, drift_bb, rule);
        const Mask inside = x < size;
        const Vec g = plain ? Vec{} + 1.0 : load(weight + i);
        partial += inside ? (plain ? w.cc : g * w.cc) : Vec{};
        if (!plain && cc) store(cc + i, w.cc);
        if constexpr (gradients != 0) {
          const T* as_stored = nullptr;
          // The means from the slopes as rounded: then the rounding cancels where the gradient subtracts.
          const Vec c = rounded(inside ? (plain ? w.slope_c : g * w.slope_c) : Vec{}, as_stored);
          const Vec aa = rounded(inside ? (plain ? w.slope_aa : g * w.slope_aa) : Vec{}, as_stored);
          store(slope, c);
          store(slope + lanes, aa);
          store(mean, inside ? -(w.mean_b * c + w.mean_a * aa) : Vec{});
          if constexpr (gradients == 2) {
            const Vec bb = rounded(inside ? (plain ? w.slope_bb : g * w.slope_bb) : Vec{}, as_stored);
            store(slope + 2 * lanes, bb);
            store(mean + lanes, inside ? -(w.mean_a * c + w.mean_b * bb) : Vec{});
          }
          slope += (gradients + 1) * lanes;
          mean += gradients * lanes;
        }
      }
      if (mine)
        for (int l = 0; l < width; ++l) total.lane[q + l] += partial[l];
    }
    if (mine && image.map) from_segments(values, static_cast<T*>(image.map) + voxel, p.width, p.segment);
  }

  // The sums over z of a row's derivatives, by fresh sums.
  void adjoint_fresh(int64_t y) {
    fill(adjoint(y), slopes * row, 0.0);
    for (int64_t z = most(first_slice, current - window_z + 1); z < least(last_slice, current + 1); ++z) {
      const int64_t at = z % window_z * slope_slice + (y - first_window) * row;
      const T* slope = ring_slopes + at * (gradients + 1);
      const double* mean = ring_means + at * gradients;
      double* sum = adjoint(y);
      for (int64_t j = 0; j < p.segment; ++j) {
        for (int i = 0; i < (gradients + 1) * lanes; ++i) *sum++ += double(*slope++);
        for (int i = 0; i < gradients * lanes; ++i) *sum++ += *mean++;
      }
    }
  }

  // The derivatives of row y take their place in the ring; their sums over z move on by one slice and enter the sums
  // over y, where row y - window leaves. `empty`: a slice beyond the last window, nothing enters.
  void accumulate(int64_t y, bool empty) {
    const int64_t at = current % window_z * slope_slice + (y - first_window) * row;
    const bool full = current - window_z >= first_slice;  // the ring still holds the slice that leaves
    const double* gone_y = y - window >= first_window ? adjoint(y - window) : zeros;
    double *sum_z = adjoint(y), *sum_y = adjoints_y;
    const auto field = [&](auto* held, const auto* now) {
      for (int q = 0; q < lanes; q += width) {
        Vec z = load(sum_z + q);
        if (full) z -= load(held + q);
        if (!empty) {
          const Vec v = load(now + q);
          store(held + q, v);
          z += v;
        }
        store(sum_z + q, z);
        store(sum_y + q, load(sum_y + q) + (z - load(gone_y + q)));
      }
      sum_z += lanes;
      sum_y += lanes;
      gone_y += lanes;
    };
    T *slope_held = ring_slopes + at * (gradients + 1), *slope = slopes_now;
    double *mean_held = ring_means + at * gradients, *mean = means_now;
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
      fill(adjoints_y - slopes * lanes * p.half, adjoints_y_size, 0.0);
      for (int64_t k = most(first_window, y - p.half); k < least(last_window, y + p.half + 1); ++k)
        add(adjoints_y, adjoint(k), slopes, 1.0);
    }
    const double nothing[gradients ? slopes : 5] = {};
    fill_halo(adjoints_y, p.segment, p.half, nothing);
    const T* ab = raw_row(z, y);
    T *out_a = values, *out_b = values + row;
    const Vec shift_a = Vec{} + image.shift_a, shift_b = Vec{} + image.shift_b, scale = Vec{} + p.scale;
    const int64_t segment = p.segment;
    for (int q = 0; q < lanes && gradients; q += width) {
      Along<(gradients ? slopes : 5)> along(adjoints_y + q, p.half, fresh);
      for (int64_t j = 0; j < segment; ++j) {
        const int64_t i = j * lanes + q;
        along.enter(j);
        const Vec a = load(ab + 2 * j * lanes + q) - shift_a, b = load(ab + (2 * j + 1) * lanes + q) - shift_b;
        const Vec* s = along.sum;
        store(out_a + i, scale * (s[gradients + 1] + a * s[1] + b * s[0]));
        if constexpr (gradients == 2) store(out_b + i, scale * (s[4] + b * s[2] + a * s[0]));
        along.leave(j);
      }
    }
    const int64_t voxel = (z * p.height + y) * p.width;
    from_segments(out_a, static_cast<T*>(image.grad_a) + voxel, p.width, p.segment);
    if (gradients == 2) from_segments(out_b, static_cast<T*>(image.grad_b) + voxel, p.width, p.segment);
  }
};

template <class T, int gradients>
double sweep(const LnccPlan& plan, const LnccImage& image, const LnccTile& tile, char* memory) {
  Sweep<T, gradients> sweep(plan, tile.y1 - tile.y0, memory);
  const double sum = sweep.run(image, tile, false);
  return sweep.spoiled() ? sweep.run(image, tile, true) : sum;
}

template <class T>
double sweep(const LnccPlan& plan, const LnccImage& image, const LnccTile& tile, char* memory) {
  if (plan.gradients == 0) return sweep<T, 0>(plan, image, tile, memory);
  if (plan.gradients == 1) return sweep<T, 1>(plan, image, tile, memory);
  return sweep<T, 2>(plan, image, tile, memory);
}

template <class T>
size_t scratch(const LnccPlan& plan, int64_t rows) {
  if (plan.gradients == 0) return Sweep<T, 0>(plan, rows, nullptr).bytes;
  if (plan.gradients == 1) return Sweep<T, 1>(plan, rows, nullptr).bytes;
  return Sweep<T, 2>(plan, rows, nullptr).bytes;
}

double run(const LnccPlan& plan, const LnccImage& image, const LnccTile& tile, DType dtype, char* memory) {
  return dtype == DType::f32 ? sweep<float>(plan, image, tile, memory) : sweep<double>(plan, image, tile, memory);
}

size_t bytes(const LnccPlan& plan, DType dtype, int64_t rows) {
  return dtype == DType::f32 ? scratch<float>(plan, rows) : scratch<double>(plan, rows);
}

}  // namespace

const LnccSweep FR_SWEEP{bytes, run};

}  // namespace fastreg::cpu
